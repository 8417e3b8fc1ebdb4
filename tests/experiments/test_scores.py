"""How scores rank levels, from the command line."""

import json

import numpy as np
import pytest
from finished_runs import write_run

from experiments import scores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "lpg-0")


@pytest.mark.slow
def test_scores_of_a_rule_are_ranked_against_regret_against_the_optimum(run, tmp_path, capsys):
    scores.main([run, "--horizon", "4", "--num-levels", "8", "--directory", str(tmp_path)])
    result = json.loads((tmp_path / "scores.json").read_text())
    names = {"algorithmic regret", "positive value loss", "L1 value loss", "MaxMC", "learnability"}
    assert set(result["rho"]) == names and set(result["scores"]) == {*names, scores.TRUTH}
    truth = result["scores"][scores.TRUTH]
    assert len(truth) == 8 and min(truth) > -1e-6
    assert "algorithmic regret" in capsys.readouterr().out and (tmp_path / "scores.png").exists()


def test_rank_correlations_are_spearmans():
    truth = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])
    other = np.array([1.0, 3.0, 2.0, 4.0, 5.0, np.nan])
    rho = scores.correlations({scores.TRUTH: truth, "same": 2 * other, "less": -other, "flat": 0 * other})
    assert list(rho) == ["same", "less"]
    assert rho["same"].mean == pytest.approx(0.8) and rho["less"].mean == pytest.approx(-0.8)  # 1 - 6 * 2 / 60
    assert -1 <= rho["same"].low < 0.8 < rho["same"].high <= 1
    with pytest.raises(ValueError, match="got 0 of 3"):
        scores.correlations({scores.TRUTH: truth[:3], "none": np.full(3, np.nan)})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--levels", "CartPole-v1"), "levels must be some whose optimal return is known, got 'CartPole-v1'"),
        (("--num-levels", "2"), "num_levels must be at least 3, got 2"),
        (("--score-batch", "0"), "score_batch must be at least 1"),
    ],
)
def test_ranks_that_cannot_be_are_one_clear_line(arguments, says, run, capsys):
    with pytest.raises(SystemExit) as stopped:
        scores.main([run, *arguments])
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1

"""The ablation of OPEN: a run for each group of its features, and none of them twice."""

import json
from typing import get_args

import pytest
from commands import PNG, one_line, words

from experiments import ablation
from metarl.optimizers.open import Group
from metarl.run import checkpoint


@pytest.fixture
def seen(monkeypatch):
    """What is run, and nothing is."""
    runs = []

    def run(experiment, config):
        runs.append((experiment.name, config.learned.without, config.run.resume))
        row = {"mean": 1.0, "low": 0.5, "high": 1.5}
        return None, {}, {"trained": row, "adam": row, "sgd": row}

    monkeypatch.setattr(ablation.launch, "run", run)
    return runs


def test_an_ablation_leaves_out_one_group_at_a_time(seen, tmp_path):
    ablation.main(words(directory=tmp_path / "run"))
    groups = [
        group for group in get_args(Group) if group not in ("epoch", "noise")
    ]  # nothing depends on these on digits
    left_out = [((), False), *(((group,), False) for group in groups)]
    assert seen == [("learned_optimizer", *x) for x in left_out]
    report = json.loads((tmp_path / "run" / "ablation.json").read_text())["report"]
    assert list(report) == ["open", "adam", *(f"without {group}" for group in groups)]
    assert (tmp_path / "run" / "ablation.png").read_bytes().startswith(PNG)


def test_agents_lack_nothing_that_is_left_out(seen, tmp_path):
    ablation.main(words(directory=tmp_path / "run", preset="gridworld"))
    assert [without for _, without, _ in seen] == [(), *((group,) for group in get_args(Group))]


def test_a_resumed_ablation_goes_on_with_the_runs_that_have_begun(seen, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "steps", lambda place: [3] if place.name == "open" else [])
    (tmp_path / "open").mkdir()
    ablation.main(words(directory=tmp_path, resume=True))
    assert [resume for *_, resume in seen] == [True] + [False] * (len(seen) - 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimizer": "adafac"}, "is of open"),
        ({"without": "noise"}, "is of open"),
        ({"held_out_seeds": 0}, "needs held_out_seeds"),
        ({"more_levels": "supervised/quadratic"}, "no more_levels"),
        ({"sweep": "scale=0.1,0.2"}, "no sweep"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, seen, tmp_path, capsys):
    argv = words(directory=tmp_path / "run", **options)
    assert says in one_line(capsys, lambda: ablation.main(argv))
    assert not seen and not (tmp_path / "run").exists()

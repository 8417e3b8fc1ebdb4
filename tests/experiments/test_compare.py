"""Comparisons of finished runs from the command line."""

import json

import pytest
from commands import returns_are_noise
from finished_runs import write_run

from experiments import compare

SMALL = ["--held-out-levels", "2", "--held-out-seeds", "2"]
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Directories of two seeds of a rule and of its blind twin, trained on other levels."""
    parent = tmp_path_factory.mktemp("runs")
    return [
        write_run(parent / f"{temporal}-{seed}", temporal=temporal, seed=seed, directory=f"{temporal}-{seed}")
        for temporal in (True, False)
        for seed in (0, 1)
    ]


def test_finished_runs_are_compared_over_lifetimes_with_their_difference(runs, tmp_path, monkeypatch, capsys):
    returns_are_noise(monkeypatch)
    worst = ["--cvar", "0.5", "1"]
    compare.main([runs[0], runs[2], *SMALL, "--horizons", "2", "4", *worst, "--directory", str(tmp_path)])
    rows = json.loads((tmp_path / "horizons.json").read_text())
    aware, blind = "ta_lpg temporal=True", "ta_lpg temporal=False"
    assert list(rows) == [aware, blind, "a2c", f"{aware} minus {blind}"]
    assert (tmp_path / "horizons.png").read_bytes().startswith(PNG)
    for row in rows.values():
        assert list(row) == ["2", "4"]
        assert all(point["low"] <= point["mean"] <= point["high"] for point in row.values())
    for horizon in ("2", "4"):
        difference = rows[aware][horizon]["mean"] - rows[blind][horizon]["mean"]
        assert rows[f"{aware} minus {blind}"][horizon]["mean"] == pytest.approx(difference, abs=1e-6)
    on_worst = json.loads((tmp_path / "worst.json").read_text())
    assert list(on_worst) == ["mdp/random, 2 updates", "mdp/random, 4 updates"]
    assert list(on_worst["mdp/random, 4 updates"]) == list(rows)
    assert on_worst["mdp/random, 4 updates"][aware]["1.0"] == pytest.approx(rows[aware]["4"], abs=1e-6)
    assert (tmp_path / "worst.png").read_bytes().startswith(PNG)
    shown = capsys.readouterr().out
    point = rows["a2c"]["4"]
    assert f"{point['mean']:.3f} [{point['low']:.3f}," in shown and "normalised return" in shown


def test_seeds_are_compared_on_levels_that_they_were_not_trained_on(runs, tmp_path, capsys):
    more = ["--levels", "mdp/random", "bandit/bernoulli", "--horizons", "1", "--directory", str(tmp_path)]
    compare.main([*runs[2:], *SMALL, *more])
    report = json.loads((tmp_path / "levels.json").read_text())
    assert set(report) == {"ta_lpg", "a2c"}
    for row in report.values():
        assert list(row) == ["mdp/random", "bandit/bernoulli"]
        assert all(x["low"] <= x["mean"] <= x["high"] for x in row.values())
    assert (tmp_path / "levels.png").read_bytes().startswith(PNG)
    assert "bandit/bernoulli" in capsys.readouterr().out


def test_reports_are_summed_up_over_seeds(tmp_path, capsys):
    reports = [{"trained": {"mean": mean, "low": 0.0, "high": 4.0}} for mean in (1.0, 3.0)]
    seeds = [write_run(tmp_path / str(i), seed=i, directory=str(i), report=x) for i, x in enumerate(reports)]
    compare.main([*seeds, "--reports"])
    shown = capsys.readouterr().out
    assert "over 2 seeds" in shown and "2.000 [-10.706, 14.706]" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give the directory of at least one finished run"),
        (("x", "--held-out-levels", "1"), "held_out_levels must be at least 2"),
        (("x", "--horizons", "0"), "horizons[0] must be at least 1"),
        (("x", "--held-out-seeds", "0"), "held_out_seeds must be at least 1"),
        (("x", "--cvar", "0"), "cvar[0] must be above 0"),
        (("x", "--cvar", "0.5", "--held-out-seeds", "1"), "held_out_seeds must be at least 2 for cvar"),
        (("x", "--reports", "--cvar", "0.5"), "cvar has no effect with reports"),
        (("x", "--reports", "--horizons", "3"), "horizons has no effect with reports"),
        (("nowhere",), "no rule at 'nowhere'"),
        (("nowhere", "--reports"), "No such file"),
        (("x", "--levels", "gridworld/smal"), "gridworld/small"),
    ],
)
def test_comparisons_that_cannot_be_are_one_clear_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(list(arguments))
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1

"""What y is for, from the command line."""

import json

import numpy as np
import pytest
from finished_runs import RECIPE, write_run

from experiments import predictions

SMALL = ["--levels", "mdp/random", "--held-out-levels", "3", "--held-out-seeds", "2", "--horizons", "2", "4"]
VISITS = ["--visit-envs", "2", "--visit-steps", "40", "--discounts", "0", "0.9"]


@pytest.mark.slow
def test_y_of_a_rule_is_measured_on_held_out_levels(tmp_path, capsys):
    run = write_run(tmp_path / "lpg-0")
    predictions.main(["--rule", run, *SMALL, *VISITS, "--directory", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"summary.json", "predictions.png", "frozen.png"}
    assert list(found["scores"]) == ["the rule", "y frozen", "a2c", "the rule minus y frozen", "the rule minus a2c"]
    for horizon in ("2", "4"):
        row = {name: x[horizon]["mean"] for name, x in found["scores"].items()}
        assert row["the rule minus y frozen"] == pytest.approx(row["the rule"] - row["y frozen"], abs=1e-6)
    names = ["y of the rule", "y of an untrained rule", "value of A2C", "y of other states"]
    assert list(found["r_squared"]) == list(found["r_squared_of_levels"]) == names
    for name in names:
        assert list(found["r_squared"][name]["4"]) == ["0", "0.9"]
        rows = found["r_squared_of_levels"][name]["4"]
        assert len(rows) == 3 and all(0 <= x <= 1 for row in rows for x in row)
        mean = sum(row[1] for row in rows) / 3
        assert found["r_squared"][name]["4"]["0.9"]["mean"] == pytest.approx(mean)
    assert found["command"].startswith(f"python -m experiments.predictions --rule {run} --levels mdp/random")
    assert found["rule"]["recipe"]["objective"]["name"] == "lpg" and found["hardware"]["platform"]
    out = capsys.readouterr().out
    assert "the rule minus y frozen" in out and "R^2" in out


def test_a_mean_is_over_the_levels_where_it_is_known():
    nan = np.nan
    first, second, third = predictions.over_levels(np.array([[0.2, nan, nan], [0.4, nan, 1.0], [nan, nan, 1.0]]))
    assert first.mean == pytest.approx(0.3) and first.low < 0.2 and second.mean != second.mean
    assert third == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rule", "lpg-gridwrld"], "did you mean lpg-gridworld"),
        (["--rule", "adafac-digits"], "the rule has no agents"),
        (["--rule", "x", "--horizons"], "horizons must be at least one"),
        (["--rule", "x", "--discounts", "1"], "discounts[0] must be below 1"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        predictions.main([*arguments, "--levels", "mdp/random"])
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1


def test_a_rule_without_y_is_refused_and_leaves_nothing(tmp_path, capsys):
    recipe = {**RECIPE, "objective": {"name": "lpo"}, "optimizer": {"name": "adam", "learning_rate": 0.1}}
    with pytest.raises(SystemExit):
        run = write_run(tmp_path / "lpo-0", recipe=recipe)
        predictions.main(["--rule", run, *SMALL, "--directory", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    assert "the agents have no output 'y': theirs are value" in capsys.readouterr().err

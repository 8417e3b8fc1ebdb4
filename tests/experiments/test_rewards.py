"""The comparison of rewards: its files, its pictures, and that designs are told apart."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest

from experiments import rewards
from experiments.rewards import SETTINGS, Config


def test_a_comparison_leaves_its_files(tmp_path, capsys):
    argv = "--points 2 --revise-every 1 --num-seeds 3 --processes line_key --designs original expadard explors sors"
    rewards.main([*argv.split(), "--directory", str(tmp_path / "run")])
    assert {path.name for path in (tmp_path / "run").iterdir() if path.suffix in (".json", ".png")} == {
        *("results.json", "reinforce-curves.png", "reinforce-line_key.png")
    }
    found = json.loads((tmp_path / "run" / "results.json").read_text())["on"]["reinforce"]
    assert set(found["at the end"]) == {"original", "expadard", "explors", "sors"}
    start = {name: row["line_key"]["mean"] for name, row in found["mean over training"].items()}
    end = {name: row["line_key"]["mean"] for name, row in found["at the end"].items()}
    assert all(0 <= x < 0.2 for x in end.values()) and end["expadard"] > 1.5 * end["original"]
    verdict = found["explors minus"]["original"]["line_key"]
    gain = start["explors"] - start["original"]
    assert verdict["mean"] == pytest.approx(gain, abs=1e-6) and verdict["verdict"]
    assert "explors minus" in capsys.readouterr().out


@pytest.mark.parametrize("name", get_args(rewards.ProcessName))
def test_pictures_have_every_reward(name):
    setting = SETTINGS[name]()
    problem = setting.levels.sample(None).problem
    numbered = np.arange(problem.reward.size).reshape(problem.reward.shape)
    shown = setting.picture(numbered)
    assert sorted(shown.ravel()) == list(range(numbered[:-1].size))  # all but those of the terminal state


def test_options_that_mean_nothing_are_refused():
    for values, message in (
        ({"q_points": 5}, "q_points has no effect without q_learning"),
        ({"revise_every": 7}, "revise_every must divide 40"),
        ({"revise_every": 10, "designs": ("sors",)}, "revise_every has no effect without expadard"),
        ({"designs": ()}, "designs must have at least one"),
        ({"learners": ("q_learning",), "points": 3}, "points has no effect without reinforce"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(Config(), **values)

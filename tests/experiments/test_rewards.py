"""The comparison of rewards: its files, its pictures, and that designs are told apart."""

import dataclasses
import json
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import rewards
from experiments.rewards import SETTINGS, Config
from metarl.rewards.shaping import explors
from metarl.rewards.tables import Tables
from metarl.rewards.training import begin


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
    assert verdict["mean"] == pytest.approx(gain, abs=1e-6)
    assert "explors minus" in capsys.readouterr().out


def test_a_learner_is_the_same_whatever_is_compared_beside_it():
    """However often rewards are revised. It is measured once more after the last episodes."""
    config = Config(designs=("original", "expadard", "explors"), num_seeds=3, points=2, revise_every=1)
    beside = rewards.train(config, SETTINGS["line_key"](), "reinforce").worth
    alone = dataclasses.replace(config, designs=("explors",), revise_every=Config().revise_every)
    found = rewards.train(alone, SETTINGS["line_key"](), "reinforce").worth["explors"]
    assert found.shape == (3, 7) and (np.diff(found, axis=1) != 0).all()
    np.testing.assert_allclose(found, beside["explors"], rtol=1e-4)
    assert not np.allclose(found, beside["original"], rtol=1e-2)


def test_explors_is_told_all_of_a_design(monkeypatch):
    tables = Tables(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), jnp.int32(0))
    monkeypatch.setattr(rewards, "explors", lambda tables, **told: (tables.reward, told))
    given = rewards.Given(
        "another reward", *(getattr(rewards.DESIGNS["explors_next"], x) for x in rewards.Given._fields[1:])
    )
    told = {"rate": 0.01, "bonus": 1.0, "extrinsic": True, "ahead": True}
    assert rewards._explors(2.0, tables, given) == ("another reward", {"limit": 2.0, **told})


def test_revision_changes_the_rewards_of_expadard_alone():
    problem = SETTINGS["line_key"]().levels.sample(None).problem
    tables = Tables(problem.transition, problem.reward, problem.start)
    names, size, asked = ("original", "expadard", "selfrs"), 2, []

    def revise(policy):
        asked.append(policy)
        return np.full(tables.reward.shape, float(len(asked)))

    reward = jnp.full((6, *tables.reward.shape), -1.0)
    lives = jax.tree.map(lambda x: jnp.broadcast_to(x, (6, *x.shape)), begin(tables, explors(tables)))
    lives = lives._replace(table=lives.table.at[3, :, 0].set(100.0))
    found = np.asarray(rewards._revised(reward, lives, names, "reinforce", tables, revise))
    np.testing.assert_array_equal(found[:, 0, 0], [-1, -1, 1, 2, -1, -1])
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1, :1], found.shape))
    assert len(asked) == size
    np.testing.assert_allclose(asked[0], 1 / 3, atol=1e-6)
    np.testing.assert_allclose(asked[1][0], [0.8, 0.1, 0.1], atol=1e-6)  # 0.3 of random actions


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.09, 0.1, 0.11], "better"),
        ([-0.09, -0.1, -0.11], "worse"),
        ([0.004, 0.005, 0.006], "alike"),  # surely above 0, and too little to matter
        ([-0.3, 0.1, 0.4], "no difference shown"),
        ([0.005, 0.01, 0.015], "no difference shown"),
    ],
)
def test_verdicts_are_those_of_the_interval(differences, verdict):
    """Of the mean over training, within seeds that differ much."""
    base = np.array([[0.2, 0.4], [0.5, 0.7], [0.3, 0.1]])
    gains = np.array(differences)[:, None] + np.array([-0.05, 0.05])
    worth = {"original": base, "explors": base + gains}
    config = Config(designs=("original", "explors"), num_seeds=3)
    found = rewards._advantages(config, "reinforce", {"chain_15": rewards.Found(worth, {})})
    assert set(found) == {"original"}
    assert found["original"]["chain_15"]["verdict"] == verdict
    assert found["original"]["chain_15"]["mean"] == pytest.approx(np.mean(differences))


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
        ({"revise_every": 40}, "revise_every must be below 40: no reward would be revised for reinforce"),
        ({"revise_every": 10, "designs": ("sors",)}, "revise_every has no effect without expadard"),
        ({"designs": ()}, "designs must have at least one"),
        ({"learners": ("q_learning",), "points": 3}, "points has no effect without reinforce"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(Config(), **values)

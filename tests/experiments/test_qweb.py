"""Warm starts and generated goals: what walks become, what agents learn of them, and the files of a comparison."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from envs import errands
from experiments import qweb
from experiments.qweb import Config

LENGTH, WALKS = 2, 200


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a small comparison, and its results."""
    directory = tmp_path_factory.mktemp("qweb") / "run"
    argv = "--lengths 2 --arms none warm hindsight --num-seeds 3 --points 2 --updates 2000 --walks 200"
    qweb.main([*argv.split(), "--directory", str(directory)])
    return directory, json.loads((directory / "results.json").read_text())["on"]


@pytest.mark.slow
def test_a_comparison_leaves_its_files(run):
    directory, found = run
    assert {path.name for path in directory.iterdir() if not path.name.startswith(".")} == {
        "results.json",
        "curves.png",
    }
    assert set(found["at the end"]) == {"none", "warm", "hindsight"}
    pairs = {"warm minus none", "hindsight minus none", "hindsight minus warm"}
    assert set(found["differences"]) == pairs
    one, other = (found["mean over training"][x]["2 items"]["mean"] for x in ("hindsight", "none"))
    assert found["differences"]["hindsight minus none"]["2 items"]["mean"] == pytest.approx(one - other)


@pytest.mark.slow
def test_both_mechanisms_help(run):
    end = {arm: row["2 items"]["mean"] for arm, row in run[1]["at the end"].items()}
    assert end["none"] < 0.05 and end["hindsight"] > 0.2 and end["warm"] > 0.1


@pytest.fixture(scope="module")
def pool():
    """Transitions [n, ...] that may be drawn, with their gains [n]."""
    env = errands.Errands(length=LENGTH)
    example = errands.distribution(LENGTH).sample(jax.random.key(0)).problem
    generate = jax.jit(lambda key: qweb.generate(env, example, errands.STEPS * LENGTH, WALKS, key))
    replay = generate(jax.random.key(1))
    assert replay.capacity == WALKS * errands.STEPS * LENGTH
    return jax.tree.map(lambda x: np.asarray(x)[: int(replay.added)], replay.data)


def left(obs):
    """[n, LENGTH] kinds of the sub-goals that are left, or -1."""
    asked = obs[:, -LENGTH * 6 :].reshape(-1, LENGTH, 6)
    return np.where(asked.any(-1), asked.argmax(-1), -1)


def test_every_walk_ends_with_the_reward_of_its_instruction(pool):
    found, gain = pool
    ends = found.reward == 1
    assert 0.2 * WALKS < ends.sum() < WALKS and set(np.unique(found.reward)) == {0, 1}
    assert (found.discount[ends] == 0).all() and (found.discount[~ends] == np.float32(qweb.DISCOUNT)).all()
    assert (left(found.obs[ends]) >= 0).sum(1).tolist() == [1] * ends.sum()
    assert (left(found.next_obs[ends]) < 0).all() and (found.action[ends] == errands.PICK).all()
    # the gains of each walk add up to 1, and they are where an item is picked
    assert gain.sum() == pytest.approx(ends.sum(), rel=1e-5)
    fewer = (left(found.obs) >= 0).sum(1) - (left(found.next_obs) >= 0).sum(1)
    assert set(fewer) == {0, 1} and ((gain > 0) == (fewer == 1)).all()
    assert set(np.round(np.unique(gain), 4)) == {0.0, 0.5, 1.0}


def test_no_walk_fulfils_a_held_out_instruction(pool):
    instructions = left(pool[0].obs)
    whole = np.unique(instructions[(instructions >= 0).all(1)], axis=0)
    assert len(whole) > 10 and not errands.held_out(whole).any()


def test_differences_are_within_seeds(tmp_path, capsys):
    base = np.array([[0.2, 0.4], [0.5, 0.7], [0.3, 0.1]])
    worth = {"none": base, "warm": base + [[0.1, 0.3], [0.2, 0.2], [0.3, 0.3]], "generated": base + 0.01}
    config = Config(arms=("none", "warm", "generated"), num_seeds=3, points=2)
    found = qweb.report(config, {3: worth}, tmp_path)
    assert found["at the end"]["none"]["3 items"]["mean"] == pytest.approx(0.4)
    assert found["mean over training"]["warm"]["3 items"]["mean"] == pytest.approx(11 / 30 + 7 / 30)
    gains = {name: row["3 items"] for name, row in found["differences"].items()}
    assert gains["warm minus none"]["mean"] == pytest.approx(7 / 30)
    assert {name: row["verdict"] for name, row in gains.items()} == {
        "warm minus none": "better",
        "generated minus none": "alike",
    }
    assert "within seeds" in capsys.readouterr().out


def test_options_that_mean_nothing_are_refused():
    for values, message in (
        ({"arms": ("none", "warm"), "walks": 600}, "walks has no effect without generated goals"),
        ({"arms": ()}, "arms must have at least one value"),
        ({"lengths": ()}, "lengths must have at least one value"),
        ({"lengths": (3, 7)}, r"lengths\[1\] must be at most 6, got 7"),
        ({"walks": 10}, "walks must be at least 50"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(Config(), **values)

"""Families of environments, and rules in families that are not their own."""

import pytest

import envs
from metarl.evaluation.families import CLASSIC, GRIDWORLD, MINATAR, TABULAR, a2c, family, in_family
from metarl.rules import build, load_rule


def recipe(name):
    return load_rule(name).card["recipe"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gridworld/small", TABULAR),
        ("gridworld/mazes", None),
        ("Breakout-MinAtar", MINATAR),
        ("CartPole-v1", CLASSIC),
    ],
)
def test_environments_have_families(name, kind):
    env = envs.make(name).environment
    found = family(name, env)
    assert found in ((TABULAR, GRIDWORLD) if kind is None else (kind,))
    experience = {"num_envs": 2, "rollout_length": 2, "reward_scale": 0.5}
    rule = {"objective": {"discount": 0.9}, "experience": {**experience, "epochs": 3, "minibatches": 2}}
    recipe = a2c(found, rule)
    assert recipe["objective"]["discount"] == 0.9 and recipe["experience"] == experience
    assert a2c(found, {**rule, "objective": {}})["objective"]["discount"] == 0.99
    build(recipe).inner_loop(env)  # its parts fit


def test_a_rule_keeps_its_optimizer_in_its_own_family_and_gets_that_of_another_one():
    lpg = recipe("lpg-gridworld")
    assert in_family(lpg, TABULAR) == lpg
    moved = in_family(lpg, CLASSIC)
    assert moved == {**lpg, "network": CLASSIC.network, "optimizer": CLASSIC.optimizer}
    build(moved).inner_loop(envs.make("CartPole-v1").environment)


def test_an_objective_on_a_value_and_a_learned_optimizer_keep_theirs():
    for name in ("lpo-cartpole", "open-gridworld"):
        for kind in (TABULAR, CLASSIC):
            assert in_family(recipe(name), kind)["optimizer"] == recipe(name)["optimizer"]
    with pytest.raises(ValueError, match="has no agents"):
        in_family(recipe("adafac-digits"), TABULAR)

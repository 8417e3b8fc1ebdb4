"""Suites as data: those that ship, and what is wrong with others."""

import pytest

import envs
from envs import suites
from metarl.evaluation.baselines import BASELINES
from metarl.evaluation.trials import read

OF_THE_EXTRA = ("jumanji", "minigrid")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "env_steps = 10\n[environments]\nCartPole-v2 = {}",
            "unknown environment 'CartPole-v2'; did you mean CartPole",
        ),
        ("[environments]\nCartPole-v1 = {}", "CartPole-v1: it needs env_steps"),
        ("env_steps = 0\n[environments]\nCartPole-v1 = {}", "CartPole-v1: env_steps must be at least 1, got 0"),
        (
            "[environments]\nCartPole-v1 = { steps = 1 }",
            r"CartPole-v1: it has unknown fields \['steps'\]; there are env",
        ),
        ("steps = 1\n[environments]", r"unknown fields \['steps'\]"),
        ("env_steps = 10", r"needs a table \[environments\]"),
        ("env_steps = ", "not readable as TOML"),
    ],
)
def test_a_suite_says_what_is_wrong_with_it(text, says, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=says):
        envs.suite(str(tmp_path / "mine.toml"))


def test_suites_are_found_by_name_and_path(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text("")
    assert list(suites.find(["classic", str(mine)])) == ["classic", "mine"]
    for names, says in (
        (["clasic"], "no suite 'clasic'; did you mean classic"),
        ([], "need at least one suite"),
        ([str(mine), str(tmp_path / "x" / "mine.toml")], "no suite"),
    ):
        with pytest.raises(ValueError, match=says):
            suites.find(names)


def test_what_is_shipped_is_a_suite_and_a_sweep_of_it():
    """With room for ten measurements of every baseline."""
    found = suites.find(["all"])
    assert list(found) == ["bsuite", "classic", "discrete", "gridworlds", "mazes", "minatar"]
    assert suites.names() == sorted([*found, *OF_THE_EXTRA])
    for name, file in found.items():
        suite = envs.suite(name)
        largest = max(baseline.experience.env_steps for baseline in BASELINES.values())
        assert min(entry.env_steps for entry in suite.values()) >= 10 * largest
        trials = read(suites.sweep(file))
        assert all(suite[x.environment].env_steps == x.env_steps and x.num_seeds > 1 for x in trials)
        for place, key in {x.key for x in trials}:
            same = [x for x in trials if x.key == (place, key)]
            means = [x.mean for x in same if x.num_seeds == max(x.num_seeds for x in same) and x.mean == x.mean]
            tuned = suite[place].tuned[key]
            assert tuned.mean == max(means) and tuned.tried == len(same)
    assert all({"a2c", "ppo"} <= entry.tuned.keys() for entry in envs.suite("classic").values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[environments]\n"bandit/five" = {}', "bandit/five: it needs steps"),
        ('steps = 100\n[environments]\n"bandit/fiv" = {}', "did you mean bandit/five"),
        (
            'steps = 110\n[environments]\n"bandit/five" = {}',
            r"steps must be a multiple of 10 \* num_envs \* rollout_length",
        ),
        (
            'steps = 100\n[environments]\n"bandit/five" = { test = ["mdp/random"] }',
            "mdp/random must be of the environment",
        ),
        ('steps = 100\n[environments]\n"bandit/five" = { test = "bandit/five" }', "test must be a list of names"),
        ('steps = 100\n[environments]\n"bandit/five" = { env_steps = 1 }', r"unknown fields \['env_steps'\]"),
        (
            'steps = 100\nrollout_length = 0\n[environments]\n"bandit/five" = {}',
            "rollout_length must be at least 1, got 0",
        ),
    ],
)
def test_a_suite_of_adaptation_says_what_is_wrong_with_it(text, says, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=says):
        envs.adaptation(str(tmp_path / "mine.toml"))


def test_shipped_suites_of_adaptation():
    known = suites.names(suites.ADAPTATION)
    full, ml = envs.adaptation("full"), envs.adaptation("ml")
    assert known == ["full", "ml", "quick"] and set(envs.adaptation("quick")) | set(ml) < set(full)
    assert list(full["bandit/five"].test) == ["bandit/five"] and full["bandit/five"].updates == 10
    assert list(ml["gridworld/ml10"].test) == [f"gridworld/ml_{x}" for x in envs.gridworld.families.NEW]
    assert all(len(x.test) == len(full[name].test) and x.steps == full[name].steps for name, x in ml.items())
    with pytest.raises(ValueError, match="no suite 'fulll'; did you mean full"):
        envs.adaptation("fulll")


@pytest.mark.parametrize("name", OF_THE_EXTRA)
def test_suites_of_the_extra(name):
    """Their packages are not imported by `all`, and the budgets suffice for every baseline."""
    pytest.importorskip({"minigrid": "xminigrid"}.get(name, name), reason="needs the extra envs")
    suite = envs.suite(name)
    assert set(suite) <= set(envs.extra_names()) and all(entry.levels.render for entry in suite.values())
    largest = max(baseline.experience.env_steps for baseline in BASELINES.values())
    assert min(entry.env_steps for entry in suite.values()) >= 10 * largest

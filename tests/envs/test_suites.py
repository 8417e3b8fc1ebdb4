"""Suites as data: those that ship, and what is wrong with others."""

import pytest

import envs
from envs import suites
from metarl.evaluation.baselines import BASELINES
from metarl.evaluation.trials import read


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
    assert list(found) == suites.names() == ["bsuite", "classic", "discrete", "gridworlds", "mazes", "minatar"]
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

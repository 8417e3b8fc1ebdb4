"""Rules of finished runs: their names, and which of them can be compared."""

import jax
import jax.numpy as jnp
import pytest
from finished_runs import RECIPE, write_run

import envs
import metarl
from metarl.evaluation import compare, held_out
from metarl.evaluation.held_out import horizon_report
from metarl.rules import build

LPO = {
    **RECIPE,
    "objective": {"name": "lpo", "hidden": 4, "clip": 0.3, "entropy_coef": 0.02},
    "optimizer": {"name": "adam", "learning_rate": 0.01},
    "experience": {"num_envs": 2, "rollout_length": 4, "epochs": 2, "minibatches": 2},
}


def runs(parent, *many):
    return [compare.load(write_run(parent / str(i), **options)) for i, options in enumerate(many)]


def test_names_say_how_groups_differ_and_lifetimes_are_shaded_if_they_are_the_same(tmp_path):
    blind, longer, aware, other = runs(
        tmp_path,
        {},
        {"temporal": True, "steps": 4, "longest_life": 8, "held_out_levels": 7, "directory": "y"},
        {"temporal": True},
        {"experiment": "lpg"},
    )
    groups = compare.group([blind, longer, aware, other], {"directory"})
    assert list(groups) == [
        "ta_lpg steps=2 temporal=False longest_life=4",
        "ta_lpg steps=4 temporal=True longest_life=8",
        "ta_lpg steps=2 temporal=True longest_life=4",
        "lpg",
    ]
    assert compare.trained_range([aware, blind]) == (2, 4)
    assert compare.trained_range([aware, longer]) is None


def test_the_lifetimes_of_a_run_are_those_of_its_options(tmp_path):
    own, one, many = runs(tmp_path, {"shortest_life": 0, "longest_life": 0}, {"shortest_life": 0}, {})
    assert own.lifetimes is None and one.lifetimes == 4 and many.lifetimes == (2, 4)
    assert compare.trained_range([own]) is None


def test_seeds_share_a_name_and_the_same_training_is_refused(tmp_path):
    first, second, again = runs(tmp_path, {"seed": 0}, {"seed": 1}, {"seed": 1})
    assert [len(group) for group in compare.group([first, second]).values()] == [2]
    with pytest.raises(ValueError, match="are the same: ta_lpg with seed 1"):
        compare.group([first, second, again])


def test_runs_of_versions_without_an_option_of_the_experience_are_as_those_at_its_default(tmp_path):
    newer = {**RECIPE, "experience": {**RECIPE["experience"], "reward_scale": 1.0}}
    scaled = {**RECIPE, "experience": {**RECIPE["experience"], "reward_scale": 0.5}}
    old, new, other = runs(tmp_path, {"seed": 0}, {"seed": 1, "recipe": newer}, {"seed": 2, "recipe": scaled})
    assert [len(group) for group in compare.group([old, new]).values()] == [2]
    with pytest.raises(ValueError, match="experience of the plain agent"):
        compare.group([old, other])


def test_plain_agents_are_a2c_for_lpg_and_ppo_with_the_same_settings_for_a_drift(tmp_path):
    lpg, lpo = runs(tmp_path, {}, {"experiment": "lpo", "recipe": LPO})
    levels = envs.make("mdp/random")
    name, recipe = lpg.plain("mdp/random", levels)
    assert name == "a2c" and recipe["experience"] == RECIPE["experience"]
    name, recipe = lpo.plain("mdp/random", levels)
    assert name == "ppo" and recipe["objective"] == {"name": "ppo", "clip": 0.3, "entropy_coef": 0.02}
    assert recipe["experience"] == LPO["experience"] and recipe["optimizer"] == LPO["optimizer"]
    build(recipe).inner_loop(levels.environment)


def test_runs_that_cannot_share_levels_and_a_plain_agent_are_refused(tmp_path):
    lpg, elsewhere, wide, lpo, clipped, tested = runs(
        tmp_path,
        {},
        {"levels": "bandit/bernoulli"},
        {"recipe": {**RECIPE, "experience": {"num_envs": 3, "rollout_length": 4}}},
        {"experiment": "lpo", "recipe": LPO},
        {"experiment": "lpo", "recipe": {**LPO, "objective": {"name": "lpo", "hidden": 4, "clip": 0.1}}},
        {"eval_episodes": 3},
    )
    for pair, says in (
        ((lpg, elsewhere), "levels is 'mdp/random' in .* but 'bandit/bernoulli' in"),
        ((lpg, wide), "num_envs is 2 in .* but 3 in"),
        ((lpo, clipped), "objective of the plain agent is {.*'clip': 0.3.* but {.*'clip': 0.1"),
        ((lpg, tested), "eval_episodes is 2 in .* but 3 in"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.group(pair)
    assert len(compare.group([lpg, elsewhere], same_levels=False)) == 2
    assert len(compare.group([lpg, lpo])) == 2  # of two experiments, that of the first


def test_what_has_no_agents_or_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no agents to compare"):
        compare.load("adafac-digits")
    assert compare.load("lpg-gridworld").experiment == "lpg"  # a shipped rule will do
    path = tmp_path / "rule.safetensors"
    metarl.save_rule(path, {"objective": build(RECIPE).objective.init(jax.random.key(0))}, RECIPE)
    with pytest.raises(ValueError, match="does not say which run it is of"):
        compare.load(str(tmp_path))


def result(seed, mean, **config):
    return {"experiment": "x", "config": {"seed": seed, **config}, "report": {"trained": {"mean": mean}}}


def test_reports_of_seeds_become_one():
    found = compare.over_seeds({"a": result(0, 1.0, directory="a"), "b": result(1, 3.0, directory="b")}, {"directory"})
    assert found["trained"].mean == 2.0
    assert found["trained"].high - 2.0 == pytest.approx(12.7062, rel=1e-4)  # t of one degree of freedom


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ([result(0, 1.0), result(0, 2.0)], r"need runs of different seeds, at least two, got \[0, 0\]"),
        ([result(0, 1.0)], r"at least two, got \[0\]"),
        ([result(0, 1.0, width=1), result(1, 2.0, width=2)], "1 and 0 differ in width"),
        ([result(0, 1.0), {**result(1, 1.0), "report": {}}], "1 has no report"),
    ],
)
def test_reports_that_are_not_of_seeds_are_refused(results, says):
    with pytest.raises(ValueError, match=says):
        compare.over_seeds({str(i): x for i, x in enumerate(results)})


def test_scores_are_the_means_of_the_report_at_the_lifetimes_of_the_levels(tmp_path, monkeypatch):
    """Of returns that depend on the rule and on how long agents live."""

    def returns(inner, params, levels, key, *, num_seeds, placement):
        rule = sum(abs(x).mean() for x in jax.tree.leaves(params))
        return (rule * levels.horizon + levels.problem.reward.mean((1, 2)))[None] + jnp.zeros((num_seeds, 1))

    monkeypatch.setattr(held_out, "final_returns", returns)
    first, second = runs(tmp_path, {"seed": 0}, {"seed": 1})
    levels, size = envs.make("mdp/random", 4), {"num_levels": 2, "num_seeds": 2, "batch_size": 4}
    found = compare.scores([first, second], "mdp/random", levels, **size)
    report = horizon_report(compare.measured({"x": [first], "y": [second]}, "mdp/random", levels, (4,), **size))
    assert found == pytest.approx([report[name][4].mean for name in ("x", "y")], abs=1e-5)
    assert found[0] != found[1]

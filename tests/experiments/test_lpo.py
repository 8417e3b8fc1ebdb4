"""LPO as a user runs it: from its command line."""

import json
from types import SimpleNamespace

import jax
import pytest
from commands import PNG, assert_rule_is, one_line, restored, words

import envs
import metarl
from experiments import lpo, meta_training
from metarl.run.options import replace

TINY = {
    **{"levels": "mdp/random", "num_pairs": 2, "num_envs": 2, "rollout_length": 4, "hidden": 4, "epochs": 2},
    **{"minibatches": 2, "shortest_life": 2, "longest_life": 4, "batch_size": 1, "eval_episodes": 2, "temporal": True},
    "start": "scratch",
}
REPORT = {"held_out_levels": 2, "held_out_seeds": 1}
CONFIG = replace(lpo.PRESETS["quick"], **TINY, steps=2)
LEVELS = envs.make("mdp/random", (2, 4))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two meta-steps, from the command line."""
    directory = tmp_path_factory.mktemp("lpo") / "run"
    lpo.main(words(**TINY, held_out_seeds=0, directory=directory, steps=2))
    return directory


def test_a_run_leaves_curves_checkpoints_and_results(finished):
    files = {path.name for path in finished.iterdir()}
    figures = {"curves.png", "update.png"}
    assert figures | {"metrics.csv", "results.json", "rule.safetensors", "checkpoints", "log"} == files
    assert all((finished / name).read_bytes().startswith(PNG) for name in figures)
    results = json.loads((finished / "results.json").read_text())
    assert results["experiment"] == "lpo" and results["config"]["temporal"]


def test_the_rule_of_a_run_loads_as_what_was_trained(finished):
    rule = metarl.load_rule(finished)
    state = restored(lpo.EXPERIMENT, CONFIG, finished)
    assert_rule_is(rule, {"objective": state.params["objective"]}, lpo.recipe(CONFIG))
    sizes = {"num_envs": 2, "rollout_length": 4, "epochs": 2, "minibatches": 2}
    assert rule.card["recipe"]["experience"] == {**sizes, "reward_scale": 1.0}


def test_the_plain_agents_are_those_that_the_rule_starts_from():
    """The same network, policy, optimizer and passes; the report's test shows that they learn alike."""
    learned, (name, plain) = lpo.recipe(replace(CONFIG, start="ppo")), lpo.plain(CONFIG)
    assert name == plain["objective"]["name"] == "ppo"
    assert {**learned, "objective": None} == {**plain, "objective": None}


def test_reports_measure_all_agents_in_as_many_episodes(tmp_path):
    """LPO begins as PPO; a rule that has learned nothing yet does exactly as well."""
    options = {**TINY, **REPORT, "start": "ppo", "held_out_horizons": (), "directory": tmp_path}
    config = replace(CONFIG, **{**options, "directory": str(tmp_path)})
    objectives = meta_training.Objectives(lpo.recipe, lpo.plain)
    inner = meta_training.inner_loop(objectives, config, LEVELS)
    state = SimpleNamespace(params=inner.init_meta(jax.random.key(0)), curriculum=())
    rows = meta_training.report(objectives, config, state, {}, tmp_path)
    assert set(rows) == {"trained", "untrained", "ppo", "random", "optimal"}
    assert rows["trained"]["mean"] == pytest.approx(rows["ppo"]["mean"], abs=1e-4)
    assert rows["trained"]["return"] != rows["random"]["return"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_pairs": 0}, "num_pairs must be at least 1, got 0"),
        ({"sigma": 0}, "sigma must be above 0"),
        ({"shortest_life": 9}, "shortest_life must be at most longest_life = 4, got 9"),
        ({"estimator": "pes"}, "estimator pes needs truncation"),
        ({"start": "trpo"}, "'ppo', 'scratch'"),
        ({"clip": 0}, "clip must be above 0, got 0"),
        ({"entropy_coef": -1}, "entropy_coef must be at least 0, got -1"),
        ({"agent_learning_rate": 0}, "agent_learning_rate must be above 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"minibatches": 3}, "minibatches"),
        ({"devices": 2, "num_pairs": 64}, "devices must be at most 1, as many as are available, got 2"),
        ({"held_out_levels": 1}, "held_out_levels must be at least 2, got 1"),
        ({"held_out_horizons": 0}, "held_out_horizons[0] must be at least 1"),
        ({"levels": "gridworld/smal"}, "gridworld/small"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, capsys):
    assert says in one_line(capsys, lambda: lpo.main(words(**{**TINY, **options})))


def test_presets_show_shorter_lives_than_trained_on_and_two_and_four_times_the_longest():
    for config in lpo.PRESETS.values():
        over = [horizon / config.distribution.longest_life for horizon in config.held_out.held_out_horizons]
        assert min(over) < 1.0 and 1.0 in over and 2.0 in over and 4.0 in over

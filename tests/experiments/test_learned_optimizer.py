"""Meta-training of optimizers as a user runs it, and what it reports and draws."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import assert_agents_are_alike, one_line, restored, words

import envs
import metarl
from envs import tasks
from experiments import learned_optimizer as experiment
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.rules import save_rule
from metarl.run.options import replace

TINY = {
    **{"steps": 2, "chunk": 1, "num_pairs": 2, "width": 4, "shortest_life": 4, "longest_life": 4},
    **{"tuning_levels": 2, "tuning_seeds": 1, "held_out_levels": 2, "held_out_seeds": 1},
}
AGENTS = {"num_envs": 2, "rollout_length": 4, "eval_episodes": 2}
ALL_RATES = np.asarray(experiment.RATES)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """The directory of a run on quadratics, compared with a plain optimizer."""
    directory = tmp_path_factory.mktemp("learned_optimizer") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "PLAIN", {name: experiment.PLAIN[name] for name in ("adam",)})
        experiment.main(words(**TINY, levels="supervised/quadratic", directory=directory))
    return directory


def test_a_run_compares_with_tuned_optimizers_and_draws_its_updates(supervised):
    rows = json.loads((supervised / "results.json").read_text())["report"]
    others = ["newborn", "adam"]
    assert list(rows) == ["trained", *others, *(f"trained minus {x}" for x in others)]
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())
    assert rows["adam"]["rate"] in ALL_RATES and rows["newborn"]["rate"] is None
    assert {"update.png", "update_sizes.png", "rule.safetensors", "report.png"} <= {
        x.name for x in supervised.iterdir()
    }


def test_the_rule_of_a_supervised_run_is_an_optimizer_for_any_loop(supervised):
    rule = metarl.load_rule(supervised)
    config = replace(experiment.PRESETS["quick"], **TINY, levels="supervised/quadratic")
    state = restored(experiment.EXPERIMENT, config, supervised)
    jax.tree.map(np.testing.assert_array_equal, rule.params, {"optimizer": state.params["optimizer"]})
    levels, task = task_levels(tasks.quadratic(), 4), tasks.quadratic()
    inner = experiment.place(config, "supervised/quadratic").inner_loop(config.learned.make())
    loaded = supervised_inner_loop(task, rule.optimizer)
    assert_agents_are_alike((inner, state.params), (loaded, {}), levels)
    with pytest.raises(ValueError, match="this learner has an optimizer only"):
        rule.inner_loop(envs.make("bandit/bernoulli").environment)


@pytest.mark.parametrize(
    ("objective", "own"),
    [
        ("ppo", {"optimizer": "open", "hidden": 2, "width": 4}),
        ("lpg", {"optimizer": "schedule", "rule_hidden": 2}),
    ],
)
def test_the_recipe_of_a_run_on_agents_is_the_whole_learner(objective, own, tmp_path):
    config = replace(experiment.Config(), levels="bandit/bernoulli", objective=objective, **own, **AGENTS)
    where = experiment.place(config, "bandit/bernoulli")
    inner = where.inner_loop(config.learned.make())
    params = jax.jit(inner.init_meta)(jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), params)
    save_rule(tmp_path / "rule.safetensors", params, experiment.recipe(config))
    rule = metarl.load_rule(tmp_path)
    assert (rule.objective is not None) == (objective == "lpg")
    assert rule.card["recipe"]["experience"]["epochs"] == (1 if objective == "lpg" else 2)
    loaded = rule.inner_loop(where.levels.environment)
    assert_agents_are_alike((inner, params), (loaded, {}), where.levels)


def test_a_mixture_reports_each_of_its_places(tmp_path, monkeypatch):
    row = {"trained": {"mean": 1.0, "low": 0.0, "high": 2.0}}
    monkeypatch.setattr(experiment, "judge", lambda config, where, params: row)  # as in runs on one place
    places = {"levels": "supervised/quadratic", "more_levels": "supervised/logistic"}
    pes = {"estimator": "pes", "truncation": 2, "shaping": "pair_rank"}
    small = {name: x for name, x in TINY.items() if name != "width"} | {"optimizer": "schedule"}
    experiment.main(words(**small, **places, **pes, directory=tmp_path))
    report = json.loads((tmp_path / "results.json").read_text())["report"]
    assert report == {f"{place}: trained": row["trained"] for place in places.values()}


@pytest.mark.parametrize("objective", ["ppo", "lpg"])
@pytest.mark.parametrize("name", ["open", "open_feedforward", "no_features", "adafac", "schedule"])
def test_agents_learn_by_every_optimizer(name, objective):
    """PPO with it, and LPG with it: both are meta-learned then."""
    small = {"levels": "bandit/bernoulli", "num_envs": 2, "rollout_length": 2}
    small |= {"hidden": 2} if name == "open" else {}
    small |= {"width": 4} if name != "schedule" else {}
    config = replace(experiment.Config(), optimizer=name, objective=objective, **small)
    where = experiment.place(config, "bandit/bernoulli")
    inner = where.inner_loop(config.learned.make())
    meta = jax.eval_shape(inner.init_meta, jax.random.key(0))
    assert bool(jax.tree.leaves(meta["optimizer"])) and bool(jax.tree.leaves(meta["objective"])) == (objective == "lpg")
    lifetime = jax.eval_shape(lambda key: inner.init(key, where.levels.sample(key)), jax.random.key(0))
    after = jax.eval_shape(inner.step, meta, lifetime, jax.random.key(0)).lifetime
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, lifetime)


def test_agents_follow_a_learned_objective_as_it_is():
    """With the optimizer that is learned, and with plain ones; and it must be one."""
    small = {"levels": "bandit/bernoulli", "num_envs": 2, "rollout_length": 2}
    config = replace(experiment.Config(), objective="lpg", rule="ta-lpg-gridworld", **small)
    where = experiment.place(config, "bandit/bernoulli")
    inner, plain = where.inner_loop(config.learned.make()), where.plain(lambda total: optax.sgd(1.0 / total))
    for loop, learns in ((inner, True), (plain, False)):
        meta = jax.eval_shape(loop.init_meta, jax.random.key(0))
        assert meta["objective"] == () and bool(jax.tree.leaves(meta["optimizer"])) == learns
        lifetime = jax.eval_shape(lambda key, loop=loop: loop.init(key, where.levels.sample(key)), jax.random.key(0))
        assert set(lifetime.params) == {"policy", "y"}
        jax.eval_shape(loop.step, meta, lifetime, jax.random.key(0))
    assert set(experiment.recipe(config)) == {"optimizer"}  # a recipe cannot name the rule that agents follow
    with pytest.raises(ValueError, match="rule must have learned an LPG, got 'adafac-digits'"):
        experiment.place(replace(config, rule="adafac-digits"), "bandit/bernoulli")


def test_the_sweep_finds_the_rate_that_is_best(monkeypatch):
    """No other is as good, on the levels and seeds of the sweep."""
    config = replace(experiment.Config(), longest_life=20, shortest_life=20, tuning_levels=4, tuning_seeds=2)
    where = experiment.place(config, "supervised/quadratic")
    rates = {name: experiment.tune(config, where, make) for name, make in experiment.PLAIN.items()}
    assert all(np.isfinite(fitness) and rate in ALL_RATES for rate, fitness in rates.values())
    rate, best = rates["adam"]
    inner = where.plain(lambda total: experiment.PLAIN["adam"](rate, total))
    assert inner.init_meta(jax.random.key(0)) == {"objective": (), "optimizer": ()}
    place = int(np.argmin(abs(ALL_RATES - rate)))
    assert 0 < place < len(ALL_RATES) - 1
    monkeypatch.setattr(experiment, "RATES", ALL_RATES[[place - 1, place + 1]])
    assert experiment.tune(config, where, experiment.PLAIN["adam"])[1] < best


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": "chess"}, "chess"),
        ({"without": "colour", "optimizer": "open"}, "colour"),
        ({"without": "noise", "optimizer": "adafac"}, "without has no effect with optimizer adafac"),
        ({"rule": "runs/x"}, "rule has no effect with objective ppo"),
        ({"network": 0}, "network[0] must be at least 1, got 0"),
        ({"scale": 0}, "scale must be above 0"),
        ({"shortest_life": 0}, "shortest_life must be at least 1, got 0"),
        ({"more_levels": "supervised/digits"}, "levels must be different"),
        ({"rule": "runs/x", "objective": "lpg"}, "has no effect on supervised/digits, which have no agents"),
        ({"rule": "nowhere", "objective": "lpg", "levels": "bandit/bernoulli"}, "nowhere"),
        ({"measure_every": -1}, "measure_every must be at least 0"),
        ({"num_envs": 4}, "num_envs has no effect on supervised/digits, which have no agents"),
        ({"score": "regret"}, "--score"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, tmp_path, capsys):
    argv = words(**{**TINY, "directory": tmp_path / "run", **options})
    assert says in one_line(capsys, lambda: experiment.main(argv))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", experiment.PRESETS)
def test_presets_can_be_made(preset):
    config = experiment.PRESETS[preset]
    scales = [1.0] * len(config.places) if config.more.more_levels else []
    state = jax.eval_shape(experiment.make(config, scales).init, jax.random.key(0))
    assert set(state.params) == {"objective", "optimizer"}
    assert set(experiment.recipe(config)) >= {"optimizer"}

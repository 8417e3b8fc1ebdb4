"""DiscoRL as a user runs it, by meta-gradients and by evolution: the command line from end to end, and bad input."""

import json
import shutil
from operator import itemgetter

import jax
import numpy as np
import pytest
from commands import PNG, assert_rule_is, columns, one_line, restored, words
from toy import assert_same

import metarl
from experiments import cli, disco, disco_es
from metarl.estimators.population import perturb
from metarl.rules import build
from metarl.run.options import replace
from metarl.run.train import train

TINY = {
    **{"levels": "mdp/random", "num_envs": 2, "rollout_length": 4, "predictions": 3, "hidden": 4, "largest_value": 2},
    **{"lifetime_hidden": 3, "network": "tabular", "longest_life": 4},
}
MODEL = {"network": "action_model", "torso": (4,), "model_width": 3}
MODULES = {
    disco: {"num_lifetimes": 2, "updates": 2},
    disco_es: {**MODEL, "num_pairs": 2, "batch_size": 1, "eval_episodes": 2},
}


def options(module):
    return {**TINY, **MODULES[module], "last_learning_rate": 1e-3, "learning_rate": 1e-3}


def config(module):
    return replace(module.PRESETS["quick"], **options(module), steps=3)


@pytest.fixture(
    scope="module", params=[pytest.param(disco, id="backprop"), pytest.param(disco_es, id="es", marks=pytest.mark.slow)]
)
def finished(request, tmp_path_factory):
    """A run of 3 meta-steps, from the command line."""
    directory = tmp_path_factory.mktemp("disco") / "run"
    request.param.main(words(**options(request.param), held_out_seeds=0, directory=directory, steps=3))
    return request.param, directory


def test_a_run_leaves_curves_and_checkpoints(finished):
    module, directory = finished
    for name in ("curves.png", "update.png"):
        assert (directory / name).read_bytes().startswith(PNG)
    results = json.loads((directory / "results.json").read_text())
    assert results["experiment"] == module.EXPERIMENT.name and results["config"]["predictions"] == 3
    log = columns(directory)
    assert log["step"].tolist() == [1, 2, 3] and set(module.EXPERIMENT.curves) & log.keys()
    # it is 0 where the members of all pairs of evolution are as good as each other
    assert np.isfinite(log["meta_gradient_norm"]).all() and log["meta_gradient_norm"].max() > 0


def test_the_rule_of_a_run_loads_as_what_was_trained(finished):
    module, directory = finished
    rule = metarl.load_rule(directory)
    state = restored(module.EXPERIMENT, config(module), directory)
    assert_rule_is(rule, {"objective": state.params["objective"]}, module.recipe(config(module)))
    assert rule.objective is not None


@pytest.mark.slow
def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(finished, tmp_path):
    """With what the rule remembers of unfinished lifetimes."""
    module, directory = finished
    if module is disco_es:
        pytest.skip("its lifetimes end with every meta-step")
    shutil.copytree(directory, tmp_path / "run")
    more = {**options(module), "directory": tmp_path / "run", "resume": True, "held_out_seeds": 0}
    module.main(words(**more, steps=5))
    state, _ = train(module.EXPERIMENT.make(replace(config(module), steps=5)), seed=0, steps=5)
    found = restored(module.EXPERIMENT, replace(config(module), steps=5), tmp_path / "run")
    assert_same(found, state)
    assert any((x != 0).any() for x in jax.tree.leaves(found.lifetimes.memory.rule))


def test_the_preset_has_agents_on_tables():
    recipe = disco.recipe(disco.PRESETS["quick"])
    assert recipe["network"] == {"name": "tabular"} and recipe["optimizer"]["eps"] == 1e-3
    build(recipe)


def test_evolution_asks_for_no_entropy_of_agents():
    recipe = disco_es.recipe(config(disco_es))
    assert {name: x for name, x in recipe["objective"].items() if x == 0} == {
        **{"policy_entropy_coef": 0.0, "prediction_entropy_coef": 0.0},
        **{"target_size_coef": 0.0, "policy_change_coef": 0.0},
    }
    build(recipe)


@pytest.mark.slow
def test_what_evolution_perturbs_by_moves_agents_from_the_random_policy():
    """The targets of a new rule are nearly uniform: with a sigma of 0.1 no agent of any member learned anything."""
    preset = disco_es.PRESETS["quick"]
    levels = preset.distribution.make()
    inner = build(disco_es.recipe(preset)).inner_loop(levels.environment)

    def entropy(key, sigma):
        born, seed = inner.init_meta(key), jax.random.fold_in(key, 1)
        _, pair = perturb(seed, born, sigma)
        member = jax.tree.map(itemgetter(0), pair)
        _, metrics = metarl.train_agent(inner, member, levels.sample(seed), seed, num_updates=50)
        return metrics["policy_entropy"][-1]

    keys = jax.random.split(jax.random.key(0), 8)
    entropies = jax.jit(lambda sigma: jax.lax.map(lambda key: entropy(key, sigma), keys))
    below = [np.mean(np.log(5) - entropies(sigma)) for sigma in (0.1, preset.estimator.sigma)]
    assert below[0] < 2e-4 and below[1] > 2e-3, below


def test_agents_have_a_model_or_dense_layers_that_may_be_alike():
    network = disco.recipe(replace(config(disco), **MODEL))["network"]
    assert network == {"name": "action_model", "sizes": (4,), "hidden": 3, "channels": None}
    arguments = ["--network", "mlp", "--torso", "8", "8", "--levels", "Catch-bsuite"]
    network = disco.recipe(cli.parse(disco.Config, disco.PRESETS, arguments))["network"]
    assert network == {"name": "mlp", "sizes": (8, 8)}


BAD = {
    "continuous actions": ({"levels": "Pendulum-v1"}, "the output 'z', which has a size per action, needs discrete"),
    "a torso of tables": ({"network": "tabular"}, "torso has no effect on tables: leave it at (512, 512), got (4,)"),
    "a model of dense layers": ({"network": "mlp"}, "model_width has no effect without a model that looks one action"),
    "no board": ({"channels": 4}, "the network does not fit observations of shape ()"),
    "too few predictions": ({"predictions": 1}, "predictions must be at least 2, got 1"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_refused_in_one_line(fault, capsys):
    bad, message = BAD[fault]
    assert message in one_line(capsys, lambda: disco.main(words(**{**options(disco), **MODEL, **bad}, steps=1)))

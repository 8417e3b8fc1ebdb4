"""Meta-training of initialisations as a user runs it, and what it reports."""

import json

import jax
import numpy as np
import pytest
from commands import assert_agents_are_alike, one_line, restored, words

import envs
import metarl
from experiments import maml as experiment
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.run.options import replace

TINY = {"steps": 2, "chunk": 1, "num_lifetimes": 2, "held_out_levels": 2, "held_out_updates": (0, 1, 3)}
AGENTS = {"levels": "gridworld/hidden_goal", "num_envs": 2, "rollout_length": 3, "held_out_episodes": 2}


@pytest.fixture(autouse=True)
def few_rates(monkeypatch):
    monkeypatch.setattr(experiment, "RATES", np.array([0.01, 0.1]))
    monkeypatch.setattr(experiment, "TUNING_TASKS", 2)


def test_a_run_reports_its_learners_and_those_of_pretraining(tmp_path):
    options = {**TINY, "method": "meta_sgd", "directory": tmp_path}
    experiment.main(words(**options))
    rows = json.loads((tmp_path / "results.json").read_text())["report"]
    names = ("meta_sgd", "random", "pretraining")
    assert list(rows) == [f"{name} after {count}" for name in names for count in (0, 1, 3)]
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())
    assert {rows[f"{name} after 1"]["rate"] for name in names[1:]} <= {0.01, 0.1}
    assert {"adaptation.png", "adaptation.json", "rule.safetensors", "report.png"} <= {
        x.name for x in tmp_path.iterdir()
    }

    rule = metarl.load_rule(tmp_path)
    state = restored(experiment.EXPERIMENT, replace(experiment.Config(), **options | {"directory": ""}), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, rule.params, {x: state.params[x] for x in ("initial", "optimizer")})
    task = experiment.Problems().task()
    inner = supervised_inner_loop(task, rule.learner.optimizer, initial="learned")
    begun = supervised_inner_loop(task, rule.optimizer, initial=rule.trained.initial)
    level = task_levels(task, 3).sample(jax.random.key(1))
    one, _ = metarl.train_agent(inner, rule.params, level, jax.random.key(2), 3)
    other, _ = metarl.train_agent(begun, {}, level, jax.random.key(2), 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), metarl.parameters(rule.params, one), other.params
    )


def test_a_rule_of_agents_begins_where_it_was_trained_to(tmp_path):
    config = replace(experiment.Config(), **AGENTS, method="meta_sgd", adaptation_rate=1.0)
    recipe = experiment.recipe(config)
    learner = metarl.rules.build(recipe)
    inner = experiment.inner_loop(config, learner.optimizer, "learned")
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), inner.init_meta(jax.random.key(0))
    )
    metarl.save_rule(tmp_path / "rule.safetensors", params, recipe)
    rule, levels = metarl.load_rule(tmp_path), envs.make("gridworld/hidden_goal")
    again = rule.learner.inner_loop(levels.environment)
    assert_agents_are_alike((inner, params), (again, rule.params), levels)
    one, other = (
        jax.jit(
            lambda key, loop=loop, given=given: metarl.parameters(
                given, metarl.train_agent(loop, given, levels.sample(key), key, 2)[0]
            )
        )(jax.random.key(4))
        for loop, given in ((inner, params), (rule.inner_loop(levels.environment), {}))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)
    with pytest.raises(ValueError, match="the initialisation does not fit the network tabular of these agents: it"):
        rule.inner_loop(envs.make("mdp/random").environment)


@pytest.mark.slow
def test_agents_are_reported_by_their_returns(tmp_path):
    experiment.main(words(**TINY, **AGENTS, method="pretraining", directory=tmp_path))
    rows = json.loads((tmp_path / "results.json").read_text())["report"]
    assert set(rows) == {f"{name} after {count}" for name in ("random", "pretraining") for count in (0, 1, 3)}
    assert all(0.0 <= row["mean"] <= 1.0 for row in rows.values())


@pytest.mark.parametrize("weights", ["uniform", "improvement"])
def test_sources_are_weighed(weights):
    config = replace(experiment.PRESETS["sources"], num_lifetimes=2, updates=2, weights=weights)
    meta = experiment.make(config)
    _, metrics = jax.eval_shape(lambda key: meta.step(meta.init(key), key), jax.random.key(0))
    assert ("weight_5" in metrics) == (weights != "uniform")


@pytest.mark.parametrize(
    ("method", "levels"),
    [
        ("maml", "gridworld/hidden_goal"),
        ("fomaml", "regression/sinusoid"),
        ("reptile", "gridworld/hidden_goal"),
        ("meta_sgd", "regression/sinusoid"),
        ("pretraining", "regression/sinusoid"),
    ],
)
def test_every_method_is_a_run_of_its_own(method, levels):
    meta = experiment.make(replace(experiment.Config(), num_lifetimes=2, levels=levels, method=method))
    state, metrics = jax.eval_shape(lambda key: meta.step(meta.init(key), key), jax.random.key(0))
    assert "meta_loss" in metrics and bool(jax.tree.leaves(state.params["optimizer"])) == (method == "meta_sgd")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": "regression/sinus"}, "did you mean regression/sinusoid"),
        ({"levels": "cartpole/varied", "shots": 3}, "shots has no effect on cartpole/varied"),
        ({"num_envs": 3}, "num_envs has no effect on regression/sinusoid, which has no agents"),
        ({"weights": "similarity"}, "weights has no effect on regression/sinusoid, which has no sources"),
        ({"method": "pretraining", "updates": 3}, "updates has no effect with method pretraining"),
        ({"held_out_updates": (3, 1)}, "held_out_updates must increase, to at least 1, got (3, 1)"),
        ({"held_out_levels": 1}, "held_out_levels must be at least 2"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, tmp_path, capsys):
    argv = words(**{**TINY, "directory": tmp_path / "run", **options})
    assert says in one_line(capsys, lambda: experiment.main(argv))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", experiment.PRESETS)
def test_presets_can_be_made(preset):
    state = jax.eval_shape(experiment.make(experiment.PRESETS[preset]).init, jax.random.key(0))
    assert set(state.params) == {"objective", "optimizer", "initial"}


@pytest.mark.slow
def test_quick_is_far_below_pretraining_after_one_update(tmp_path, monkeypatch):
    monkeypatch.undo()  # all rates
    experiment.main(words(directory=tmp_path))
    rows = json.loads((tmp_path / "results.json").read_text())["report"]
    assert rows["maml after 1"]["high"] < 1.3 < 1.9 < rows["pretraining after 1"]["low"]
    assert rows["maml after 10"]["mean"] < 0.5 * rows["pretraining after 10"]["mean"]
    assert rows["pretraining after 1"]["mean"] < rows["random after 1"]["mean"]

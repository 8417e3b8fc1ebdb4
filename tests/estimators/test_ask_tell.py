"""Strategies of evosax drive the same inner loops as our own estimators."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratic import levels, quadratic
from toy import assert_same

import metarl
from metarl.estimators import ask_tell
from metarl.meta import compose

evosax = pytest.importorskip("evosax.algorithms")


def strategy(name):
    return lambda solution: getattr(evosax, name)(population_size=16, solution=solution)


def meta(name, inner=None, **options):
    estimator = ask_tell(strategy(name), 3, **options)
    return compose(inner or quadratic(), estimator, optax.sgd(1.0), metarl.curricula.uniform(levels(3)), 2)


@pytest.mark.parametrize("name", ["CMA_ES", "SNES", "PSO"])
def test_strategies_find_the_best_rate(name):
    rates = np.linspace(0.0, 0.7, 701)
    losses = sum(0.5 * h * (1 - rates * h) ** 6 for h in (1.0, 3.0))
    state, log = metarl.train(meta(name), steps=60, seed=1)
    assert log["fitness_max"].shape == (60,)
    assert float(state.params["rate"]) == pytest.approx(rates[losses.argmin()], abs=0.05)
    assert log["fitness_max"][-1] >= log["fitness_max"][0]


def test_the_estimate_leads_to_the_strategys_mean():
    run = meta("SNES")
    state = run.init(jax.random.key(0))
    after, metrics = jax.jit(run.step)(state, jax.random.key(1))
    np.testing.assert_allclose(after.params["rate"], after.estimator.strategy.mean[0], rtol=1e-6)
    moved = abs(float(after.params["rate"] - state.params["rate"]))
    assert metrics["meta_gradient_norm"] == pytest.approx(moved, rel=1e-4) and moved > 0.0


def test_members_that_are_not_finite_are_counted_and_survived():
    inner = quadratic()

    def fitness(meta_params, lifetime, key):
        return jnp.where(meta_params["rate"] < 0.1, jnp.nan, inner.fitness(meta_params, lifetime, key))

    state, log = metarl.train(meta("SNES", inner._replace(fitness=fitness)), steps=5, seed=1)
    assert 0 < log["nonfinite_members"][0] < 16
    assert np.isfinite(state.params["rate"])


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, log = metarl.train(meta("CMA_ES"), steps=6, seed=2)
    metarl.train(meta("CMA_ES"), steps=3, seed=2, directory=tmp_path)
    resumed, resumed_log = metarl.train(meta("CMA_ES"), steps=6, seed=2, directory=tmp_path, resume=True)
    assert_same((whole, log), (resumed, resumed_log))

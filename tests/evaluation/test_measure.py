"""Measuring agents: returns on many levels and seeds, and learning curves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratic import levels, quadratic

import metarl
from envs import mdp
from metarl.evaluation.measure import final_returns, learning_curves
from metarl.objectives import a2c
from metarl.rl.networks import tabular

LEVELS = mdp.distribution(num_states=3, num_actions=2, max_steps=4, horizon=30)
HELD_OUT = jax.vmap(LEVELS.sample)(jax.random.split(jax.random.key(0), 3))

NEWBORN = HELD_OUT._replace(horizon=jnp.zeros(3, jnp.int32))


@pytest.fixture(scope="module")
def play():
    inner = metarl.rl_inner_loop(
        LEVELS.environment, tabular, a2c(), optax.adam(0.3), metarl.Experience(4, 8), num_eval_episodes=32
    )
    meta_params = inner.init_meta(jax.random.key(0))

    def play(levels=HELD_OUT, key=jax.random.key(1), **options):  # noqa: B008
        play = partial(final_returns, inner, meta_params, num_seeds=4, **options)
        return np.asarray(jax.jit(play)(levels=levels, key=key))

    return play


@pytest.fixture(scope="module")
def returns(play):
    return play()


def test_final_returns_are_those_of_trained_agents_on_each_level(play, returns):
    best = np.asarray(jax.vmap(LEVELS.optimal_return)(HELD_OUT.problem))
    newborn = play(NEWBORN)
    assert returns.shape == newborn.shape == (4, 3)
    assert (newborn.mean(0) < returns.mean(0)).all()
    assert ((returns.mean() - newborn.mean()) / (best.mean() - newborn.mean())) > 0.6
    assert returns.mean(0).argmax() == best.argmax()  # columns are levels
    assert all(len(set(column)) > 1 for column in returns.T)  # rows are seeds


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_change_nothing(play, returns, batch_size):
    np.testing.assert_allclose(play(placement=metarl.Placement(batch_size=batch_size)), returns, rtol=1e-5)


def test_agents_stop_at_their_horizon(play, returns):
    short = HELD_OUT._replace(horizon=jnp.array([0, 30, 0], jnp.int32))
    expected = np.where([True, False, True], play(NEWBORN), returns)
    np.testing.assert_allclose(play(short), expected, rtol=1e-5)


def test_an_agent_whose_parameters_are_not_finite_has_no_fitness():
    """Its actions would still be sampled, and its episodes have returns."""
    inner = metarl.rl_inner_loop(
        LEVELS.environment, tabular, a2c(), optax.adam(0.3), metarl.Experience(2, 2), num_eval_episodes=2
    )
    key = jax.random.key(0)
    lifetime = inner.init(key, jax.tree.map(lambda x: x[0], HELD_OUT))

    @jax.jit
    def fitness(value):
        params = jax.tree.map(lambda x: x.at[0].set(value), lifetime.params)
        return inner.fitness((), lifetime._replace(params=params), key)

    assert [bool(jnp.isfinite(fitness(value))) for value in (0.0, jnp.nan, jnp.inf)] == [True, False, False]


def test_learning_curves_measure_as_agents_grow():
    """x <- (1 - rate h) x, so the loss h x^2 / 2 is known at every age, and each agent has its own rate."""
    rates, h = jnp.array([0.1, 0.2]), np.array([1.0, 3.0])
    keys = jax.random.split(jax.random.key(0), 2)
    places = jax.vmap(levels(horizon=1).sample)(keys)  # as long as the curve is, whatever the level says

    def make(rate):
        return quadratic()._replace(init_meta=lambda key: {"rate": rate})

    found = jax.jit(lambda: learning_curves(make, rates, places, keys, ends=(1, 4)))()
    expected = [[-0.5 * (h * (1 - rate * h) ** (2 * t)).sum() for t in (1, 4)] for rate in (0.1, 0.2)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_has_no_fitness_cannot_be_measured():
    with pytest.raises(ValueError, match="no fitness"):
        final_returns(quadratic()._replace(fitness=None), {}, HELD_OUT, jax.random.key(0), num_seeds=1)

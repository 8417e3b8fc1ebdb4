"""Judging agents: normalised scores against hand-worked numbers, and returns on many levels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl
from envs import mdp
from metarl.evaluation.measure import final_returns, normalised_return
from metarl.objectives import a2c
from metarl.rl.networks import tabular


def test_normalised_returns_are_the_hand_worked_ones():
    # per level 2, 5 and 2; above zero 1, 3 and 0, of 2, 4 and 4
    returns = np.array([[1.0, 4.0, 2.0], [3.0, 6.0, 2.0]])
    score = normalised_return(returns, np.array([1.0, 2.0, 2.0]), np.array([3.0, 6.0, 6.0]))
    assert score.mean == pytest.approx(4.0 / 10.0)  # a ratio of means, not the mean .416.. of ratios
    assert 0.0 <= score.low < score.mean < score.high <= 1.0 + 1e-9


def test_the_ends_of_the_scale_score_zero_and_one():
    zero, one = np.array([0.1, -3.0, 5.0]), np.array([2.0, 1.0, 5.1])
    assert normalised_return(zero[None], zero, one) == pytest.approx((0.0, 0.0, 0.0))
    assert normalised_return(np.tile(one, (4, 1)), zero, one) == pytest.approx((1.0, 1.0, 1.0))


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, levels, hits = np.random.default_rng(0), 40, 0
    for trial in range(60):
        returns = rng.normal(0.5, 0.3, size=(1, levels))
        score = normalised_return(returns, np.zeros(levels), np.ones(levels), seed=trial)
        hits += score.low <= 0.5 <= score.high
    assert 51 <= hits <= 60  # 95 % of 60 are 57; fewer than 51 have a probability below 1 in 200


def test_more_seeds_do_not_make_levels_more_certain():
    """Levels are resampled as well: copies of the same agents say nothing new about other levels."""
    rng = np.random.default_rng(1)
    returns, ends = rng.normal(size=(1, 20)), (np.zeros(20), np.ones(20))
    assert normalised_return(returns, *ends) == pytest.approx(
        normalised_return(np.tile(returns, (50, 1)), *ends), abs=0.1
    )


def test_seeds_are_resampled_too():
    """On levels that are all alike, only the seeds are left to differ."""
    returns = np.repeat(np.array([[0.0], [1.0], [0.0], [1.0]]), 6, axis=1)
    score = normalised_return(returns, np.zeros(6), np.ones(6))
    assert score.mean == 0.5 and score.low < 0.2 and score.high > 0.8


def test_a_reference_that_is_not_above_zero_is_refused():
    with pytest.raises(ValueError, match="is not above"):
        normalised_return(np.ones((2, 3)), np.ones(3), np.ones(3))


@pytest.mark.parametrize(
    ("returns", "zero", "one"), [((2, 3), (3,), (2,)), ((2, 3), (2,), (3,)), ((2, 1), (1,), (1,)), ((3, 2), (3,), (3,))]
)
def test_shapes_that_do_not_agree_are_named(returns, zero, one):
    with pytest.raises(ValueError, match=rf"n >= 2 levels, got \({returns[0]}, {returns[1]}\)"):
        normalised_return(np.ones(returns), np.zeros(zero), np.ones(one))


LEVELS = mdp.distribution(num_states=3, num_actions=2, max_steps=4, horizon=30)
HELD_OUT = jax.vmap(LEVELS.sample)(jax.random.split(jax.random.key(0), 3))

NEWBORN = HELD_OUT._replace(horizon=jnp.zeros(3, jnp.int32))


@pytest.fixture(scope="module")
def play():
    inner = metarl.rl_inner_loop(
        LEVELS.env, tabular, a2c(), optax.adam(0.3), num_envs=4, rollout_length=8, num_eval_episodes=32
    )
    meta_params = inner.init_meta(jax.random.key(0))

    def play(levels=HELD_OUT, key=jax.random.key(1), **options):  # noqa: B008
        options = {"num_seeds": 4, "batch_size": None} | options
        return np.asarray(jax.jit(partial(final_returns, inner, meta_params, **options))(levels=levels, key=key))

    return play


@pytest.fixture(scope="module")
def returns(play):
    return play()


def test_final_returns_are_those_of_trained_agents_on_each_level(play, returns):
    best = np.asarray(jax.vmap(partial(mdp.optimal_return, LEVELS.env))(HELD_OUT.env_params))
    newborn = play(NEWBORN)
    assert returns.shape == newborn.shape == (4, 3)
    assert (newborn.mean(0) < returns.mean(0)).all()
    assert ((returns.mean() - newborn.mean()) / (best.mean() - newborn.mean())) > 0.6
    assert np.argsort(returns.mean(0)).tolist() == np.argsort(best).tolist()  # columns are levels
    assert all(len(set(column)) > 1 for column in returns.T)  # rows are seeds


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_change_nothing(play, returns, batch_size):
    np.testing.assert_allclose(play(batch_size=batch_size), returns, rtol=1e-5)


def test_agents_stop_at_their_horizon(play, returns):
    short = HELD_OUT._replace(horizon=jnp.array([0, 30, 0], jnp.int32))
    expected = np.where([True, False, True], play(NEWBORN), returns)
    np.testing.assert_allclose(play(short), expected, rtol=1e-5)


def test_an_agent_whose_parameters_are_not_finite_has_no_fitness():
    """Its actions would still be sampled, and its episodes have returns."""
    inner = metarl.rl_inner_loop(
        LEVELS.env, tabular, a2c(), optax.adam(0.3), num_envs=2, rollout_length=2, num_eval_episodes=2
    )
    key = jax.random.key(0)
    lifetime = inner.init(key, jax.tree.map(lambda x: x[0], HELD_OUT))

    @jax.jit
    def fitness(value):
        params = jax.tree.map(lambda x: x.at[0].set(value), lifetime.params)
        return inner.fitness((), lifetime._replace(params=params), key)

    assert [bool(jnp.isfinite(fitness(value))) for value in (0.0, jnp.nan, jnp.inf)] == [True, False, False]

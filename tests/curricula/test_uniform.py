"""Domain randomisation, over a distribution or a frozen buffer, and what is logged of levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from metarl import curricula
from metarl.curricula.features import level_metrics
from metarl.curricula.replay import fingerprint


def test_a_frozen_buffer_has_so_many_levels_and_all_of_them_are_lived_on():
    levels = envs.make("gridworld/small")
    frozen = curricula.fixed(levels, 5)
    state = frozen.init(jax.random.key(0), 64)
    given, after = frozen.sample(jax.random.key(1), state, jnp.ones(64, bool))
    jax.tree.map(np.testing.assert_array_equal, state, after)
    codes, set_of = (np.asarray(fingerprint(x)) for x in (given, state))
    assert len(set(set_of)) == 5 and set(codes) == set(set_of)
    with pytest.raises(ValueError, match="num_levels must be at least 1, got 0"):
        curricula.fixed(levels, 0)


def test_chosen_levels_are_the_ones_that_are_lived_on_whatever_the_seed():
    levels = envs.make("gridworld/small")
    given = jax.vmap(levels.sample)(jax.random.split(jax.random.key(7), 3))
    curriculum = curricula.chosen(levels, jax.tree.map(np.asarray, given))
    for seed in range(2):
        state = curriculum.init(jax.random.key(seed), 32)
        lived, _ = curriculum.sample(jax.random.key(seed), state, jnp.ones(32, bool))
        assert set(np.asarray(fingerprint(lived))) == set(np.asarray(fingerprint(given)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: None, "given must be a Level, got None"),
        (lambda x: jax.tree.map(lambda leaf: leaf[0], x), r"given must be levels with leaves \[n, ...\], n >= 1"),
        (lambda x: jax.tree.map(lambda leaf: leaf[:0], x), r"given must be levels with leaves \[n, ...\], n >= 1"),
        (lambda x: x._replace(horizon=x.horizon.astype(float)), "what made the given levels returned"),
        (lambda x: x._replace(problem=()), "what made the given levels returned"),
    ],
)
def test_chosen_levels_must_be_of_the_distribution(change, says):
    levels = envs.make("gridworld/small")
    given = jax.vmap(levels.sample)(jax.random.split(jax.random.key(7), 3))
    with pytest.raises(ValueError, match=says):
        curricula.chosen(levels, change(given))


def test_features_are_means_over_levels():
    distribution = envs.make("gridworld/small", (3, 9))
    levels = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(0), 6))
    seen = level_metrics(distribution, levels)
    params = levels.problem
    np.testing.assert_allclose(seen["level_horizon"], np.mean(levels.horizon), rtol=1e-6)
    np.testing.assert_allclose(seen["level_size"], np.asarray(params.free).sum() / 6, rtol=1e-6)
    np.testing.assert_allclose(seen["level_objects"], (np.asarray(params.objects) >= 0).sum() / 6, rtol=1e-6)
    np.testing.assert_allclose(seen["level_max_steps"], np.mean(params.max_steps), rtol=1e-6)
    bandits = envs.make("bandit/bernoulli")
    levels = jax.vmap(bandits.sample)(jax.random.split(jax.random.key(0), 2))
    assert list(level_metrics(bandits, levels)) == ["level_horizon"]

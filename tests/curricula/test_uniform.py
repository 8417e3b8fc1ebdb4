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

"""Advantages of rollouts."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from metarl.rl.rollout import Rollout
from metarl.types import Array


def gae(rollout: Rollout, value: Array, next_value: Array, discount: Array, gae_lambda: Array) -> Array:
    """Generalised advantage estimates [T, E] (Schulman et al. 2015, arXiv 1506.02438, eq. 16).

    `value` and `next_value` [T, E] are V(obs) and V(next_obs). A terminated episode does not bootstrap; a
    truncated one bootstraps from its own last observation, never from the next episode's first.
    """
    import rlax

    chex.assert_equal_shape([rollout.reward, value, next_value])
    # rlax takes one row of T + 1 values. Where an episode ends, the successor's value is not the next
    # row's, so it moves into the reward and the row is cut there.
    continues = jnp.where(rollout.done, 0.0, discount)
    bootstrap = jnp.where(rollout.truncated & ~rollout.terminated, discount * next_value, 0.0)
    values = jnp.concatenate([value, next_value[-1:]])

    def one(reward: Array, discount: Array, values: Array) -> Array:
        return rlax.truncated_generalized_advantage_estimation(reward, discount, gae_lambda, values)

    return jax.vmap(one, in_axes=1, out_axes=1)(rollout.reward + bootstrap, continues, values)


def normalise(advantage: Array) -> Array:
    """Zero mean and unit standard deviation over all axes."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)

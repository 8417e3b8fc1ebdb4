"""Advantages of rollouts."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from metarl.rl.rollout import Rollout
from metarl.types import Array


def gae(
    rollout: Rollout,
    value: Array,
    next_value: Array,
    discount: Array,
    gae_lambda: Array,
    episode_discount: Array | float | None = None,
) -> Array:
    """Generalised advantage estimates [T, E] (Schulman et al. 2015, arXiv 1506.02438, eq. 16).

    `value` and `next_value` [T, E] are V(obs) and V(next_obs); `discount` and `gae_lambda` are (). A terminated episode
    does not bootstrap. A truncated episode bootstraps from its own last observation, not from the next episode's first.
    Within a trial of several episodes the discount is `episode_discount` () where an episode ends (None: `discount`).
    """
    import rlax

    chex.assert_equal_shape([rollout.reward, value, next_value])
    # rlax takes T + 1 values in a row. Where an episode ends, V(next_obs) is not the next of these values: there the
    # discount is 0, and the discounted V(next_obs) of a truncated episode is added to the reward.
    if episode_discount is not None:
        discount = jnp.where(rollout.boundary, episode_discount, discount)
    continues = jnp.where(rollout.done, 0.0, discount)
    bootstrap = jnp.where(rollout.truncated & ~rollout.terminated, discount * next_value, 0.0)
    values = jnp.concatenate([value, next_value[-1:]])

    def one(reward: Array, discount: Array, values: Array) -> Array:
        return rlax.truncated_generalized_advantage_estimation(reward, discount, gae_lambda, values)

    return jax.vmap(one, in_axes=1, out_axes=1)(rollout.reward + bootstrap, continues, values)


def normalise(advantage: Array) -> Array:
    """`advantage` with zero mean and unit standard deviation over all axes."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)

"""Judging agents at the end of their lives: returns on many levels and seeds, normalised, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from metarl.agents import train_agent
from metarl.meta import InnerLoop
from metarl.types import Array, Key, Level, MetaParams


def final_returns(
    inner: InnerLoop,
    meta_params: MetaParams,
    levels: Level,
    key: Key,
    *,
    num_seeds: int,
    num_updates: int,
    batch_size: int | None = None,
) -> Array:
    """Fitness [num_seeds, n] of agents that have lived on each of `levels` (leaves [n, ...]), one per seed.

    Every agent is a newborn that makes `num_updates` updates, or fewer if its level's horizon comes first.
    At most `batch_size` agents live side by side (all if None). Pure: jit it.
    """
    num_levels = levels.horizon.shape[0]

    def lifetime(x: tuple[Array, Array]) -> Array:
        key, index = x
        train_key, test_key = jax.random.split(key)
        level = jax.tree.map(lambda leaf: leaf[index], levels)
        agent, _ = train_agent(inner, meta_params, level, train_key, num_updates)
        return inner.fitness(meta_params, agent, test_key)

    keys = jax.random.split(key, num_seeds * num_levels)
    indices = jax.numpy.tile(jax.numpy.arange(num_levels), num_seeds)
    returns = jax.lax.map(lifetime, (keys, indices), batch_size=batch_size or len(indices))
    return returns.reshape(num_seeds, num_levels)


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def normalised_return(returns: Array, zero: Array, one: Array, seed: int = 0) -> Interval:
    """Mean return on a scale on which `zero` scores 0 and `one` scores 1, over levels and seeds.

    `returns` [num_seeds, n] of n levels; `zero` and `one` [n]. It is a ratio of means over levels,
    `mean(returns - zero) / mean(one - zero)`, because single levels on which `one` is hardly better than
    `zero` would dominate a mean of ratios. The interval resamples levels (each with all its seeds): it says
    what other levels of the distribution would give.

    Raises ValueError if there are fewer than two levels or the shapes do not agree.
    """
    from scipy.stats import bootstrap

    per_level = np.asarray(returns, np.float64).mean(0)
    samples = (per_level, np.asarray(zero, np.float64), np.asarray(one, np.float64))
    if not per_level.shape == zero.shape == one.shape or len(per_level) < 2:
        raise ValueError(
            f"need [num_seeds, n] returns and [n] references for n >= 2 levels, got {np.shape(returns)}, "
            f"{zero.shape} and {one.shape}"
        )

    def ratio(returns: np.ndarray, zero: np.ndarray, one: np.ndarray, axis: int = -1) -> np.ndarray:
        return (returns - zero).mean(axis) / (one - zero).mean(axis)

    result = bootstrap(samples, ratio, paired=True, method="percentile", n_resamples=2000, rng=seed)
    low, high = result.confidence_interval
    return Interval(float(ratio(*samples)), float(low), float(high))

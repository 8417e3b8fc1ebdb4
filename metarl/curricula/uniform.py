"""Domain randomisation: every level is a fresh draw, from the distribution or from some levels of it."""

from __future__ import annotations

import jax

from metarl.curricula.features import level_metrics
from metarl.meta import Curriculum, InnerLoop, Lifetimes
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics, PyTree


def uniform(levels: Levels) -> Curriculum:
    """Draws every level independently from the distribution and remembers nothing."""

    def sample(key: Key, state: PyTree, needed: Array) -> tuple[Level, PyTree]:
        return jax.vmap(levels.sample)(jax.random.split(key, needed.shape[0])), state

    return _indifferent(levels, lambda key, num_lifetimes: (), sample)


def fixed(levels: Levels, num_levels: int) -> Curriculum:
    """A frozen buffer: draws `num_levels` levels at the start, and every level independently from those.

    Raises ValueError if `num_levels` is not positive.
    """
    if num_levels < 1:
        raise ValueError(f"num_levels must be at least 1, got {num_levels}")

    def init(key: Key, num_lifetimes: int) -> Level:
        return jax.vmap(levels.sample)(jax.random.split(key, num_levels))

    def sample(key: Key, chosen: Level, needed: Array) -> tuple[Level, Level]:
        which = jax.random.randint(key, needed.shape, 0, num_levels)
        return jax.tree.map(lambda x: x[which], chosen), chosen

    return _indifferent(levels, init, sample)


def _indifferent(levels: Levels, init, sample) -> Curriculum:
    """A curriculum that no lifetime changes."""

    def update(
        inner: InnerLoop, meta_params: MetaParams, state: PyTree, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[PyTree, Metrics]:
        return state, level_metrics(levels, lifetimes.level)

    return Curriculum(init, sample, update)

"""Domain randomisation: every level is drawn independently, from the distribution or from a fixed set."""

from __future__ import annotations

from typing import Annotated

import jax

from metarl import interface
from metarl.checks import COUNT, checked
from metarl.curricula.features import level_metrics
from metarl.meta import Curriculum, InnerLoop, Lifetimes
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics, PyTree


def uniform(levels: Levels) -> Curriculum:
    """Draws every level independently from the distribution. Raises ValueError for what is no `Levels`."""
    interface.levels(levels)

    def sample(key: Key, state: PyTree, needed: Array) -> tuple[Level, PyTree]:
        return jax.vmap(levels.sample)(jax.random.split(key, needed.shape[0])), state

    return _without_feedback(levels, lambda key, num_lifetimes: (), sample)


@checked
def fixed(levels: Levels, num_levels: Annotated[int, COUNT]) -> Curriculum:
    """Draws a set of `num_levels` levels at the start, and then every level independently from this set.

    Raises ValueError if `num_levels` is not positive, and for what is no `Levels`.
    """
    interface.levels(levels)

    def init(key: Key, num_lifetimes: int) -> Level:
        return jax.vmap(levels.sample)(jax.random.split(key, num_levels))

    def sample(key: Key, chosen: Level, needed: Array) -> tuple[Level, Level]:
        index = jax.random.randint(key, needed.shape, 0, num_levels)
        return jax.tree.map(lambda x: x[index], chosen), chosen

    return _without_feedback(levels, init, sample)


def _without_feedback(levels: Levels, init, sample) -> Curriculum:
    """A curriculum that does not depend on the lifetimes; its update only makes metrics."""

    def update(
        inner: InnerLoop, meta_params: MetaParams, state: PyTree, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[PyTree, Metrics]:
        return state, level_metrics(levels, lifetimes.level)

    return Curriculum(init, sample, update)

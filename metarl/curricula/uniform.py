"""Domain randomisation: every level is drawn independently, from the distribution or from a set that stays."""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

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

    return _without_feedback(levels, init, _one_of_the_set)


def chosen(levels: Levels, given: Level) -> Curriculum:
    """Draws every level independently from the `given` ones (leaves [n, ...]), such as those of `metarl.load_levels`.

    Raises ValueError if there is no level, if they are not those of `levels`, and for what is no `Levels`.
    """
    interface.levels(levels)
    one = jax.eval_shape(levels.sample, jax.random.key(0))
    interface.part("given", given, Level, {"Levels": "give levels, leaves [n, ...]"})
    count = jnp.shape(given.horizon)[:1]
    if count in ((), (0,)):
        raise ValueError(f"given must be levels with leaves [n, ...], n >= 1, got {interface.shown(given)}")
    several = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*count, *x.shape), x.dtype), one)
    start = jax.tree.map(jnp.asarray, interface.same("what made the given levels", given, several))
    return _without_feedback(levels, lambda key, num_lifetimes: start, _one_of_the_set)


def _one_of_the_set(key: Key, levels: Level, needed: Array) -> tuple[Level, Level]:
    """`Curriculum.sample` of a curriculum whose state is the set of its levels."""
    index = jax.random.randint(key, needed.shape, 0, len(levels.horizon))
    return jax.tree.map(lambda x: x[index], levels), levels


def _without_feedback(levels: Levels, init, sample) -> Curriculum:
    """A curriculum that does not depend on the lifetimes; its update only makes metrics."""

    def update(
        inner: InnerLoop, meta_params: MetaParams, state: PyTree, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[PyTree, Metrics]:
        return state, level_metrics(levels, lifetimes.level)

    return Curriculum(init, sample, update)

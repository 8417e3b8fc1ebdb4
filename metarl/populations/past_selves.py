"""A population of past selves: a queue of parameters, which begins as `metarl.tree.copies` of a newborn's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl.types import Array, Key, PyTree


def push(queue: PyTree, newest: PyTree) -> PyTree:
    """`queue` [size, ...] with `newest` first, and without its last entry, the oldest."""
    return jax.tree.map(lambda queue, x: jnp.concatenate([x[None], queue[:-1]]), queue, newest)


def draw(key: Key, queue: PyTree, reach: Array | int, count: int) -> PyTree:
    """`count` of the `reach` newest entries, drawn with replacement. Leaves [count, ...]."""
    index = jax.random.randint(key, (count,), 0, reach)
    return jax.tree.map(lambda x: x[index], queue)

"""Many meta-training runs as one: over seeds, hyperparameters, starting points, or all of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metarl.meta import Meta, MetaState
from metarl.types import Key, Metrics, PyTree


def side_by_side(make: Callable[[PyTree], Meta], values: PyTree) -> Meta:
    """The runs `make(value)` for each of `values` (leaves [n, ...]), vmapped, with a key of its own each.

    Leaves of its state and metrics are [n, ...], but for the common `step`. What `make` closes over may not depend on
    the value, except through arrays: all runs are one program. No run depends on another.

    Raises ValueError if there are no values.
    """
    leaves = jax.tree.leaves(values)
    if not leaves or not len(leaves[0]):
        raise ValueError("values must have at least one leaf [n, ...] with n at least 1")
    count = len(leaves[0])

    def init(key: Key) -> MetaState:
        states = jax.vmap(lambda value, key: make(value).init(key))(values, jax.random.split(key, count))
        return states._replace(step=states.step[0])

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        states = state._replace(step=jnp.broadcast_to(state.step, count))
        keys = jax.random.split(key, count)
        states, metrics = jax.vmap(lambda value, state, key: make(value).step(state, key))(values, states, keys)
        return states._replace(step=states.step[0]), metrics

    return Meta(init, step)

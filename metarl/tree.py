"""Operations on pytrees of arrays that several packages share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from metarl.types import Array, PyTree


def select(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where `condition` [...] holds, else `old`. The axes of `condition` are the first axes of every leaf."""

    def leaf(new: Array, old: Array) -> Array:
        mask = condition.reshape(condition.shape + (1,) * (jnp.ndim(new) - condition.ndim))
        return jnp.where(mask, new, old)

    return jax.tree.map(leaf, new, old)


def where_needed(make: Callable[..., PyTree]) -> Callable[[Array, tuple[Any, ...], PyTree], PyTree]:
    """A function (needed () bool, args, otherwise) -> `make(*args)` if needed, else `otherwise`, a tree like it.

    Under `jax.vmap` `make` is computed, for the whole batch, only if one of its elements needs it. `select` would
    compute it every time, and a new level or the start of an episode may take as long as 50 steps. It has no
    derivative in reverse mode.
    """

    @custom_vmap
    def chosen(needed: Array, args: tuple[Any, ...], otherwise: PyTree) -> PyTree:
        return jax.lax.cond(needed, lambda: make(*args), lambda: otherwise)

    @chosen.def_vmap
    def batch(size: int, batched: Any, needed: Array, args: tuple[Any, ...], otherwise: PyTree) -> tuple[PyTree, Any]:
        def spread(x: PyTree, is_batched: Any) -> PyTree:
            return jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (size, *x.shape)), x, is_batched)

        needed, otherwise = spread(needed, batched[0]), spread(otherwise, batched[2])
        axes = jax.tree.map(lambda b: 0 if b else None, batched[1])

        def each(needed: Array, args: tuple[Any, ...], otherwise: PyTree) -> PyTree:
            return select(needed, jax.vmap(make, axes, axis_size=size)(*args), otherwise)

        found = where_needed(each)(needed.any(), (needed, args, otherwise), otherwise)
        return found, jax.tree.map(lambda _: True, found)

    return chosen


def repeated(tree: PyTree, count: int) -> PyTree:
    """Each entry `count` times in a row: leaves [n, ...] become [n * count, ...]."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, 0), tree)


def copies(tree: PyTree, count: int) -> PyTree:
    """`count` copies side by side: leaves [...] become [count, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree)


def lot(tree: PyTree) -> Array:
    """A number () in [0, 1) that the integers of `tree` decide, as if it were drawn: equal ones have equal lots."""
    numbers = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)]).astype(jnp.uint32)
    powers = jnp.uint32(1_000_003) ** jnp.arange(len(numbers), dtype=jnp.uint32)  # they wrap around
    return jax.random.uniform(jax.random.fold_in(jax.random.key(0), (numbers * powers).sum(dtype=jnp.uint32)))


def all_finite(tree: PyTree) -> Array:
    """Whether every entry of every leaf is finite, () bool."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()

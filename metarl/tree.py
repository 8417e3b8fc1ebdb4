"""Operations on pytrees of arrays that several packages share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl.types import Array, PyTree


def select(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where `condition` [...] holds, else `old`. The axes of `condition` are the first axes of every leaf."""

    def leaf(new: Array, old: Array) -> Array:
        mask = condition.reshape(condition.shape + (1,) * (jnp.ndim(new) - condition.ndim))
        return jnp.where(mask, new, old)

    return jax.tree.map(leaf, new, old)


def repeated(tree: PyTree, count: int) -> PyTree:
    """Each entry `count` times in a row: leaves [n, ...] become [n * count, ...]."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, 0), tree)


def lot(tree: PyTree) -> Array:
    """A number () in [0, 1) that the integers of `tree` decide, as if it were drawn: equal ones have equal lots."""
    numbers = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)]).astype(jnp.uint32)
    powers = jnp.uint32(1_000_003) ** jnp.arange(len(numbers), dtype=jnp.uint32)  # they wrap around
    return jax.random.uniform(jax.random.fold_in(jax.random.key(0), (numbers * powers).sum(dtype=jnp.uint32)))


def all_finite(tree: PyTree) -> Array:
    """Whether every entry of every leaf is finite, () bool."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()

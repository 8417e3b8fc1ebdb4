"""Gittins' index of a Bernoulli arm, for a known number of pulls that are left, by dynamic programming."""

from __future__ import annotations

import functools
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl.checks import Bound, checked
from metarl.types import Array

MAX_PULLS = 2000  # the table takes memory of order pulls^2, and time of order pulls^3


class Table(NamedTuple):
    """Indices of arms whose means are drawn from Beta(1, 1), in trials of n pulls."""

    remaining: np.ndarray  # [M] int, numbers of pulls that are left, ascending from 1 to n
    indices: np.ndarray  # [M, n, n] float32: [:, j, s] is that of an arm that paid s times in j pulls


@functools.lru_cache(maxsize=4)
@checked
def table(pulls: Annotated[int, Bound(1, MAX_PULLS)], grid: Annotated[int, Bound(2, 10_000)] = 100) -> Table:
    """Indices in trials of n = `pulls` pulls: for all numbers of pulls that are left up to 8, in steps of 20 % beyond.

    The index of an arm is the mean of a known arm for which the choice between the two is worth nothing: all the pulls
    that are left may go to the known one just as well (Gittins 1979; for a known end Lattimore 2016, arXiv 1511.06014).
    What the choice is worth is computed for known arms with means 1 / grid, 2 / grid, ..., 1, and the mean where it
    becomes 0 is interpolated. Takes seconds for 500 pulls. Raises ValueError for counts out of range.
    """
    with jax.ensure_compile_time_eval():  # also while a strategy is traced
        remaining = np.unique(np.geomspace(1, pulls, 2 + int(np.log(pulls) / np.log(1.2))).round().astype(int))
        index = np.array(_indices(pulls, grid, jnp.asarray(np.diff(remaining, prepend=0))))
    for i in range(1, len(remaining)):  # what cannot be gets the index with fewer pulls left, for interpolation
        first = pulls - remaining[i] + 1
        index[i, first:] = index[i - 1, first:]
    return Table(remaining, index)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _indices(pulls: int, grid: int, steps: Array) -> Array:
    """Indices [M, n, n]; `steps` [M] is by how much the number of pulls that are left grows from one to the next."""
    played, paid = jnp.arange(pulls)[:, None], jnp.arange(pulls)
    chance = jnp.minimum((paid + 1) / (played + 2), 1)  # that the arm pays; what cannot be must not grow

    def worths(known: Array) -> Array:
        """[M, n, n] how much more a pull of the unknown arm is worth than one of the known arm, with a choice later."""

        def pull(_: int, worth: Array) -> Array:
            later = jnp.pad(jnp.maximum(worth, 0), (0, 1))  # 0 is that of the choice of the known arm for ever
            lost, won = later[1:, :-1], later[1:, 1:]
            return lost + chance * (1 + won - lost) - known

        def pulled(worth: Array, steps: Array) -> tuple[Array, Array]:
            worth = jax.lax.fori_loop(0, steps, pull, worth)
            return worth, worth

        return jax.lax.scan(pulled, jnp.zeros((pulls, pulls)), steps)[1]

    def cross(found: tuple[Array, Array], known: Array) -> tuple[tuple[Array, Array], None]:
        index, before = found
        worth = worths(known)
        zero = known - worth / (worth - before) / grid
        return (jnp.where((before >= 0) & (worth < 0), zero, index), worth), None

    start = jnp.zeros((len(steps), pulls, pulls))
    return jax.lax.scan(cross, (start, worths(jnp.float32(0))), jnp.arange(1, grid + 1) / grid)[0][0]

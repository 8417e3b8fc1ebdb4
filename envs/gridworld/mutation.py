"""Small random edits of gridworld levels, for curricula (ACCEL, Parker-Holder et al. 2022, arXiv 2203.01302)."""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from envs.gridworld.environment import GridworldParams
from metarl.checks import COUNT, checked
from metarl.types import Array, Key, Level


@checked
def mutate(key: Key, level: Level, edits: Annotated[int, COUNT] = 3) -> Level:
    """`level` after `edits` random edits. Each edit is one of four kinds with equal probability.

    It builds or removes a wall in the level's grid, moves an object to another cell, draws the reward of an object
    again, or moves the start of the agent. Start and objects stay on different free cells, and the first object's
    reward stays positive. An edit for which there is no free cell changes nothing.

    Levels must be tabular, because only there objects have fixed cells. Rewards may become negative, also in mazes.
    Raises ValueError if `edits` is not positive.
    """

    def edit(params: GridworldParams, key: Key) -> tuple[GridworldParams, None]:
        kind_key, *keys = jax.random.split(key, 5)
        kind = jax.random.randint(kind_key, (), 0, 4)
        edited = [f(k, params) for f, k in zip((_wall, _object, _reward, _start), keys, strict=True)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[kind], *edited), None

    return level._replace(problem=jax.lax.scan(edit, level.problem, jax.random.split(key, edits))[0])


def _wall(key: Key, params: GridworldParams) -> GridworldParams:
    row, column = jnp.divmod(jnp.arange(params.free.size), round(params.free.size**0.5))
    last = jnp.where(params.free, jnp.maximum(row, column), 0).max()  # of the level's own grid
    cell = _draw(key, (row <= last) & (column <= last) & ~_occupied(params))
    return params._replace(free=params.free ^ (jnp.arange(params.free.size) == cell))


def _object(key: Key, params: GridworldParams) -> GridworldParams:
    which, cell = _any_object(key, params), _draw(key, params.free & ~_occupied(params))
    return params._replace(objects=jnp.where(which & (cell >= 0), cell, params.objects))


def _reward(key: Key, params: GridworldParams) -> GridworldParams:
    first = jnp.arange(params.reward.size) == 0
    drawn = jax.random.uniform(key, minval=-1.0)
    return params._replace(
        reward=jnp.where(_any_object(key, params), jnp.where(first, jnp.abs(drawn), drawn), params.reward)
    )


def _start(key: Key, params: GridworldParams) -> GridworldParams:
    cell = _draw(key, params.free & ~_occupied(params))
    return params._replace(start=jnp.where(cell >= 0, cell, params.start))


def _occupied(params: GridworldParams) -> Array:
    """[C] bool, the cells of the start and the objects."""
    cells = jnp.arange(params.free.size)
    return (cells == params.start) | (cells == params.objects[:, None]).any(0)


def _any_object(key: Key, params: GridworldParams) -> Array:
    """[O] bool, True for one object, which is drawn uniformly."""
    which = jax.random.randint(jax.random.fold_in(key, 1), (), 0, params.num_objects)
    return jnp.arange(params.objects.size) == which


def _draw(key: Key, among: Array) -> Array:
    """One of the cells `among` [C] bool, drawn uniformly; -1 if there is none."""
    cell = jnp.argmax(jnp.where(among, jax.random.uniform(key, among.shape), -1.0))
    return jnp.where(among.any(), cell, -1).astype(jnp.int32)

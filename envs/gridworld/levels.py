"""Gridworld levels: the named ones of the LPG paper, and the distributions of GROOVE and TA-LPG.

The numbers are those of Oh et al. 2020 (appendix, training environments), Jackson et al. 2023 and Jackson et al. 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from envs.gridworld.environment import Gridworld, GridworldParams
from envs.gridworld.families import FAMILIES, SIDE, Family
from envs.gridworld.mutation import mutate
from envs.gridworld.optimal import optimal_return
from envs.gridworld.render import render
from metarl import checks
from metarl.types import Array, Key, Level, Levels, Metrics


@dataclass(frozen=True)
class _Named:
    """A level of the LPG paper or a family; the start and the objects' cells are drawn for each level."""

    max_steps: int
    types: tuple[int, ...]  # of each object
    reward: tuple[float, ...]  # of each type, as are the next two
    terminate: tuple[float, ...]
    respawn: tuple[float, ...]
    side: int
    walls: frozenset[tuple[int, int]] = frozenset()  # (row, column)
    tabular: bool = True


@dataclass(frozen=True)
class _Random:
    """A distribution of tabular levels in which every object has its own type. Ranges include both ends."""

    max_steps: tuple[int, int]  # log-uniform
    objects: tuple[int, int]  # uniform
    side: tuple[int, int]  # uniform
    walls: int | None  # number of wall cells, drawn uniformly in the largest grid; None for a maze
    horizon: tuple[int, int]  # log-uniform
    rewards_only: bool = False  # if False, only the first object's reward is always positive


_LPG_HORIZON = 2500  # agent updates
_DENSE = _Named(500, (0, 0, 1, 2), (1.0, -1.0, -1.0), (0.0, 0.5, 0.0), (0.05, 0.1, 0.5), 11)
_LONG = _Named(1000, (0, 0, 1, 1), (1.0, -1.0), (0.0, 0.5), (0.01, 1.0), 11)
_TWO_ROOMS = frozenset((row, 4) for row in range(9) if row not in (1, 7))
_FOUR_ROOMS = frozenset((row, 5) for row in range(11) if row not in (0, 7)) | frozenset(
    (4, column) for column in range(11) if column not in (2, 8)
)
_ALL = _Random((20, 750), (1, 5), (4, 10), 15, (1000, 1000))

_TABULAR = {
    "dense": _DENSE,
    "sparse": _Named(50, (0, 1), (1.0, -1.0), (1.0, 1.0), (0.0, 0.0), 13),
    "long": _LONG,
    "longer": _Named(2000, (0, 0, 1, 1, 1), (1.0, -1.0), (0.1, 0.8), (0.01, 1.0), 9, _TWO_ROOMS),
    "long_dense": _Named(2000, (0, 0, 0, 0), (1.0,), (0.0,), (0.005,), 11, _FOUR_ROOMS),
}


def _of_family(family: Family) -> _Named:
    walls = frozenset((int(row), int(column)) for row, column in np.argwhere(family.walls))
    return _Named(30, (0, 1), *family.kind, SIDE, walls)


# A tuple is the uniform mixture of its levels.
_TABLE: dict[str, _Named | _Random | tuple[_Named, ...]] = {
    **_TABULAR,
    "rand_dense": replace(_DENSE, tabular=False),
    "rand_long": replace(_LONG, tabular=False),
    "rand_small": _Named(
        500, (0, 0, 1, 1), (1.0, -1.0), (0.0, 0.5), (0.05, 0.1), 7, frozenset({(1, 2), (3, 4)}), tabular=False
    ),
    "rand_sparse": _Named(50, (0, 1, 1), (1.0, -1.0), (1.0, 1.0), (1.0, 1.0), 7, tabular=False),
    "rand_very_dense": _Named(2000, (0,), (1.0,), (0.0,), (1.0,), 11, tabular=False),
    "hidden_goal": _Named(16, (0,), (1.0,), (1.0,), (0.0,), 7),  # ours: to be found, because cells do not show it
    "small": _Random((20, 100), (1, 3), (4, 6), 7, (250, 250)),
    "medium": _Random((100, 250), (2, 4), (6, 8), 10, (1000, 1000)),
    "large": _Random((250, 750), (2, 5), (8, 10), 15, (2500, 2500)),
    "all": _ALL,
    "all_shortlife": replace(_ALL, horizon=(250, 250)),
    "all_randlife": replace(_ALL, horizon=(50, 250)),
    "all_vrandlife": replace(_ALL, horizon=(10, 250)),
    "tabular": tuple(_TABULAR.values()),
    "mazes": _Random((25, 50), (3, 3), (13, 13), None, (_LPG_HORIZON, _LPG_HORIZON), rewards_only=True),
    **{name: tuple(map(_of_family, families)) for name, families in FAMILIES.items()},
}


def names() -> tuple[str, ...]:
    """Every name that `distribution` accepts."""
    return tuple(_TABLE)


def distribution(name: str) -> Levels:
    """Levels of the named level or distribution `name`, with its lifetimes.

    If a level has too few free cells for its objects, the last objects are left out. The papers do not define mazes:
    ours are random spanning trees. Raises ValueError for an unknown name.
    """
    checks.one_of(_TABLE, **{"gridworld level or distribution": name})
    entry = _TABLE[name]
    if isinstance(entry, _Random):
        return _random_levels(entry)
    return _named_levels((entry,) if isinstance(entry, _Named) else entry)


def _named_levels(members: tuple[_Named, ...]) -> Levels:
    env = Gridworld(
        max_side=max(m.side for m in members),
        max_objects=max(len(m.types) for m in members),
        max_types=max(len(m.reward) for m in members),
        tabular=members[0].tabular,
    )
    templates = [_template(env, member) for member in members]
    stacked = {field: np.stack([t[field] for t in templates]) for field in GridworldParams._fields}

    def sample(key: Key) -> Level:
        draws = jax.random.uniform(key, (1 + env.max_side**2,))
        index = _integer(draws[0], (0, len(members) - 1))
        params = GridworldParams(**{field: jnp.asarray(leaf)[index] for field, leaf in stacked.items()})
        return Level(_put_objects(draws[1:], params), jnp.int32(_LPG_HORIZON))

    return _levels(env, sample)


def _template(env: Gridworld, level: _Named) -> dict[str, np.ndarray]:
    """The fields of `GridworldParams`, with placeholders for the cells of the start and the objects."""
    free = np.zeros((env.max_side, env.max_side), bool)
    free[: level.side, : level.side] = True
    for wall in level.walls:
        free[wall] = False
    types = np.array(level.types)

    def per_object(of_type: tuple[float, ...]) -> np.ndarray:
        return np.pad(np.array(of_type, np.float32)[types], (0, env.max_objects - len(types)))

    return dict(
        max_steps=np.array(level.max_steps, np.int32),
        free=free.ravel(),
        start=np.array(0, np.int32),
        num_objects=np.array(len(types), np.int32),
        objects=np.full(env.max_objects, -1, np.int32),
        types=np.pad(types, (0, env.max_objects - len(types))).astype(np.int32),
        reward=per_object(level.reward),
        terminate=per_object(level.terminate),
        respawn=per_object(level.respawn),
    )


def _random_levels(spec: _Random) -> Levels:
    env = Gridworld(max_side=spec.side[1], max_objects=spec.objects[1], max_types=spec.objects[1])

    def sample(key: Key) -> Level:
        # one draw, because every draw adds to the compile time of programs that sample levels
        cells, ends = env.max_side**2, np.cumsum([4, 3 * env.max_objects, env.max_side**2])
        of_level, of_object, of_wall, of_cell = jnp.split(jax.random.uniform(key, (ends[-1] + cells,)), ends)
        of_object = of_object.reshape(3, env.max_objects)
        side = _integer(of_level[0], spec.side)
        row, column = jnp.divmod(jnp.arange(cells), env.max_side)
        if spec.walls is None:
            open_cells = _maze(of_wall, env.max_side)
        else:
            open_cells = jnp.ones(cells, bool).at[jax.lax.top_k(of_wall, spec.walls)[1]].set(False)
        first = jnp.arange(env.max_objects) == 0
        params = GridworldParams(
            max_steps=_log_integer(of_level[1], spec.max_steps),
            free=open_cells & (row < side) & (column < side),
            start=jnp.int32(0),
            num_objects=_integer(of_level[2], spec.objects),
            objects=jnp.full(env.max_objects, -1, jnp.int32),
            types=jnp.arange(env.max_objects, dtype=jnp.int32),
            reward=jnp.where(first | spec.rewards_only, 1.0 - of_object[0], 2.0 * of_object[0] - 1.0),
            terminate=_log(of_object[1], 1e-2, 1.0),
            respawn=_log(of_object[2], 1e-3, 1e-1),
        )
        return Level(_put_objects(of_cell, params), _log_integer(of_level[3], spec.horizon))

    return _levels(env, sample)


def _levels(env: Gridworld, sample: Callable[[Key], Level]) -> Levels:
    """Levels with pictures and features, and those of tabular environments also with optimal returns and edits."""
    return Levels(
        sample,
        env,
        optimal_return=partial(optimal_return, env) if env.tabular else None,
        mutate=mutate if env.tabular else None,
        render=partial(render, env),
        features=_features,
    )


def _features(params: GridworldParams) -> Metrics:
    """The number of free cells, the number of objects, and the length of an episode."""
    return {"size": params.free.sum(), "objects": params.num_objects, "max_steps": params.max_steps}


def _put_objects(draws: Array, params: GridworldParams) -> GridworldParams:
    """Puts the start and the objects on the free cells with the largest `draws` [C], and blanks the padding."""
    slots = params.objects.size
    cells = jax.lax.top_k(jnp.where(params.free, draws, -1.0), min(slots + 1, draws.size))[1].astype(jnp.int32)
    num_objects = jnp.minimum(params.num_objects, jnp.sum(params.free) - 1).astype(jnp.int32)
    exists = jnp.arange(slots) < num_objects
    cells = jnp.pad(cells, (0, slots + 1 - cells.size))
    return params._replace(
        start=cells[0],
        num_objects=num_objects,
        objects=jnp.where(exists, cells[1 : slots + 1], -1),
        reward=jnp.where(exists, params.reward, 0.0),
        terminate=jnp.where(exists, params.terminate, 0.0),
        respawn=jnp.where(exists, params.respawn, 0.0),
    )


def _maze(weight: Array, side: int) -> Array:
    """Open cells `[side ** 2] bool` of a maze without cycles: a minimum spanning tree of passages of random `weight`.

    The rooms are the cells of even row and column; `side` is odd. Prim's algorithm adds one room per iteration.
    """
    n = (side + 1) // 2
    room = np.arange(n * n).reshape(n, n)
    cell = np.arange(side * side).reshape(side, side)
    a = jnp.asarray(np.concatenate([room[:, :-1].ravel(), room[:-1].ravel()]))
    b = jnp.asarray(np.concatenate([room[:, 1:].ravel(), room[1:].ravel()]))
    passage = jnp.asarray(np.concatenate([cell[::2, 1::2].ravel(), cell[1::2, ::2].ravel()]))
    weight = weight[: a.size]

    def add_room(_, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        reached, free = carry
        edge = jnp.argmin(jnp.where(reached[a] != reached[b], weight, jnp.inf))
        return reached.at[a[edge]].set(True).at[b[edge]].set(True), free.at[passage[edge]].set(True)

    reached = jnp.arange(n * n) == 0
    free = jnp.zeros(side * side, bool).at[cell[::2, ::2].ravel()].set(True)
    return jax.lax.fori_loop(0, n * n - 1, add_room, (reached, free))[1]


def _log(u: Array, low: float, high: float) -> Array:
    """A log-uniform variable on [low, high), from `u`, which is uniform on [0, 1)."""
    return low * jnp.exp(u * jnp.log(high / low))


def _integer(u: Array, ends: tuple[int, int]) -> Array:
    """A uniform integer `() int32` from the first to the second of `ends`."""
    return jnp.minimum(ends[0] + (u * (ends[1] - ends[0] + 1)).astype(jnp.int32), ends[1])


def _log_integer(u: Array, ends: tuple[int, int]) -> Array:
    """An integer n `() int32` between both ends, with probability proportional to log((n + 1) / n)."""
    return jnp.clip(jnp.floor(_log(u, ends[0], ends[1] + 1)), ends[0], ends[1]).astype(jnp.int32)

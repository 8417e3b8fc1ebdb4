"""Adapter for XLand-MiniGrid (Nikulin et al. 2023, arXiv 2312.12044): gridworlds that the agent sees a part of."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from envs import adapters
from metarl.types import Array, Box, Discrete, Key, Levels, PyTree

_SIDES = {1: (9, 11, 13, 15, 17), 2: (9, 11, 13, 15, 17), 4: (9, 11, 13, 15, 17), 6: (13, 17, 19), 9: (16, 19, 25)}
_XLAND = [f"XLand-MiniGrid-R{rooms}-{side}x{side}" for rooms, sides in _SIDES.items() for side in sides]
_SQUARE = [f"MiniGrid-{kind}-{n}x{n}" for kind in ("DoorKey", "Empty", "EmptyRandom") for n in (5, 6, 8, 16)]
_OTHER = "BlockedUnlockPickUp FourRooms LockedRoom MemoryS8 MemoryS16 MemoryS32 MemoryS64 MemoryS128 Playground Unlock"
NAMES = (*_XLAND, *_SQUARE, *(f"MiniGrid-{x}" for x in _OTHER.split()), "MiniGrid-UnlockPickUp")


@functools.cache
def _made(name: str) -> tuple[Any, Any]:
    with jax.ensure_compile_time_eval():  # constants of a cached environment must not be tracers
        return adapters.needed("xminigrid").make(name)


@dataclass(frozen=True)
class MiniGrid(adapters.Adapter):
    """The environment that xminigrid registers as `name`.

    Observations [side, side, 25] are one-hot codes of the 13 kinds and 12 colours of the tiles that the agent sees;
    what it holds is shown where it stands. Parameters of XLand are a `RuleSet`, those of others are ().
    """

    name: str

    @property
    def default_params(self) -> PyTree:
        return task(jax.random.key(0)) if self.name.startswith("XLand") else ()

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(6)  # forwards, right, left, pick up, put down, toggle

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0.0, 1.0, (_made(self.name)[1].view_size,) * 2 + (25,))

    def start(self, key: Key, params: PyTree) -> tuple[Array, PyTree]:
        env, settings = _made(self.name)
        first = env.reset(settings.replace(ruleset=params) if params else settings, key)
        return _seen(first), first

    def follow(self, key: Key, state: PyTree, action: Array, params: PyTree) -> tuple[Any, ...]:
        env, settings = _made(self.name)
        after = env.step(settings, state, action)
        terminated = after.discount == 0
        return _seen(after), after, after.reward, terminated, after.last() & ~terminated

    def draw(self, state: PyTree, params: PyTree) -> Any:
        env, settings = _made(self.name)
        return env.render(settings, state)[::2, ::2]


def task(key: Key) -> PyTree:
    """A task of XLand without rules: five objects, and a goal that the observation does not show."""
    constants, (tile_key, goal_key) = adapters.needed("xminigrid.core.constants"), jax.random.split(key)
    objects = constants.TILES_REGISTRY[constants.PICKABLE, 1:].reshape(-1, 2)
    tiles = jax.random.choice(tile_key, objects, (5,), replace=False)
    goal = jax.random.choice(goal_key, jnp.array([1, 3, 4], jnp.uint8))  # hold it, be beside it, put it beside another
    encoded = jnp.concatenate([goal[None], tiles[0], jnp.where(goal == 4, tiles[1], 0).astype(jnp.uint8)])
    return adapters.needed("xminigrid.types").RuleSet(encoded, jnp.zeros((1, 7), jnp.uint8), tiles)


def make(name: str) -> Levels:
    """The levels of one of `NAMES`: tasks of XLand, drawn by `task`, or one level whose episodes differ."""
    return adapters.distribution(MiniGrid(name), task if name.startswith("XLand") else None, drawn=True)


def _seen(step: Any) -> Array:
    """The observation of a step of xminigrid, with what the agent holds in its cell: the middle of the last row."""
    tiles = step.observation.at[-1, step.observation.shape[1] // 2].set(step.state.agent.pocket)
    return jnp.concatenate([jax.nn.one_hot(tiles[..., 0], 13), jax.nn.one_hot(tiles[..., 1], 12)], -1)

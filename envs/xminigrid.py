"""Adapter for XLand-MiniGrid (Nikulin et al. 2023, arXiv 2312.12044): gridworlds that the agent sees a part of."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs import adapters
from envs.adapters import needed
from metarl.types import Array, Box, Discrete, Key, Levels, PyTree

_XLAND = "R1-9x9 R1-11x11 R1-13x13 R1-15x15 R1-17x17 R2-9x9 R2-11x11 R2-13x13 R2-15x15 R2-17x17 R4-9x9 R4-11x11 R4-13x13"
_XLAND += " R4-15x15 R4-17x17 R6-13x13 R6-17x17 R6-19x19 R9-16x16 R9-19x19 R9-25x25"
_MINIGRID = "BlockedUnlockPickUp DoorKey-5x5 DoorKey-6x6 DoorKey-8x8 DoorKey-16x16 Empty-5x5 Empty-6x6 Empty-8x8"
_MINIGRID += " Empty-16x16 EmptyRandom-5x5 EmptyRandom-6x6 EmptyRandom-8x8 EmptyRandom-16x16 FourRooms LockedRoom MemoryS8"
_MINIGRID += " MemoryS16 MemoryS32 MemoryS64 MemoryS128 Playground Unlock UnlockPickUp"
NAMES = (*(f"XLand-MiniGrid-{x}" for x in _XLAND.split()), *(f"MiniGrid-{x}" for x in _MINIGRID.split()))
_OBJECTS = 5  # of a task of XLand
_HOLD, _NEAR, _TOGETHER = 1, 3, 4  # goals: hold an object, stand beside it, put it beside another


@functools.cache
def _made(name: str) -> tuple[Any, Any]:
    with jax.ensure_compile_time_eval():  # constants of a cached environment must not be tracers
        return needed("xminigrid").make(name)


@dataclass(frozen=True)
class MiniGrid(adapters.Adapter):
    """The environment that xminigrid registers as `name`.

    Observations [side, side, 25] float32 are one-hot codes of the 13 kinds and 12 colours of the tiles that the agent
    sees; what it holds is where it stands. Parameters of XLand are a `RuleSet`, those of others are ().
    """

    name: str

    @property
    def default_params(self) -> PyTree:
        """A task of XLand, or ()."""
        return task(jax.random.key(0)) if self.name.startswith("XLand") else ()

    def action_space(self, params: PyTree = None) -> Discrete:
        """Forwards, right, left, pick up, put down, toggle."""
        return Discrete(_made(self.name)[0].num_actions(_made(self.name)[1]))

    def observation_space(self, params: PyTree = None) -> Box:
        """One-hot codes."""
        return Box(0.0, 1.0, (_made(self.name)[1].view_size,) * 2 + (25,))

    def start(self, key: Key, params: PyTree) -> tuple[Array, PyTree]:
        env, settings = _made(self.name)
        first = env.reset(settings.replace(ruleset=params) if params else settings, key)
        return _one_hot(first.observation), first

    def follow(self, key: Key, state: PyTree, action: Array, params: PyTree) -> tuple[Any, ...]:
        env, settings = _made(self.name)
        after = env.step(settings, state, action)
        terminated = after.discount == 0
        return _one_hot(after.observation), after, after.reward, terminated, after.last() & ~terminated

    def draw(self, state: PyTree) -> Any:
        env, settings = _made(self.name)
        return np.asarray(env.render(settings, state), np.uint8)[::2, ::2]


def task(key: Key) -> PyTree:
    """A task of XLand without rules: five different objects, and a goal that the observation does not show."""
    constants, (kind_key, goal_key) = needed("xminigrid.core.constants"), jax.random.split(key)
    objects = constants.TILES_REGISTRY[constants.PICKABLE, 1:].reshape(-1, 2)
    tiles = jax.random.choice(kind_key, objects, (_OBJECTS,), replace=False)
    goal = jax.random.choice(goal_key, jnp.array([_HOLD, _NEAR, _TOGETHER], jnp.uint8))
    encoded = jnp.concatenate([goal[None], tiles[0], jnp.where(goal == _TOGETHER, tiles[1], 0).astype(jnp.uint8)])
    return needed("xminigrid.types").RuleSet(encoded, jnp.zeros((1, 7), jnp.uint8), tiles)


def make(name: str) -> Levels:
    """The levels of one of `NAMES`: tasks of XLand, drawn by `task`, or one level whose episodes differ."""
    return adapters.distribution(MiniGrid(name), task if name.startswith("XLand") else None, drawn=True)


def _one_hot(tiles: Array) -> Array:
    return jnp.concatenate([jax.nn.one_hot(tiles[..., 0], 13), jax.nn.one_hot(tiles[..., 1], 12)], -1)

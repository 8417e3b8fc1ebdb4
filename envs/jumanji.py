"""Adapter for Jumanji (Bonnet et al. 2023, arXiv 2306.09884): puzzles, packing and routing with discrete actions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from envs import adapters
from envs.adapters import Timed, needed
from metarl.types import Array, Box, Discrete, Key, Levels, PyTree

# one agent, whose actions are one discrete choice or a few; Sokoban's levels are a download
NAMES = """Game2048-v1 GraphColoring-v1 Minesweeper-v0 RubiksCube-v0 RubiksCube-partly-scrambled-v0 SlidingTilePuzzle-v0
    Sudoku-v0 Sudoku-very-easy-v0 BinPack-v2 FlatPack-v0 Knapsack-v1 Tetris-v0 CVRP-v1 Maze-v0 PacMan-v1 Snake-v1
    TSP-v1""".split()


@functools.cache
def _made(name: str) -> tuple[Any, int, Any, Any]:
    """The environment, its time limit, and the lowest and highest values of observations [n]."""
    with jax.ensure_compile_time_eval():  # constants of a cached environment must not be tracers
        env = needed("jumanji").make(name)
        low, high = (ravel_pytree(_bound(env.observation_spec, x))[0] for x in ("minimum", "maximum"))
    limit, env.time_limit = getattr(env, "time_limit", 2**30), 2**30  # jumanji's is as if nothing could follow
    return env, limit, np.asarray(low), np.asarray(high)


def _bound(spec: Any, which: str) -> PyTree:
    if isinstance(spec, needed("jumanji.specs").Array):
        unbounded = {"minimum": -np.inf, "maximum": np.inf}[which]
        return jnp.broadcast_to(jnp.float32(getattr(spec, which, unbounded)), spec.shape)
    return spec._constructor(**{name: _bound(child, which) for name, child in spec._specs.items()})


@dataclass(frozen=True)
class Jumanji(adapters.Adapter):
    """Jumanji's environment `name`. Observations are flat, in [0, 1] where bounded, with the mask of valid actions."""

    name: str

    def action_space(self, params: PyTree = None) -> Discrete:
        """All combinations of choices."""
        return Discrete(int(np.prod(np.asarray(_made(self.name)[0].action_spec.num_values))))

    def observation_space(self, params: PyTree = None) -> Box:
        """Flat observations."""
        _, _, low, high = _made(self.name)
        return Box(0.0, 1.0, low.shape) if np.isfinite(high - low).all() else Box(-np.inf, np.inf, low.shape)

    def start(self, key: Key, params: PyTree) -> tuple[Array, Timed]:
        state, first = _made(self.name)[0].reset(key)
        return self._flat(first.observation), Timed(state, jnp.int32(0))

    def follow(self, key: Key, state: Timed, action: Array, params: PyTree) -> tuple[Any, ...]:
        env, limit, _, _ = _made(self.name)
        if env.action_spec.shape:
            action = jnp.stack(jnp.unravel_index(action, tuple(np.asarray(env.action_spec.num_values).tolist())))
        inner, after = env.step(state.inner, action.astype(env.action_spec.dtype))
        terminated, time = after.last() & (after.discount == 0), state.time + 1
        truncated = ~terminated & (after.last() | (time >= limit))
        return self._flat(after.observation), Timed(inner, time), after.reward, terminated, truncated

    def _flat(self, observation: PyTree) -> Array:
        _, _, low, high = _made(self.name)
        flat = jnp.concatenate([jnp.float32(x).ravel() for x in jax.tree.leaves(observation)])
        bounded = np.isfinite(high - low) & (high > low)
        return jnp.where(bounded, (flat - low) / np.where(bounded, high - low, 1.0), flat)

    def draw(self, state: Timed, params: PyTree) -> Any:
        return adapters.pyplot_pixels(lambda: _made(self.name)[0].render(jax.tree.map(jnp.asarray, state.inner)))


def make(name: str) -> Levels:
    """One level of one of `NAMES`, whose episodes differ."""
    return adapters.distribution(Jumanji(name), drawn=True)

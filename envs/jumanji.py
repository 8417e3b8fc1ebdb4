"""Adapter for Jumanji (Bonnet et al. 2023, arXiv 2306.09884): puzzles, packing and routing with discrete actions."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from envs import adapters
from envs.adapters import Timed, needed
from metarl.types import Array, Box, Discrete, Key, Levels, PyTree

# one agent, whose actions are one discrete choice or a few; Sokoban's levels are a download
NAMES = ("Game2048-v1", "GraphColoring-v1", "Minesweeper-v0", "RubiksCube-v0", "RubiksCube-partly-scrambled-v0")
NAMES += ("SlidingTilePuzzle-v0", "Sudoku-v0", "Sudoku-very-easy-v0", "BinPack-v2", "FlatPack-v0", "Knapsack-v1")
NAMES += ("Tetris-v0", "CVRP-v1", "Maze-v0", "PacMan-v1", "Snake-v1", "TSP-v1")
_FOREVER = 2**30


class _Made(NamedTuple):
    env: Any
    limit: int  # steps of an episode
    choices: np.ndarray  # how many there are of each part of an action, () or [parts]
    low: Array  # of flat observations
    high: Array


@functools.cache
def _made(name: str) -> _Made:
    with jax.ensure_compile_time_eval():  # constants of a cached environment must not be tracers
        env = needed("jumanji").make(name)
        bounds = (ravel_pytree(_bound(env.observation_spec, x))[0] for x in ("minimum", "maximum"))
        made = _Made(env, getattr(env, "time_limit", _FOREVER), np.asarray(env.action_spec.num_values), *bounds)
    env.time_limit = _FOREVER  # jumanji's would end episodes as if nothing could follow
    return made


def _bound(spec: Any, which: str) -> PyTree:
    """The bound of each entry of an observation, in the tree of the observation."""
    if isinstance(spec, needed("jumanji.specs").Array):
        return jnp.broadcast_to(jnp.float32(getattr(spec, which, jnp.inf)), spec.shape)
    return spec._constructor(**{name: _bound(child, which) for name, child in spec._specs.items()})


@dataclass(frozen=True)
class Jumanji(adapters.Adapter):
    """The environment that jumanji registers as `name`.

    Observations are flat, float32, and scaled to [0, 1] where they have bounds; the mask of valid actions is among them.
    An action of several choices is one number.
    """

    name: str

    def action_space(self, params: PyTree = None) -> Discrete:
        """All combinations of choices."""
        return Discrete(int(_made(self.name).choices.prod()))

    def observation_space(self, params: PyTree = None) -> Box:
        """Flat observations."""
        low, high = _made(self.name)[-2:]
        bounded = np.isfinite(low).all() and np.isfinite(high).all()
        return Box(0.0 if bounded else -np.inf, 1.0 if bounded else np.inf, low.shape)

    def start(self, key: Key, params: PyTree) -> tuple[Array, Timed]:
        state, first = _made(self.name).env.reset(key)
        return self._flat(first.observation), Timed(state, jnp.int32(0))

    def follow(self, key: Key, state: Timed, action: Array, params: PyTree) -> tuple[Any, ...]:
        env, limit, choices, _, _ = _made(self.name)
        if choices.shape:
            action = jnp.stack(jnp.unravel_index(action, tuple(choices.tolist())))
        inner, after = env.step(state.inner, action.astype(env.action_spec.dtype))
        time = state.time + 1
        terminated = after.last() & (after.discount == 0)
        truncated = ~terminated & (after.last() | (time >= limit))
        return self._flat(after.observation), Timed(inner, time), after.reward, terminated, truncated

    def _flat(self, observation: PyTree) -> Array:
        low, high = _made(self.name)[-2:]
        flat = jnp.concatenate([jnp.float32(x).ravel() for x in jax.tree.leaves(observation)])
        bounded = jnp.isfinite(low) & jnp.isfinite(high) & (high > low)
        scaled = (flat - low) / jnp.where(bounded, high - low, 1.0)
        return jnp.where(bounded, jnp.clip(scaled, 0.0, 1.0), flat)

    def draw(self, state: Timed) -> Any:
        from matplotlib import pyplot

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there may be no screen to show a figure on
            _made(self.name).env.render(jax.tree.map(jnp.asarray, state.inner))
        figure = pyplot.gcf()
        figure.set(size_inches=(4.0, 4.0), dpi=100)
        figure.canvas.draw()
        pixels = np.array(figure.canvas.buffer_rgba())[..., :3]
        pyplot.close(figure)
        return pixels


def make(name: str) -> Levels:
    """One level of one of `NAMES`, whose episodes differ."""
    return adapters.distribution(Jumanji(name), drawn=True)

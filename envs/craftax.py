"""Adapter for Craftax (Matthews et al. 2024, arXiv 2402.16801): survival in an open world, seen as symbols."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from envs import adapters
from envs.adapters import needed
from metarl.types import Array, Box, Discrete, Key, Levels, PyTree

_CODE = {"symbolic": "Craftax-Symbolic-v1", "classic": "Craftax-Classic-Symbolic-v1"}
_LIMIT = {"symbolic": 100_000, "classic": 10_000}  # as in craftax
NAMES = tuple(_CODE)
_FOREVER = 2**30


@functools.cache
def _made(name: str) -> Any:
    with jax.ensure_compile_time_eval():  # constants of a cached environment must not be tracers
        return needed("craftax.craftax_env").make_craftax_env_from_name(_CODE[name], auto_reset=False)


@functools.cache
def _renderer(name: str) -> Any:
    package = "craftax" if name == "symbolic" else "craftax_classic"
    return jax.jit(needed(f"craftax.{package}.renderer").make_craftax_pixel_renderer(16))


@dataclass(frozen=True)
class Craftax(adapters.Adapter):
    """Craftax, `symbolic`, or the smaller Craftax-Classic, `classic`, with episodes of at most `max_steps`."""

    name: str
    max_steps: int

    def action_space(self, params: PyTree = None) -> Discrete:
        """The actions of craftax."""
        return Discrete(_made(self.name).num_actions)

    def observation_space(self, params: PyTree = None) -> Box:
        """Codes of the map around the player, and the inventory."""
        high = 1.0 if self.name == "classic" else np.inf  # numbers of things are not scaled to 1 in the larger one
        return Box(0.0, high, tuple(_made(self.name).observation_space(None).shape))

    def start(self, key: Key, params: PyTree) -> tuple[Array, PyTree]:
        env = _made(self.name)
        return env.reset_env(key, env.default_params)

    def follow(self, key: Key, state: PyTree, action: Array, params: PyTree) -> tuple[Any, ...]:
        env = _made(self.name)
        settings = env.default_params.replace(max_timesteps=_FOREVER)  # the limit is no end of the game
        obs, state, reward, terminated, _ = env.step_env(key, state, action, settings)
        return obs, state, reward, terminated, ~terminated & (state.timestep >= self.max_steps)

    def draw(self, state: PyTree, params: PyTree) -> Any:
        return np.asarray(_renderer(self.name)(state)).astype(np.uint8)


def make(name: str) -> Levels:
    """One level of one of `NAMES`, whose worlds differ."""
    return adapters.distribution(Craftax(name, _LIMIT[name]), drawn=True)

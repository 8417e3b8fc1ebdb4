"""Adapter for Craftax (Matthews et al. 2024, arXiv 2402.16801): survival in an open world, seen as symbols."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from envs import adapters
from envs.adapters import needed
from metarl.types import Array, Box, Discrete, Key, Levels, PyTree

_CODE = {"symbolic": "Craftax-Symbolic-v1", "classic": "Craftax-Classic-Symbolic-v1"}
NAMES = tuple(_CODE)
_FOREVER = 2**30


class CraftaxState(NamedTuple):
    """The state of an episode, and how it started."""

    world: Any  # craftax's `EnvState`
    start: Any
    start_obs: Array


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
    """Craftax, `symbolic`, or the smaller Craftax-Classic, `classic`, with episodes of at most `max_steps`.

    `reset` makes a new world. An episode that ends inside of `step` is followed by another one in the same world,
    because a world costs as much as seven steps, and `vmap` would make one for each.
    """

    name: str = "symbolic"
    max_steps: int = 10_000

    def action_space(self, params: PyTree = None) -> Discrete:
        """The actions of craftax."""
        return Discrete(_made(self.name).num_actions)

    def observation_space(self, params: PyTree = None) -> Box:
        """Codes of the map around the player, and the inventory."""
        return Box(0.0, 1.0, tuple(_made(self.name).observation_space(None).shape))

    def start(self, key: Key, params: PyTree) -> tuple[Array, CraftaxState]:
        env = _made(self.name)
        obs, world = env.reset_env(key, env.default_params)
        return obs, CraftaxState(world, world, obs)

    def restart(self, key: Key, state: CraftaxState, params: PyTree) -> tuple[Array, CraftaxState]:
        return state.start_obs, state._replace(world=state.start)

    def follow(self, key: Key, state: CraftaxState, action: Array, params: PyTree) -> tuple[Any, ...]:
        env = _made(self.name)
        settings = env.default_params.replace(max_timesteps=_FOREVER)  # the limit is no end of the game
        obs, world, reward, terminated, _ = env.step_env(key, state.world, action, settings)
        return obs, state._replace(world=world), reward, terminated, ~terminated & (world.timestep >= self.max_steps)

    def draw(self, state: CraftaxState) -> Any:
        return np.asarray(_renderer(self.name)(state.world)).astype(np.uint8)


def make(name: str) -> Levels:
    """One level of one of `NAMES`, whose worlds differ."""
    return adapters.distribution(Craftax(name), drawn=True)

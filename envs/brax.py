"""Adapter for Brax (Freeman et al. 2021, arXiv 2106.13281): bodies with joints, and continuous actions."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from envs import adapters
from envs.adapters import Timed, needed
from metarl.types import Array, Box, Key, Levels, PyTree

NAMES = """ant halfcheetah hopper humanoid humanoidstandup inverted_double_pendulum inverted_pendulum pusher reacher
    swimmer walker2d""".split()


@functools.cache
def _made(name: str) -> Any:
    with warnings.catch_warnings(), jax.ensure_compile_time_eval():  # its constants must not be tracers
        warnings.simplefilter("ignore")  # brax advertises its successor
        return needed("brax.envs").get_environment(name)


@functools.cache
def _size(name: str) -> int:
    return jax.eval_shape(_made(name).reset, jax.random.key(0)).obs.shape[-1]


@dataclass(frozen=True)
class Brax(adapters.Adapter):
    """The environment that brax calls `name`, with its default physics and episodes of at most `max_steps`.

    Actions are clipped to [-1, 1].
    """

    name: str
    max_steps: int = 1000

    def action_space(self, params: PyTree = None) -> Box:
        """One number for each actuator; brax scales it."""
        return Box(-1.0, 1.0, (_made(self.name).action_size,))

    def observation_space(self, params: PyTree = None) -> Box:
        """Positions and velocities."""
        return Box(-jnp.inf, jnp.inf, (_size(self.name),))

    def start(self, key: Key, params: PyTree) -> tuple[Array, Timed]:
        state = _made(self.name).reset(key)
        return state.obs, Timed(state, jnp.int32(0))

    def follow(self, key: Key, state: Timed, action: Array, params: PyTree) -> tuple[Any, ...]:
        inner, time = _made(self.name).step(state.inner, jnp.clip(action, -1.0, 1.0)), state.time + 1
        terminated = inner.done > 0
        return inner.obs, Timed(inner, time), inner.reward, terminated, ~terminated & (time >= self.max_steps)


def make(name: str) -> Levels:
    """One level of one of `NAMES`, whose episodes differ. It has no pictures: mujoco's need OpenGL."""
    return adapters.distribution(Brax(name))

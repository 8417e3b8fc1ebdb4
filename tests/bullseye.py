"""The smallest environment with continuous actions."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl.types import Box


class Bull(NamedTuple):
    target: jax.Array


@dataclass(frozen=True)
class Bullseye:
    """One continuous action per episode: what is observed must be hit, and each miss costs its square."""

    default_params = ()

    def action_space(self, params=None):
        return Box(-2.0, 2.0, (1,))

    def observation_space(self, params=None):
        return Box(-1.0, 1.0, (1,))

    def reset(self, key, params):
        target = jax.random.uniform(key, (1,), minval=-1.0)
        return target, Bull(target)

    def step(self, key, state, action, params):
        obs, new = self.reset(key, params)
        cost = jnp.square(action - state.target).sum()
        return obs, new, -cost, jnp.bool_(True), jnp.bool_(False), {"final_observation": state.target}

"""Multi-armed bandits (Duan et al. 2016, section 3.1): the fastest test of whether a rule learns.

An episode is truncated after `max_steps` pulls; it never terminates. The observation is constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import COUNT, NOT_NEGATIVE, checked
from metarl.types import Array, Discrete, Key, Level, Levels


class BanditParams(NamedTuple):
    """One level."""

    means: Array  # [num_arms] float32, expected reward of each arm
    scale: Array  # () float32, standard deviation of a Gaussian reward; ignored by Bernoulli arms
    max_steps: Array  # () int32, pulls per episode


class BanditState(NamedTuple):
    """One episode in progress."""

    time: Array  # () int32, pulls since the reset


@dataclass(frozen=True)
class Bandit:
    """A bandit whose arms pay 0 or 1 (Bernoulli) or a normally distributed reward (Gaussian)."""

    num_arms: Annotated[int, COUNT] = 10
    gaussian: bool = False

    def __post_init__(self) -> None:
        checks.fields(self)

    @property
    def default_params(self) -> BanditParams:
        """Evenly spaced means up to 1, the last arm is the best; 100 pulls."""
        return BanditParams(jnp.arange(1, self.num_arms + 1) / self.num_arms, jnp.float32(1.0), jnp.int32(100))

    def action_space(self, params: BanditParams | None = None) -> Discrete:
        """The arms."""
        return Discrete(self.num_arms)

    def observation_space(self, params: BanditParams | None = None) -> Discrete:
        """The only observation is 0."""
        return Discrete(1)

    def reset(self, key: Key, params: BanditParams) -> tuple[Array, BanditState]:
        """The observation 0 and a state with no pulls."""
        return jnp.int32(0), BanditState(jnp.int32(0))

    def step(
        self, key: Key, state: BanditState, action: Array, params: BanditParams
    ) -> tuple[Array, BanditState, Array, Array, Array, dict[str, Any]]:
        """One pull, with auto-reset."""
        mean = params.means[action]
        if self.gaussian:
            reward = mean + params.scale * jax.random.normal(key)
        else:
            reward = (jax.random.uniform(key) < mean).astype(jnp.float32)
        truncated = state.time + 1 >= params.max_steps
        state = BanditState(jnp.where(truncated, 0, state.time + 1))
        obs = jnp.int32(0)
        return obs, state, reward, jnp.zeros((), bool), truncated, {"final_observation": obs}


def optimal_return(env: Bandit, params: BanditParams) -> Array:
    """Expected return `() float32` of an episode on the best arm."""
    return params.max_steps * jnp.max(params.means)


@checked
def distribution(
    kind: Literal["bernoulli", "gaussian"] = "bernoulli",
    num_arms: Annotated[int, COUNT] = 10,
    max_steps: Annotated[int, COUNT] = 100,
    horizon: Annotated[int, COUNT] = 100,
    scale: Annotated[float, NOT_NEGATIVE] = 1.0,
) -> Levels:
    """Bandits whose means are drawn for each level: from U[0, 1) if `kind` is "bernoulli", from N(0, 1) if "gaussian".

    `horizon` is the lifetime in agent updates, `scale` the standard deviation of Gaussian rewards. Raises ValueError
    for another kind, and for counts below 1.
    """
    env = Bandit(num_arms, gaussian=kind == "gaussian")

    def sample(key: Key) -> Level:
        draw = jax.random.normal if env.gaussian else jax.random.uniform
        params = BanditParams(draw(key, (num_arms,)), jnp.float32(scale), jnp.int32(max_steps))
        return Level(params, jnp.int32(horizon))

    return Levels(sample, env, optimal_return=partial(optimal_return, env))

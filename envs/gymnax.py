"""Thin adapter for gymnax (>= 1.0): every environment of its registry as a distribution of one level.

The import of gymnax takes seconds, so `envs` imports this module only when it needs one of its names.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import gymnax
import jax
import jax.numpy as jnp

from envs.adapters import HORIZON, board, picture, with_types
from metarl.types import Array, Box, Discrete, Key, Level, Levels, PyTree, constant_levels


@functools.cache
def _gymnax(name: str) -> Any:
    with jax.ensure_compile_time_eval():  # constants of a cached environment must not be tracers
        return gymnax.make(name)[0]


@dataclass(frozen=True)
class Gymnax:
    """The environment that gymnax registers as `name`. Equal names are equal objects, so they share compiled programs.

    Rewards are float32, spaces declare the dtype of observations, and states and observations always have the dtypes of
    `reset`. gymnax 1.0.1 has integer rewards in two environments and declares a wrong dtype in two, and its weakly
    typed states would compile a program a second time.
    """

    name: str

    @property
    def default_params(self) -> PyTree:
        """The default parameters of gymnax, without weak types."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), _gymnax(self.name).default_params)

    def action_space(self, params: PyTree = None) -> Any:
        """The action space of gymnax, as a space of `metarl.types`."""
        return _space(_gymnax(self.name).action_space(params))

    def observation_space(self, params: PyTree = None) -> Any:
        """The observation space of gymnax, as a space of `metarl.types` with the dtype of observations."""
        env = _gymnax(self.name)
        params = env.default_params if params is None else params
        observed = jax.eval_shape(env.reset, jax.random.key(0), params)[0]
        return _space(env.observation_space(params), getattr(observed, "dtype", None))

    def reset(self, key: Key, params: PyTree) -> tuple[Array, PyTree]:
        """Observation and state at the start of an episode."""
        fresh = _gymnax(self.name).reset(key, params)
        return with_types(fresh, fresh)

    def step(
        self, key: Key, state: PyTree, action: Array, params: PyTree
    ) -> tuple[Array, PyTree, Array, Array, Array, dict[str, Any]]:
        """One step with auto-reset; the reward is float32, `terminated` and `truncated` are bool."""
        env = _gymnax(self.name)
        obs, following, reward, terminated, truncated, info = env.step(key, state, action, params)
        like_obs, like_state = jax.eval_shape(env.reset, key, params)
        info = {**info, "final_observation": with_types(info["final_observation"], like_obs)}
        reward, terminated, truncated = jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(truncated)
        return with_types(obs, like_obs), with_types(following, like_state), reward, terminated, truncated, info

    def draw(self, state: PyTree, params: PyTree) -> Any:
        """A picture of a board: the observation in this state, [height, width] or [height, width, channels]."""
        return board(_gymnax(self.name).get_obs(state, params, jax.random.key(0)))


def names() -> tuple[str, ...]:
    """Every name in gymnax's registry."""
    return tuple(gymnax.registered_envs)


def make(name: str, horizon: int = HORIZON) -> Levels:
    """The environment with its default parameters as levels that last `horizon` agent updates.

    Those of MinAtar, Catch and DeepSea, whose observations are boards, have pictures.

    Raises ValueError for a name that gymnax does not know and for a horizon below 1.
    """
    levels = constant_levels(Gymnax(name), horizon)
    drawn = name.endswith("-MinAtar") or name in ("Catch-bsuite", "DeepSea-bsuite")
    return levels._replace(render=functools.partial(picture, levels.env)) if drawn else levels


def varied_cartpole() -> Levels:
    """Cart-poles with gravity, pole mass, pole length and force each log-uniform within a factor of 2 of gymnax's."""
    env = Gymnax("CartPole-v1")

    def sample(key: Key) -> Level:
        default = env.default_params
        gravity, mass, length, force = 2.0 ** jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
        params = default.replace(
            gravity=default.gravity * gravity,
            masspole=default.masspole * mass,
            length=default.length * length,
            force_mag=default.force_mag * force,
            total_mass=default.masscart + default.masspole * mass,
            polemass_length=default.masspole * mass * default.length * length,
        )
        return Level(params, jnp.int32(HORIZON))

    return Levels(sample, env)


def _space(space: Any, dtype: Any = None) -> Any:
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    if hasattr(space, "low"):
        return Box(space.low, space.high, tuple(space.shape), space.dtype if dtype is None else dtype)
    return space

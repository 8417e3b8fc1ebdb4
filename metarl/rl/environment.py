"""Checks of environments against `metarl.types.Environment`: at every use what can be traced, on demand values too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl import checks, interface
from metarl.checks import COUNT, checked
from metarl.rl.networks import policy_head
from metarl.types import Array, Environment, Key, PyTree, check_members

_STEP = ("obs", "state", "reward", "terminated", "truncated", "info")
_REAL = (jnp.floating, jnp.integer, jnp.bool_)
_NUM_ENVS = 4
_ROUNDING = 1e-5


def trace_environment(env: Environment, params: PyTree = None) -> None:
    """Checks the spaces of `env`, and what `reset` and `step` return, by tracing them with `params` (None: default).

    Raises ValueError naming the first difference from the interface. Nothing is computed.
    """
    check_members(env)
    name = interface.name(env)
    params = env.default_params if params is None else params
    action_space, space = env.action_space(params), env.observation_space(params)
    policy_head(action_space)
    for what, n in {"action": getattr(action_space, "n", 1), "observation": getattr(space, "n", 1)}.items():
        checks.within(int, COUNT, **{f"the n of {name}.{what}_space": n})
    if not (hasattr(space, "n") or hasattr(space, "low")) or not hasattr(space, "shape"):
        raise ValueError(f"{name}.observation_space returned {space!r}, wanted a Discrete or a Box")

    key = jax.random.key(0)
    reset, step = f"{name}.reset", f"{name}.step"
    obs, state = interface.values(reset, interface.traced(reset, env.reset, key, params), ("obs", "state"))
    kinds = (jnp.integer,) if hasattr(space, "n") else _REAL
    interface.array(f"the observation that {reset}", obs, tuple(space.shape), kinds)
    action = jax.eval_shape(action_space.sample, key)
    results = interface.values(step, interface.traced(step, env.step, key, state, action, params), _STEP)
    new_obs, new_state, reward, terminated, truncated, info = results
    if not isinstance(info, Mapping) or "final_observation" not in info:
        raise ValueError(f"{step} returned the info {interface.shown(info)}, wanted a dict with 'final_observation'")
    interface.same(f"the observation that {step}", new_obs, obs)
    interface.same(f"the info['final_observation'] that {step}", info["final_observation"], obs)
    interface.same(f"the state that {step}", new_state, state)
    interface.array(f"the reward that {step}", reward, (), _REAL)
    for what, flag in {"terminated": terminated, "truncated": truncated}.items():
        interface.array(f"the {what} that {step}", flag, (), (jnp.bool_, jnp.integer))


@checked
def check_environment(env: Environment, params: PyTree = None, *, steps: Annotated[int, COUNT] = 100) -> None:
    """Checks your own `env` against the interface of `metarl.types.Environment`, as `rl_inner_loop` does, and by use.

    Four copies of the environment make `steps` steps side by side under `jax.jit` and `jax.vmap`, with random actions.
    Observations must be in their space and rewards finite, the same keys must give the same results, and where
    episodes ended, `step` must have returned the first observation of a new one. `params` are those of one level (None:
    `default_params`). Episodes that are longer than `steps` are not seen to end.

    Raises ValueError that says in one line what is wrong.
    """
    trace_environment(env, params)
    params = env.default_params if params is None else params
    # of two traces, because numbers that are drawn outside of JAX are constants of one
    one, other = (jax.jit(lambda key: _play(env, params, key, steps))(jax.random.key(0)) for _ in range(2))  # noqa: B023
    name, space = interface.name(env), env.observation_space(params)
    if any(not np.array_equal(x, y, equal_nan=_can_be_nan(x)) for x, y in zip(one, other, strict=True)):
        raise ValueError(f"{name} gave different results for the same keys: draw all random numbers from the key")
    resets, obs, final, reward, done = (np.asarray(x) for x in one)
    for what, seen in {"reset": resets, "step": obs, "step's info['final_observation']": final}.items():
        _check_within(f"{name}.{what} returned an observation", seen, space)
    if not np.isfinite(reward).all():
        raise ValueError(f"{name}.step returned the reward {reward[~np.isfinite(reward)][0]}, wanted a finite number")
    ends = list(zip(obs[done], final[done], strict=True))
    starts = {x.tobytes() for x in resets}
    if ends and all(np.array_equal(x, y) and x.tobytes() not in starts for x, y in ends):
        raise ValueError(
            f"{name}.step returned the last observation of an episode that ended, wanted the first of the next one: "
            "reset the environment inside of step"
        )


def _play(env: Environment, params: PyTree, key: Key, steps: int) -> tuple[Array, Array, Array, Array, Array]:
    """Observations of resets [n, ...], then observations, final observations, rewards, ends [steps, envs, ...]."""
    reset_key, step_key = jax.random.split(key)
    resets, states = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, 16 * _NUM_ENVS), params)

    def step(state: PyTree, key: Key) -> tuple[PyTree, tuple[Array, ...]]:
        action_keys, keys = jax.random.split(key, (2, _NUM_ENVS))
        actions = jax.vmap(env.action_space(params).sample)(action_keys)
        obs, state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            keys, state, actions, params
        )
        ended = terminated.astype(bool) | truncated.astype(bool)
        return state, (obs, info["final_observation"], reward, ended)

    first = jax.tree.map(lambda x: x[:_NUM_ENVS], states)
    _, (obs, final, reward, done) = jax.lax.scan(step, first, jax.random.split(step_key, steps))
    return resets, obs, final, reward, done


def _check_within(what: str, seen: np.ndarray, space: Any) -> None:
    low, high = (0, space.n - 1) if hasattr(space, "n") else (np.asarray(space.low), np.asarray(space.high))
    slack = _ROUNDING * np.maximum(1.0, np.abs([np.nan_to_num(low), np.nan_to_num(high)]).max(0))
    outside = ~((seen >= low - slack) & (seen <= high + slack))  # NaN is outside, too
    if outside.any():
        value, low, high = (np.broadcast_to(x, seen.shape)[outside][0] for x in (seen, low, high))
        raise ValueError(f"{what} with an entry {value}, wanted one from {low} to {high} as its space says")


def _can_be_nan(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))

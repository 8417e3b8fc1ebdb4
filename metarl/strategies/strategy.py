"""Strategies: whatever plays one task and learns while it does, and the loop that lets it play."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import interface
from metarl.checks import COUNT, SHARE, checked
from metarl.types import Array, Environment, Key, PyTree


class Transition(NamedTuple):
    """One step of an environment."""

    obs: Array
    action: Array
    reward: Array  # () float32
    next_obs: Array  # the true successor, also where the episode ended
    done: Array  # () bool, the episode ended


class Strategy(NamedTuple):
    """How to play one task that is not known in advance. The functions are pure, and they jit and vmap.

    The memory persists over the episodes of a task: it is all that a strategy learns.
    """

    init: Callable[[Key], PyTree]  # key -> memory at the start of a task
    act: Callable[[Key, Array, PyTree], tuple[Array, PyTree]]  # (key, obs, memory) -> (action, memory)
    learn: Callable[[PyTree, Transition], PyTree]  # (memory, step) -> memory


def random(action_space: Any) -> Strategy:
    """Draws actions uniformly from `action_space` (a `Discrete` or a `Box`), and learns nothing."""
    return Strategy(
        init=lambda key: (),
        act=lambda key, obs, memory: (action_space.sample(key), memory),
        learn=lambda memory, step: memory,
    )


@checked
def exploring(strategy: Strategy, action_space: Any, epsilon: Annotated[Array | float, SHARE]) -> Strategy:
    """Acts as `strategy` does, but with probability `epsilon` draws the action uniformly from `action_space`.

    Raises ValueError for a probability outside [0, 1].
    """

    def act(key: Key, obs: Array, memory: PyTree) -> tuple[Array, PyTree]:
        own_key, explore_key, action_key = jax.random.split(key, 3)
        action, memory = strategy.act(own_key, obs, memory)
        explore = jax.random.uniform(explore_key) < epsilon
        return jnp.where(explore, action_space.sample(action_key), action), memory

    return strategy._replace(act=act)


@checked
def play(env: Environment, strategy: Strategy, problem: PyTree, key: Key, steps: Annotated[int, COUNT]) -> Transition:
    """Plays `steps` steps of one task: `env` with the parameters `problem`. Leaves [steps, ...].

    The environment begins a new episode whenever one ends. Its keys depend on `key` only, so that strategies which
    get the same key meet the same noise. Pure: jit it, and vmap it over problems and keys. Raises ValueError if `steps`
    is below 1, or if the strategy's memory changes its structure.
    """
    env_key, strategy_key = jax.random.split(key)
    reset_key, step_key = jax.random.split(env_key)
    init_key, act_key = jax.random.split(strategy_key)

    def step(loop: tuple[Array, PyTree, PyTree], keys: tuple[Key, Key]) -> tuple[tuple[Array, PyTree, PyTree], Any]:
        obs, state, memory = loop
        action, acted = strategy.act(keys[0], obs, memory)
        interface.same(f"the memory that {interface.title('Strategy.act', strategy.act)}", acted, memory)
        new_obs, state, reward, terminated, truncated, info = env.step(keys[1], state, action, problem)
        done = terminated.astype(bool) | truncated.astype(bool)
        x = Transition(obs, action, reward.astype(jnp.float32), info["final_observation"], done)
        learned = strategy.learn(acted, x)
        interface.same(f"the memory that {interface.title('Strategy.learn', strategy.learn)}", learned, memory)
        return (new_obs, state, learned), x

    # all keys at once, because a split inside the loop takes as long as a step of a small environment
    keys = jax.random.split(act_key, steps), jax.random.split(step_key, steps)
    start = (*env.reset(reset_key, problem), strategy.init(init_key))
    return jax.lax.scan(step, start, keys)[1]


@checked
def returns(steps: Transition, episodes: Annotated[int, COUNT]) -> Array:
    """Undiscounted returns [episodes] of the first episodes of `steps` (leaves [T, ...]); NaN of unfinished ones.

    Raises ValueError if `episodes` is below 1.
    """
    index = jnp.cumsum(steps.done) - steps.done  # of the episode that a step belongs to
    sums = jax.ops.segment_sum(steps.reward, index, episodes)
    return jnp.where(jnp.arange(episodes) < steps.done.sum(), sums, jnp.nan)

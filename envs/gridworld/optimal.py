"""Exact expected returns on tabular gridworld levels, by backward induction over (time, cell, present objects).

Returns are undiscounted and of one episode. One backup takes about 2 ** max_objects * max_side ** 2 * (max_objects + 5)
operations, because the expectation over respawns factorises over the objects.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from envs.gridworld.environment import Gridworld, GridworldParams
from metarl.types import Array


def optimal_return(env: Gridworld, params: GridworldParams) -> Array:
    """Expected return `() float32` of the best policy that knows the level and the time.

    It vmaps over levels. Raises ValueError for a non-tabular environment.
    """
    return _evaluate(env, params, lambda values: jnp.max(values, 0))


def policy_return(env: Gridworld, params: GridworldParams, policy: Array) -> Array:
    """Expected return `() float32` of the stationary policy with probabilities `policy` `[num_states, 5]`.

    Raises ValueError for a non-tabular environment or a policy of another shape.
    """
    if policy.shape != (env.num_states, env.num_actions):
        raise ValueError(f"policy must have shape {(env.num_states, env.num_actions)}, got {policy.shape}")
    return _evaluate(env, params, lambda values: jnp.sum(policy.T * values, 0))


def action_values(env: Gridworld, params: GridworldParams, values: Array) -> Array:
    """Bellman backup `[num_states, 5]`: reward plus expected value of the next state, from `values` `[num_states]`.

    For returns with the time limit, start from zeros and back up `max_steps` times. The values of states that no
    episode visits (an agent on a wall, objects that do not exist) have no meaning.
    """
    return _backup(env, params)(values).T


def _evaluate(env: Gridworld, params: GridworldParams, improve: Callable[[Array], Array]) -> Array:
    if not env.tabular:
        raise ValueError("exact returns need a tabular gridworld: others have too many states")
    backup = _backup(env, params)
    values = jax.lax.fori_loop(0, params.max_steps, lambda _, v: improve(backup(v)), jnp.zeros(env.num_states))
    return values[params.start * 2**env.max_objects + 2**params.num_objects - 1]


def _backup(env: Gridworld, params: GridworldParams) -> Callable[[Array], Array]:
    """The function from values `[num_states]` of the next state to action values `[5, num_states]`."""
    cells, subsets = env.max_side**2, 2**env.max_objects
    everywhere = jnp.arange(cells)
    # Where an action is not blocked, it shifts the grid. At the border, where a shift would wrap around, it is blocked.
    shifts = (-env.max_side, env.max_side, -1, 1)
    moves = [env.move(everywhere, jnp.full((), a), params) == everywhere + s for a, s in enumerate(shifts)]

    present = (jnp.arange(subsets)[:, None] >> jnp.arange(env.max_objects)) & 1 == 1  # [subsets, O]
    collected = present & (everywhere[:, None, None] == params.objects)  # [cells, subsets, O]
    reward = jnp.sum(collected * params.reward, -1)
    survive = 1.0 - jnp.sum(collected * params.terminate, -1)

    def backup(values: Array) -> Array:
        for i in range(env.max_objects):
            # expectation over the presence of object i after the step, given the agent's cell and the presence before
            v = values.reshape(cells, -1, 2, 2**i)
            absent, there = v[:, :, 0], v[:, :, 1]
            here = (everywhere == params.objects[i])[:, None, None]
            reappears = absent + params.respawn[i] * (there - absent)
            values = jnp.stack([reappears, jnp.where(here, absent, there)], 2)
        entered = reward + survive * values.reshape(cells, subsets)  # value of arriving on a cell
        moved = [jnp.where(m[:, None], jnp.roll(entered, -s, 0), entered) for m, s in zip(moves, shifts, strict=True)]
        return jnp.stack([*moved, entered]).reshape(5, -1)

    return backup

"""Tabular learners, and the episodes that they learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import RATE, SHARE, checked
from metarl.rewards.tables import Tables
from metarl.types import Array, Key


class Episode(NamedTuple):
    """H steps from the start of a process; leaves [..., H, ...]. Steps after a terminal state do not count."""

    state: Array  # int32
    action: Array  # int32
    next_state: Array  # int32
    alive: Array  # bool: the step was made; False in terminal states, and in episodes that were not played
    probs: Array  # [..., H, A], of the policy that acted
    reward: Array  # of the process; 0 where not alive
    given: Array  # what the learner is given instead; 0 where not alive


class Learner(NamedTuple):
    """A learner with a table [S, A], which begins with zeros."""

    policy: Callable[[Array], Array]  # table -> probabilities [S, A]
    update: Callable[[Array, Episode], Array]  # (table, episodes [B, H]) -> table


def play(tables: Tables, cumulative: Array, policy: Array, key: Key) -> Episode:
    """One episode of `policy` [S, A], given what the process pays. `cumulative` [S, A, S] is that of the transition."""
    draws = jax.random.uniform(key, (tables.length, 2))
    ladder = jnp.cumsum(policy, -1)[:, :-1]  # without the last entries, which rounding may keep below 1

    def step(state: Array, draw: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        action = (draw[0] >= ladder[state]).sum()
        following = (draw[1] >= cumulative[state, action, :-1]).sum()
        return following, (state, action, following)

    _, (state, action, following) = jax.lax.scan(step, jnp.int32(tables.start), draws)
    alive = ~tables.terminal[state]
    reward = jnp.where(alive, tables.reward[state, action], 0.0)
    return Episode(state, action, following, alive, policy[state], reward, reward)


def returns(reward: Array, discount: float) -> Array:
    """Discounted rewards to go [..., H] of `reward` [..., H]."""

    def step(later: Array, now: Array) -> tuple[Array, Array]:
        later = now + discount * later
        return later, later

    backwards = jnp.moveaxis(reward, -1, 0)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros(reward.shape[:-1]), backwards, reverse=True)[1], 0, -1)


def by_state(state: Array, x: Array, count: int) -> Array:
    """Sums [count, ...] of the rows `x` [*B, ...] of each `state` [*B]."""
    return jnp.zeros((count, *x.shape[state.ndim :])).at[state].add(x)


@checked
def reinforce(tables: Tables, learning_rate: Annotated[Array | float, RATE] = 0.1) -> Learner:
    """REINFORCE (Williams 1992) with a softmax policy: `mean over steps of G_t grad log pi(a_t|s_t)`, no baseline."""

    def update(table: Array, episodes: Episode) -> Array:
        gain = jnp.where(episodes.alive, returns(episodes.given, tables.discount), 0.0)[..., None]
        score = jax.nn.one_hot(episodes.action, table.shape[1]) - jax.nn.softmax(table)[episodes.state]
        total = by_state(episodes.state, gain * score, len(table))
        return table + learning_rate * total / jnp.maximum(episodes.alive.sum(), 1)

    return Learner(jax.nn.softmax, update)


@checked
def q_learning(
    tables: Tables,
    learning_rate: Annotated[Array | float, RATE] = 0.1,
    epsilon: Annotated[Array | float, SHARE] = 0.05,
) -> Learner:
    """Q-learning (Watkins 1989) on each episode in turn, from its last step to its first.

    The policy draws among the best actions, and with probability `epsilon` among all.
    """

    def policy(table: Array) -> Array:
        best = table >= table.max(-1, keepdims=True) - 1e-6
        return (1 - epsilon) * best / best.sum(-1, keepdims=True) + epsilon / table.shape[1]

    def update(table: Array, episodes: Episode) -> Array:
        def step(table: Array, x: tuple[Array, ...]) -> tuple[Array, None]:
            state, action, following, alive, given = x
            error = given + tables.discount * table[following].max() - table[state, action]
            return table.at[state, action].add(jnp.where(alive, learning_rate * error, 0.0)), None

        kept = (episodes.state, episodes.action, episodes.next_state, episodes.alive, episodes.given)
        in_turn = jax.tree.map(lambda x: x[:, ::-1].reshape(-1), kept)
        return jax.lax.scan(step, table, in_turn)[0]

    return Learner(policy, update)

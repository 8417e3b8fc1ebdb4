"""Processes that are tables, and exact planning in them, with discounting and without an end."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl.checks import COUNT, SHARE, within
from metarl.types import Array

TIE = 1e-8  # actions whose values differ by less, relative to the largest value, are equally good


class Tables(NamedTuple):
    """A process with S states and A actions. States in which every action stays and pays nothing are terminal."""

    transition: Array  # [S, A, S], probabilities of the next state
    reward: Array  # [S, A]
    start: Array  # () int32
    discount: float = 0.99
    length: int = 30  # steps of an episode

    @property
    def terminal(self) -> Array:
        """[S] bool."""
        stays = jnp.diagonal(self.transition, axis1=0, axis2=2).T > 1.0 - 1e-6  # [S, A]
        return (stays & (self.reward == 0)).all(-1)


def check(tables: Tables) -> None:
    """Raises ValueError if the shapes do not fit, if rows are no probabilities, or for a discount outside [0, 1)."""
    states, actions = tables.reward.shape
    if tables.transition.shape != (states, actions, states):
        wanted = f"[{states}, {actions}, {states}], as reward is [{states}, {actions}]"
        raise ValueError(f"transition must be {wanted}, got {list(tables.transition.shape)}")
    found = np.asarray(tables.transition, np.float64)
    if (found < 0).any() or not np.allclose(found.sum(-1), 1.0, atol=1e-4):
        raise ValueError("transition must have rows of probabilities that sum to 1")
    within(int, COUNT, length=tables.length)
    within(float, SHARE, discount=tables.discount)
    if tables.discount == 1:
        raise ValueError("discount must be below 1, got 1: values are those of a process without an end")


class Plan(NamedTuple):
    """What is best in a process without an end. numpy, float64."""

    value: np.ndarray  # [S]
    advantage: np.ndarray  # [S, A], at most 0
    best: np.ndarray  # [S, A] bool: the optimal actions, whose arbitrary mixtures are all the optimal policies

    @property
    def policy(self) -> np.ndarray:
        """[S, A], the uniform mixture of optimal actions."""
        return self.best / self.best.sum(-1, keepdims=True)

    @property
    def gap(self) -> np.ndarray:
        """[S], delta_s: how much worse the best of the other actions is; 0 where all actions are optimal."""
        worse = np.where(self.best, np.inf, -self.advantage).min(-1)
        return np.where(np.isfinite(worse), worse, 0.0)


def state_value(tables: Tables, reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Discounted value [S] of `policy` [S, A] under `reward` [S, A], in a process without an end. float64."""
    transition = rows(tables)
    moves = np.einsum("sa,sat->st", policy, transition)
    return np.linalg.solve(np.eye(len(moves)) - tables.discount * moves, (policy * reward).sum(-1))


def plan(tables: Tables, reward: np.ndarray | None = None) -> Plan:
    """The optimal actions under `reward` [S, A] (None: the process's own), by policy iteration.

    Raises ValueError by `check` of the tables.
    """
    check(tables)
    own = np.asarray(tables.reward if reward is None else reward, np.float64)
    transition = rows(tables)
    policy = np.eye(own.shape[1])[own.argmax(-1)]
    while True:
        value = state_value(tables, own, policy)
        action_value = own + tables.discount * transition @ value
        slack = TIE * max(1.0, np.abs(value).max())
        better = action_value.max(-1) > (policy * action_value).sum(-1) + 1e-3 * slack
        if not better.any():
            best = action_value.max(-1, keepdims=True)
            return Plan(value, action_value - best, action_value >= best - slack)
        policy = np.where(better[:, None], np.eye(own.shape[1])[action_value.argmax(-1)], policy)


def occupancy(tables: Tables, policy: np.ndarray) -> np.ndarray:
    """Discounted shares [S] of the time in each state, from the start on; those of terminal states are 0."""
    moves = np.einsum("sa,sat->st", policy, rows(tables))
    start = np.eye(len(moves))[int(tables.start)]
    shares = np.linalg.solve((np.eye(len(moves)) - tables.discount * moves).T, start)
    shares = np.where(np.asarray(tables.terminal), 0.0, shares)
    return shares / shares.sum()


def expected_return(tables: Tables, policy: Array) -> Array:
    """Expected discounted return () of one episode of `tables.length` steps of `policy` [S, A]."""
    moves, gain = jnp.einsum("sa,sat->st", policy, tables.transition), (policy * tables.reward).sum(-1)

    def step(now: Array, _: None) -> tuple[Array, Array]:
        return tables.discount * now @ moves, now @ gain

    start = jax.nn.one_hot(tables.start, len(moves))
    return jax.lax.scan(step, start, None, tables.length)[1].sum()


def best_return(tables: Tables) -> Array:
    """The highest expected discounted return () of an episode, of a policy that knows the time."""

    def backup(_: int, value: Array) -> Array:
        return (tables.reward + tables.discount * tables.transition @ value).max(-1)

    return jax.lax.fori_loop(0, tables.length, backup, jnp.zeros(len(tables.reward)))[tables.start]


def shaped_by(tables: Tables, value: np.ndarray) -> np.ndarray:
    """The expected reward [S, A] with the potential `value` [S]: `r + discount E value(s') - value(s)`."""
    return np.asarray(tables.reward, np.float64) + tables.discount * rows(tables) @ value - value[:, None]


def rows(tables: Tables) -> np.ndarray:
    """The transition [S, A, S] in float64. Digits that float32 lacks are rounded away: they would break ties."""
    found = np.round(np.asarray(tables.transition, np.float64), 6)
    return found / found.sum(-1, keepdims=True)

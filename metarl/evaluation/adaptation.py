"""Strategies compared on the same tasks: what each earns while it plays tasks that it does not know.

The tasks are equal for all of them, and so are the keys of their environments: differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, NamedTuple

import jax
import numpy as np

from metarl.checks import COUNT, checked
from metarl.evaluation.statistics import Interval, over_runs
from metarl.strategies import Strategy, play, returns
from metarl.types import Array, Environment, Key, Level, Levels, PyTree


class Played(NamedTuple):
    """What one strategy earned on n tasks of T steps."""

    action: np.ndarray  # [n, T, ...]
    reward: np.ndarray  # [n, T]
    episodes: np.ndarray  # [n, most episodes of a task] returns of the episodes that ended, then NaN

    @property
    def total(self) -> np.ndarray:
        """The sum of all rewards [n]."""
        return self.reward.sum(-1)


@checked
def play_tasks(
    env: Environment,
    strategies: Mapping[str, Strategy],
    problems: PyTree,
    key: Key,
    steps: Annotated[int, COUNT],
    batch_size: Annotated[int, COUNT] = 100,
) -> dict[str, Played]:
    """Every strategy plays `steps` steps of each task: `env` with one of `problems`, leaves [n, ...].

    `batch_size` tasks go side by side. Raises ValueError if a count is below 1.
    """
    keys = jax.random.split(key, len(jax.tree.leaves(problems)[0]))

    def one(strategy: Strategy, task: tuple[PyTree, Key]) -> tuple[Array, Array, Array]:
        found = play(env, strategy, *task, steps)
        return found.action, found.reward, returns(found, steps)

    def played(strategy: Strategy) -> Played:
        found = jax.jit(lambda tasks: jax.lax.map(partial(one, strategy), tasks, batch_size=batch_size))
        action, reward, episodes = (np.asarray(x) for x in found((problems, keys)))
        return Played(action, reward, episodes[:, : max(1, int(np.isfinite(episodes).sum(1).max()))])

    return {name: played(strategy) for name, strategy in strategies.items()}


def draw_tasks(levels: Levels, key: Key, count: int) -> Level:
    """`count` levels, leaves [count, ...]."""
    return jax.jit(jax.vmap(levels.sample))(jax.random.split(key, count))


def per_episode(played: Played) -> list[Interval]:
    """Mean return of each episode over the tasks that ended it, with its 95 % interval; those of at least two tasks."""
    columns = (column[np.isfinite(column)] for column in played.episodes.T)
    return [over_runs(column) for column in columns if len(column) > 1]

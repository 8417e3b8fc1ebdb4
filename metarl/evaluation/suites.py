"""Suites on which rules and ways of adapting are tested. A suite is a mapping; packages with environments build it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from metarl import checks
from metarl.checks import COUNT, POSITIVE, RATE, SHARE
from metarl.evaluation.trials import Tuned
from metarl.types import Levels


@dataclass(frozen=True)
class Entry:
    """An environment of a suite, and how its agents are tested.

    Raises ValueError for a budget that is not a positive whole number.
    """

    levels: Levels
    env_steps: Annotated[int, COUNT]  # that each agent learns from
    eval_episodes: Annotated[int, COUNT] = 16  # of each measurement
    tuned: Mapping[str, Tuned] = field(default_factory=dict)  # by `players.key`: settings from sweeps with this budget

    def __post_init__(self) -> None:
        checks.fields(self)


BINS = 10  # of curves over a task


@dataclass(frozen=True)
class Adaptation:
    """Tasks to be learned within some steps, by those that were meta-trained on `levels`.

    Raises ValueError for `steps` that cannot be cut into `BINS` parts of whole updates, and for tasks of another
    environment than that of `levels`: a network is for one size of observations and actions.
    """

    levels: Levels
    test: Mapping[str, Levels]  # the tasks, by the names of their distributions
    steps: Annotated[int, COUNT]  # environment steps on each task, those of parallel environments together
    num_envs: Annotated[int, COUNT] = 1  # of a learner that follows gradients
    rollout_length: Annotated[int, COUNT] = 10  # steps in each of them for an update
    maml_rate: Annotated[float, RATE] = 30.0  # of MAML's updates in training: tables need more than networks
    reward_scale: Annotated[float, POSITIVE] = 1.0  # of RL², whose returns of whole tasks should be of order 10
    episode_discount: Annotated[float, SHARE] = 0.97  # of RL²; 0 where every step pays alike, and only lengths differ

    def __post_init__(self) -> None:
        checks.fields(self)
        part = BINS * self.num_envs * self.rollout_length
        if self.steps % part:
            what = f"{BINS} * num_envs * rollout_length = {part}"
            raise ValueError(f"steps must be a multiple of {what}, got {self.steps}")
        env = self.levels.environment
        for name, levels in self.test.items():
            if levels.environment != env:
                raise ValueError(f"{name} must be of the environment {env} of training, got {levels.environment}")

    @property
    def updates(self) -> int:
        """Of a learner that follows gradients, on each task."""
        return self.steps // (self.num_envs * self.rollout_length)


Suite = Mapping[str, Entry]  # by the names of environments, from which their families are told

"""Suites of environments on which rules are tested. A suite is a mapping; packages with environments build suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from metarl import checks
from metarl.checks import COUNT
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


Suite = Mapping[str, Entry]  # by the names of environments, from which their families are told

"""Suites of environments on which rules are tested. A suite is a mapping; packages with environments build suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metarl.evaluation.baselines import Name, Trial
from metarl.types import Levels


@dataclass(frozen=True)
class Entry:
    """An environment of a suite, and how its agents are tested.

    Raises ValueError for a budget that is not a positive whole number.
    """

    levels: Levels
    env_steps: int  # that each agent learns from
    eval_episodes: int = 16  # of each measurement
    tuned: Mapping[Name, Trial] = field(default_factory=dict)  # the best settings of baselines with this budget

    def __post_init__(self) -> None:
        for name in ("env_steps", "eval_episodes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")


Suite = Mapping[str, Entry]  # by the names of environments, from which their families are told

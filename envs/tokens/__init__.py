"""Tasks whose prompts and answers are tokens, for sequence policies, and an environment for each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax.numpy as jnp

from envs.tokens.countdown import Countdown
from envs.tokens.digits import Addition, Sorting
from envs.tokens.environment import TokenEnv, TokenState, optimal_return
from envs.tokens.general_points import SPLITS, GeneralPoints
from envs.tokens.imperfect import Imperfect
from envs.tokens.rpn import Notation
from envs.tokens.turns import HintedSorting, Turns
from metarl import checks
from metarl.checks import COUNT, checked
from metarl.types import Key, Level, Levels, TokenTask

__all__ = [
    "SPLITS",
    "Addition",
    "Countdown",
    "GeneralPoints",
    "HintedSorting",
    "Imperfect",
    "Notation",
    "Sorting",
    "TokenEnv",
    "TokenState",
    "Turns",
    "distribution",
    "make_task",
    "names",
    "optimal_return",
]

_TASKS: dict[str, Callable[..., TokenTask]] = {
    "general_points": GeneralPoints,
    "countdown": Countdown,
    "sorting": Sorting,
    "hinted_sorting": HintedSorting,
    "addition": Addition,
}


def names() -> tuple[str, ...]:
    """Every name that `make_task` and `distribution` accept."""
    return tuple(_TASKS)


def make_task(name: str, **options: Any) -> TokenTask:
    """The task called `name`; `options` are the fields of its dataclass, such as `split="rule"`.

    Raises ValueError for an unknown name or option, and for invalid values.
    """
    checks.one_of(_TASKS, **{"token task": name})
    for option in options:
        checks.one_of(inspect.signature(_TASKS[name]).parameters, **{f"option of {name}": option})
    return _TASKS[name](**options)


@checked
def distribution(
    name: str, tries: Annotated[int, COUNT] = 1, horizon: Annotated[int, COUNT] = 100, **options: Any
) -> Levels:
    """Levels with one problem each of `make_task(name, **options)`, `tries` per episode and `horizon` agent updates.

    Raises ValueError for counts below 1, and as `make_task` does.
    """
    env = TokenEnv(make_task(name, **options), tries)

    def sample(key: Key) -> Level:
        return Level(env.task.sample(key), jnp.int32(horizon))

    return Levels(sample, env, optimal_return=partial(optimal_return, env))

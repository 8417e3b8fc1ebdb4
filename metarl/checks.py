"""Checks of arguments. Each raises a ValueError that names the argument, what would be valid, and the value.

Only numbers are checked: None passes, and so do JAX arrays, which may be tracers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any


def at_least(least: float, **values: Any) -> None:
    """Raises ValueError for the first number of `values` that is below `least`."""
    _check(lambda x: x >= least, f"at least {least}", values)


def positive(**values: Any) -> None:
    """Raises ValueError for the first number of `values` that is not positive and finite."""
    _check(lambda x: 0 < x < math.inf, "positive and finite", values)


def not_negative(**values: Any) -> None:
    """Raises ValueError for the first number of `values` that is negative or not finite."""
    _check(lambda x: 0 <= x < math.inf, "finite and not negative", values)


def share(**values: Any) -> None:
    """Raises ValueError for the first number of `values` that is not from 0 to 1."""
    _check(lambda x: 0 <= x <= 1, "from 0 to 1", values)


def decay(**values: Any) -> None:
    """Raises ValueError for the first number of `values` that is not from 0 to below 1."""
    _check(lambda x: 0 <= x < 1, "from 0 to below 1", values)


def one_of(choices: Iterable[Any], **values: Any) -> None:
    """Raises ValueError for the first of `values` that is not one of `choices`."""
    choices = tuple(choices)
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _check(valid: Callable[[Any], bool], what: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Real) and not valid(value):
            raise ValueError(f"{name} must be {what}, got {value}")

"""Checks of arguments against their annotations: what a field may be is declared once, where the field is.

    discount: Annotated[Array | float, SHARE] = 0.99
    start: Literal["ppo", "scratch"] = "ppo"

`checked` checks the arguments of a function, `fields` those of a dataclass or a NamedTuple. Both raise a ValueError
that names the argument, what would be valid, and the value. Of arrays the dtype is looked at, and the value if it is
one known number: not of tracers.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import jax
import numpy as np

P = ParamSpec("P")
T = TypeVar("T")
_INT32 = 2**31 - 1
_TINY = float(np.finfo(np.float32).tiny)  # accelerators round what is smaller to 0


class Bound(NamedTuple):
    """The numbers from `low` to `high`: with both, or without `low` (`above`), or without `high` (`below`)."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def fault(self, x: Any) -> str:
        """What the number `x` must be and is not; empty if it is within the bounds.

        A number that float32 rounds to an end of the interval is that end.
        """
        if x != x:
            return "a number, not NaN"
        if x < self.low or (self.above and abs(_rounded(x) - self.low) < _TINY):
            return f"{'above' if self.above else 'at least'} {self.low:g}" + " in float32" * (x > self.low)
        if x > self.high or (self.below and _rounded(x) == self.high):
            return f"{'below' if self.below else 'at most'} {self.high:.10g}" + " in float32" * (x < self.high)
        return ""


COUNT = Bound(1, _INT32)
COUNT_OR_ZERO = Bound(0, _INT32)
SEVERAL = Bound(2, _INT32)
WIDTH = Bound(1, 2**16)  # of a layer
SEED = Bound(0, 2**32 - 1)
POSITIVE = Bound(0, 1e9, above=True)
NOT_NEGATIVE = Bound(0, 1e9)
RATE = Bound(0, 1e5, above=True)  # of learning: tabular agents may follow their gradient at a rate of 160
SHARE = Bound(0, 1)
OPEN = Bound(0, 1, above=True, below=True)  # a share that has log odds
DECAY = Bound(0, 1, below=True)
FACTOR = Bound(0, 1, above=True)
_FINITE, _INTEGER = Bound(-3e38, 3e38), Bound(-_INT32 - 1, _INT32)


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates `function`: it raises ValueError for the first argument that its annotation does not allow.

    Numbers must be within the `Bound` of `Annotated`, and finite without one. Integers, switches and names must be what
    `int`, `bool` and `Literal` say, also as entries of a `tuple[..., ...]` or `Sequence[...]`. What is annotated as a
    `Callable` must be one. Other annotations are not looked at.
    """
    signature = inspect.signature(function)
    hints = functools.cache(lambda: get_type_hints(function, include_extras=True))  # later: they may name what follows

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError:  # Python's own message has the name of the function
            return function(*args, **kwargs)
        _check(arguments, hints())
        return function(*args, **kwargs)

    return call


def fields(record: Any) -> None:
    """Raises ValueError for the first field of a dataclass or NamedTuple that its annotation does not allow."""
    hints = _hints(cast(Any, type(record)))
    _check({name: getattr(record, name) for name in hints}, hints)


def within(kind: type, bound: Bound, **values: Any) -> None:
    """Raises ValueError for the first of `values` that is no `kind` (int, float) within the bound.

    For numbers that are not arguments of a function to decorate, or whose names are known at run time only.
    """
    _check(values, dict.fromkeys(values, Annotated[kind, bound]))


def one_of(choices: Iterable[Any], **values: Any) -> None:
    """Raises ValueError for the first of `values` that is not one of `choices`; for choices known at run time only."""
    _check(values, dict.fromkeys(values, Literal[tuple(choices)]))


def needed(module: str, extra: str) -> Any:
    """A module of a package that the `extra` installs. Raises ImportError naming the extra if there is no such package.

    Other errors of the import are left as they are.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # the package is there, and misses another one
            raise
        raise ImportError(f"{package} is not installed: pip install 'metarl-jax[{extra}]'") from error
    return importlib.import_module(module)


@functools.lru_cache
def _hints(of: Any) -> dict[str, Any]:
    return get_type_hints(of, include_extras=True)


def _rounded(x: Any) -> float:
    return float(np.float32(min(max(x, -_FINITE.high), _FINITE.high)))


def _check(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    for name, value in values.items():
        for place, entry, fault in _faults(name, value, hints.get(name)):
            raise ValueError(f"{place} must be {fault}, got {entry!r}")


def _faults(name: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, str]]:
    """(place, what is there, what it must be) of everything in `value` that `hint` does not allow."""
    if get_origin(hint) is Sequence or (get_origin(hint) is tuple and get_args(hint)[1:] == (...,)):
        if not isinstance(value, tuple | list):
            yield name, value, "a tuple"
            return
        for i, entry in enumerate(value):
            yield from _faults(f"{name}[{i}]", entry, get_args(hint)[0])
    elif fault := _fault(value, hint, None):
        yield name, value, fault


def _fault(value: Any, hint: Any, bound: Bound | None) -> str:
    """What `value` must be by `hint` and is not; empty if it is, and for annotations that are not looked at."""
    if get_origin(hint) is Annotated:
        own = next((x for x in hint.__metadata__ if isinstance(x, Bound)), bound)
        return _fault(value, hint.__origin__, own)
    if get_origin(hint) in (Union, types.UnionType):
        found = [_fault(value, x, bound) for x in get_args(hint) if x is not jax.Array]
        return " or ".join(dict.fromkeys(found)) if all(found) else ""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return "" if value in choices else f"one of {', '.join(map(str, choices))}"
    if get_origin(hint) is Callable:
        return "" if callable(value) else "a function"
    if hint is type(None):
        return "" if value is None else "None"
    if hint in (bool, int, float):
        return _fault_of_number(value, hint, bound)
    return ""


def _fault_of_number(value: Any, kind: type, bound: Bound | None) -> str:
    if isinstance(value, jax.Array | np.ndarray):
        if isinstance(value, jax.core.Tracer) or value.ndim:
            return "an integer" if kind is int and value.dtype.kind not in "iu" else ""
        value = value.item()
    if kind is bool:
        return "" if isinstance(value, bool | np.bool_) else "True or False"
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return "an integer" if kind is int else "a number"
    return (bound or (_INTEGER if kind is int else _FINITE)).fault(value)

"""What annotations allow."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl import checks
from metarl.checks import COUNT, DECAY, POSITIVE, RATE, SHARE, checked


@checked
def call(
    share: Annotated[jax.Array | float, SHARE] = 0.5,
    decay: Annotated[float, DECAY] = 0.9,
    rate: Annotated[float | None, RATE] = None,
    number: float = 0.0,
    count: Annotated[int, COUNT] = 1,
    counts: tuple[Annotated[int, COUNT], ...] = (),
    name: Literal["x", "y"] = "x",
    switch: bool = False,
    function: Callable[[int], int] | None = None,
    anything: str = "",
):
    return share


class Record(NamedTuple):
    count: Annotated[int, COUNT] = 1


@dataclass(frozen=True)
class Checked:
    scale: Annotated[float, POSITIVE] = 1.0

    def __post_init__(self):
        checks.fields(self)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("share", 2, "share must be at most 1, got 2"),
        ("share", -1, "share must be at least 0, got -1"),
        ("share", math.nan, "share must be a number, not NaN, got nan"),
        ("share", "yes", "share must be a number, got 'yes'"),
        ("share", None, "share must be a number, got None"),
        ("share", True, "share must be a number, got True"),
        ("decay", 1, "decay must be below 1, got 1"),
        ("decay", 1 - 1e-12, "decay must be below 1 in float32, got 0.999"),
        ("rate", 1e-42, "rate must be above 0 in float32 or None, got 1e-42"),
        ("rate", 0, "rate must be above 0 or None, got 0"),
        ("rate", 1e30, "rate must be at most 100000 or None, got 1e"),
        ("number", math.inf, "number must be at most"),
        ("count", 0, "count must be at least 1, got 0"),
        ("count", 2.5, "count must be an integer, got 2.5"),
        ("count", 10**20, "count must be at most 2147483647, got 100000000000000000000"),
        ("count", True, "count must be an integer, got True"),
        ("counts", (1, 0), "counts[1] must be at least 1, got 0"),
        ("counts", 5, "counts must be a tuple, got 5"),
        ("share", jnp.float32(2.0), "share must be at most 1, got Array(2."),
        ("share", np.array(math.nan), "share must be a number, not NaN, got array(nan)"),
        ("count", jnp.float32(2.5), "count must be an integer, got Array(2.5"),
        ("name", "z", "name must be one of x, y, got 'z'"),
        ("function", 3, "function must be a function or None, got 3"),
        ("switch", "yes", "switch must be True or False, got 'yes'"),
    ],
)
def test_an_argument_that_is_not_allowed_is_named_with_what_would_be(name, value, message):
    with pytest.raises(ValueError) as refused:
        call(**{name: value})
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "allowed",
    [
        {"share": 0, "decay": 0.999, "rate": 160.0, "count": np.int32(3), "counts": [1, 2], "name": "y"},
        {"share": np.float32(1.0), "rate": None, "switch": np.bool_(True), "anything": 3},
        {"share": jnp.ones(3), "rate": jnp.float32(7.0)},
        {"decay": 1 - 1e-6, "rate": 1e-30, "function": abs},
    ],
)
def test_what_is_allowed_passes(allowed):
    call(**allowed)


def test_positional_arguments_are_checked_and_tracers_pass():
    with pytest.raises(ValueError, match="share must be at most 1"):
        call(2)
    assert jax.jit(call)(jnp.float32(0.25)) == 0.25


def test_of_a_tracer_the_dtype_is_checked():
    with pytest.raises(ValueError, match="count must be an integer, got "):
        jax.jit(lambda x: call(count=x))(2.5)
    assert jax.jit(lambda x: call(count=x))(3) == 0.5


def test_a_wrong_name_is_told_with_the_function():
    with pytest.raises(TypeError, match=r"call\(\) got an unexpected keyword argument 'shar'"):
        call(shar=1)


def test_records_and_names_of_run_time():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        checks.fields(Record(0))
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        Checked(0.0)
    with pytest.raises(ValueError, match="x must be one of a, b, got 'c'"):
        checks.one_of(("a", "b"), x="c")
    with pytest.raises(ValueError, match="x must be above 0"):
        checks.within(float, POSITIVE, x=-1)


def test_a_package_that_lacks_another_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "has_a_fault.py").write_text("import is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'is_nowhere'"):
        checks.needed("has_a_fault", "test")
    with pytest.raises(ImportError, match=r"is_nowhere is not installed: pip install 'metarl-jax\[test\]'"):
        checks.needed("is_nowhere.inside", "test")
    assert checks.needed("math", "test") is math

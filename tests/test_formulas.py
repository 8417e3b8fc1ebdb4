"""Formulas as text: their values, and what is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.formulas import formula

X = jnp.array([-2.0, 0.5, 3.0])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2", 2.0),
        ("-x + 3 * y - x / 2", [6.0, 2.25, -1.5]),
        ("max(0, min(x, y))", [0.0, 0.5, 1.0]),
        ("abs(x) * tanh(y)", [1.5231884, 0.3807971, 2.2847826]),
        ("where(x >= 0.5, y, -1e-1)", [-0.1, 1.0, 1.0]),
        ("(1 - x) * (1 - x)", [9.0, 0.25, 4.0]),
    ],
)
def test_values_are_the_hand_worked_ones(text, values):
    found = jax.jit(lambda x, y: formula(text, ("x", "y"))(x=x, y=y))(X, jnp.ones(3))
    np.testing.assert_allclose(found, values, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x +", "is no formula"),
        ("z", "numbers, x, .* got 'z'"),
        ("x ** 2", r"got 'x \*\* 2'"),
        ("__import__('os')", "got .__import__"),
        ("x.real", "got 'x.real'"),
        ("max(x)", r"got 'max\(x\)'"),
        ("where(x, 1, 2)", r"got 'where\(x, 1, 2\)'"),
        ("True", "got 'True'"),
        ("'x'", "got \"'x'\""),
        ("x if x else 1", "got 'x if x else 1'"),
        ("x >= 1", "got 'x >= 1'"),
        ("tanh(x, x=1)", "got 'tanh"),
    ],
)
def test_what_is_no_formula_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        formula(text, ("x",))

"""Symbolic regression: known formulas are found, and texts say what their R^2 is of."""

import sys

import numpy as np
import pytest

from metarl.distil.symbolic import Fit, explained, regress, score, shortest, tidied

RANDOM = np.random.default_rng(0)
INPUTS = {"x": RANDOM.normal(size=300), "y": RANDOM.normal(size=300)}


def test_a_known_formula_is_found():
    target = 3.0 * np.maximum(INPUTS["x"] - 0.5 * INPUTS["y"], 0.0) - 1.0
    front = regress(INPUTS, target, evaluations=20_000)
    best = shortest(front, 1e-4)
    assert best.r2 > 0.9999 and best.length <= 15
    assert [fit.length for fit in front] == sorted(fit.length for fit in front)
    assert all(short.r2 < long.r2 for short, long in zip(front, front[1:], strict=False))
    other = {name: 2.0 * x for name, x in INPUTS.items()}  # not only where it was fitted
    assert score(best.text, other, 3.0 * np.maximum(other["x"] - 0.5 * other["y"], 0.0) - 1.0) > 0.999
    assert regress(INPUTS, target, evaluations=2_000) == regress(INPUTS, target, evaluations=2_000)


def test_noise_has_no_formula():
    fitted, other = RANDOM.normal(size=(2, 300))
    found = shortest(regress(INPUTS, fitted, evaluations=2_000, max_length=5))
    assert score(found.text, INPUTS, other) < 0.1


def test_a_constant_is_its_formula():
    assert regress(INPUTS, np.full(300, 2.5)) == [Fit(1, 1.0, "2.5")]


def test_the_share_of_variance_is_the_hand_worked_one():
    assert explained([1.0, 2.0, 3.0], [1.0, 2.0, 6.0]) == pytest.approx(1.0 - 3.0 / (14.0 / 3.0))
    assert score("x", {"x": [1.0, 2.0, 3.0]}, [1.0, 2.0, 3.0]) == 1.0
    assert score("2", {"x": [1.0, 2.0, 3.0]}, [1.0, 2.0, 3.0]) == 0.0


def test_the_shortest_formula_within_the_slack_is_taken():
    front = [Fit(3, 0.5, "a"), Fit(5, 0.985, "b"), Fit(9, 0.99, "c")]
    assert [shortest(front, slack).text for slack in (0.0, 0.02, 1.0)] == ["c", "b", "a"]
    with pytest.raises(ValueError, match="give it more evaluations"):
        shortest([])


@pytest.mark.parametrize(
    ("text", "tidy"),
    [
        ("((0.0) + (1.0 * (max(x, (2.0 * 3.0)))))", "max(x, 6.0)"),
        ("(x - (0.00001234567 + 0))", "x - 1.235e-05"),
        ("((0 * x) + y) + (1 - 1)", "y"),
        ("-(2) * x", "-2.0 * x"),
        ("x * (y + 1.0) - tanh(-x)", "x * (y + 1.0) - tanh(-x)"),
    ],
)
def test_formulas_are_tidied(text, tidy):
    assert tidied(text) == tidy


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyoperon", None)
    with pytest.raises(ImportError, match=r"pyoperon is not installed: pip install 'metarl-jax\[distil\]'"):
        regress(INPUTS, INPUTS["x"])


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="must be finite"):
        regress({"x": [1.0, np.nan]}, [1.0, 2.0])
    with pytest.raises(ValueError, match="max_length must be at least 3"):
        regress(INPUTS, INPUTS["x"], max_length=2)

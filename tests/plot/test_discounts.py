"""Lines over discounts: what is in the figure, and what is refused."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from metarl import plot

DISCOUNTS = (0.0, 0.5, 0.9)
BAND = (DISCOUNTS, np.array([0.1, 0.5, 0.3]), np.zeros(3), np.ones(3))


def test_levels_are_thin_lines_below_those_of_the_means():
    rows = np.random.default_rng(0).random((4, 3))
    figure = plot.over_discounts({"young": {"y": BAND}, "old": {"y": BAND, "control": BAND}}, {"old": rows}, "R2")
    young, old = figure.axes
    assert [axis.get_title(loc="left") for axis in (young, old)] == ["young", "old"]
    assert (len(young.lines), len(old.lines)) == (1, 6) and young.get_ylabel() == "R2"
    thin = [line for line in old.lines if line.get_linewidth() < 1]
    np.testing.assert_array_equal([line.get_ydata() for line in thin], rows)
    assert {to_hex(line.get_color()) for line in thin} == {plot.BLUE}
    np.testing.assert_allclose(thin[0].get_xdata(), [1.0, 2.0, 10.0])
    assert [text.get_text() for text in old.get_xticklabels()] == ["0", ".5", ".9"]


@pytest.mark.parametrize(
    ("bands", "levels", "says"),
    [
        ({}, None, "no lines to draw"),
        ({"x": {"y": ((0.5, 1.0), *[np.zeros(2)] * 3)}}, None, r"x, y: discounts must be in \[0, 1\)"),
        ({"x": {"y": BAND}}, {"x": np.zeros((2, 4))}, "a value per discount, 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(bands, levels, says):
    with pytest.raises(ValueError, match=says):
        plot.over_discounts(bands, levels)

"""Figures of sweeps: what is in them, and what is refused."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from metarl import plot

NAN = float("nan")
MEMBERS = [{"rate": rate, "optimizer": name} for rate in (1e-2, 1e-3) for name in ("sgd", "adam")]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def best_cell(values):
    """Row and column of the outlined cell."""
    axis = plot.grid(values, [1e-3, 1e-2], ["adam", "sgd", "lion"], "rate", "optimizer").axes[0]
    (outline,) = [patch for patch in axis.patches if to_hex(patch.get_edgecolor()) == plot.COLOURS[1]]
    return outline.get_y(), outline.get_x()


@pytest.mark.filterwarnings("error")
def test_a_grid_has_its_numbers_the_best_outlined_and_the_diverged_named():
    values = [[3.0, 2.0, NAN], [1.0, 2.0, np.inf]]
    figure = plot.grid(values, [1e-3, 1e-2], ["adam", "sgd", "lion"], "rate", "optimizer", "IQM")
    axis, bar = figure.axes
    assert texts(axis) == ["3", "2", "diverged", "1", "2", "diverged"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["adam", "sgd", "lion"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0.001", "0.01"]
    assert (axis.get_xlabel(), axis.get_ylabel(), bar.get_ylabel()) == ("optimizer", "rate", "IQM")
    figure.canvas.draw()
    assert best_cell(values) == (0, 0)
    assert best_cell([[1.0, NAN, 2.0], [1.0, NAN, 3.0]]) == (1, 2)
    assert best_cell(np.zeros((2, 3))) == (0, 0)


@pytest.mark.filterwarnings("error")
def test_parallel_axes_have_a_line_per_member_and_the_best_on_top():
    figure = plot.parallel(MEMBERS, [0.5, 0.7, NAN, 0.1], "IQM")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["rate", "optimizer", "IQM"]
    ends = [(line.get_ydata()[-1], line.get_linestyle()) for line in axis.lines]
    assert [height for height, _ in ends] == pytest.approx([-0.12, 0.0, 2 / 3, 1.0])
    assert [style for _, style in ends] == ["--", "-", "-", "-"]
    assert texts(axis)[:4] == ["0.001", "0.01", "sgd", "adam"]  # numbers in order, names as they come
    assert texts(axis)[-1] == "diverged"
    lower, upper = (line.get_ydata()[0] for line in (axis.lines[1], axis.lines[2]))
    assert lower < 0.5 < upper  # the member with the rate 0.001 is below those with 0.01
    figure.canvas.draw()


@pytest.mark.filterwarnings("error")
def test_one_member_and_given_axes_are_drawn():
    figure, (left, right) = plot.panels(2)
    assert plot.parallel(MEMBERS[:1], [0.5], axis=left) is figure
    assert plot.grid([[1.0]], [1], [1], axis=right) is figure
    assert len(left.lines) == 1 and texts(right) == ["1"]
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plot.grid([[1.0, 2.0]], [1], [1]), r"need values of shape \(1, 1\).* got \(1, 2\)"),
        (lambda: plot.grid([[NAN]], [1], [1]), "no cell of the grid is finite"),
        (lambda: plot.parallel([], []), "no members to draw"),
        (lambda: plot.parallel([{"a": 1}, {"b": 1}], [1, 2]), r"need the hyperparameters \['a'\], got \['b'\]"),
        (lambda: plot.parallel(MEMBERS, [1.0]), r"need 4 scores .* got shape \(1,\)"),
        (lambda: plot.parallel(MEMBERS, [NAN] * 4), "need 4 scores of which one is finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()

"""Figures of estimates and their intervals: what is in them, and what is refused."""

import pytest

from metarl import plot

ROW = {"iqm": (0.5, 0.4, 0.6), "optimality_gap": (0.5, 0.4, 0.7)}


def names_of(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


@pytest.mark.filterwarnings("error")
def test_intervals_have_a_row_per_name_and_the_reference():
    figure = plot.intervals({"a over b": (0.7, 0.6, 0.8), "c": (0.5, 0.5, 0.5)}, "probability", reference=0.5)
    (axis,) = figure.axes
    reference, interval, dot, *_ = axis.lines
    assert list(reference.get_xdata()) == [0.5, 0.5]
    assert list(interval.get_xdata()) == [0.6, 0.8] and list(dot.get_xdata()) == [0.7]
    assert names_of(axis) == ["a over b", "c"]
    assert axis.get_xlabel() == "probability (mean and 95 % interval)"
    figure.canvas.draw()


def test_intervals_are_drawn_on_a_given_axis():
    figure, (left, right) = plot.panels(2)
    assert plot.intervals({"a": (0.7, 0.6, 0.8)}, axis=right) is figure
    assert len(right.lines) == 2 and not left.lines


@pytest.mark.filterwarnings("error")
def test_aggregates_have_a_panel_per_statistic():
    figure = plot.aggregates({"a": ROW, "b": ROW})
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["IQM \u2192", "\u2190 optimality gap"]
    assert [names_of(axis) for axis in figure.axes][0] == ["a", "b"]
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plot.intervals({}), "no results to draw"),
        (lambda: plot.intervals({"lpg": (1.0, 0.0, 0.5)}), "lpg: the mean 1.0 is outside its interval"),
        (lambda: plot.aggregates({}), "no results to draw: no names"),
        (lambda: plot.aggregates({"a": ROW, "b": {}}), r"no results to draw: \['b'\]"),
        (lambda: plot.aggregates({"a": ROW, "b": {"iqm": (0, 0, 0)}}), "b: need the statistics .* got"),
        (lambda: plot.aggregates({"a": {"iqm": (1.0, 0.0, 0.5)}}), "a, iqm: the mean 1.0 is outside"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()

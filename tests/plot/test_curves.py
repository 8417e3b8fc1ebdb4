"""Lines: what is in the figures, and what is refused."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from metarl import plot

X = np.linspace(0.0, 20_000.0, 5)
CURVE = (X, X / 2e4, X / 2e4 - 0.1, X / 2e4 + 0.1)
LOG = {"loss": np.linspace(1, 0, 50), "mean_regret": np.random.default_rng(0).random((50, 4))}


def labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def row(*means):
    return {10 * 2**i: (mean, mean - 0.1, mean + 0.2) for i, mean in enumerate(means)}


@pytest.mark.filterwarnings("error")
def test_learning_curves_have_a_panel_per_metric_and_a_band_for_several_lifetimes():
    figure = plot.learning_curves(LOG)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["loss", "mean regret"]
    assert [len(axis.lines) for axis in figure.axes] == [2, 2]  # the mean, and that smoothed
    assert [len(axis.collections) for axis in figure.axes] == [0, 1]
    figure.canvas.draw()
    own, axes = plot.panels(2)
    assert plot.learning_curves(LOG, ["mean_regret", "loss"], axes=axes) is own
    assert axes[1].get_title(loc="left") == "loss" and axes[1].lines[0].get_xdata()[-1] == 50


@pytest.mark.filterwarnings("error")
def test_lines_have_names_dots_and_a_reference():
    x = np.array([1.0, 10.0])
    curves = {"a": (x, x), "b": (x, -x)}
    figure = plot.lines(curves, "seconds", "cosine", "log", {"a": (2.0, 0.5)}, reference=1.0)
    (axis,) = figure.axes
    assert labels(axis) == ["a", "b"] and len(axis.lines) == 4
    assert (axis.get_xscale(), axis.get_xlabel(), axis.get_ylabel()) == ("log", "seconds", "cosine")
    figure.canvas.draw()
    own, axes = plot.panels(2)
    assert plot.lines(curves, axis=axes[1]) is own
    assert axes[1].get_xscale() == "linear" and not axes[0].lines


@pytest.mark.filterwarnings("error")
def test_lines_over_horizons_have_a_panel_for_differences():
    results = {"a": row(0.1, 0.3, 0.5), "b": row(0.2)}
    figure = plot.over_horizons(results, "return", trained=(5, 20))
    (axis,) = figure.axes
    assert labels(axis) == ["trained on", "a", "b"] and axis.get_ylabel() == "return"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["10", "20", "40"]
    both = plot.over_horizons(results | {"a minus b": row(-0.1)}, "return", trained=(10, 10))
    assert [labels(axis)[1:] for axis in both.axes] == [["a", "b"], ["a minus b"]]
    assert both.axes[1].get_ylabel() == "difference of return"
    assert both.get_size_inches()[1] == 2 * figure.get_size_inches()[1]
    assert len(plot.over_horizons({"a minus b": row(-0.1, 0.1)}).axes) == 1
    assert plot.over_horizons(results, axes=both.axes[:1]) is both
    figure.canvas.draw()


@pytest.mark.filterwarnings("error")
def test_tasks_are_at_most_four_side_by_side_and_names_keep_their_colours():
    four, five = (
        plot.sample_efficiency({f"task {i}": {"a": CURVE, "b": CURVE} for i in range(tasks)}, "steps", "return")
        for tasks in (4, 5)
    )
    assert len(four.axes) == 4 and len(five.axes) == 5
    assert tuple(five.get_size_inches()) == (four.get_size_inches()[0], 2 * four.get_size_inches()[1])
    assert [text.get_text() for text in five.legends[0].get_texts()] == ["a", "b"]
    assert [axis.get_xlabel() for axis in five.axes] == ["", "steps", "steps", "steps", "steps"]
    assert [axis.get_ylabel() for axis in five.axes] == ["return", "", "", "", "return"]
    mixed = plot.sample_efficiency({"first": {"a": CURVE}, "second": {"b": CURVE, "a": CURVE}})
    assert [to_hex(line.get_color()) for line in mixed.axes[1].lines] == [plot.COLOURS[1], plot.COLOURS[0]]
    five.canvas.draw()


def test_trajectories_are_the_mean_and_the_range_of_runs():
    figure = plot.trajectories({"task": {"a": (np.arange(2), [[0.0, 1.0], [2.0, 5.0]])}}, "steps", "return")
    (axis,) = figure.axes
    assert list(axis.lines[0].get_ydata()) == [1.0, 3.0]
    assert set(axis.collections[0].get_paths()[0].vertices[:, 1]) == {0.0, 1.0, 2.0, 5.0}


@pytest.mark.filterwarnings("error")
def test_profiles_have_a_legend_beside_them_or_on_the_given_axis():
    figure = plot.profiles({"a": CURVE, "b": CURVE}, "return")
    (axis,) = figure.axes
    assert axis.get_legend() is None and [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert axis.get_ylabel() == "share of runs with return > \u03c4"
    figure.canvas.draw()
    own, axes = plot.panels(2)
    assert plot.profiles({"a": CURVE}, axis=axes[1]) is own
    assert labels(axes[1]) == ["a"] and not own.legends


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (
            lambda: plot.learning_curves(LOG, ["los"]),
            r"no such metrics: \['los'\]; the log has \['loss', 'mean_regret'\]",
        ),
        (lambda: plot.learning_curves({}), r"no such metrics: \[\]"),
        (lambda: plot.learning_curves(LOG, axes=plot.panels(3)[1]), "need 2 axes, got 3"),
        (lambda: plot.lines({}), "no lines to draw"),
        (lambda: plot.lines({"a": (X, X[1:])}), r"a: need \(x, y\), both \[n\], got shapes \(5,\) and \(4,\)"),
        (lambda: plot.over_horizons({}), "no results to draw: no names"),
        (lambda: plot.over_horizons({"a": row(0.1), "b": {}}), r"no results to draw: \['b'\]"),
        (lambda: plot.over_horizons({"a": {0: (0.0, 0.0, 0.0)}}), "horizons must be positive, got 0"),
        (lambda: plot.over_horizons({"a": {5: (0.3, 0.0, 0.2)}}), "a at horizon 5: the mean 0.3 is outside"),
        (lambda: plot.over_horizons({"a": {5: (float("nan"), 0.0, 0.2)}}), "a at horizon 5: the mean nan is outside"),
        (lambda: plot.trajectories({"empty": {}}), r"no lines to draw: \['empty'\]"),
        (lambda: plot.sample_efficiency({}), "no lines to draw: no names"),
        (lambda: plot.sample_efficiency({"task": {"a": CURVE}, "empty": {}}), r"no lines.*\['empty'\]"),
        (lambda: plot.sample_efficiency({"task": {"a": (X, X)}}), r"task, a: need \(x, mean, low, high\)"),
        (lambda: plot.profiles({}), "no profiles to draw"),
        (lambda: plot.profiles({"a": (X, X, X, X[1:])}), r"a: need \(x, mean, low, high\), all \[n\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()


def test_smoothing_has_no_lag_and_leaves_gaps_out():
    line = np.arange(100.0)
    np.testing.assert_allclose(plot.smoothed(line)[2:-2], line[2:-2])
    step = plot.smoothed(np.array([1.0] * 50 + [2.0] * 50))
    assert (step[49] + step[50]) / 2 == 1.5
    gap = np.where(np.arange(100) == 40, np.nan, line)
    assert abs(plot.smoothed(gap)[41] - 41) < 1
    noise = np.random.default_rng(0).normal(size=400)
    assert plot.smoothed(noise).std() < 0.4

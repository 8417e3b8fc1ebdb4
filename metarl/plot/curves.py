"""Lines over meta-steps, environment steps, lifetimes and scores, with bands of uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.plot.estimates import Interval, check_interval
from metarl.plot.figure import BLUE, COLOURS, GREY, coloured, legend, one_panel, panels, require_items

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Band = tuple[Any, Any, Any, Any]  # x, mean, low, high: all [n]


def learning_curves(
    log: Mapping[str, np.ndarray], keys: Iterable[str] | None = None, axes: Sequence[Axes] | None = None
) -> Figure:
    """One panel per metric of a log (name -> [steps, ...]): its mean per meta-step in grey, and `smoothed` in blue.

    If a metric has more axes, the band is between their quartiles. `keys` selects and orders the panels (default: all).
    Raises ValueError if a key is not in the log, or if there are no keys.
    """
    names = list(log) if keys is None else list(keys)
    missing = [name for name in names if name not in log]
    if missing or not names:
        raise ValueError(f"no such metrics: {missing}; the log has {list(log)}")
    figure, axes = panels(len(names), 3, axes=axes)
    for name, axis in zip(names, axes, strict=True):
        _learning_curve(axis, np.asarray(log[name], float).reshape(len(log[name]), -1))
        axis.set_title(name.replace("_", " "), loc="left", fontsize=11)
        axis.set(xlabel="meta-step", xmargin=0.01)
        axis.locator_params(axis="x", integer=True, nbins=5)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))
    return figure


def _learning_curve(axis: Axes, values: np.ndarray) -> None:
    steps, mean = np.arange(1, len(values) + 1), values.mean(1)
    if values.shape[1] > 1:
        low, high = np.quantile(values, [0.25, 0.75], axis=1)
        axis.fill_between(steps, smoothed(low), smoothed(high), color=BLUE, alpha=0.15, linewidth=0)
    axis.plot(steps, mean, color=GREY, alpha=0.6, linewidth=0.8)
    axis.plot(steps, smoothed(mean), color=BLUE, linewidth=1.8, marker="o" if len(steps) == 1 else None)


def lines(
    curves: Mapping[str, tuple[Any, Any]],
    x_label: str = "",
    y_label: str = "",
    x_scale: str = "linear",
    dots: Mapping[str, tuple[float, float]] | None = None,
    reference: float | None = None,
    axis: Axes | None = None,
) -> Figure:
    """One line per name. `curves` is name -> (x [n], y [n]); `dots`, name -> (x, y), adds one dot to some of the lines.

    `x_scale` is "linear" or "log". A dashed horizontal line marks `reference`.
    Raises ValueError if there is nothing to draw, or if the lengths of an x and its y differ.
    """
    require_items("lines", curves)
    for name, (x, y) in curves.items():
        if np.ndim(x) != 1 or np.shape(x) != np.shape(y):
            raise ValueError(f"{name}: need (x, y), both [n], got shapes {np.shape(x)} and {np.shape(y)}")
    figure, axis = one_panel((7.0, 4.2), axis)
    if reference is not None:
        axis.axhline(reference, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    for (name, (x, y)), colour in coloured(curves.items()):
        axis.plot(x, y, color=colour, linewidth=1.8, label=name)
        if dots and name in dots:
            axis.plot(*dots[name], "o", color=colour, markersize=5)
    axis.set(xscale=x_scale, xlabel=x_label, ylabel=y_label)
    legend([axis], beside=False)
    return figure


def over_horizons(
    results: Mapping[str, Mapping[int, Interval]],
    label: str = "score",
    trained: tuple[int, int] | None = None,
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """One line per name with its 95 % interval over lifetimes; `results` is name -> {horizon: (mean, low, high)}.

    Names that contain " minus " are differences, and have their own panel below, the second of `axes`. The lifetimes of
    the meta-training, from `trained[0]` to `trained[1]`, are shaded.
    Raises ValueError if there is nothing to draw, a horizon is not positive, or an interval does not contain its mean.
    """
    _check_horizons(results)
    differences = [name for name in results if " minus " in name]
    groups = [names for names in ([name for name in results if name not in differences], differences) if names]
    figure, axes = panels(len(groups), 1, (6.8, 3.6), axes=axes)
    ticks = sorted({horizon for row in results.values() for horizon in row})
    for axis, names in zip(axes, groups, strict=True):
        if trained:
            axis.axvspan(*trained, facecolor="#eef0f2", edgecolor=GREY, linewidth=0.8, zorder=0, label="trained on")
        if names is differences:
            axis.axhline(0.0, color=GREY, linewidth=1.2)
        for name, colour in coloured(names):
            x = sorted(results[name])
            mean, low, high = np.array([results[name][horizon] for horizon in x], float).T
            _band(axis, (x, mean, low, high), color=colour, marker="o", markersize=5, label=name)
        axis.set(xscale="log", xlabel="lifetime in agent updates")
        axis.set_ylabel(f"difference of {label}" if names is differences else label)
        axis.set_xticks(ticks, [str(horizon) for horizon in ticks])
        axis.minorticks_off()
        legend([axis], beside=False)
    axes[0].set_title("mean and 95 % interval", loc="left", fontsize=11)
    return figure


def trajectories(runs: Mapping[str, Mapping[str, tuple[Any, Any]]], x_label: str = "", y_label: str = "") -> Figure:
    """`sample_efficiency` from single runs. `runs` is title -> {name: (x [n], y [runs, n])}.

    A line is the mean of its runs, and its band is their range. Raises ValueError if a panel is empty.
    """

    def band(x: Any, y: Any) -> Band:
        values = np.atleast_2d(np.asarray(y, float))
        return x, values.mean(0), values.min(0), values.max(0)

    bands = {title: {name: band(*run) for name, run in panel.items()} for title, panel in runs.items()}
    return sample_efficiency(bands, x_label, y_label)


def sample_efficiency(curves: Mapping[str, Mapping[str, Band]], x_label: str = "", y_label: str = "") -> Figure:
    """Lines with bands, in one panel per task, with at most four panels in a row.

    `curves` is task -> {name: (x, mean, low, high)}, all [n]. A name has the same colour in every panel. Raises
    ValueError if a panel is empty, or if the four arrays differ in length.
    """
    require_items("lines", curves)
    names = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    for title, panel in curves.items():
        for name, curve in panel.items():
            _check_band(f"{title}, {name}", curve)
    styles = {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":", "-.")[i // len(COLOURS) % 4]}
        for i, name in enumerate(names)
    }
    columns = min(len(curves), 4)
    width = 4.8 - 0.6 * (columns - 1)
    figure, axes = panels(len(curves), columns, (width, 0.8 * width), beside=1.6)
    for axis, (title, panel) in zip(axes, curves.items(), strict=True):
        for name, curve in panel.items():
            _band(axis, curve, label=name, **styles[name])
        axis.set_title(title, loc="left", fontsize=11)
        axis.margins(x=0.01)
        _shorten_thousands(axis, max(np.max(x) for x, *_ in panel.values()))
    for axis in axes[-columns:]:  # no panel is below these
        axis.set_xlabel(x_label)
    for axis in axes[::columns]:
        axis.set_ylabel(y_label)
    legend(axes, beside=True)
    return figure


def profiles(curves: Mapping[str, Band], label: str = "normalised score", axis: Axes | None = None) -> Figure:
    """Performance profiles: the share of runs above each score, with its 95 % band. Higher is better.

    `curves` is name -> (thresholds, mean, low, high), all [n]; the last three come from
    `metarl.evaluation.statistics.performance_profile`. Raises ValueError if there is nothing to draw, or if the four
    arrays differ in length.
    """
    require_items("profiles", curves)
    for name, curve in curves.items():
        _check_band(name, curve)
    figure, drawn = one_panel((7.6, 4.0), axis)
    for (name, curve), colour in coloured(curves.items()):
        _band(drawn, curve, color=colour, label=name)
    drawn.axhline(0.5, color=GREY, linewidth=1.0, linestyle="--", zorder=1)  # crossed at the median run
    drawn.set(ylim=(-0.02, 1.02), xmargin=0.01)
    drawn.set(xlabel=f"{label} \u03c4", ylabel=f"share of runs with {label} > \u03c4")
    legend([drawn], beside=axis is None)
    return figure


def smoothed(values: np.ndarray) -> np.ndarray:
    """A centred moving mean [n] of `values` [n] over a twentieth of the curve, and half of that at its ends.

    Values that are not finite are left out.
    """
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    index, half = np.arange(len(values)), len(values) // 40
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (total[high] - total[low]) / (count[high] - count[low])


def _check_horizons(results: Mapping[str, Mapping[int, Interval]]) -> None:
    require_items("results", results)
    for name, row in results.items():
        if min(row) <= 0:
            raise ValueError(f"horizons must be positive, got {min(row)}")
        for horizon, interval in row.items():
            check_interval(f"{name} at horizon {horizon}", *interval)


def _check_band(name: str, curve: Sequence[Any]) -> None:
    shapes = [np.shape(values) for values in curve]
    if len(shapes) != 4 or len(shapes[0]) != 1 or not shapes[0][0] or len(set(shapes)) > 1:
        raise ValueError(f"{name}: need (x, mean, low, high), all [n] of one n >= 1, got shapes {shapes}")


def _band(axis: Axes, curve: Band, color: str, **style: Any) -> None:
    x, mean, low, high = curve
    axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axis.plot(x, mean, color=color, linewidth=1.8, **style)


def _shorten_thousands(axis: Axes, highest: float) -> None:
    """Ticks such as 500k and 1M, from ten thousand on."""
    from matplotlib.ticker import EngFormatter

    if highest >= 10_000:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.locator_params(axis="x", nbins=5)

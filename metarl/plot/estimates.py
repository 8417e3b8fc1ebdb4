"""Estimates as dots on their confidence intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING

from metarl.plot.figure import BLUE, COLOURS, GREY, one_panel, panels, require_items

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = tuple[float, float, float]  # estimate, low, high
TITLES = {
    "iqm": "IQM \u2192",
    "median": "median \u2192",
    "mean": "mean \u2192",
    "optimality_gap": "\u2190 optimality gap",
}


def intervals(
    results: Mapping[str, Interval],
    label: str = "score",
    reference: float | None = None,
    axis: Axes | None = None,
) -> Figure:
    """One row per name: its mean as a dot on its 95 % interval. `results` is name -> (mean, low, high).

    `label` names the values. A dashed line marks `reference`, the value that means no effect: 0.5 for probabilities of
    improvement, 0 for differences.
    Raises ValueError if there is nothing to draw, or if an interval does not contain its mean.
    """
    require_items("results", results)
    for name, interval in results.items():
        check_interval(name, *interval)
    figure, axis = one_panel((5.4 + 0.1 * max(map(len, results)), 1.1 + 0.36 * len(results)), axis)
    if reference is not None:
        axis.axvline(reference, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    _dots(axis, results, [BLUE])
    axis.set_xlabel(f"{label} (mean and 95 % interval)")
    return figure


def aggregates(results: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """One panel per statistic of normalised scores, with each name's estimate as a dot on its 95 % interval.

    `results` is name -> {statistic: (estimate, low, high)}, as from `metarl.evaluation.statistics.aggregates`. All
    names have the same statistics. Raises ValueError if there is nothing to draw, if the statistics differ, or if an
    interval does not contain its estimate.
    """
    require_items("results", results)
    statistics = list(next(iter(results.values())))
    for name, row in results.items():
        if set(row) != set(statistics):
            raise ValueError(f"{name}: need the statistics {statistics}, got {list(row)}")
        for statistic, interval in row.items():
            check_interval(f"{name}, {statistic}", *interval)
    size = (2.5, 1.25 + 0.36 * len(results))
    figure, axes = panels(len(statistics), len(statistics), size, beside=0.1 * max(map(len, results)))
    for axis, statistic in zip(axes, statistics, strict=True):
        _dots(axis, {name: row[statistic] for name, row in results.items()}, COLOURS)
        axis.set_title(TITLES.get(statistic, statistic), loc="left", fontsize=11)
        axis.tick_params(axis="y", labelleft=axis is axes[0])
        axis.locator_params(axis="x", nbins=4)
    figure.supxlabel("normalised score (estimate and 95 % interval)", fontsize=10)
    return figure


def check_interval(name: str, mean: float, low: float, high: float) -> None:
    """Raises ValueError if the mean is outside its interval, or one of the three is NaN."""
    if not low <= mean <= high:
        raise ValueError(f"{name}: the mean {mean} is outside its interval [{low}, {high}]")


def _dots(axis: Axes, results: Mapping[str, Interval], colours: Iterable[str]) -> None:
    """Each name's (mean, low, high) as a dot on a line, with the first name at the top."""
    for row, ((mean, low, high), colour) in enumerate(zip(results.values(), cycle(colours), strict=False)):
        axis.plot([low, high], [row, row], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="round")
        axis.plot(mean, row, "o", color=colour, markersize=6.5)
    axis.set_yticks(range(len(results)), list(results))
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)

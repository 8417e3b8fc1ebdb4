"""Figures as PNG files. matplotlib is imported when a figure is drawn, and needs no display."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

BLUE, GREY = "#1f6fb4", "#9aa4ad"


def learning_curves(log: Mapping[str, np.ndarray], path: str | Path, keys: Iterable[str] | None = None) -> None:
    """One panel per metric of a log (name -> [steps, ...]): its mean per meta-step, and that smoothed.

    Where a metric has more axes, the band holds its middle half. `keys` picks and orders the panels (default: all).
    Raises ValueError if a key is not in the log or nothing is left to draw.
    """
    names = list(log) if keys is None else list(keys)
    missing = [name for name in names if name not in log]
    if missing or not names:
        raise ValueError(f"no such metrics: {missing}; the log has {list(log)}")
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure, axes = _figure(rows, columns, (4.2 * columns, 2.9 * rows))
    for name, axis in zip(names, axes, strict=False):
        values = np.asarray(log[name], float).reshape(len(log[name]), -1)
        steps = np.arange(1, len(values) + 1)
        mean = values.mean(1)
        smooth = smoothed(mean)
        if values.shape[1] > 1:
            low, high = np.quantile(values, [0.25, 0.75], axis=1)
            axis.fill_between(steps, smoothed(low), smoothed(high), color=BLUE, alpha=0.15, linewidth=0)
        axis.plot(steps, mean, color=GREY, alpha=0.6, linewidth=0.8)
        axis.plot(steps, smooth, color=BLUE, linewidth=1.8, marker="o" if len(steps) == 1 else None)
        axis.set_title(name.replace("_", " "), loc="left", fontsize=11)
        axis.set_xlabel("meta-step")
        axis.margins(x=0.01)
        axis.xaxis.get_major_locator().set_params(integer=True, nbins=5)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))
    for axis in axes[len(names) :]:
        axis.remove()
    figure.savefig(path, dpi=150)


def intervals(results: Mapping[str, tuple[float, float, float]], path: str | Path, label: str = "score") -> None:
    """Each name's mean as a dot on its 95 % interval, one below the other; `results` is name -> (mean, low, high).

    Raises ValueError if there is nothing to draw or an interval does not hold its mean.
    """
    if not results:
        raise ValueError("no results to draw")
    for name, (mean, low, high) in results.items():
        if not low <= mean <= high:
            raise ValueError(f"{name}: the mean {mean} is outside its interval [{low}, {high}]")
    figure, (axis,) = _figure(1, 1, (6.4, 1.1 + 0.36 * len(results)))
    for row, (mean, low, high) in enumerate(results.values()):
        axis.plot([low, high], [row, row], color=BLUE, linewidth=2.2, alpha=0.55, solid_capstyle="round")
        axis.plot(mean, row, "o", color=BLUE, markersize=6.5)
    axis.set_yticks(range(len(results)), list(results))
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.set_xlabel(f"{label} (mean and 95 % interval)")
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    figure.savefig(path, dpi=150)


def smoothed(values: np.ndarray) -> np.ndarray:
    """A centred moving mean over a twentieth of the curve (half of that at its ends); leaves NaN and infinity out."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    index, half = np.arange(len(values)), len(values) // 40
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (total[high] - total[low]) / (count[high] - count[low])


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # not pyplot: no global state, no display
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.grid(color="#e3e6e8", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9, color=GREY)
    return figure, axes

"""Figures as PNG files. matplotlib is imported when a figure is drawn, and needs no display."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

BLUE, GREY = "#1f6fb4", "#9aa4ad"
COLOURS = (BLUE, "#d9822b", "#2f9e77", "#8a5aa8", "#c2455d", "#6b7680")  # of several lines in one panel


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
    for name, interval in results.items():
        _check_interval(name, *interval)
    figure, (axis,) = _figure(1, 1, (5.4 + 0.1 * max(map(len, results)), 1.1 + 0.36 * len(results)))
    for row, (mean, low, high) in enumerate(results.values()):
        axis.plot([low, high], [row, row], color=BLUE, linewidth=2.2, alpha=0.55, solid_capstyle="round")
        axis.plot(mean, row, "o", color=BLUE, markersize=6.5)
    axis.set_yticks(range(len(results)), list(results))
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.set_xlabel(f"{label} (mean and 95 % interval)")
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    figure.savefig(path, dpi=150)


def over_horizons(
    results: Mapping[str, Mapping[int, tuple[float, float, float]]],
    path: str | Path,
    label: str = "score",
    trained: tuple[int, int] | None = None,
) -> None:
    """One line per name with its 95 % interval over lifetimes; `results` is name -> {horizon: (mean, low, high)}.

    Names with " minus " in them are differences: they have a panel of their own below. The shade is the range of
    lifetimes from `trained[0]` to `trained[1]`.
    Raises ValueError if there is nothing to draw, a horizon is not positive, or an interval does not hold its mean.
    """
    horizons = sorted({horizon for row in results.values() for horizon in row})
    if not horizons or not all(results.values()):
        raise ValueError(f"no results to draw: {[name for name, row in results.items() if not row] or 'no names'}")
    if horizons[0] <= 0:
        raise ValueError(f"horizons must be positive, got {horizons[0]}")
    for name, row in results.items():
        for horizon, interval in row.items():
            _check_interval(f"{name} at horizon {horizon}", *interval)
    differences = [name for name in results if " minus " in name]
    panels = [names for names in ([name for name in results if name not in differences], differences) if names]
    figure, axes = _figure(len(panels), 1, (6.8, 3.6 * len(panels)))
    for axis, names in zip(axes, panels, strict=True):
        if trained:
            axis.axvspan(*trained, facecolor="#eef0f2", edgecolor=GREY, linewidth=0.8, zorder=0, label="trained on")
        if names is differences:
            axis.axhline(0.0, color=GREY, linewidth=1.2)
        for name, colour in zip(names, cycle(COLOURS), strict=False):
            x = sorted(results[name])
            mean, low, high = np.array([results[name][horizon] for horizon in x], float).T
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(x, mean, color=colour, linewidth=1.8, marker="o", markersize=5, label=name)
        axis.set_xscale("log")
        axis.set_xticks(horizons, [str(horizon) for horizon in horizons])
        axis.minorticks_off()
        axis.set_xlabel("lifetime in agent updates")
        axis.set_ylabel(f"difference of {label}" if names is differences else label)
        axis.legend(frameon=False, fontsize=9)
    axes[0].set_title("mean and 95 % interval", loc="left", fontsize=11)
    figure.savefig(path, dpi=150)


def lines(
    curves: Mapping[str, tuple[Any, Any]],
    path: str | Path,
    x_label: str = "",
    y_label: str = "",
    dots: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """One line per name over a logarithmic axis; `curves` is name -> (x [n], y [n]), `dots` name -> (x, y).

    Raises ValueError if there is nothing to draw.
    """
    if not curves:
        raise ValueError("no lines to draw")
    figure, (axis,) = _figure(1, 1, (7.0, 4.2))
    for (name, (x, y)), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        axis.plot(x, y, color=colour, linewidth=1.8, label=name)
        if dots and name in dots:
            axis.plot(*dots[name], "o", color=colour, markersize=5)
    axis.set_xscale("log")
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def trajectories(panels: Mapping[str, Mapping[str, tuple[Any, Any]]], path: str | Path, x_label: str = "") -> None:
    """Lines over a training, side by side; `panels` is title -> {name: (x [n], y [runs, n])}.

    A line is the mean of its runs, its band their range. A name has the same colour everywhere. Raises ValueError if
    there is nothing to draw.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    if not names:
        raise ValueError("no lines to draw")
    colours = dict(zip(names, cycle(COLOURS), strict=False))
    styles = {name: ("-", "--", ":", "-.")[i // len(COLOURS) % 4] for i, name in enumerate(names)}
    figure, axes = _figure(1, len(panels), (4.8 * len(panels) + 1.6, 3.8))
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        for name, (x, y) in panel.items():
            values = np.atleast_2d(np.asarray(y, float))
            axis.fill_between(x, values.min(0), values.max(0), color=colours[name], alpha=0.12, linewidth=0)
            axis.plot(x, values.mean(0), styles[name], color=colours[name], linewidth=1.8, label=name)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel(x_label)
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def surfaces(
    panels: Mapping[str, Any],
    x: Any,
    y: Any,
    path: str | Path,
    x_label: str = "",
    y_label: str = "",
    label: str = "",
) -> None:
    """Heat maps side by side, on one scale of colours on which zero is white; a line marks where values leave zero.

    `panels` is name -> [rows, columns] for `y` [rows] and `x` [columns], both in order, and `label` says what the
    values are. Raises ValueError if there is nothing to draw, or a panel is of another shape or not finite.
    """
    from matplotlib.colors import LinearSegmentedColormap

    if not panels:
        raise ValueError("no surfaces to draw")
    x, y = np.asarray(x, float), np.asarray(y, float)
    arrays = {name: np.asarray(values, float) for name, values in panels.items()}
    for name, values in arrays.items():
        if values.shape != (y.size, x.size):
            raise ValueError(f"{name}: need values of shape {(y.size, x.size)}, got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: {np.count_nonzero(~np.isfinite(values))} values are not finite")
    colours = LinearSegmentedColormap.from_list("", ["#0b3c6f", BLUE, "white", "#d9822b", "#8c2d04"], 257)
    limit = max(np.abs(values).max() for values in arrays.values()) or 1.0  # a surface of zeros is white, too
    figure, axes = _figure(1, len(arrays), (3.2 * len(arrays) + 1.2, 3.4))
    for axis, (name, values) in zip(axes, arrays.items(), strict=True):
        mesh = axis.pcolormesh(x, y, values, shading="nearest", cmap=colours, vmin=-limit, vmax=limit)
        if values.min() <= 0.0 < values.max():
            axis.contour(x, y, values, levels=[0.0], colors="black", linewidths=0.9)
        axis.grid(visible=False)
        axis.set_title(name, loc="left", fontsize=11)
        axis.set_xlabel(x_label)
    axes[0].set_ylabel(y_label)
    figure.colorbar(mesh, ax=axes, label=label, fraction=0.05)
    figure.savefig(path, dpi=150)


def pictures(images: Mapping[str, Any], path: str | Path, columns: int = 5) -> None:
    """Pictures [height, width, 3] (uint8) with their names above them, `columns` to a row.

    Raises ValueError if there is nothing to draw or `columns` is not positive.
    """
    if not images or columns < 1:
        raise ValueError(f"need pictures and at least one column, got {len(images)} pictures and {columns} columns")
    rows = -(-len(images) // columns)
    figure, axes = _figure(rows, columns, (2.4 * columns, 2.9 * rows))
    for axis in axes:
        axis.axis("off")
    for axis, (name, image) in zip(axes, images.items(), strict=False):
        axis.imshow(np.asarray(image), interpolation="nearest")
        axis.set_title(name, loc="left", fontsize=10)
    figure.savefig(path, dpi=150)


def animation(frames: Sequence[Any], path: str | Path, frames_per_second: float = 10.0) -> None:
    """A GIF of pictures [height, width, 3] (uint8), all of one shape, that begins anew when it is over.

    Raises ValueError if there are no frames or not of one shape.
    """
    from PIL import Image  # matplotlib needs it anyway

    arrays = [np.asarray(frame, np.uint8) for frame in frames]
    if not arrays or len(shapes := {x.shape for x in arrays}) > 1:
        raise ValueError(f"need frames of one shape, got {shapes if arrays else 'none'}")
    first, *rest = [Image.fromarray(x).quantize(64) for x in arrays]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / frames_per_second), loop=0)


def smoothed(values: np.ndarray) -> np.ndarray:
    """A centred moving mean over a twentieth of the curve (half of that at its ends); leaves NaN and infinity out."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    index, half = np.arange(len(values)), len(values) // 40
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (total[high] - total[low]) / (count[high] - count[low])


def _check_interval(name: str, mean: float, low: float, high: float) -> None:
    if not low <= mean <= high:
        raise ValueError(f"{name}: the mean {mean} is outside its interval [{low}, {high}]")


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

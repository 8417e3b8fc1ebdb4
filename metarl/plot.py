"""Figures as PNG files. matplotlib is imported when a figure is drawn, and needs no display."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from numbers import Real
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
    figure, axes = _panels(len(names), 3, (4.2, 2.9))
    for name, axis in zip(names, axes, strict=True):
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
    figure.savefig(path, dpi=150)


def intervals(
    results: Mapping[str, tuple[float, float, float]],
    path: str | Path,
    label: str = "score",
    reference: float | None = None,
) -> None:
    """Each name's mean as a dot on its 95 % interval, one below the other; `results` is name -> (mean, low, high).

    `reference` is where there is nothing to tell, and is dashed: 0.5 of probabilities of improvement, 0 of differences.
    Raises ValueError if there is nothing to draw or an interval does not hold its mean.
    """
    if not results:
        raise ValueError("no results to draw")
    for name, interval in results.items():
        _check_interval(name, *interval)
    figure, (axis,) = _figure(1, 1, (5.4 + 0.1 * max(map(len, results)), 1.1 + 0.36 * len(results)))
    if reference is not None:
        axis.axvline(reference, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    _dots(axis, results, [BLUE])
    axis.set_xlabel(f"{label} (mean and 95 % interval)")
    figure.savefig(path, dpi=150)


def aggregates(results: Mapping[str, Mapping[str, tuple[float, float, float]]], path: str | Path) -> None:
    """One panel per statistic of normalised scores, with each name's estimate as a dot on its 95 % interval.

    `results` is name -> {statistic: (estimate, low, high)}, as of `metarl.evaluation.statistics.aggregates`, the same statistics
    for all. Raises ValueError if there is nothing to draw, they differ, or an interval does not hold its estimate.
    """
    titles = {
        "iqm": "IQM \u2192",
        "median": "median \u2192",
        "mean": "mean \u2192",
        "optimality_gap": "\u2190 optimality gap",
    }
    if not results or not all(results.values()):
        raise ValueError(f"no results to draw: {[name for name, row in results.items() if not row] or 'no names'}")
    statistics = list(next(iter(results.values())))
    for name, row in results.items():
        if set(row) != set(statistics):
            raise ValueError(f"{name}: need the statistics {statistics}, got {list(row)}")
        for statistic, interval in row.items():
            _check_interval(f"{name}, {statistic}", *interval)
    size = (2.5 * len(statistics) + 0.1 * max(map(len, results)), 1.25 + 0.36 * len(results))
    figure, axes = _figure(1, len(statistics), size)
    for axis, statistic in zip(axes, statistics, strict=True):
        _dots(axis, {name: row[statistic] for name, row in results.items()}, COLOURS)
        axis.set_title(titles.get(statistic, statistic), loc="left", fontsize=11)
        axis.tick_params(axis="y", labelleft=axis is axes[0])
        axis.xaxis.get_major_locator().set_params(nbins=4)
    figure.supxlabel("normalised score (estimate and 95 % interval)", fontsize=10)
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
            _band(axis, (x, mean, low, high), color=colour, marker="o", markersize=5, label=name)
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
    """`sample_efficiency` of runs themselves; `panels` is title -> {name: (x [n], y [runs, n])}.

    A line is the mean of its runs, its band their range. Raises ValueError if a panel is empty.
    """

    def band(x: Any, y: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        values = np.atleast_2d(np.asarray(y, float))
        return x, values.mean(0), values.min(0), values.max(0)

    bands = {title: {name: band(*run) for name, run in panel.items()} for title, panel in panels.items()}
    sample_efficiency(bands, path, x_label)


def sample_efficiency(
    panels: Mapping[str, Mapping[str, tuple[Any, Any, Any, Any]]],
    path: str | Path,
    x_label: str = "",
    y_label: str = "",
) -> None:
    """Lines with bands, one panel per task and at most four side by side.

    `panels` is task -> {name: (x, mean, low, high)}, all [n]. A name has the same colour everywhere. Raises ValueError
    if a panel is empty or the four are not of one length.
    """
    from matplotlib.ticker import EngFormatter

    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    if not names or not all(panels.values()):
        raise ValueError(f"no lines to draw: {[title for title, panel in panels.items() if not panel] or 'no panels'}")
    for title, panel in panels.items():
        for name, curve in panel.items():
            _check_curve(f"{title}, {name}", curve)
    colours = dict(zip(names, cycle(COLOURS), strict=False))
    styles = {name: ("-", "--", ":", "-.")[i // len(COLOURS) % 4] for i, name in enumerate(names)}
    columns = min(len(panels), 4)
    width = 4.8 - 0.6 * (columns - 1)
    figure, axes = _panels(len(panels), columns, (width, 0.8 * width), beside=1.6)
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        for name, curve in panel.items():
            _band(axis, curve, color=colours[name], linestyle=styles[name], label=name)
        axis.set_title(title, loc="left", fontsize=11)
        axis.margins(x=0.01)
        if max(np.max(x) for x, *_ in panel.values()) >= 10_000:
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 500k, 1M
            axis.xaxis.get_major_locator().set_params(nbins=5)
    for axis in axes[-columns:]:  # those with none below
        axis.set_xlabel(x_label)
    for axis in axes[::columns]:
        axis.set_ylabel(y_label)
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def profiles(
    curves: Mapping[str, tuple[Any, Any, Any, Any]], path: str | Path, label: str = "normalised score"
) -> None:
    """Performance profiles: the share of runs above each score, with its 95 % band. What is higher is better.

    `curves` is name -> (thresholds, mean, low, high), all [n], the last three as of
    `metarl.evaluation.statistics.performance_profile`. Raises ValueError if there is nothing to draw or they differ in length.
    """
    if not curves:
        raise ValueError("no profiles to draw")
    for name, curve in curves.items():
        _check_curve(name, curve)
    figure, (axis,) = _figure(1, 1, (7.6, 4.0))
    for (name, curve), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        _band(axis, curve, color=colour, label=name)
    axis.axhline(0.5, color=GREY, linewidth=1.0, linestyle="--", zorder=1)  # crossed at the median run
    axis.set_ylim(-0.02, 1.02)
    axis.margins(x=0.01)
    axis.set_xlabel(f"{label} \u03c4")
    axis.set_ylabel(f"share of runs with {label} > \u03c4")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
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


def grid(
    values: Any,
    rows: Sequence[Any],
    columns: Sequence[Any],
    path: str | Path,
    row_label: str = "",
    column_label: str = "",
    label: str = "score",
) -> None:
    """A sweep of two hyperparameters: `values` [rows, columns] as colours and numbers, the best (highest) outlined.

    `rows` and `columns` are the hyperparameters' values. A cell that is not finite is grey and says "diverged".
    Raises ValueError if the shapes do not agree or no value is finite.
    """
    from matplotlib.patches import Rectangle

    cells = np.asarray(values, float)
    if cells.shape != (len(rows), len(columns)) or not cells.size:
        raise ValueError(f"need values of shape {(len(rows), len(columns))}, at least (1, 1), got {cells.shape}")
    finite = np.isfinite(cells)
    if not finite.any():
        raise ValueError("no cell of the grid is finite")
    low, high = cells[finite].min(), cells[finite].max()
    figure, (axis,) = _figure(1, 1, (1.6 + 0.95 * len(columns), 1.3 + 0.62 * len(rows)))
    mesh = axis.pcolormesh(np.ma.array(cells, mask=~finite), cmap=_scale(), edgecolors="white", linewidth=1.5)
    for (row, column), value in np.ndenumerate(cells):
        place = {"ha": "center", "va": "center"}
        if finite[row, column]:
            dark = high > low and (value - low) / (high - low) > 0.5
            axis.text(column + 0.5, row + 0.5, f"{value:.3g}", color="white" if dark else "black", fontsize=9, **place)
        else:
            inside = (column + 0.015, row + 0.02), 0.97, 0.96
            axis.add_patch(Rectangle(*inside, facecolor="#eceef0", edgecolor="#d3d7da", hatch="///", linewidth=0))
            axis.text(column + 0.5, row + 0.5, "diverged", color="#6b7680", fontsize=8, **place)
    row, column = divmod(int(np.argmax(np.where(finite, cells, -np.inf))), len(columns))
    best = Rectangle((column, row), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.6, zorder=3, clip_on=False)
    axis.add_patch(best)
    axis.set_xticks(np.arange(len(columns)) + 0.5, list(map(_tick, columns)))
    axis.set_yticks(np.arange(len(rows)) + 0.5, list(map(_tick, rows)))
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_xlabel(column_label)
    axis.set_ylabel(row_label)
    bar = figure.colorbar(mesh, ax=axis, label=label, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, color=GREY)
    figure.savefig(path, dpi=150)


def parallel(members: Sequence[Mapping[str, Any]], scores: Any, path: str | Path, label: str = "score") -> None:
    """A sweep of many hyperparameters: one line per member, over one axis per hyperparameter and a last for its score.

    `members` are {hyperparameter: value}, `scores` [members]. The values of an axis are spaced by rank, numbers in
    order and anything else as it comes; members that share one are fanned out by score. The colour is the score.
    Members whose score is not finite have diverged: dashed, grey, below the scores. Raises ValueError if there are no
    members, they have other hyperparameters or not a score each, or no score is finite.
    """
    values = np.asarray(scores, float)
    if not members or not members[0]:
        raise ValueError("no members to draw, or none with a hyperparameter")
    names = list(members[0])
    if other := next((member for member in members if set(member) != set(names)), None):
        raise ValueError(f"all members need the hyperparameters {names}, got {list(other)}")
    finite = np.isfinite(values)
    if values.shape != (len(members),) or not finite.any():
        raise ValueError(f"need {len(members)} scores of which one is finite, got shape {values.shape}")
    low, high = values[finite].min(), values[finite].max()
    share = np.where(finite, (values - low) / (high - low or 1.0), -0.12)
    order = np.argsort(share, kind="stable")  # the best on top
    lines = np.column_stack([np.zeros((len(members), len(names))), share])  # heights on the axes
    figure, (axis,) = _figure(1, 1, (1.9 * (len(names) + 1) + 0.8, 4.2))
    background = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    for place, name in enumerate(names):
        ticks = list(dict.fromkeys(member[name] for member in members))
        if all(isinstance(tick, Real) for tick in ticks):
            ticks.sort()
        for rank, tick in enumerate(ticks):
            height, here = (rank + 0.5) / len(ticks), [i for i in order if members[i][name] == tick]
            lines[here, place] = height + 0.6 / len(ticks) * (np.arange(1, len(here) + 1) / (len(here) + 1) - 0.5)
            axis.text(place - 0.03, height, _tick(tick), ha="right", va="center", fontsize=9, bbox=background, zorder=6)
    steps = np.linspace(0.0, 1.0, 24)
    bend = steps**2 * (3 - 2 * steps)  # level where it meets an axis, so that lines can be told apart there
    x = np.concatenate([place + steps for place in range(len(names))])
    for member in order:
        points = lines[member]
        y = (points[:-1, None] + (points[1:] - points[:-1])[:, None] * bend).ravel()
        if finite[member]:
            axis.plot(x, y, color=_scale()(0.12 + 0.88 * share[member]), linewidth=1.5, alpha=0.9)
        else:
            axis.plot(x, y, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), alpha=0.7)
    for height in np.linspace(0.0, 1.0, 5):
        axis.text(len(names) + 0.04, height, f"{low + height * (high - low):.3g}", va="center", fontsize=9)
    if not finite.all():
        axis.text(len(names) + 0.04, -0.12, "diverged", va="center", fontsize=9, color="#6b7680")
    axis.vlines(range(len(names) + 1), -0.02, 1.02, color="#3c4650", linewidth=1.1, zorder=5)
    axis.set_xticks(range(len(names) + 1), [*(name.replace("_", " ") for name in names), label], fontsize=10)
    axis.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=10)
    axis.set_yticks([])
    axis.set_xlim(-0.35, len(names) + 0.35)
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
    figure.savefig(path, dpi=150)


def pictures(images: Mapping[str, Any], path: str | Path, columns: int = 5) -> None:
    """Pictures [height, width, 3] (uint8) with their names above them, `columns` to a row.

    Raises ValueError if there is nothing to draw or `columns` is not positive.
    """
    if not images or columns < 1:
        raise ValueError(f"need pictures and at least one column, got {len(images)} pictures and {columns} columns")
    figure, axes = _panels(len(images), columns, (2.4, 2.9))
    for axis, (name, image) in zip(axes, images.items(), strict=True):
        axis.axis("off")
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


def _check_curve(name: str, curve: Sequence[Any]) -> None:
    shapes = [np.shape(values) for values in curve]
    if len(shapes) != 4 or len(shapes[0]) != 1 or not shapes[0][0] or len(set(shapes)) > 1:
        raise ValueError(f"{name}: need (x, mean, low, high), all [n] of one n >= 1, got shapes {shapes}")


def _band(axis: Any, curve: Sequence[Any], color: str, **style: Any) -> None:
    """The line x, mean and the band low, high of `curve` = (x, mean, low, high)."""
    x, mean, low, high = curve
    axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axis.plot(x, mean, color=color, linewidth=1.8, **style)


def _dots(axis: Any, results: Mapping[str, tuple[float, float, float]], colours: Iterable[str]) -> None:
    """Each name's (mean, low, high) as a dot on a line, the first on top."""
    for row, ((mean, low, high), colour) in enumerate(zip(results.values(), cycle(colours), strict=False)):
        axis.plot([low, high], [row, row], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="round")
        axis.plot(mean, row, "o", color=colour, markersize=6.5)
    axis.set_yticks(range(len(results)), list(results))
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)


def _tick(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _scale() -> Any:
    """Colours from low to high, of which no two are alike in grey."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("", ["#f3f6f9", "#a9cbe6", BLUE, "#0b2f57"], 257)


def _panels(count: int, columns: int, size: tuple[float, float], beside: float = 0.0) -> tuple[Any, list[Any]]:
    """A figure of `count` panels of `size`, at most `columns` side by side, and `beside` inches for what is beside."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, axes = _figure(rows, columns, (size[0] * columns + beside, size[1] * rows))
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


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

"""Figures of sweeps: the score of each combination of hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.plot.figure import BLUE, COLOURS, GREY, one_panel, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOW_TO_HIGH = ("#f3f6f9", "#a9cbe6", BLUE, "#0b2f57")  # different also when printed in grey
DARK_GREY = "#6b7680"
DIVERGED = -0.12  # the height of members without a score; scores are drawn from 0 to 1


def grid(
    values: Any,
    rows: Sequence[Any],
    columns: Sequence[Any],
    row_label: str = "",
    column_label: str = "",
    label: str = "score",
    axis: Axes | None = None,
) -> Figure:
    """A sweep of two hyperparameters: `values` [rows, columns] as colours and numbers, with the highest outlined.

    `rows` and `columns` are the values of the hyperparameters. A cell that is not finite is grey with "diverged" in it.
    Raises ValueError if the shapes do not agree, or if no value is finite.
    """
    cells = np.asarray(values, float)
    if cells.shape != (len(rows), len(columns)) or not cells.size:
        raise ValueError(f"need values of shape {(len(rows), len(columns))}, at least (1, 1), got {cells.shape}")
    finite = np.isfinite(cells)
    if not finite.any():
        raise ValueError("no cell of the grid is finite")
    figure, axis = one_panel((1.6 + 0.95 * len(columns), 1.3 + 0.62 * len(rows)), axis)
    mesh = axis.pcolormesh(np.ma.array(cells, mask=~finite), cmap=scale(LOW_TO_HIGH), edgecolors="white", linewidth=1.5)
    _write_cells(axis, cells, finite)
    _outline(axis, *divmod(int(np.argmax(np.where(finite, cells, -np.inf))), len(columns)))
    axis.set_xticks(np.arange(len(columns)) + 0.5, list(map(_tick, columns)))
    axis.set_yticks(np.arange(len(rows)) + 0.5, list(map(_tick, rows)))
    _hide_frame(axis)
    axis.set(xlabel=column_label, ylabel=row_label)
    bar = figure.colorbar(mesh, ax=axis, label=label, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, color=GREY)
    return figure


def _write_cells(axis: Axes, cells: np.ndarray, finite: np.ndarray) -> None:
    """Writes the number into each cell, white on dark colours, or "diverged" on hatched grey if it is not finite."""
    from matplotlib.patches import Rectangle

    low, high = cells[finite].min(), cells[finite].max()
    for (row, column), value in np.ndenumerate(cells):
        place = {"x": column + 0.5, "y": row + 0.5, "ha": "center", "va": "center"}
        if finite[row, column]:
            dark = high > low and (value - low) / (high - low) > 0.5
            axis.text(s=f"{value:.3g}", color="white" if dark else "black", fontsize=9, **place)
        else:
            inside = (column + 0.015, row + 0.02), 0.97, 0.96
            axis.add_patch(Rectangle(*inside, facecolor="#eceef0", edgecolor="#d3d7da", hatch="///", linewidth=0))
            axis.text(s="diverged", color=DARK_GREY, fontsize=8, **place)


def _outline(axis: Axes, row: int, column: int) -> None:
    from matplotlib.patches import Rectangle

    box = Rectangle((column, row), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.6, zorder=3, clip_on=False)
    axis.add_patch(box)


def parallel(
    members: Sequence[Mapping[str, Any]], scores: Any, label: str = "score", axis: Axes | None = None
) -> Figure:
    """A sweep of many hyperparameters: a vertical axis for each of them, a last one for the score, a line per member.

    `members` are {hyperparameter: value}, `scores` [members]. The values on an axis are equally spaced: numbers in
    increasing order, others in the order of the members. Lines through the same value are spread out by score. The
    colour is the score. Members without a finite score have diverged: their lines are grey, dashed, and end below the
    scores. Raises ValueError if there are no members, their hyperparameters differ, there is not one score for each, or
    no score is finite.
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
    share = np.where(finite, (values - low) / (high - low or 1.0), DIVERGED)
    order = np.argsort(share, kind="stable")
    figure, axis = one_panel((1.9 * (len(names) + 1) + 0.8, 4.2), axis)
    heights = []
    for place, name in enumerate(names):
        ticks, height = _heights([member[name] for member in members], order)
        _write_ticks(axis, place, ticks)
        heights.append(height)
    _draw_members(axis, np.column_stack([*heights, share]), order)
    _write_scores(axis, len(names), low, high, finite.all())
    axis.vlines(range(len(names) + 1), -0.02, 1.02, color="#3c4650", linewidth=1.1, zorder=5)
    axis.set_xticks(range(len(names) + 1), [*(name.replace("_", " ") for name in names), label], fontsize=10)
    _hide_frame(axis)
    axis.tick_params(labeltop=True, labelbottom=False, labelsize=10)
    axis.set(yticks=[], xlim=(-0.35, len(names) + 0.35))
    return figure


def _heights(column: Sequence[Any], order: np.ndarray) -> tuple[dict[Any, float], np.ndarray]:
    """Heights on the axis of one hyperparameter: of each value, and of each member [members]; see `parallel`."""
    ticks = list(dict.fromkeys(column))
    if all(isinstance(tick, Real) for tick in ticks):
        ticks.sort()
    heights = {tick: (rank + 0.5) / len(ticks) for rank, tick in enumerate(ticks)}
    members = np.zeros(len(column))
    for tick, height in heights.items():
        same = [i for i in order if column[i] == tick]
        members[same] = height + 0.6 / len(ticks) * (np.arange(1, len(same) + 1) / (len(same) + 1) - 0.5)
    return heights, members


def _draw_members(axis: Axes, heights: np.ndarray, order: np.ndarray) -> None:
    """One line per row of `heights` [members, axes], whose last column is the score; the last of `order` is on top."""
    colours, steps = scale(LOW_TO_HIGH), np.linspace(0.0, 1.0, 24)
    bend = steps**2 * (3 - 2 * steps)  # horizontal at the axes, so that lines are distinguishable there
    x = (np.arange(heights.shape[1] - 1)[:, None] + steps).ravel()
    for points in heights[order]:
        y = (points[:-1, None] + np.diff(points)[:, None] * bend).ravel()
        if points[-1] == DIVERGED:
            axis.plot(x, y, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), alpha=0.7)
        else:
            axis.plot(x, y, color=colours(0.12 + 0.88 * points[-1]), linewidth=1.5, alpha=0.9)


def _write_ticks(axis: Axes, place: int, heights: Mapping[Any, float]) -> None:
    background = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    for tick, height in heights.items():
        axis.text(place - 0.03, height, _tick(tick), ha="right", va="center", fontsize=9, bbox=background, zorder=6)


def _write_scores(axis: Axes, place: int, low: float, high: float, all_finite: bool) -> None:
    for height in np.linspace(0.0, 1.0, 5):
        axis.text(place + 0.04, height, f"{low + height * (high - low):.3g}", va="center", fontsize=9)
    if not all_finite:
        axis.text(place + 0.04, DIVERGED, "diverged", va="center", fontsize=9, color=DARK_GREY)


def _hide_frame(axis: Axes) -> None:
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def _tick(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)

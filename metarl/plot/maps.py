"""Heat maps of functions of two variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.plot.figure import BLUE, panels, require_items, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def surfaces(
    values: Mapping[str, Any],
    x: Any,
    y: Any,
    x_label: str = "",
    y_label: str = "",
    label: str = "",
    axes: Sequence[Axes] | None = None,
    line: bool = True,
) -> Figure:
    """Heat maps in a row, with one colour scale on which 0 is white. A black line separates values above 0,
    unless `line` is False: for rows or columns that are no points of a function, such as actions.

    `values` is name -> [rows, columns] for sorted `y` [rows] and `x` [columns]. `label` names the values.
    Raises ValueError if there is nothing to draw, or if an array has another shape or is not finite.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    arrays = {name: np.asarray(array, float) for name, array in values.items()}
    require_items("surfaces", arrays)
    for name, array in arrays.items():
        if array.shape != (y.size, x.size):
            raise ValueError(f"{name}: need values of shape {(y.size, x.size)}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: {np.count_nonzero(~np.isfinite(array))} values are not finite")
    colours = scale(["#0b3c6f", BLUE, "white", "#d9822b", "#8c2d04"])
    limit = max(np.abs(array).max() for array in arrays.values()) or 1.0  # 1: a surface of zeros is white, too
    figure, axes = panels(len(arrays), len(arrays), (3.2, 3.4), beside=1.2, axes=axes)
    for axis, (name, array) in zip(axes, arrays.items(), strict=True):
        mesh = axis.pcolormesh(x, y, array, shading="nearest", cmap=colours, vmin=-limit, vmax=limit)
        if line and array.min() <= 0.0 < array.max():
            axis.contour(x, y, array, levels=[0.0], colors="black", linewidths=0.9)
        axis.grid(visible=False)
        axis.set_title(name, loc="left", fontsize=11)
        axis.set_xlabel(x_label)
    axes[0].set_ylabel(y_label)
    figure.colorbar(mesh, ax=axes, label=label, fraction=0.05)
    return figure

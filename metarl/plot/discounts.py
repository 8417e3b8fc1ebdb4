"""What depends on a discount, for several agents and levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.plot.curves import Band, sample_efficiency
from metarl.plot.figure import BLUE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def over_discounts(
    bands: Mapping[str, Mapping[str, Band]], levels: Mapping[str, Any] | None = None, label: str = ""
) -> Figure:
    """One panel per title, with one line and its band per name over discounts from 0 to below 1.

    `bands` is title -> {name: (discounts, mean, low, high)}, all [n]. `levels` is title -> [levels, n]: a thin line for
    each level, in the colour of the first name. The axis shows steps that count, 1 / (1 - discount), by their discount.
    Raises ValueError if a panel is empty, if shapes differ, or for a discount outside [0, 1).
    """
    for title, panel in bands.items():
        for name, (discounts, *_) in panel.items():
            if not all(0 <= x < 1 for x in np.ravel(discounts)):
                raise ValueError(f"{title}, {name}: discounts must be in [0, 1), got {np.ravel(discounts)}")
    steps = {
        title: {name: (1.0 / (1.0 - np.asarray(x)), *band) for name, (x, *band) in panel.items()}
        for title, panel in bands.items()
    }
    figure = sample_efficiency(steps, "discount", label)
    for axis, (title, panel) in zip(figure.axes, bands.items(), strict=True):
        x = np.asarray(next(iter(panel.values()))[0])
        for row in (levels or {}).get(title, ()):
            if np.shape(row) != x.shape:
                raise ValueError(f"{title}: a level needs a value per discount, {len(x)}, got shape {np.shape(row)}")
            axis.plot(1.0 / (1.0 - x), row, color=BLUE, alpha=0.25, linewidth=0.6, zorder=1)
        axis.set_xscale("log")
        axis.set_xticks(1.0 / (1.0 - x), [f"{value:g}".replace("0.", ".") for value in x], fontsize=7)
        axis.minorticks_off()
    return figure

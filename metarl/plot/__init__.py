"""Figures: every function draws and returns a matplotlib `Figure`, which notebooks display; `save` writes it.

Functions of one panel draw on the `axis` that they are given, or else on a new figure; some functions of several panels
take `axes`. matplotlib is imported when a figure is drawn. There is no pyplot here: no global state, no display.
"""

from metarl.plot.curves import (
    learning_curves,
    lines,
    over_horizons,
    profiles,
    sample_efficiency,
    smoothed,
    trajectories,
)
from metarl.plot.estimates import aggregates, intervals
from metarl.plot.figure import BLUE, COLOURS, GREY, panels, save
from metarl.plot.images import pictures, save_animation
from metarl.plot.maps import surfaces
from metarl.plot.sweeps import grid, parallel

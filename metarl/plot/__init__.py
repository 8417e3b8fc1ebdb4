"""Figures: every function draws and returns a matplotlib `Figure`, which notebooks display and `save` writes.

Functions with one panel draw on `axis`, or on a new figure if it is None. Some functions with several panels take
`axes`. matplotlib is imported when a figure is drawn. pyplot is not used, so there is no global state and no display.
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
from metarl.plot.discounts import over_discounts
from metarl.plot.estimates import aggregates, intervals
from metarl.plot.figure import BLUE, COLOURS, GREY, panels, save
from metarl.plot.images import pictures, save_animation
from metarl.plot.maps import surfaces
from metarl.plot.sweeps import grid, parallel

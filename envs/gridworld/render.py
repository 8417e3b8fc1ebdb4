"""Pictures of gridworlds."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from envs.gridworld.environment import Gridworld, GridworldParams, GridworldState
from metarl import checks
from metarl.checks import Bound

FLOOR, LINE, WALL, AGENT, START = np.array(
    [(247, 247, 244), (226, 226, 222), (62, 68, 76), (31, 111, 180), (168, 200, 226)], np.uint8
)
GOOD, NOTHING, BAD = np.array([(47, 158, 119), (214, 214, 208), (194, 69, 93)])  # objects with rewards 1, 0 and -1


def render(env: Gridworld, params: GridworldParams, state: GridworldState | None = None, pixels: int = 24) -> Any:
    """A level, or a `state` of an episode on it, as a picture [height, width, 3] uint8 with `pixels` per cell side.

    Walls are dark, the agent is a blue disc, and its start is a light ring. Objects are squares, green for a reward of
    1, red for -1, and grey for 0; absent ones are outlines. The size of a dark core is the probability that collecting
    the object ends the episode. In environments that are not tabular, objects have cells only in a `state`.

    Raises ValueError if `pixels` is below 8.
    """
    checks.within(int, Bound(8, 1024), pixels=pixels)
    level, now = jax.tree.map(np.asarray, (params, state))
    side = env.max_side
    y, x = np.mgrid[:pixels, :pixels] / (pixels - 1) - 0.5
    square, radius = np.maximum(abs(y), abs(x)), np.hypot(y, x)
    edge = np.maximum(y, x) == 0.5

    tiles = np.where(edge[:, :, None], LINE, FLOOR) * np.ones((side * side, 1, 1, 1), np.uint8)
    tiles[~level.free] = WALL
    tiles[int(level.start)][(0.38 < radius) & (radius < 0.46)] = START
    nowhere = np.full(env.max_objects, -1)
    cells = level.objects if env.tabular else nowhere if now is None else now.objects
    present = np.ones(len(cells), bool) if now is None else now.present
    for i in np.flatnonzero((np.arange(len(cells)) < level.num_objects) & (cells >= 0)):
        share = min(abs(level.reward[i]), 1.0)
        colour = share * (GOOD if level.reward[i] > 0 else BAD) + (1 - share) * NOTHING
        tiles[cells[i]][(square < 0.38) & (present[i] | (square > 0.30))] = colour
        if present[i]:
            tiles[cells[i]][square < 0.25 * level.terminate[i]] = WALL
    tiles[int(level.start if now is None else now.cell)][radius < 0.27] = AGENT
    return tiles.reshape(side, side, pixels, pixels, 3).swapaxes(1, 2).reshape(side * pixels, side * pixels, 3)

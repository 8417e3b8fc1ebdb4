"""Families of tabular gridworlds that differ in structure, to learn on some and to be tested on others (ours).

The splits are those of Meta-World (Yu et al. 2020, arXiv 1910.10897): ML1 is one family, ML10 and ML45 are 10 and 45,
and 5 others are new. A family is a layout of walls and a kind of objects; in each of its levels, the start and the
objects lie elsewhere. All are of one environment: 7 x 7 cells, 2 objects of 2 types.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE = 7
_ROW, _COLUMN = np.mgrid[:SIDE, :SIDE]
_DOWN, _RIGHT = abs(_ROW - 3), abs(_COLUMN - 3)  # distances from the middle

# True is a wall; all other cells are connected. Families of NEW layouts are for tests only.
KNOWN = {
    "open": np.zeros((SIDE, SIDE), bool),
    "two_rooms": (_COLUMN == 3) & (_ROW != 1),
    "two_halls": (_ROW == 3) & (_COLUMN != 5),
    "three_rooms": ((_COLUMN == 2) & (_ROW != 0)) | ((_COLUMN == 4) & (_ROW != 6)),
    "four_rooms": ((_COLUMN == 3) & (_DOWN != 2)) | ((_ROW == 3) & (_RIGHT != 2)),
    "corridor": ((_ROW % 4 == 1) & (_COLUMN < 6)) | ((_ROW % 4 == 3) & (_COLUMN > 0)),
    "pillars": (_ROW % 2 == 1) & (_COLUMN % 2 == 1),
    "block": (_DOWN < 2) & (_RIGHT < 2),
    "bars": (_COLUMN % 2 == 1) & (_DOWN < 3),
}
NEW = {
    "cross": (_DOWN > 1) & (_RIGHT > 1),
    "diamond": _DOWN + _RIGHT > 3,
    "fishbone": (_ROW % 2 == 1) & (_COLUMN != 3),
    "stairs": (abs(_ROW - _COLUMN) == 2) & (_ROW + _COLUMN != 6),
    "shell": (np.maximum(_DOWN, _RIGHT) == 2) & ((_ROW != 3) | (_COLUMN != 5)),
}


class Kind(NamedTuple):
    """What two objects are like, each of its own type."""

    reward: tuple[float, float]
    terminate: tuple[float, float]
    respawn: tuple[float, float] = (0.0, 0.0)


KINDS = {
    "goal": Kind((1.0, 0.0), (1.0, 0.0)),  # and one that means nothing
    "trap": Kind((1.0, -0.5), (1.0, 0.0)),  # a goal, and one to avoid
    "coins": Kind((0.5, 0.5), (0.0, 0.0)),  # both are to be collected
    "bait": Kind((1.0, 0.3), (1.0, 1.0)),  # a goal, and one that ends the episode for less
    "fountain": Kind((0.2, -0.2), (0.0, 0.0), (0.3, 0.3)),  # comes again, as does one to avoid
}


class Family(NamedTuple):
    """One task of Meta-World."""

    walls: np.ndarray  # [SIDE, SIDE] bool
    kind: Kind


def _families(*names: tuple[str, str]) -> tuple[Family, ...]:
    return tuple(Family({**KNOWN, **NEW}[layout], KINDS[kind]) for layout, kind in names)


_LAYOUTS, _KINDS = tuple(KNOWN), tuple(KINDS)
# Each distribution is the uniform mixture of its families.
FAMILIES = {
    "ml1": _families(("four_rooms", "goal")),
    "ml10": _families(*((_LAYOUTS[i % 9], _KINDS[i % 5]) for i in range(0, 20, 2))),  # each kind twice
    "ml45": _families(*((layout, kind) for layout in KNOWN for kind in KINDS)),
    **{f"ml_{layout}": _families((layout, kind)) for layout, kind in zip(NEW, KINDS, strict=True)},
}

"""Curricula choose the levels of lifetimes: each function here returns a `metarl.Curriculum`."""

from metarl.curricula import scores
from metarl.curricula.replay import Priority, replay
from metarl.curricula.sources import improvement, pooled, similarity, sources
from metarl.curricula.uniform import chosen, fixed, uniform

__all__ = [
    "Priority",
    "chosen",
    "fixed",
    "improvement",
    "pooled",
    "replay",
    "scores",
    "similarity",
    "sources",
    "uniform",
]

"""Curricula choose the levels of lifetimes: each function here returns a `metarl.Curriculum`."""

from metarl.curricula import scores
from metarl.curricula.replay import Priority, replay
from metarl.curricula.uniform import chosen, fixed, uniform
from metarl.curricula.weighted import improvement, pooled, similarity, weighted

__all__ = [
    *("Priority", "chosen", "fixed", "improvement", "pooled", "replay", "scores", "similarity", "uniform", "weighted")
]

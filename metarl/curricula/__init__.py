"""Curricula choose the levels of lifetimes: each function here returns a `metarl.Curriculum`."""

from metarl.curricula import scores
from metarl.curricula.replay import Priority, replay
from metarl.curricula.uniform import fixed, uniform

__all__ = ["Priority", "fixed", "replay", "scores", "uniform"]

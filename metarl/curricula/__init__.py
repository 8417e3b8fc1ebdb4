"""Which levels lifetimes are spent on: each function here returns a `metarl.meta.Curriculum`."""

from metarl.curricula import scores
from metarl.curricula.replay import replay
from metarl.curricula.uniform import fixed, uniform

__all__ = ["fixed", "replay", "scores", "uniform"]

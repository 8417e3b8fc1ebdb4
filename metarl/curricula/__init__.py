"""Which levels lifetimes are spent on: each function here returns a `metarl.meta.Curriculum`."""

from metarl.curricula.uniform import uniform

__all__ = ["uniform"]

"""How a meta-gradient is obtained: each function here returns a `metarl.meta.Estimator`."""

from metarl.estimators.backprop import backprop

__all__ = ["backprop"]

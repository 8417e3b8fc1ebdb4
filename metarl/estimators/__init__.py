"""Estimates of the meta-gradient: each function here returns a `metarl.Estimator`."""

from metarl.estimators.ask_tell import ask_tell
from metarl.estimators.backprop import backprop
from metarl.estimators.es import es
from metarl.estimators.pes import pes
from metarl.estimators.reptile import reptile

__all__ = ["ask_tell", "backprop", "es", "pes", "reptile"]

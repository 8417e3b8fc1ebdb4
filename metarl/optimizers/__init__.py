"""Optimizers of inner loops: differentiable versions of optax's, and learned ones."""

import optax

from metarl.optimizers.differentiable import adam, clip_by_global_norm, first_order, scale_by_adam
from metarl.optimizers.learned import LearnedOptimizer
from metarl.optimizers.meta_sgd import meta_sgd, shapes_of
from metarl.optimizers.mlp import adafac, no_features
from metarl.optimizers.open import open_rl
from metarl.optimizers.schedules import schedule

__all__ = [
    "LearnedOptimizer",
    *("adafac", "adam", "clip_by_global_norm", "first_order", "meta_sgd", "no_features", "open_rl"),
    *("per_output", "scale_by_adam", "schedule", "shapes_of"),
]


def per_output(**optimizers: optax.GradientTransformation) -> optax.GradientTransformation:
    """One optimizer for each output of the network: `per_output(policy=adam(0.3), y=optax.sgd(40.0))`."""
    return optax.partition(dict(optimizers), lambda params: {name: name for name in params})

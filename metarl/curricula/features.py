"""Metrics of the levels of lifetimes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl.types import Level, Levels, Metrics


def level_metrics(levels: Levels, present: Level) -> Metrics:
    """Means of the horizon and of `levels.features` over the `present` levels (leaves [n, ...])."""
    features = jax.vmap(levels.features)(present.problem) if levels.features else {}
    means = {f"level_{name}": x.mean(dtype=jnp.float32) for name, x in features.items()}
    return {"level_horizon": present.horizon.mean(dtype=jnp.float32), **means}

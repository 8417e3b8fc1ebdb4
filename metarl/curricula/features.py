"""What is logged of the levels that lifetimes are spent on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl.types import Level, Levels, Metrics


def level_metrics(levels: Levels, lived: Level) -> Metrics:
    """Means over the levels `lived` on (leaves [n, ...]): of their horizon, and of `levels.features`."""
    features = jax.vmap(levels.features)(lived.problem) if levels.features else {}
    means = {f"level_{name}": x.mean(dtype=jnp.float32) for name, x in features.items()}
    return {"level_horizon": lived.horizon.mean(dtype=jnp.float32), **means}

"""Temporal awareness: what an update rule sees of the agent's age and horizon."""

from __future__ import annotations

import jax.numpy as jnp

from metarl.types import Array, Progress


def temporal_features(progress: Progress) -> Array:
    """`[n / N, log10(N) - 2]` [2] after n of N updates (Jackson et al. 2024, arXiv 2402.05828).

    The age n / N is in [0, 1]. The second feature is of order one: -1 for N = 10, 0 for 100, 1 for 1000.
    """
    step, horizon = (jnp.asarray(x, jnp.float32) for x in progress)
    return jnp.stack([jnp.minimum(step / horizon, 1.0), jnp.log10(horizon) - 2.0])

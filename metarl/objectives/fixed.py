"""A learned objective whose meta-parameters no longer change."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from metarl.rl.objective import Objective, no_regulariser
from metarl.types import Array, MetaParams, PyTree


def fixed(objective: Objective, meta_params: MetaParams) -> Objective:
    """`objective` with constant `meta_params`, and without regularisers of the meta-objective.

    Its own meta-parameters are `()`, so only other parts can be learned.
    """

    def targets(_: MetaParams, *args: Any) -> tuple[PyTree, Array, PyTree]:
        values, _regulariser, memory = objective.targets(meta_params, *args)
        return values, jnp.zeros(()), memory

    return objective._replace(
        init=lambda key: (),
        targets=targets,
        loss=lambda _, *args: objective.loss(meta_params, *args),
        regulariser=no_regulariser,
    )

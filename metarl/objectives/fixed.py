"""A learned objective whose meta-parameters no longer change."""

from __future__ import annotations

from metarl.rl.objective import Objective
from metarl.types import MetaParams


def fixed(objective: Objective, meta_params: MetaParams) -> Objective:
    """`objective` with constant `meta_params`. Its own meta-parameters are `()`, so only other parts can be learned."""
    return objective._replace(
        init=lambda key: (),
        targets=lambda _, *args: objective.targets(meta_params, *args),
        loss=lambda _, *args: objective.loss(meta_params, *args),
    )

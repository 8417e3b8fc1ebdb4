"""A learned objective whose meta-parameters no longer change."""

from __future__ import annotations

from metarl.rl.objective import Objective
from metarl.rl.rollout import Model, Rollout
from metarl.types import Array, MetaParams, Metrics, Params, Progress, PyTree


def fixed(objective: Objective, meta_params: MetaParams) -> Objective:
    """`objective` with constant `meta_params`. Its own meta-parameters are `()`, so only other parts can be learned."""

    def targets(
        _: MetaParams, params: Params, model: Model, rollout: Rollout, progress: Progress
    ) -> tuple[PyTree, Array]:
        return objective.targets(meta_params, params, model, rollout, progress)

    def loss(
        _: MetaParams, params: Params, model: Model, rollout: Rollout, targets: PyTree, progress: Progress
    ) -> tuple[Array, Metrics]:
        return objective.loss(meta_params, params, model, rollout, targets, progress)

    return Objective(lambda key: (), objective.outputs, targets, loss)

"""The seam of agent objectives: what an agent minimises, and what its network must give for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from metarl.rl.rollout import Model, Rollout
from metarl.types import Array, Key, MetaParams, Metrics, Params, Progress, PyTree


class Objective(NamedTuple):
    """What an RL agent minimises: the part of its learning that an update rule may replace."""

    init: Callable[[Key], MetaParams]  # () for a hand-made objective
    outputs: Mapping[str, int]  # what the agent's network must give beyond the policy: {"value": 1}, {"y": 8}
    # (meta_params, params, model, rollout, progress) -> targets with leaves [T, E, ...], and `Update.objective` ().
    # Computed once per rollout and outside the agent's own gradient: constant to the agent, while the meta-gradient
    # flows through both. The second regularises the update rule; it is `jnp.zeros(())` of a rule without regularisers.
    targets: Callable[[MetaParams, Params, Model, Rollout, Progress], tuple[PyTree, Array]]
    # (meta_params, params, model, rollout, targets, progress): the agent follows its gradient in `params`
    loss: Callable[[MetaParams, Params, Model, Rollout, PyTree, Progress], tuple[Array, Metrics]]

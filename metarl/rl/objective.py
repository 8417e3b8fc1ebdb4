"""The seam of agent objectives: what an agent minimises, and which outputs its network needs for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from metarl.rl.rollout import Model, Rollout
from metarl.types import Array, Key, MetaParams, Metrics, Params, Progress, PyTree


class Objective(NamedTuple):
    """What an RL agent minimises. A learned update rule is an objective with meta-parameters."""

    init: Callable[[Key], MetaParams]  # () if nothing is learned
    outputs: Mapping[str, int]  # {name: size} of the network's outputs besides the policy: {"value": 1}, {"y": 8}
    # (meta_params, params, model, rollout, progress) -> targets with leaves [T, E, ...], and `Update.objective` ().
    # Computed once per rollout, outside the agent's own gradient: they are constant for the agent, but the
    # meta-gradient flows through both. The second regularises the update rule: `jnp.zeros(())` if nothing does.
    targets: Callable[[MetaParams, Params, Model, Rollout, Progress], tuple[PyTree, Array]]
    # (meta_params, params, model, rollout, targets, progress) -> loss (), whose gradient in `params` the agent follows,
    # and metrics
    loss: Callable[[MetaParams, Params, Model, Rollout, PyTree, Progress], tuple[Array, Metrics]]

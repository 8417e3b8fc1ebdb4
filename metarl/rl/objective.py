"""The seam of agent objectives: what an agent minimises, and which outputs its network needs for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from metarl import interface
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


def checked_targets(objective: Objective, found: Any) -> tuple[PyTree, Array]:
    """`found` if it is what `objective.targets` has to return. Raises ValueError if not."""
    what = interface.title("Objective.targets", objective.targets)
    targets, regulariser = interface.values(what, found, ("targets", "objective"))
    return targets, interface.array(f"the objective that {what}", regulariser, ())


def checked_loss(objective: Objective, found: Any) -> tuple[Array, Metrics]:
    """`found` if it is what `objective.loss` has to return. Raises ValueError if not."""
    what = interface.title("Objective.loss", objective.loss)
    loss, metrics = interface.values(what, found, ("loss", "metrics"))
    return interface.array(f"the loss that {what}", loss, ()), interface.metrics(f"the metrics that {what}", metrics)

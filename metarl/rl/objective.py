"""The seam of agent objectives: what an agent minimises, and which outputs its network needs for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from metarl import interface
from metarl.rl.rollout import Model, OutputSize, Rollout
from metarl.types import Array, Key, MetaParams, Metrics, Params, Progress, PyTree


def no_memory(params: Params) -> PyTree:
    """`Objective.init_memory` of an objective that remembers nothing of a lifetime."""
    return ()


def no_regulariser(meta_params: MetaParams, params: Params, model: Model, rollout: Rollout) -> Array:
    """`Objective.regulariser` of an objective that asks nothing of the updated agent. Returns 0."""
    return jnp.zeros(())


class Objective(NamedTuple):
    """What an RL agent minimises. A learned update rule is an objective with meta-parameters."""

    init: Callable[[Key], MetaParams]  # () if nothing is learned
    # {name: size} of the network's outputs besides the policy: {"value": 1}, {"y": 8}, {"q": PerAction(601)}
    outputs: Mapping[str, OutputSize]
    # (meta_params, memory, params, model, rollout, progress) -> targets with leaves [T, E, ...], `Update.objective` (),
    # and the memory for the next rollout. Computed once per rollout, outside the agent's own gradient: targets are
    # constant for the agent, but the meta-gradient flows through all three. The second regularises the update rule:
    # `jnp.zeros(())` if nothing does.
    targets: Callable[[MetaParams, PyTree, Params, Model, Rollout, Progress], tuple[PyTree, Array, PyTree]]
    # (meta_params, params, model, rollout, targets, progress) -> loss (), whose gradient in `params` the agent follows,
    # and metrics
    loss: Callable[[MetaParams, Params, Model, Rollout, PyTree, Progress], tuple[Array, Metrics]]
    # parameters of a newborn agent -> what the objective remembers of one lifetime: arrays, () if nothing
    init_memory: Callable[[Params], PyTree] = no_memory
    # (meta_params, params, model, rollout) -> (), added to the differentiable meta-objective of the updated agent, on
    # the rollout by which it is judged
    regulariser: Callable[[MetaParams, Params, Model, Rollout], Array] = no_regulariser


def checked_targets(objective: Objective, found: Any, memory: PyTree) -> tuple[PyTree, Array, PyTree]:
    """`found` if it is what `objective.targets` has to return, which was given `memory`. Raises ValueError if not."""
    what = interface.title("Objective.targets", objective.targets)
    targets, regulariser, after = interface.values(what, found, ("targets", "objective", "memory"))
    interface.same(f"the memory that {what}", after, memory)
    return targets, interface.array(f"the objective that {what}", regulariser, ()), after


def checked_loss(objective: Objective, found: Any) -> tuple[Array, Metrics]:
    """`found` if it is what `objective.loss` has to return. Raises ValueError if not."""
    what = interface.title("Objective.loss", objective.loss)
    loss, metrics = interface.values(what, found, ("loss", "metrics"))
    return interface.array(f"the loss that {what}", loss, ()), interface.metrics(f"the metrics that {what}", metrics)


def checked_regulariser(objective: Objective, found: Any) -> Array:
    """`found` if it is what `objective.regulariser` has to return. Raises ValueError if not."""
    what = interface.title("Objective.regulariser", objective.regulariser)
    return interface.array(f"the regulariser that {what}", found, ())

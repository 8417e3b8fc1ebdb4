"""Learned schedules: a baseline for learned optimizers, whose meta-parameters a human can read."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.checks import COUNT, DECAY, POSITIVE, RATE, checked
from metarl.optimizers.differentiable import clip_by_global_norm
from metarl.optimizers.learned import LearnedOptimizer
from metarl.types import Array, Key, MetaParams, Params, Progress, PyTree

Direction = Literal["adam", "sgd"]


class ScheduleState(NamedTuple):
    """Moments of the gradients."""

    updates: Array  # () int32, so far
    momentum: PyTree
    weight: Array  # () of the initial zero in `momentum`, which bias correction removes
    square: PyTree  # second moments; () for "sgd"


@checked
def schedule(
    learning_rate: Annotated[float, RATE] = 1e-3,
    momentum: Annotated[float, DECAY] = 0.9,
    max_norm: Annotated[float, POSITIVE] | None = 0.5,
    *,
    knots: Annotated[int, COUNT] = 5,
    direction: Direction = "adam",
) -> LearnedOptimizer:
    """Adam, or SGD with momentum, with learned schedules of learning rate, momentum and clipping norm.

    Each schedule is linear between `knots` values at equal distances over the training. Initial (and zero)
    meta-parameters give the constant values of the arguments; `readable` returns the learned values. Momentum 0 stays
    0, and without `max_norm` nothing is clipped. With one knot, momentum 0, no `max_norm` and `direction="sgd"`, this
    is a learned learning rate.

    Raises ValueError for an argument out of range.
    """
    start = {"learning_rate": learning_rate, "momentum": momentum or None, "max_norm": max_norm}

    def init_meta(key: Key) -> MetaParams:
        return {name: jnp.zeros(knots) for name, value in start.items() if value is not None}

    def transform(meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
        values = readable(meta_params, learning_rate, momentum, max_norm)

        def init(params: Params) -> ScheduleState:
            zeros = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
            return ScheduleState(jnp.int32(0), zeros, jnp.ones(()), zeros if direction == "adam" else ())

        def update(
            updates: Params,
            state: ScheduleState,
            params: Params | None = None,
            *,
            progress: Progress | None = None,
            **others: Any,
        ) -> tuple[Params, ScheduleState]:
            age = 0.0 if progress is None else progress.step / progress.horizon
            now = {name: jnp.interp(age, jnp.linspace(0.0, 1.0, knots), x) for name, x in values.items()}
            if "max_norm" in now:
                updates, _ = clip_by_global_norm(now["max_norm"]).update(updates, optax.EmptyState())
            decay = now.get("momentum", 0.0)
            mean = jax.tree.map(lambda m, g: decay * m + (1.0 - decay) * g, state.momentum, updates)
            weight, count, square = decay * state.weight, state.updates + 1, state.square
            size = now["learning_rate"] / (1.0 - weight)
            if direction == "sgd":
                moves = jax.tree.map(lambda m: -size * m, mean)
            else:
                square = optax.tree.update_moment(jax.lax.stop_gradient(updates), square, 0.999, 2)
                corrected = optax.tree.bias_correction(square, 0.999, count)
                moves = jax.tree.map(lambda m, v: -size * m / (jnp.sqrt(v) + 1e-8), mean, corrected)
            moves = jax.tree.map(lambda move, g: move.astype(g.dtype), moves, updates)
            return moves, ScheduleState(count, mean, weight, square)

        return optax.GradientTransformationExtraArgs(init, update)

    return LearnedOptimizer(init_meta, transform)


def readable(
    meta_params: MetaParams, learning_rate: float, momentum: float, max_norm: float | None
) -> dict[str, Array]:
    """The values [knots] of each schedule from the beginning of the training to its end; arguments as of `schedule`."""
    values = {"learning_rate": learning_rate * jnp.exp(meta_params["learning_rate"])}
    if momentum:
        values["momentum"] = jax.nn.sigmoid(jnp.log(momentum / (1.0 - momentum)) + meta_params["momentum"])
    if max_norm is not None:
        values["max_norm"] = max_norm * jnp.exp(meta_params["max_norm"])
    return values

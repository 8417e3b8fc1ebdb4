"""Learned schedules: the floor that every learned optimizer must beat, and one that can be read by hand."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.optimizers.differentiable import clip_by_global_norm
from metarl.optimizers.learned import LearnedOptimizer
from metarl.types import Array, Key, MetaParams, Params, Progress, PyTree

Direction = Literal["adam", "sgd"]


class State(NamedTuple):
    """What is remembered of the gradients."""

    updates: Array  # () int32, so far
    momentum: PyTree
    weight: Array  # () of the zero that momentum began with
    square: PyTree  # second moments; () for "sgd"


def schedule(
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    max_norm: float | None = 0.5,
    *,
    knots: int = 5,
    direction: Direction = "adam",
) -> LearnedOptimizer:
    """Adam, or SGD with momentum, whose rate, momentum and clipping change over the training as is learned.

    Each is linear between `knots` values at equal distances; those of newborn (and of zero) meta-parameters are the
    arguments, and `readable` says what they have become. Momentum 0 stays 0, and without `max_norm` nothing is clipped.
    With one knot and neither, on "sgd", this is a learned scalar rate.

    Raises ValueError for an argument out of range.
    """
    if knots < 1:
        raise ValueError(f"knots must be at least 1, got {knots}")
    if not learning_rate > 0.0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be from 0 to below 1, got {momentum}")
    if max_norm is not None and not max_norm > 0.0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    if direction not in ("adam", "sgd"):
        raise ValueError(f"direction must be 'adam' or 'sgd', got {direction!r}")
    start = {"learning_rate": learning_rate, "momentum": momentum or None, "max_norm": max_norm}

    def init_meta(key: Key) -> MetaParams:
        return {name: jnp.zeros(knots) for name, value in start.items() if value is not None}

    def transform(meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
        values = readable(meta_params, learning_rate, momentum, max_norm)

        def init(params: Params) -> State:
            zeros = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
            return State(jnp.int32(0), zeros, jnp.ones(()), zeros if direction == "adam" else ())

        def update(
            updates: Params,
            state: State,
            params: Params | None = None,
            *,
            progress: Progress | None = None,
            **others: Any,
        ) -> tuple[Params, State]:
            share = 0.0 if progress is None else progress.step / progress.horizon
            now = {name: jnp.interp(share, jnp.linspace(0.0, 1.0, knots), x) for name, x in values.items()}
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
            return moves, State(count, mean, weight, square)

        return optax.GradientTransformationExtraArgs(init, update)

    return LearnedOptimizer(init_meta, transform)


def readable(
    meta_params: MetaParams, learning_rate: float, momentum: float, max_norm: float | None
) -> dict[str, Array]:
    """The values [knots] of each learned quantity, of the schedule with these arguments, from beginning to end."""
    values = {"learning_rate": learning_rate * jnp.exp(meta_params["learning_rate"])}
    if momentum:
        values["momentum"] = jax.nn.sigmoid(jnp.log(momentum / (1.0 - momentum)) + meta_params["momentum"])
    if max_norm is not None:
        values["max_norm"] = max_norm * jnp.exp(meta_params["max_norm"])
    return values

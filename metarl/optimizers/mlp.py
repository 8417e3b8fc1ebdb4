"""Learned optimizers for any gradient: a small network for every parameter, with few features or with many."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import DECAY, POSITIVE, WIDTH, checked
from metarl.optimizers.learned import LearnedOptimizer
from metarl.optimizers.per_parameter import Features, Moment, Tensor, columns, momenta, normalised, per_parameter
from metarl.types import Array

DECAYS = (0.9, 0.99, 0.999)  # of momenta and of factored second moments
TIMES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)


@checked
def no_features(
    width: Annotated[int, WIDTH] = 16,
    *,
    decay: Annotated[float, DECAY] = 0.9,
    scale: Annotated[float, POSITIVE] = 1e-3,
    max_norm: Annotated[float, POSITIVE] | None = 0.5,
) -> LearnedOptimizer:
    """A network that sees the gradient, one momentum and the parameter, unscaled: OPEN without its features.

    Goldie et al. 2025, "How should we meta-learn reinforcement learning algorithms?".
    Raises ValueError for a `decay` outside [0, 1), and as `per_parameter` does.
    """

    def features(tensor: Tensor, moment: Moment) -> Array:
        return columns(tensor.gradient, tensor.memory, tensor.param)

    own = Features(
        num=3,
        of_tensor=features,
        start=lambda param: jnp.zeros(param.shape),
        accumulate=lambda memory, gradient, updates: momenta(jnp.array([decay]), memory, gradient)[0],
    )
    return per_parameter(own, width=width, scale=scale, max_norm=max_norm)


class Accumulators(NamedTuple):
    """Accumulators of one tensor [...]: momenta, second moment, and factored second moments of its last two axes."""

    momenta: Array  # [3, ...]
    square: Array  # [...]
    rows: Array  # [3, ..., n, 1], or [3, ...] for fewer than two axes
    cols: Array  # [3, ..., 1, m], or [3, ...]


@checked
def adafac(
    width: Annotated[int, WIDTH] = 32,
    *,
    scale: Annotated[float, POSITIVE] = 1e-3,
    max_norm: Annotated[float, POSITIVE] | None = None,
) -> LearnedOptimizer:
    """The AdaFac MLP (Metz et al. 2022, arXiv 2203.11860, section 3): 39 features, with Adafactor's accumulators.

    28 features are the gradient, the parameter, three momenta, the second moment, and combinations of these as in Adam
    and Adafactor; each is divided by its root mean square over the tensor. The others are `tanh(t / x - 1)` of the
    number t of updates, for the eleven x of `TIMES`.

    Raises ValueError as `per_parameter` does.
    """
    decays = jnp.array(DECAYS)

    def start(param: Array) -> Accumulators:
        rows, cols = _means(jnp.zeros_like(param))
        many = [jnp.zeros((len(DECAYS), *x.shape)) for x in (param, rows, cols)]
        return Accumulators(many[0], jnp.zeros(param.shape), many[1], many[2])

    def accumulate(memory: Accumulators, gradient: Array, updates: Array) -> Accumulators:
        square = jnp.square(gradient)
        rows, cols = _means(square)
        return Accumulators(
            momenta(decays, memory.momenta, gradient),
            0.999 * memory.square + 0.001 * square,
            momenta(decays, memory.rows, rows),
            momenta(decays, memory.cols, cols),
        )

    def features(tensor: Tensor, moment: Moment) -> Array:
        m = tensor.memory
        adam = jax.lax.rsqrt(m.square + 1e-6)
        rows, cols = jax.lax.rsqrt(m.rows + 1e-8), jax.lax.rsqrt(m.cols + 1e-8)
        if tensor.param.ndim < 2:
            factored = rows
        else:
            factored = rows * cols * jnp.sqrt(m.rows.mean(-2, keepdims=True) + 1e-8)
        whole = [jnp.broadcast_to(x, m.momenta.shape) for x in (m.rows, m.cols, rows, cols)]
        own = columns(
            *(tensor.gradient, tensor.param, m.momenta, m.square, m.momenta * adam, adam),
            *(tensor.gradient * factored, *whole, m.momenta * factored),
        )
        times = jnp.tanh(moment.updates / jnp.array(TIMES) - 1.0)
        return jnp.concatenate([normalised(own), jnp.broadcast_to(times, (len(own), len(TIMES)))], axis=1)

    return per_parameter(Features(39, features, start, accumulate), width=width, scale=scale, max_norm=max_norm)


def _means(square: Array) -> tuple[Array, Array]:
    """Means over the last axis and over the one before it, kept as axes of size 1; both unchanged below two axes."""
    if square.ndim < 2:
        return square, square
    return square.mean(-1, keepdims=True), square.mean(-2, keepdims=True)

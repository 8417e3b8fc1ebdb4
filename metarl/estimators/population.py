"""The common part of black-box estimators: the lifetimes of a population, and the metrics of an estimate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.meta import COUNTED, InnerLoop, Lifetime, advance, done, summary
from metarl.types import Array, Key, MetaParams, Metrics, PyTree


class Lived(NamedTuple):
    """One member of a population after its updates."""

    lifetime: Lifetime
    fitness: Array  # () minus the mean `Update.objective` of its updates
    metrics: Metrics  # sums of the `COUNTED` ones, means of the others without NaN; NaN where there is no number


class _Totals(NamedTuple):
    """Sums over the updates of one member."""

    objective: Array
    metrics: Metrics  # sums of the numbers that are not NaN
    counts: Metrics  # how many they are


def live(
    inner: InnerLoop,
    meta_params: MetaParams,
    lifetime: Any,
    key: Key,
    steps: int,
    measure_every: int | None = None,
) -> Lived:
    """Makes `steps` updates of one lifetime, or fewer to its horizon, and measures its fitness.

    With `measure_every`, fitness is the mean over measurements after every `measure_every` updates and after the last
    one. A lifetime past its horizon makes no updates. Under vmap the loop ends when all lifetimes have reached theirs.
    """
    assert inner.fitness is not None
    measure = inner.fitness
    update_key, test_key = jax.random.split(key)
    shapes = jax.eval_shape(lambda: advance(inner, meta_params, lifetime, key)).metrics
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def segment(loop: tuple[Array, Any, _Totals], end: Array) -> tuple[Any, tuple[Array, Array]]:
        def more(loop: tuple[Array, Any, _Totals]) -> Array:
            return (loop[0] < end) & ~done(loop[1])

        def update(loop: tuple[Array, Any, _Totals]) -> tuple[Array, Any, _Totals]:
            t, lifetime, totals = loop
            lifetime, objective, metrics = advance(inner, meta_params, lifetime, jax.random.fold_in(update_key, t))
            return t + 1, lifetime, _add(totals, objective, metrics)

        alive = more(loop) | (loop[0] == 0)  # a lifetime that starts past its horizon is measured, too
        loop = jax.lax.while_loop(more, update, loop)
        measured = measure(meta_params, loop[1], jax.random.fold_in(test_key, end))
        return loop, (interface.array(interface.title("InnerLoop.fitness", measure), measured, ()), alive)

    ends = jnp.asarray([*range(measure_every, steps, measure_every), steps] if measure_every else [steps])
    start = (jnp.int32(0), lifetime, _Totals(jnp.zeros(()), zeros, zeros))
    (updates, lifetime, totals), (fitness, alive) = jax.lax.scan(segment, start, ends)
    fitness = jnp.where(alive, fitness, 0.0).sum() / alive.sum() - totals.objective / jnp.maximum(updates, 1)
    means = {name: x if name in COUNTED else x / totals.counts[name] for name, x in totals.metrics.items()}
    return Lived(lifetime, fitness, means)


def _add(totals: _Totals, objective: Array, metrics: Metrics) -> _Totals:
    numbers = jax.tree.map(lambda x: jnp.where(jnp.isnan(x), 0, x).astype(x.dtype), metrics)
    counts = jax.tree.map(lambda x: (~jnp.isnan(x)).astype(x.dtype), metrics)
    return jax.tree.map(jnp.add, totals, _Totals(objective, numbers, counts))


class Factors(NamedTuple):
    """A matrix of low rank, `left @ right.T / sqrt(r)` [m, n]: noise of EGGROLL (Sarkar et al. 2025, arXiv 2511.16652).

    Entries have mean 0 and variance 1, and are uncorrelated, as those of normal noise. They take r (m + n) numbers
    instead of m n.
    """

    left: Array  # [m, r] standard normal
    right: Array  # [n, r] standard normal


def perturb(key: Key, meta_params: MetaParams, sigma: Array, rank: int | None = None) -> tuple[PyTree, MetaParams]:
    """Noise for one pair, and its members `meta_params +- sigma noise` with leaves [2, ...].

    The noise is standard normal. With a `rank`, that of the matrices for which it saves numbers is `Factors`.
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: Any) -> Array | Factors:
        if rank is None or not factorised(shape, rank):
            return jax.random.normal(key, shape, dtype)
        rows, columns = shape
        both = jax.random.normal(key, (rows + columns, rank), dtype)
        return Factors(both[:rows], both[rows:])

    def members(noise: Array | Factors, param: Array) -> Array:
        e = noise.left @ noise.right.T / rank_scale(noise) if isinstance(noise, Factors) else noise
        return param + jnp.stack([e, -e]) * sigma

    noise = optax.tree.random_like(key, meta_params, draw)
    return noise, jax.tree.map(members, noise, meta_params, is_leaf=_is_factors)


def factorised(shape: tuple[int, ...], rank: int) -> bool:
    """Whether noise of this shape and rank is kept as `Factors`: it is that of a matrix, and they take less memory."""
    return len(shape) == 2 and rank * sum(shape) < math.prod(shape)


def pair_gradient(weights: Array, directions: PyTree) -> tuple[MetaParams, Array]:
    """`-mean_i(weights_i directions_i)` over pairs, and the variance of one pair's term, summed over parameters.

    `weights` are [n], with NaN for pairs that are left out. Leaves of `directions` are [n, ...], or `Factors` of such
    leaves, whose products are never formed.
    """
    valid = ~jnp.isnan(weights)
    count = valid.sum()
    weights = jnp.where(valid, weights, 0.0)

    def total(d: Array | Factors) -> Array:
        if isinstance(d, Factors):
            return jnp.einsum("i,imr,inr->mn", weights, *d) / rank_scale(d)
        return jnp.tensordot(weights, d, 1)

    def square(d: Array | Factors) -> Array:
        if isinstance(d, Factors):
            return jnp.einsum("imr,ims,inr,ins->i", d.left, d.left, d.right, d.right) / jnp.square(rank_scale(d))
        return jnp.square(d.reshape(len(d), -1)).sum(1)

    gradient = jax.tree.map(lambda d: -total(d) / jnp.maximum(count, 1), directions, is_leaf=_is_factors)
    squares = sum(square(d) for d in jax.tree.leaves(directions, is_leaf=_is_factors))
    spread = (jnp.square(weights) * squares).sum() - count * jnp.square(optax.global_norm(gradient))
    return gradient, jnp.maximum(spread, 0.0) / jnp.maximum(count - 1, 1)


def rank_scale(factors: Factors) -> float:
    """What the product of the factors is divided by, so that its entries have variance 1."""
    return math.sqrt(factors.left.shape[-1])


def _is_factors(x: Any) -> bool:
    return isinstance(x, Factors)


def estimate_metrics(
    metrics: Metrics, fitness: Array, gradient: MetaParams, previous: MetaParams, own: Metrics
) -> Metrics:
    """The metrics of all population estimators: of members' updates, of their fitness (any axes), of the gradient.

    And the estimator's `own`.
    """
    lived = summary(metrics)
    measured = {**fitness_metrics(fitness), **gradient_metrics(gradient, previous), **own}
    return interface.merged(inner_loop=lived, estimator=measured)


def fitness_metrics(fitness: Array) -> Metrics:
    """Mean, minimum and maximum of the finite `fitness` (any shape), and the number of non-finite ones.

    `meta_loss` is minus the mean. It is NaN, which stops the training, if no fitness is finite.
    """
    finite = jnp.isfinite(fitness)
    mean = jnp.where(finite, fitness, 0.0).sum() / finite.sum()
    return {
        "meta_loss": -mean,
        "fitness": mean,
        "fitness_min": jnp.where(finite, fitness, jnp.inf).min(),
        "fitness_max": jnp.where(finite, fitness, -jnp.inf).max(),
        "nonfinite_members": (~finite).sum(),
    }


def gradient_metrics(gradient: MetaParams, previous: MetaParams) -> Metrics:
    """Norm of an estimate, and its cosine with the previous one (0 if either is 0)."""
    norm = optax.global_norm(gradient)
    norms = norm * optax.global_norm(previous)
    cosine = jnp.where(norms > 0.0, optax.tree.vdot(gradient, previous) / jnp.where(norms > 0.0, norms, 1.0), 0.0)
    return {"meta_gradient_norm": norm, "meta_gradient_cosine": cosine}

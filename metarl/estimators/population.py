"""What the black-box estimators share: populations that live side by side, and what is said of an estimate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.meta import COUNTED, InnerLoop, Lifetime, advance, done, summary
from metarl.types import Array, Key, MetaParams, Metrics


class Lived(NamedTuple):
    """What became of one member of a population."""

    lifetime: Lifetime
    fitness: Array  # (), less the mean `Update.objective` of the updates that it made
    metrics: Metrics  # over the updates that it made: sums of what is `COUNTED`, else means; NaN of nothing to report


class _Totals(NamedTuple):
    """Sums over the updates of one member."""

    objective: Array
    metrics: Metrics  # over what is no NaN
    counts: Metrics  # of what is no NaN


def live(
    inner: InnerLoop,
    meta_params: MetaParams,
    lifetime: Any,
    key: Key,
    steps: int,
    measure_every: int | None = None,
) -> Lived:
    """`steps` updates of one lifetime, or fewer if its horizon comes first; then its fitness.

    With `measure_every`, fitness is the mean over measurements after every so many updates (and after the last
    one). A lifetime past its horizon makes no updates, and under vmap nobody waits once all have reached theirs.
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

        alive = more(loop) | (loop[0] == 0)  # one that came past its horizon is measured too
        loop = jax.lax.while_loop(more, update, loop)
        return loop, (measure(meta_params, loop[1], jax.random.fold_in(test_key, end)), alive)

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


def perturb(key: Key, meta_params: MetaParams, sigma: Array) -> tuple[MetaParams, MetaParams]:
    """Standard normal noise, and the pair `meta_params +- sigma noise` with leaves [2, ...]."""
    noise = optax.tree.random_like(key, meta_params, jax.random.normal)
    return noise, jax.tree.map(lambda p, e: p + jnp.stack([e, -e]) * sigma, meta_params, noise)


def pair_gradient(weights: Array, directions: MetaParams) -> tuple[MetaParams, Array]:
    """`-mean_i(weights_i directions_i)` over pairs, and the variance of one pair's term, summed over parameters.

    `weights` [n] (NaN for a pair that does not count), `directions` with leaves [n, ...].
    """
    valid = ~jnp.isnan(weights)
    count = valid.sum()
    weights = jnp.where(valid, weights, 0.0)
    gradient = jax.tree.map(lambda d: -jnp.tensordot(weights, d, 1) / jnp.maximum(count, 1), directions)
    squares = sum(jnp.square(d.reshape(len(d), -1)).sum(1) for d in jax.tree.leaves(directions))
    spread = (jnp.square(weights) * squares).sum() - count * jnp.square(optax.global_norm(gradient))
    return gradient, jnp.maximum(spread, 0.0) / jnp.maximum(count - 1, 1)


def estimate_metrics(metrics: Metrics, fitness: Array, gradient: MetaParams, previous: MetaParams) -> Metrics:
    """What every estimate by a population reports: of its members' lives and fitness (any axes), and of itself."""
    return {**summary(metrics), **fitness_metrics(fitness), **gradient_metrics(gradient, previous)}


def fitness_metrics(fitness: Array) -> Metrics:
    """Mean, least and greatest of the finite `fitness` of any shape, and how many are not finite.

    `meta_loss` is minus the mean: NaN where no member has a finite fitness, which stops the training.
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
    """Norm of an estimate, and its cosine with the one before (0 where either vanishes)."""
    norm, before = optax.global_norm(gradient), optax.global_norm(previous)
    product = optax.tree.vdot(gradient, previous)
    cosine = jnp.where(norm * before > 0.0, product / jnp.where(norm * before > 0.0, norm * before, 1.0), 0.0)
    return {"meta_gradient_norm": norm, "meta_gradient_cosine": cosine}


def check_options(**options: float | Array | None) -> None:
    """Raises ValueError naming the first of `options` that is a plain number but not positive and finite."""
    for name, value in options.items():
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}")

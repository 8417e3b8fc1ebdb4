"""What the black-box estimators share: populations that live side by side, and what is said of an estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.meta import InnerLoop, Lifetime
from metarl.types import Array, Key, MetaParams, Metrics, PyTree


class Lived(NamedTuple):
    """What became of one member of a population."""

    lifetime: Lifetime
    fitness: Array  # ()
    metrics: Metrics  # means over the updates that it made; NaN where there was nothing to report
    updates: Array  # () int32, how many these were


def live(
    inner: InnerLoop,
    meta_params: MetaParams,
    lifetime: Lifetime,
    key: Key,
    steps: int,
    measure_every: int | None = None,
) -> Lived:
    """`steps` updates of one lifetime, or fewer if its horizon comes first; then its fitness.

    With `measure_every`, fitness is the mean over measurements after every so many updates (and after the last
    one). A lifetime past its horizon makes no updates, and under vmap nobody waits once all have reached theirs.
    """
    update_key, test_key = jax.random.split(key)
    shapes = jax.eval_shape(inner.step, meta_params, lifetime, key).metrics
    nothing = jax.tree.map(lambda x: jnp.zeros((2, *x.shape), x.dtype), shapes)  # sums, and counts of what is summed

    def segment(loop: tuple[Array, Lifetime, Metrics], end: Array) -> tuple[Any, tuple[Array, Array]]:
        def more(loop: tuple[Array, Lifetime, Metrics]) -> Array:
            return (loop[0] < end) & ~inner.done(loop[1])

        def update(loop: tuple[Array, Lifetime, Metrics]) -> tuple[Array, Lifetime, Metrics]:
            t, lifetime, totals = loop
            lifetime, _, metrics = inner.step(meta_params, lifetime, jax.random.fold_in(update_key, t))
            totals = jax.tree.map(lambda total, x: total + _sum_and_count(x), totals, metrics)
            return t + 1, lifetime, totals

        alive = more(loop) | (loop[0] == 0)  # one that came past its horizon is measured too
        loop = jax.lax.while_loop(more, update, loop)
        return loop, (inner.fitness(meta_params, loop[1], jax.random.fold_in(test_key, end)), alive)

    ends = jnp.asarray([*range(measure_every, steps, measure_every), steps] if measure_every else [steps])
    (updates, lifetime, totals), (fitness, alive) = jax.lax.scan(segment, (jnp.int32(0), lifetime, nothing), ends)
    metrics = jax.tree.map(lambda x: x[0] / x[1], totals)
    return Lived(lifetime, jnp.where(alive, fitness, 0.0).sum() / alive.sum(), metrics, updates)


def _sum_and_count(x: Array) -> Array:
    return jnp.stack([jnp.where(jnp.isnan(x), 0.0, x), ~jnp.isnan(x)]).astype(x.dtype)


def spread(
    function: Callable[[Any, Any], PyTree],
    common: PyTree,
    xs: PyTree,
    cost: Array,
    batch_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> PyTree:
    """`vmap(function, (None, 0))(common, xs)`, dealt out to `devices` as by `deal`, and there `batch_size` at a time.

    What costs alike goes together: a batch takes as long as its longest lifetime. `cost` [n] is any measure of it.

    Raises ValueError if `xs` cannot be dealt out evenly.
    """
    places = len(devices or [None])

    def share(common: PyTree, xs: PyTree) -> PyTree:
        return in_batches(partial(function, common), xs, batch_size)

    by_cost = jnp.argsort(cost)
    order = jnp.concatenate([by_cost[i::places] for i in range(places)])  # every device gets short and long ones
    results = deal(share, common, jax.tree.map(lambda x: x[order], xs), devices)
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: x[back], results)


def in_batches(function: Callable[[Any], PyTree], xs: PyTree, batch_size: int | None) -> PyTree:
    """`vmap(function)(xs)`, `batch_size` of `xs` (leaves [n, ...]) at a time (all if None)."""
    if batch_size is None or batch_size >= len(jax.tree.leaves(xs)[0]):
        return jax.vmap(function)(xs)
    return jax.lax.map(function, xs, batch_size=batch_size if batch_size > 1 else None)


def deal(
    function: Callable[[Any, Any], PyTree], common: PyTree, xs: PyTree, devices: Sequence[jax.Device] | None = None
) -> PyTree:
    """`function(common, share)` of an equal share of `xs` (leaves [n, ...]) on each of `devices`, joined.

    Results are joined along their first axes in the order of `xs`, and every device gets them all. Without `devices`,
    `function(common, xs)` on the default one. `function` may not close over what is traced: that belongs in `common`.

    Raises ValueError if `xs` cannot be dealt out evenly.
    """
    if devices is None:
        return function(common, xs)
    count = len(jax.tree.leaves(xs)[0])
    if count % len(devices):
        raise ValueError(f"{count} lifetimes (or pairs of them) cannot be dealt out evenly to devices = {len(devices)}")
    mesh = jax.sharding.Mesh(np.asarray(devices), ("devices",))
    part, whole = jax.P("devices"), jax.sharding.NamedSharding(mesh, jax.P())
    dealt = jax.shard_map(function, mesh=mesh, in_specs=(jax.P(), part), out_specs=part, check_vma=False)
    xs = jax.lax.with_sharding_constraint(xs, whole)  # what goes in is as what comes out: a loop's state stays put
    return jax.lax.with_sharding_constraint(dealt(common, xs), whole)


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


def cost(inner: InnerLoop, updates: Array, losses: int = 0) -> Metrics:
    """What so many updates of agents, and so many measurements of `inner.loss`, have cost together."""
    env_steps = updates * jnp.float32(inner.env_steps) + losses * inner.loss_env_steps  # integers may overflow
    return {"agent_updates": updates, "env_steps": env_steps}


def estimate_metrics(
    inner: InnerLoop, lived: Lived, fitness: Array, gradient: MetaParams, previous: MetaParams
) -> Metrics:
    """What every estimate by a population reports: of its members' lives (any axes), of their fitness, of itself."""
    return {
        **jax.tree.map(jnp.nanmean, lived.metrics),
        **fitness_metrics(fitness),
        **gradient_metrics(gradient, previous),
        **cost(inner, lived.updates.sum()),
    }


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

"""Meta-gradients by backpropagation through a few inner updates."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from metarl import interface
from metarl.checks import COUNT, checked
from metarl.estimators.population import gradient_metrics
from metarl.meta import COUNTED, Estimator, InnerLoop, Lifetimes, advance, checked_update, done, needed, summary
from metarl.parallel import Placement
from metarl.tree import select
from metarl.types import Array, Key, MetaParams, Metrics, PyTree


@checked
def backprop(
    steps: Annotated[int, COUNT],
    *,
    remat: bool = False,
    mixed: bool = False,
    placement: Placement = Placement(),  # noqa: B008
) -> Estimator:
    """The exact gradient of the truncated objective (Oh et al. 2020, arXiv 2007.08794, section 4.2).

    Every lifetime makes `steps` inner updates. Its meta-loss is `inner.loss` after them plus the mean of their
    `Update.objective` (0 past the horizon), and the estimate is the gradient of the mean over lifetimes. The gradient
    flows through all `steps` updates, but not into the updates of the meta-step before.

    `placement` is that of lifetimes; its `batch_size` must divide their number on each device. `remat` recomputes each
    inner update in the backward pass instead of storing it. Both trade time for memory. `mixed` differentiates the
    gradients of learners forward over reverse (MixFlow-MG, Kemaev et al. 2025, arXiv 2505.00793). The meta-gradient is
    the same up to rounding; large networks of learners take less memory, small ones more time. The variance of the
    gradients of lifetimes (`meta_gradient_variance`) is estimated from batches; without a `batch_size` it is NaN.

    Raises ValueError if `steps` is not positive, if the devices or the batches do not divide the lifetimes, or, with
    `mixed`, for an inner loop without a `mixed_step`.
    """

    def estimate(
        inner: InnerLoop, meta_params: MetaParams, state: PyTree, lifetimes: Lifetimes, key: Key
    ) -> tuple[MetaParams, PyTree, Lifetimes, Metrics]:
        inner = inner._replace(step=needed(inner, "mixed_step")) if mixed else inner

        def one(meta_params: MetaParams, lifetime: Any, key: Key) -> tuple[Array, tuple[Any, Metrics]]:
            return truncation(inner, steps, remat, meta_params, lifetime, key)

        def batch(
            meta_params: MetaParams, part: tuple[Lifetimes, Array]
        ) -> tuple[MetaParams, Array, Lifetimes, Metrics]:
            def mean_loss(meta_params: MetaParams) -> tuple[Array, tuple[Array, Lifetimes, Metrics]]:
                losses, (after, metrics) = jax.vmap(one, (None, 0, 0))(meta_params, *part)
                return losses.mean(), (losses, after, metrics)

            gradient, (losses, after, metrics) = jax.grad(mean_loss, has_aux=True)(meta_params)
            return gradient, losses, after, metrics

        def batches(meta_params: MetaParams, part: tuple[Lifetimes, Array]) -> Any:
            """What `batch` returns for each batch of a device's lifetimes: leaves [batches, ...]."""
            count = len(part[1])
            size = placement.batch_size or count
            if count % size:
                per_device = f" / {num_lifetimes // count} devices" if count < num_lifetimes else ""
                raise ValueError(f"batch_size must divide num_lifetimes = {num_lifetimes}{per_device}, got {size}")
            if size == count:
                return jax.tree.map(lambda x: x[None], batch(meta_params, part))
            parts = jax.tree.map(lambda x: x.reshape(count // size, size, *x.shape[1:]), part)
            return jax.lax.map(lambda part: batch(meta_params, part), parts)

        num_lifetimes = len(lifetimes.level.horizon)
        parts = (lifetimes, jax.random.split(key, num_lifetimes))
        gradients, losses, lifetimes, metrics = placement.shard(batches, meta_params, parts)
        gradient = jax.tree.map(lambda x: x.mean(0), gradients)
        losses, lifetimes = jax.tree.map(lambda x: jax.lax.collapse(x, 0, 2), (losses, lifetimes))
        lived = summary(metrics)
        measured = {
            "meta_loss": losses.mean(),
            "lifetime_loss": losses,
            **gradient_metrics(gradient, state),
            "meta_gradient_variance": _variance(gradients, placement.batch_size),
        }
        metrics = interface.merged(inner_loop=lived, estimator=measured)
        return gradient, gradient, lifetimes, metrics

    def init(meta_params: MetaParams, lifetimes: Lifetimes) -> PyTree:
        return jax.tree.map(jnp.zeros_like, meta_params)

    return Estimator(init, estimate, needs="loss", mixed=mixed)


def truncation(
    inner: InnerLoop, steps: int, remat: bool, meta_params: MetaParams, lifetime: Any, key: Key
) -> tuple[Array, tuple[Any, Metrics]]:
    """The meta-loss () of a lifetime after its next `steps` updates; the lifetime after them, and metrics."""

    def update(lifetime: Any, key: Key) -> tuple[Any, tuple[Array, Metrics]]:
        lifetime, objective, metrics = advance(inner, meta_params, lifetime, key)
        return lifetime, (objective, metrics)

    update_key, loss_key = jax.random.split(key)
    update = jax.checkpoint(update, prevent_cse=False) if remat else update  # not needed in a scan
    lifetime, (objectives, metrics) = jax.lax.scan(update, lifetime, jax.random.split(update_key, steps))
    assert inner.loss is not None
    measured = checked_update("InnerLoop.loss", inner.loss, inner.loss(meta_params, lifetime, loss_key), lifetime)
    costs = {name: metrics[name].sum() + measured.metrics.get(name, 0) for name in COUNTED if name in metrics}
    lifetime = select(done(lifetime), lifetime, measured.lifetime)
    both = {**metrics, **measured.metrics, **costs}
    metrics = interface.merged(inner_loop=both, estimator={"objective": objectives})
    return measured.objective + objectives.mean(), (lifetime, metrics)


def _variance(gradients: MetaParams, batch_size: int | None) -> Array:
    """Variance of one lifetime's gradient, summed over parameters; `gradients` are batch means [batches, ...]."""
    if batch_size is None:  # the gradient of each lifetime alone would be much slower
        return jnp.array(jnp.nan)
    return batch_size * sum(x.var(0, ddof=1).sum() for x in jax.tree.leaves(gradients))

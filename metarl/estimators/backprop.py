"""Meta-gradients by backpropagation through a few agent updates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from metarl.estimators.population import cost, deal, gradient_metrics
from metarl.meta import Estimator, InnerLoop, Lifetime, Lifetimes
from metarl.types import Array, Key, MetaParams, Metrics, PyTree


def backprop(
    steps: int,
    *,
    batch_size: int | None = None,
    remat: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Estimator:
    """The exact gradient of the truncated objective (Oh et al. 2020, arXiv 2007.08794, section 4.2).

    Every lifetime makes `steps` inner updates; its meta-loss is `inner.loss` after them plus the mean of
    their penalties, and the estimate is the gradient of the mean over lifetimes. Within a truncation the
    gradient flows through every update; across truncations it does not.

    Lifetimes are dealt out to `devices` (the default one if None), where `batch_size` go through at a time (all if
    None; it must divide their number there), and `remat` recomputes each inner update backwards instead of storing
    it: the latter two trade time for memory. Only batches tell how much a lifetime's gradient varies
    (`meta_gradient_variance`, NaN without them).

    Raises ValueError if `steps` or `batch_size` is not positive, or if `devices` or `batch_size` do not divide.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1 inner update, got {steps}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 lifetime, got {batch_size}")

    def estimate(
        inner: InnerLoop, meta_params: MetaParams, state: PyTree, lifetimes: Lifetimes, key: Key
    ) -> tuple[MetaParams, PyTree, Lifetimes, Metrics]:
        num_lifetimes = jax.tree.leaves(lifetimes)[0].shape[0]

        def truncation(meta_params: MetaParams, lifetime: Lifetime, key: Key) -> tuple[Array, tuple[Lifetime, Metrics]]:
            def update(lifetime: Lifetime, key: Key) -> tuple[Lifetime, tuple[Array, Metrics, Array]]:
                alive = ~inner.done(lifetime)
                lifetime, penalty, metrics = inner.step(meta_params, lifetime, key)
                return lifetime, (penalty, metrics, alive)

            update_key, loss_key = jax.random.split(key)
            update = jax.checkpoint(update, prevent_cse=False) if remat else update  # a scan keeps them apart
            lifetime, (penalties, metrics, alive) = jax.lax.scan(update, lifetime, jax.random.split(update_key, steps))
            loss, (lifetime, loss_metrics) = inner.loss(meta_params, lifetime, loss_key)
            metrics |= {**loss_metrics, "penalty": penalties, "agent_updates": alive.sum()}
            return loss + penalties.mean(), (lifetime, metrics)

        def batch(
            meta_params: MetaParams, part: tuple[Lifetimes, Array]
        ) -> tuple[MetaParams, Array, Lifetimes, Metrics]:
            def mean_loss(meta_params: MetaParams) -> tuple[Array, tuple[Array, Lifetimes, Metrics]]:
                losses, (after, metrics) = jax.vmap(truncation, (None, 0, 0))(meta_params, *part)
                return losses.mean(), (losses, after, metrics)

            gradient, (losses, after, metrics) = jax.grad(mean_loss, has_aux=True)(meta_params)
            return gradient, losses, after, metrics

        def share(
            meta_params: MetaParams, part: tuple[Lifetimes, Array]
        ) -> tuple[MetaParams, Array, Lifetimes, Metrics]:
            """What `batch` returns for each batch of a device's share: leaves [batches, ...]."""
            count = len(part[1])
            size = batch_size or count
            if count % size:
                here = f" / {num_lifetimes // count} devices" if count < num_lifetimes else ""
                raise ValueError(f"batch_size must divide num_lifetimes = {num_lifetimes}{here}, got {size}")
            if size == count:
                return jax.tree.map(lambda x: x[None], batch(meta_params, part))
            batches = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), part)
            return jax.lax.map(partial(batch, meta_params), batches)

        parts = (lifetimes, jax.random.split(key, num_lifetimes))
        gradients, losses, lifetimes, metrics = deal(share, meta_params, parts, devices)
        gradient = jax.tree.map(lambda x: x.mean(0), gradients)
        # of one lifetime's gradient; without batches it would take a matrix product per lifetime
        between = sum(x.var(0, ddof=1).sum() for x in jax.tree.leaves(gradients))
        variance = batch_size * between if batch_size else jnp.array(jnp.nan)
        losses, lifetimes = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (losses, lifetimes))
        agent_updates = metrics.pop("agent_updates").sum()
        metrics = jax.tree.map(jnp.nanmean, metrics)  # NaN marks what had nothing to report
        metrics |= {
            "meta_loss": losses.mean(),
            "lifetime_loss": losses,
            **gradient_metrics(gradient, state),
            "meta_gradient_variance": variance,
            **cost(inner, agent_updates, num_lifetimes),
        }
        return gradient, gradient, lifetimes, metrics

    return Estimator(lambda meta_params, lifetimes: jax.tree.map(jnp.zeros_like, meta_params), estimate)

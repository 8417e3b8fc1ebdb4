"""Reptile: learned initialisations move towards what learners become, without any gradient of a meta-objective."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from metarl import interface
from metarl.checks import COUNT, checked
from metarl.estimators.backprop import truncation
from metarl.estimators.population import gradient_metrics
from metarl.meta import Estimator, InnerLoop, Lifetimes, summary
from metarl.parallel import Placement
from metarl.types import Key, MetaParams, Metrics


@checked
def reptile(
    steps: Annotated[int, COUNT],
    *,
    placement: Placement = Placement(),  # noqa: B008
) -> Estimator:
    """Reptile (Nichol et al. 2018, arXiv 1803.02999, algorithm 1 in batches).

    Every lifetime makes `steps` updates. The estimate for `meta_params["initial"]` is minus the mean distance of the
    learners from it, `theta_0 - theta_k`; take lifetimes of `steps` updates, as the paper does. The metric `meta_loss`
    is that of `backprop`; nothing is differentiated in it. `placement` is that of lifetimes.

    Raises ValueError if `steps` is not positive. `init` raises ValueError for an inner loop whose initialisation is not
    learned, or in which anything else is: the estimate would be 0.
    """

    def init(meta_params: MetaParams, lifetimes: Lifetimes) -> MetaParams:
        learned = [name for name, part in meta_params.items() if jax.tree.leaves(part)]
        if learned != ["initial"]:
            raise ValueError(
                f"reptile learns an initialisation and nothing else, but here the learned parts are {learned}: give "
                'the inner loop initial="learned", a hand-made objective and an optimizer of optax'
            )
        return jax.tree.map(jnp.zeros_like, meta_params)

    def estimate(
        inner: InnerLoop, meta_params: MetaParams, state: MetaParams, lifetimes: Lifetimes, key: Key
    ) -> tuple[MetaParams, MetaParams, Lifetimes, Metrics]:
        def live(meta_params: MetaParams, x: tuple[Any, Key]) -> Any:
            return truncation(inner, steps, False, meta_params, *x)

        keys = jax.random.split(key, len(lifetimes.level.horizon))
        losses, (lifetimes, metrics) = placement.map(live, meta_params, (lifetimes, keys))
        gradient = {**meta_params, "initial": jax.tree.map(lambda moved: -moved.mean(0), lifetimes.params)}
        measured = {"meta_loss": losses.mean(), "lifetime_loss": losses, **gradient_metrics(gradient, state)}
        return gradient, gradient, lifetimes, interface.merged(inner_loop=summary(metrics), estimator=measured)

    return Estimator(init, estimate, needs="loss")

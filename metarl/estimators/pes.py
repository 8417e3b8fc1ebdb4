"""Persistent evolution strategies: unbiased estimates from truncated lifetimes."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, FACTOR, POSITIVE, checked
from metarl.estimators.population import Lived, estimate_metrics, live, pair_gradient, perturb
from metarl.meta import Estimator, InnerLoop, Lifetime, Lifetimes, done
from metarl.parallel import Placement
from metarl.tree import select
from metarl.types import Array, Key, MetaParams, Metrics


class PESState(NamedTuple):
    """What one estimate passes to the next."""

    sigma: Array  # () standard deviation of the perturbations
    previous: MetaParams  # the last estimate
    twins: Lifetimes  # of the negative perturbations; those of the positive ones are the run's lifetimes
    perturbation: MetaParams  # leaves [n, ...]: the sum of noise / sigma of each pair since its lifetimes began
    newborn: Array  # [n] bool: the next lifetime is new, so its twin must start as a copy of it


@checked
def pes(
    steps: Annotated[int, COUNT],
    *,
    sigma: Annotated[float | Array, POSITIVE] = 0.1,
    sigma_decay: Annotated[float | Array, FACTOR] = 1.0,
    placement: Placement = Placement(),  # noqa: B008
) -> Estimator:
    """Persistent evolution strategies (Vicol et al. 2021, arXiv 2112.13835, algorithm 2), with one pair per lifetime.

    Each estimate continues every pair by `steps` updates under a new perturbation `+- sigma e_t`, and then measures its
    fitness. Unlike in truncated `es`, both members are kept, each with its own lifetime, and the difference of their
    fitness is attributed to all perturbations since they began: `-mean(sum_t(e_t / sigma) (F(+) - F(-)) / 2)`.
    With pairs of all ages (as `compose` staggers them) and lifetimes of equal length, this estimates the gradient of
    -fitness, averaged over the measurements of a whole lifetime (as `es` with `measure_every=steps`), without bias. It
    is perturbed anew every `steps` updates, while `es` perturbs a lifetime once; for small sigma both agree. If
    lifetimes differ in length, each counts in proportion to its number of measurements.

    Both members of a pair have the same level and the same random numbers. `sigma_decay`, `placement`, non-finite
    fitness and `Update.objective` are treated as in `es`.

    Raises ValueError if an option is out of range, or if the devices do not divide the lifetimes.
    """

    def init(meta_params: MetaParams, lifetimes: Lifetimes) -> PESState:
        count = len(lifetimes.level.horizon)
        zeros = jax.tree.map(lambda p: jnp.zeros((count, *p.shape), p.dtype), meta_params)
        previous = jax.tree.map(jnp.zeros_like, meta_params)
        return PESState(jnp.float32(sigma), previous, lifetimes, zeros, jnp.ones(count, bool))

    def estimate(
        inner: InnerLoop, meta_params: MetaParams, state: PESState, lifetimes: Lifetimes, key: Key
    ) -> tuple[MetaParams, PESState, Lifetimes, Metrics]:
        def pair(common: tuple[MetaParams, Array], x: tuple[Lifetime, Lifetime, Key]) -> tuple[MetaParams, Lived]:
            one, twin, key = x
            noise_key, life_key = jax.random.split(key)
            noise, members = perturb(noise_key, *common)
            starts = jax.tree.map(lambda *pair: jnp.stack(pair), one, twin)

            def member(meta_params: MetaParams, lifetime: Lifetime) -> Lived:
                return live(inner, meta_params, lifetime, life_key, steps)

            return noise, jax.vmap(member)(members, starts)

        twins = select(state.newborn, lifetimes, state.twins)
        horizons = lifetimes.level.horizon
        starts = (lifetimes, twins, jax.random.split(key, len(horizons)))
        noise, lived = placement.balanced_map(pair, (meta_params, state.sigma), starts, horizons)
        lifetimes, twins = (jax.tree.map(lambda x, i=i: x[:, i], lived.lifetime) for i in range(2))

        earlier = select(state.newborn, jax.tree.map(jnp.zeros_like, state.perturbation), state.perturbation)
        perturbation = jax.tree.map(lambda total, e: total + e / state.sigma, earlier, noise)
        finite = jnp.isfinite(lived.fitness).all(1)
        weights = jnp.where(finite, (lived.fitness[:, 0] - lived.fitness[:, 1]) / 2.0, jnp.nan)
        gradient, variance = pair_gradient(weights, perturbation)
        own = {"meta_gradient_variance": variance, "sigma": state.sigma}
        metrics = estimate_metrics(lived.metrics, lived.fitness, gradient, state.previous, own)
        newborn = done(lifetimes)  # the run replaces these before the next estimate
        state = PESState(state.sigma * sigma_decay, gradient, twins, perturbation, newborn)
        return gradient, state, lifetimes, metrics

    return Estimator(init, estimate, needs="fitness")

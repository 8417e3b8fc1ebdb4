"""Persistent evolution strategies: truncated like `es` with few steps, unbiased like `es` over whole lifetimes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl.estimators.population import Lived, check_options, estimate_metrics, live, pair_gradient, perturb
from metarl.meta import Estimator, InnerLoop, Lifetime, Lifetimes, done
from metarl.parallel import Placement
from metarl.tree import select
from metarl.types import Array, Key, MetaParams, Metrics


class PESState(NamedTuple):
    """What an estimate leaves for the next."""

    sigma: Array  # () standard deviation of the perturbations
    previous: MetaParams  # the last estimate
    twins: Lifetimes  # those of the negative perturbations; the positive ones are the run's lifetimes
    perturbation: MetaParams  # leaves [n, ...]: each pair's noise / sigma, summed since its lifetimes began
    newborn: Array  # [n] bool: the lifetime that comes is new, and its twin is to be one with it


def pes(
    steps: int,
    *,
    sigma: float | Array = 0.1,
    sigma_decay: float | Array = 1.0,
    placement: Placement = Placement(),  # noqa: B008
) -> Estimator:
    """Persistent evolution strategies (Vicol et al. 2021, arXiv 2112.13835, algorithm 2), of one pair per lifetime.

    Each estimate takes every pair `steps` updates further, to its next measurement of fitness, under a perturbation
    `+- sigma e_t` drawn anew. Other than by truncated `es`, both members live on, each in its own lifetime, and what
    they differ in is put down to all perturbations since birth: `-mean(sum_t(e_t / sigma) (F(+) - F(-)) / 2)`.
    With pairs of all ages (as `compose` staggers them) and lifetimes of one length, this is an unbiased estimate of
    the gradient of -fitness averaged over the measurements of a whole lifetime (`es` with `measure_every=steps`), of
    which it smooths another version: perturbed anew every `steps` updates where `es` perturbs a lifetime once. For
    small sigma they agree. Where lifetimes differ in length, each counts for as many as it has measurements.

    Both members of a pair share their level and their random numbers. `sigma_decay` and `placement` are those of `es`,
    and so is what happens to fitness that is not finite and to `Update.objective`.

    Raises ValueError if an option is out of range, or if the devices do not divide the lifetimes.
    """
    check_options(steps=steps, sigma=sigma, sigma_decay=sigma_decay)

    def init(meta_params: MetaParams, lifetimes: Lifetimes) -> PESState:
        count = len(lifetimes.level.horizon)
        none_yet = jax.tree.map(lambda p: jnp.zeros((count, *p.shape), p.dtype), meta_params)
        previous = jax.tree.map(jnp.zeros_like, meta_params)
        return PESState(jnp.float32(sigma), previous, lifetimes, none_yet, jnp.ones(count, bool))

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
        metrics = {
            **estimate_metrics(lived.metrics, lived.fitness, gradient, state.previous),
            "meta_gradient_variance": variance,
            "sigma": state.sigma,
        }
        newborn = done(lifetimes)  # the run replaces these before the next estimate
        state = PESState(state.sigma * sigma_decay, gradient, twins, perturbation, newborn)
        return gradient, state, lifetimes, metrics

    return Estimator(init, estimate, needs="fitness")

"""Evolution strategies: meta-gradients from the fitness of perturbed meta-parameters, without differentiating."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from metarl.estimators.population import Lived, check_options, estimate_metrics, live, pair_gradient, perturb
from metarl.meta import Estimator, InnerLoop, Lifetime, Lifetimes
from metarl.parallel import Placement
from metarl.types import Array, Key, MetaParams, Metrics

Shaping = Literal["none", "centred_ranks", "pair_rank"]


class ESState(NamedTuple):
    """What an estimate leaves for the next."""

    sigma: Array  # () standard deviation of the perturbations
    previous: MetaParams  # the last estimate


def es(
    steps: int,
    *,
    sigma: float | Array = 0.1,
    sigma_decay: float | Array = 1.0,
    shaping: Shaping = "pair_rank",
    measure_every: int | None = None,
    common_tasks: bool = True,
    placement: Placement = Placement(),  # noqa: B008
) -> Estimator:
    """Antithetic evolution strategies (OpenES: Salimans et al. 2017, arXiv 1703.03864), of one pair per lifetime.

    From where a lifetime stands, one member of its pair goes on under `meta_params + sigma e`, the other under
    `meta_params - sigma e`, for `steps` updates or to its horizon. So `steps` no shorter than any horizon gives
    whole lifetimes, and fewer truncated ones, whose estimate is biased. Both members have the same level and the
    same random numbers (antithetic task sampling, Jackson et al. 2024, arXiv 2402.05828, section 4); the agent of
    the better one lives on. With `common_tasks=False` the second member goes on from another lifetime, with random
    numbers of its own, for comparison.

    The estimate of the gradient of -fitness is `-mean((w(+) - w(-)) e) / (2 sigma)`, where w is a member's fitness
    ("none"), its rank among all members from -0.5 to 0.5 ("centred_ranks"), or 1 for the better and 0 for the worse
    of a pair ("pair_rank"). Pairs with a member of non-finite fitness do not count, but are counted: the estimate is
    of the fitness of agents that survive.
    Fitness is that at the end, or the mean over measurements after every `measure_every` updates; less the mean
    `Update.objective` of the member's updates.

    `sigma` is multiplied by `sigma_decay` after each estimate. `placement` is that of pairs.

    Raises ValueError if an option is out of range, or if the devices do not divide the lifetimes.
    """
    check_options(steps=steps, sigma=sigma, sigma_decay=sigma_decay, measure_every=measure_every)
    if shaping not in get_args(Shaping):
        raise ValueError(f"shaping must be one of {get_args(Shaping)}, got {shaping!r}")

    def init(meta_params: MetaParams, lifetimes: Lifetimes) -> ESState:
        return ESState(jnp.float32(sigma), jax.tree.map(jnp.zeros_like, meta_params))

    def estimate(
        inner: InnerLoop, meta_params: MetaParams, state: ESState, lifetimes: Lifetimes, key: Key
    ) -> tuple[MetaParams, ESState, Lifetimes, Metrics]:
        def pair(common: tuple[MetaParams, Array], x: tuple[Lifetime, Lifetime, Key]) -> tuple[MetaParams, Lived]:
            one, other, key = x
            noise_key, plus_key, minus_key = jax.random.split(key, 3)
            noise, members = perturb(noise_key, *common)
            starts = jax.tree.map(lambda *pair: jnp.stack(pair), one, other)
            keys = jnp.stack([plus_key, plus_key if common_tasks else minus_key])

            def member(meta_params: MetaParams, lifetime: Lifetime, key: Key) -> Lived:
                return live(inner, meta_params, lifetime, key, steps, measure_every)

            both = jax.vmap(member)(members, starts, keys)
            kept = better(both.fitness) if common_tasks else 0
            return noise, both._replace(lifetime=jax.tree.map(lambda x: x[kept], both.lifetime))

        horizons = lifetimes.level.horizon
        others = lifetimes if common_tasks else jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), lifetimes)
        starts = (lifetimes, others, jax.random.split(key, len(horizons)))
        noise, lived = placement.balanced_map(pair, (meta_params, state.sigma), starts, horizons)
        shaped = shape(lived.fitness, shaping)
        gradient, variance = pair_gradient((shaped[:, 0] - shaped[:, 1]) / (2.0 * state.sigma), noise)
        metrics = {
            **estimate_metrics(lived.metrics, lived.fitness, gradient, state.previous),
            "meta_gradient_variance": variance,
            "sigma": state.sigma,
        }
        return gradient, ESState(state.sigma * sigma_decay, gradient), lived.lifetime, metrics

    return Estimator(init, estimate, needs="fitness")


def shape(fitness: Array, shaping: Shaping) -> Array:
    """What counts for fitness [n, 2] of pairs, as `es` says; NaN for both members of a pair that does not count."""
    valid = jnp.isfinite(fitness).all(1, keepdims=True)
    if shaping == "pair_rank":
        fitness = 0.5 + 0.5 * jnp.sign(fitness - fitness[:, ::-1])
    elif shaping == "centred_ranks":
        flat = jnp.where(valid, fitness, jnp.inf).reshape(-1)
        ordered = jnp.sort(flat)
        # equal fitness, equal rank: the mean of the first and the last that it could have
        first, last = (jnp.searchsorted(ordered, flat, side=side) for side in ("left", "right"))
        fitness = (0.5 * (first + last - 1) / jnp.maximum(2 * valid.sum() - 1, 1) - 0.5).reshape(fitness.shape)
    return jnp.where(valid, fitness, jnp.nan)


def better(fitness: Array) -> Array:
    """Which member of a pair with `fitness` [2] has the greater one; a finite one is better than none."""
    comparable = jnp.where(jnp.isfinite(fitness), fitness, -jnp.inf)
    return (comparable[1] > comparable[0]).astype(int)

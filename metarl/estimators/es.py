"""Evolution strategies: meta-gradients from the fitness of perturbed meta-parameters, without derivatives."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, FACTOR, POSITIVE, checked
from metarl.estimators.population import Lived, estimate_metrics, factorised, live, pair_gradient, perturb
from metarl.meta import Estimator, InnerLoop, Lifetime, Lifetimes
from metarl.parallel import Placement
from metarl.types import Array, Key, MetaParams, Metrics, PyTree

Shaping = Literal["none", "centred_ranks", "pair_rank"]


class ESState(NamedTuple):
    """What one estimate passes to the next."""

    sigma: Array  # () standard deviation of the perturbations
    previous: MetaParams  # the last estimate


@checked
def es(
    steps: Annotated[int, COUNT],
    *,
    sigma: Annotated[float | Array, POSITIVE] = 0.1,
    sigma_decay: Annotated[float | Array, FACTOR] = 1.0,
    shaping: Shaping = "pair_rank",
    measure_every: Annotated[int, COUNT] | None = None,
    common_tasks: bool = True,
    rank: Annotated[int, COUNT] | None = None,
    placement: Placement = Placement(),  # noqa: B008
) -> Estimator:
    """Antithetic evolution strategies (OpenES: Salimans et al. 2017, arXiv 1703.03864), with one pair per lifetime.

    Both members of a pair continue the lifetime for `steps` updates or to its horizon, one with
    `meta_params + sigma e`, the other with `meta_params - sigma e`. If `steps` is at least every horizon, lifetimes are
    whole; if not, they are truncated, and the estimate is biased. Both members have the same level and the same
    random numbers (antithetic task sampling, Jackson et al. 2024, arXiv 2402.05828, section 4). The learner of the
    better member is kept. With `common_tasks=False`, for comparison, the second member continues another lifetime with
    other random numbers.

    The estimate of the gradient of -fitness is `-mean((w(+) - w(-)) e) / (2 sigma)`, where w is a member's fitness
    ("none"), its rank among all members from -0.5 to 0.5 ("centred_ranks"), or 1 for the better and 0 for the worse
    of a pair ("pair_rank"). Pairs with a non-finite fitness are left out of the estimate; the metric
    `nonfinite_members` counts them.
    Fitness is measured at the end, or is the mean over measurements after every `measure_every` updates. The mean
    `Update.objective` of the member's updates is subtracted.

    With a `rank` r, the perturbation of a matrix [m, n] is `A B^T / sqrt(r)` with normal A [m, r] and B [n, r],
    wherever that takes fewer numbers (EGGROLL: Sarkar et al. 2025, arXiv 2511.16652). The estimate has the same limit
    for small sigma. The noise of all pairs, which is kept until they have lived, takes r (m + n) numbers a pair.

    `sigma` is multiplied by `sigma_decay` after each estimate. `placement` is that of pairs.

    Raises ValueError if an option is out of range, if the devices do not divide the lifetimes, or, when the estimator
    begins, if no meta-parameter is a matrix for which the `rank` saves memory.
    """

    def init(meta_params: MetaParams, lifetimes: Lifetimes) -> ESState:
        shapes = [x.shape for x in jax.tree.leaves(meta_params)]
        if rank is not None and not any(factorised(shape, rank) for shape in shapes):
            raise ValueError(f"rank {rank} saves nothing: it must be smaller for matrices of shapes {shapes}")
        return ESState(jnp.float32(sigma), jax.tree.map(jnp.zeros_like, meta_params))

    def estimate(
        inner: InnerLoop, meta_params: MetaParams, state: ESState, lifetimes: Lifetimes, key: Key
    ) -> tuple[MetaParams, ESState, Lifetimes, Metrics]:
        def pair(common: tuple[MetaParams, Array], x: tuple[Lifetime, Lifetime, Key]) -> tuple[PyTree, Lived]:
            one, other, key = x
            noise_key, plus_key, minus_key = jax.random.split(key, 3)
            noise, members = perturb(noise_key, *common, rank)
            starts = jax.tree.map(lambda *pair: jnp.stack(pair), one, other)
            keys = jnp.stack([plus_key, plus_key if common_tasks else minus_key])

            def member(meta_params: MetaParams, lifetime: Lifetime, key: Key) -> Lived:
                return live(inner, meta_params, lifetime, key, steps, measure_every)

            both = jax.vmap(member)(members, starts, keys)
            best = better(both.fitness) if common_tasks else 0
            return noise, both._replace(lifetime=jax.tree.map(lambda x: x[best], both.lifetime))

        horizons = lifetimes.level.horizon
        others = lifetimes if common_tasks else jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), lifetimes)
        starts = (lifetimes, others, jax.random.split(key, len(horizons)))
        noise, lived = placement.balanced_map(pair, (meta_params, state.sigma), starts, horizons)
        shaped = shape(lived.fitness, shaping)
        gradient, variance = pair_gradient((shaped[:, 0] - shaped[:, 1]) / (2.0 * state.sigma), noise)
        own = {"meta_gradient_variance": variance, "sigma": state.sigma}
        metrics = estimate_metrics(lived.metrics, lived.fitness, gradient, state.previous, own)
        return gradient, ESState(state.sigma * sigma_decay, gradient), lived.lifetime, metrics

    return Estimator(init, estimate, needs="fitness")


def shape(fitness: Array, shaping: Shaping) -> Array:
    """The weights w [n, 2] of `es` for the fitness [n, 2] of pairs; NaN for pairs that are left out."""
    valid = jnp.isfinite(fitness).all(1, keepdims=True)
    if shaping == "pair_rank":
        fitness = 0.5 + 0.5 * jnp.sign(fitness - fitness[:, ::-1])
    elif shaping == "centred_ranks":
        flat = jnp.where(valid, fitness, jnp.inf).reshape(-1)
        ordered = jnp.sort(flat)
        # members of equal fitness share the mean of their ranks
        first, last = (jnp.searchsorted(ordered, flat, side=side) for side in ("left", "right"))
        fitness = (0.5 * (first + last - 1) / jnp.maximum(2 * valid.sum() - 1, 1) - 0.5).reshape(fitness.shape)
    return jnp.where(valid, fitness, jnp.nan)


def better(fitness: Array) -> Array:
    """The index () of the better member of a pair with `fitness` [2]. Non-finite fitness is the worst."""
    comparable = jnp.where(jnp.isfinite(fitness), fitness, -jnp.inf)
    return (comparable[1] > comparable[0]).astype(int)

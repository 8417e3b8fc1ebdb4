"""Evolution strategies with the ask/tell interface of evosax as estimators (optional extra `evosax`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.checks import COUNT, POSITIVE, checked
from metarl.estimators.population import Lived, estimate_metrics, live
from metarl.meta import Estimator, InnerLoop, Lifetimes
from metarl.parallel import Placement
from metarl.tree import copies
from metarl.types import Array, Key, MetaParams, Metrics, PyTree

WORST = 1e8  # higher than any loss that is measured


class AskTellState(NamedTuple):
    """What one generation passes to the next."""

    strategy: PyTree
    previous: MetaParams  # the last estimate, minus the last step of the meta-parameters


@checked
def ask_tell(
    make: Callable[[MetaParams], Any],
    steps: Annotated[int, COUNT],
    *,
    params: Any = None,
    sigma: Annotated[float, POSITIVE] = 0.1,
    placement: Placement = Placement(),  # noqa: B008
) -> Estimator:
    """A strategy of evosax (Lange 2022, arXiv 2212.04180), such as

        ask_tell(lambda solution: evosax.algorithms.CMA_ES(population_size=32, solution=solution), steps=250)

    Every member of the population continues every lifetime, with the same random numbers, for `steps` updates or to its
    horizon. The fitness of a member is the mean over lifetimes; if that is not finite, it is the lowest of the others.
    The learners of the best member are kept.

    The strategy moves its mean itself, so compose it with `optax.sgd(1.0)`: the estimate is the meta-parameters minus
    the new mean. A strategy without a mean has its best member in the place of the mean, and its first population is
    the meta-parameters plus noise of deviation `sigma`, the same for every seed. `params` are the parameters of the
    strategy (None: its default ones). `placement` is that of members times lifetimes.

    Raises ValueError if an option is out of range.
    """

    def build(meta_params: MetaParams) -> tuple[Any, Any]:
        with jax.ensure_compile_time_eval():
            strategy = make(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), meta_params))
            return strategy, strategy.default_params if params is None else params

    def init(meta_params: MetaParams, lifetimes: Lifetimes) -> AskTellState:
        strategy, options = build(meta_params)
        key = jax.random.key(0)
        if hasattr(strategy, "get_mean"):
            state = strategy.init(key, meta_params, options)
        else:
            size = strategy.population_size
            members = copies(meta_params, size)
            noise = optax.tree.random_like(key, members, jax.random.normal)
            state = strategy.init(key, optax.tree.add_scale(members, sigma, noise), jnp.full(size, WORST), options)
        return AskTellState(_strongly_typed(state), jax.tree.map(jnp.zeros_like, meta_params))

    def estimate(
        inner: InnerLoop, meta_params: MetaParams, state: AskTellState, lifetimes: Lifetimes, key: Key
    ) -> tuple[MetaParams, AskTellState, Lifetimes, Metrics]:
        strategy, options = build(meta_params)
        ask_key, tell_key, life_key = jax.random.split(key, 3)
        population, strategy_state = strategy.ask(ask_key, state.strategy, options)
        horizons = lifetimes.level.horizon
        size, count = strategy.population_size, len(horizons)
        keys = jax.random.split(life_key, count)

        def one(common: tuple[MetaParams, tuple[Lifetimes, Key]], pair: tuple[Array, Array]) -> Lived:
            population, starts = common
            member, index = pair
            lifetime, life_key = jax.tree.map(lambda x: x[index], starts)
            return live(inner, jax.tree.map(lambda x: x[member], population), lifetime, life_key, steps)

        pairs = tuple(x.reshape(-1) for x in jnp.indices((size, count)))
        lived = placement.balanced_map(one, (population, (lifetimes, keys)), pairs, jnp.tile(horizons, size))
        lived = jax.tree.map(lambda x: x.reshape(size, count, *x.shape[1:]), lived)
        fitness = lived.fitness.mean(1)
        finite = jnp.isfinite(fitness)
        worst = jnp.where(finite, -fitness, -jnp.inf).max()
        losses = jnp.where(finite, -fitness, jnp.where(finite.any(), worst, WORST))
        strategy_state, _ = strategy.tell(tell_key, population, losses, strategy_state, options)
        solution = strategy.get_mean if hasattr(strategy, "get_mean") else strategy.get_best_solution
        gradient = jax.tree.map(jnp.subtract, meta_params, solution(strategy_state))
        metrics = estimate_metrics(lived.metrics, fitness, gradient, state.previous, {})
        best = jax.tree.map(lambda x: x[losses.argmin()], lived.lifetime)
        return gradient, AskTellState(_strongly_typed(strategy_state), gradient), best, metrics

    return Estimator(init, estimate, needs="fitness")


def _strongly_typed(state: PyTree) -> PyTree:
    """Strategies begin with Python numbers, whose types may change once: every program would be compiled again."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)

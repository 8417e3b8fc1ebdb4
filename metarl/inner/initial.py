"""Learned initialisations: the initial parameters of learners are meta-parameters (MAML, Finn et al. 2017).

The parameters of a learner are `meta_params["initial"]` plus the distance that it has moved since its birth. Lifetimes
hold the distance, 0 at birth, so a meta-gradient reaches the initialisation at any age, through any estimator, and a
lifetime that outlives a meta-step goes on from the initialisation that has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from metarl import checks, interface
from metarl.meta import InnerLoop, Update
from metarl.tree import select
from metarl.types import Array, Key, Level, MetaParams, Params

# Where learners begin: at random, where meta-parameters say, or always at the same parameters.
Initial = Literal["random", "learned"] | Params
Function = Callable[[MetaParams, Any, Key], Any]  # `step`, `mixed_step`, `loss` or `fitness` of an inner loop


def with_initial(
    inner: InnerLoop,
    initial: Initial,
    init: Callable[[Key], Params],
    born: Callable[[MetaParams, Any, Params], Any],
) -> InnerLoop:
    """`inner`, and if `initial` is "learned" its meta-parameters have one part more, `{"initial": init(key)}`.

    `born(meta_params, lifetime, params)` is the lifetime as it would be if it had been born with these parameters: the
    state of its optimizer begins with them, and so does what its objective remembers.

    The functions of the loop raise ValueError when they are traced, for an initialisation of other shapes.
    """
    if not isinstance(initial, str) or initial != "learned":
        return inner

    def init_meta(key: Key) -> MetaParams:
        return {**inner.init_meta(key), "initial": init(jax.random.fold_in(key, 1))}

    def newborn(key: Key, level: Level) -> Any:
        lifetime = inner.init(key, level)
        return lifetime._replace(params=jax.tree.map(jnp.zeros_like, lifetime.params))

    def whole(meta_params: MetaParams, lifetime: Any) -> tuple[MetaParams, Any]:
        initial = fitted(meta_params.get("initial", ()), init, "the learners' parameters")
        params = jax.tree.map(jnp.add, initial, lifetime.params)
        grown = lifetime._replace(params=params)
        return initial, select(lifetime.step == 0, born(meta_params, grown, params), grown)

    def with_distance(function: Function) -> Function:
        def call(meta_params: MetaParams, lifetime: Any, key: Key) -> Update:
            initial, grown = whole(meta_params, lifetime)
            update = function(meta_params, grown, key)
            distance = jax.tree.map(jnp.subtract, update.lifetime.params, initial)
            return update._replace(lifetime=update.lifetime._replace(params=distance))

        return call

    def measured(fitness: Function) -> Function:
        def call(meta_params: MetaParams, lifetime: Any, key: Key) -> Array:
            return fitness(meta_params, whole(meta_params, lifetime)[1], key)

        return call

    return InnerLoop(
        init_meta,
        newborn,
        with_distance(inner.step),
        inner.loss and with_distance(inner.loss),
        inner.fitness and measured(inner.fitness),
        inner.mixed_step and with_distance(inner.mixed_step),
    )


def parameters(meta_params: MetaParams, lifetime: Any) -> Params:
    """The parameters of a learner, wherever they began: those of its lifetime, plus a learned initialisation."""
    initial = meta_params.get("initial", ())
    return jax.tree.map(jnp.add, initial, lifetime.params) if jax.tree.leaves(initial) else lifetime.params


def start(initial: Initial, init: Callable[[Key], Params], whose: str) -> Callable[[Key], Params]:
    """Initial parameters of learners by key: those of `init`, or always the given ones.

    Raises ValueError if `initial` is neither "random" nor "learned" nor parameters as those of `init`, called `whose`.
    """
    if isinstance(initial, str):
        checks.one_of(("random", "learned"), initial=initial)
        return init
    params = fitted(initial, init, whose)
    return lambda key: params


def fitted(params: Params, init: Callable[[Key], Params], whose: str) -> Params:
    """The initialisation `params` as arrays. Raises ValueError if they are not parameters of `init`, called `whose`."""
    wanted = jax.eval_shape(init, jax.random.key(0))
    interface.fits("the initialisation", params, whose, wanted)
    return optax.tree.cast_like(jax.tree.map(jnp.asarray, params), wanted)

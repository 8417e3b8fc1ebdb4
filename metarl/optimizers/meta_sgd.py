"""Meta-SGD: a learning rate for every parameter, learned with the initialisation or without (Li et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.checks import RATE, checked
from metarl.optimizers.learned import LearnedOptimizer
from metarl.types import Array, Key, MetaParams, Params


@checked
def meta_sgd(shapes: Mapping[str, Any], learning_rate: Annotated[Array | float, RATE] = 0.01) -> LearnedOptimizer:
    """`p <- p - a g` with a learned rate a for each entry of p (Li et al. 2017, arXiv 1707.09835).

    The meta-parameters are the rates, which begin at `learning_rate`; they may become negative. `shapes` are those of
    the parameters, nested mappings from names to shapes, which `shapes_of(init)` gives.

    Raises ValueError for a rate that is not positive. The transformation raises ValueError for other parameters.
    """

    def init(key: Key) -> MetaParams:
        return jax.tree.map(
            lambda shape: jnp.full(tuple(shape), learning_rate, float),
            shapes,
            is_leaf=lambda x: not isinstance(x, Mapping),
        )

    def transform(rates: MetaParams) -> optax.GradientTransformationExtraArgs:
        def start(params: Params) -> optax.EmptyState:
            interface.fits("the tree of learned rates", rates, "the parameters", params)
            return optax.EmptyState()

        def update(
            gradient: Params, state: optax.EmptyState, params: Params | None = None, **others: Any
        ) -> tuple[Params, optax.EmptyState]:
            return jax.tree.map(lambda rate, g: -(rate * g).astype(g.dtype), rates, gradient), state

        return optax.GradientTransformationExtraArgs(start, update)

    return LearnedOptimizer(init, transform)


def shapes_of(init: Callable[[Key], Params]) -> dict[str, Any]:
    """The shapes of the parameters that `init` makes, as `meta_sgd` takes them: `shapes_of(network.init)`."""
    return jax.tree.map(lambda x: x.shape, jax.eval_shape(init, jax.random.key(0)))

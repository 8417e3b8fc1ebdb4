"""The seam of learned optimizers: how a learner follows its gradient, with meta-parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from metarl.types import Key, MetaParams, Params, PyTree


class LearnedOptimizer(NamedTuple):
    """How a learner follows its gradient; any optax transformation serves in its place."""

    init: Callable[[Key], MetaParams]
    transform: Callable[[MetaParams], optax.GradientTransformationExtraArgs]


def as_learned(optimizer: optax.GradientTransformation | LearnedOptimizer) -> LearnedOptimizer:
    """`optimizer` as one that is learned: the meta-parameters of an optax transformation are `()`."""
    if isinstance(optimizer, LearnedOptimizer):
        return optimizer
    return LearnedOptimizer(lambda key: (), lambda meta_params: optax.with_extra_args_support(optimizer))


def transform(learned: LearnedOptimizer, meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
    """The transformation for the `"optimizer"` among `meta_params`, which files leave out where nothing is learned."""
    return learned.transform(meta_params.get("optimizer", ()))


def born(
    learned: LearnedOptimizer, init: Callable[[Key], Params], param_key: Key, optimizer_key: Key
) -> tuple[Params, PyTree]:
    """Newborn parameters `init(param_key)` and the optimizer's state for them."""
    params = init(param_key)
    # an optimizer's first state depends on the shapes of its meta-parameters only
    return params, learned.transform(learned.init(optimizer_key)).init(params)


def check_fits(learned: LearnedOptimizer, init: Callable[[Key], Params], what: str) -> None:
    """Traces `born`. Raises ValueError, saying that the optimizer does not fit `what`, if it fails."""
    key = jax.random.key(0)
    try:
        jax.eval_shape(lambda key: born(learned, init, key, key), key)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"the optimizer does not fit {what}: {error}") from error

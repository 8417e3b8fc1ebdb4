"""The seam of learned optimizers: optax transformations with meta-parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from metarl import interface
from metarl.types import Key, MetaParams, Params, PyTree


class LearnedOptimizer(NamedTuple):
    """An optax transformation with meta-parameters. Inner loops also accept any optax transformation in its place."""

    init: Callable[[Key], MetaParams]
    transform: Callable[[MetaParams], optax.GradientTransformationExtraArgs]


def as_learned(optimizer: optax.GradientTransformation | LearnedOptimizer) -> LearnedOptimizer:
    """`optimizer` as a `LearnedOptimizer`; the meta-parameters of an optax transformation are `()`.

    Raises ValueError for what is neither.
    """
    if isinstance(optimizer, LearnedOptimizer):
        return optimizer
    interface.optimizer("optimizer", optimizer)
    return LearnedOptimizer(lambda key: (), lambda meta_params: optax.with_extra_args_support(optimizer))


def transform(learned: LearnedOptimizer, meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
    """The transformation with `meta_params["optimizer"]`, or with `()` if nothing is learned and a file left it out.

    Raises ValueError for other meta-parameters than those of `learned.init`.
    """
    return learned.transform(interface.meta_params("optimizer", meta_params, learned.init))


def init_learner(
    learned: LearnedOptimizer, init: Callable[[Key], Params], param_key: Key, optimizer_key: Key
) -> tuple[Params, PyTree]:
    """Initial parameters `init(param_key)`, and the optimizer's state for them."""
    params = init(param_key)
    # any meta-parameters will do: the initial state depends only on their shapes
    return params, learned.transform(learned.init(optimizer_key)).init(params)


def check_fits(learned: LearnedOptimizer, init: Callable[[Key], Params], what: str) -> None:
    """Traces `init_learner`, and raises ValueError, with the name `what` of the parameters, if that fails."""
    key = jax.random.key(0)
    try:
        jax.eval_shape(lambda key: init_learner(learned, init, key, key), key)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"the optimizer does not fit {what}: {error}") from error

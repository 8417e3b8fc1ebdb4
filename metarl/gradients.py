"""The gradient of a learner's loss, and two ways to differentiate it once more for a meta-gradient.

An inner loop takes one of these functions, so that its step is written once. The values are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from metarl.types import Array, Params, PyTree

Loss = Callable[[Params], tuple[Array, PyTree]]  # parameters -> loss (), and what else is of interest, such as metrics
# loss -> (parameters -> their gradient, and what else the loss returned)
GradientOf = Callable[[Loss], Callable[[Params], tuple[Params, PyTree]]]


def reverse_over_reverse(loss: Loss) -> Callable[[Params], tuple[Params, PyTree]]:
    """`jax.grad(loss, has_aux=True)`. A meta-gradient stores what the gradient computes, and goes backwards through it.

    The cheapest way for small networks.
    """
    return jax.grad(loss, has_aux=True)


def forward_over_reverse(loss: Loss) -> Callable[[Params], tuple[Params, PyTree]]:
    """The same gradient. A meta-gradient stores only what the loss reads, not what the gradient computes.

    The loss L(theta, x) reads the parameters theta and everything else, x: meta-parameters, targets, observations. The
    product of a vector v with the derivatives of g = dL / dtheta in theta and in x is the derivative of
    (dL / dtheta, dL / dx) along v in theta, because second derivatives are symmetric. So one forward pass over the
    gradient does what a backward pass through it would do (MixFlow-MG, Kemaev et al. 2025, arXiv 2505.00793).

    Everything that `loss` closes over counts as x, also arrays of an outer `vmap`, `scan` or `grad`. The result has
    derivatives in reverse mode only: `jax.jvp` of it raises TypeError.
    """

    def gradient(params: Params) -> tuple[Params, PyTree]:
        traced, shapes = jax.make_jaxpr(loss, return_shape=True)(params)  # finds what the loss closes over
        tree = jax.tree.structure(shapes)

        def explicit(params: Params, read: Sequence[Array]) -> tuple[Array, PyTree]:
            leaves = jax.core.eval_jaxpr(traced.jaxpr, read, *jax.tree.leaves(params))
            return jax.tree.unflatten(tree, leaves)

        return _mixed(explicit)(params, traced.consts)

    return gradient


def _mixed(
    loss: Callable[[Params, Sequence[Array]], tuple[Array, PyTree]],
) -> Callable[[Params, Sequence[Array]], tuple[Params, PyTree]]:
    """The gradient of `loss(params, read)` in `params`, whose derivative goes forward over reverse."""
    gradient = jax.custom_vjp(jax.grad(loss, has_aux=True))

    def forwards(params: Params, read: Sequence[Array]) -> tuple[tuple[Params, PyTree], tuple[Params, Sequence[Array]]]:
        return gradient(params, read), (params, read)

    def backwards(
        stored: tuple[Params, Sequence[Array]], cotangents: tuple[Params, PyTree]
    ) -> tuple[Params, Sequence[Array | None]]:
        params, read = stored
        direction, of_others = cotangents

        def slopes(params: Params, amount: Array | float) -> tuple[Params, Sequence[Array | None]]:
            """Derivatives of the loss plus `amount` times what else is differentiated. None for integers and keys."""
            (value, _), pullback = jax.vjp(loss, params, read)
            weights = jax.tree.map(lambda x: x if _constant(x) else amount * x, of_others)
            return jax.tree.map(lambda x: None if _constant(x) else x, pullback((jnp.ones_like(value), weights)))

        return jax.jvp(slopes, (params, 0.0), (direction, 1.0))[1]

    gradient.defvjp(forwards, backwards)
    return gradient


def _constant(cotangent: Array) -> bool:
    """Whether this is the cotangent of an integer, a boolean or a random key, which have no derivatives."""
    return bool(cotangent.dtype == jax.dtypes.float0)

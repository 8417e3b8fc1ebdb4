"""Optimizers of optax with finite derivatives, for meta-gradients through inner updates.

The derivative of a square root at zero is infinite, so the meta-gradient through `optax.adam` or
`optax.clip_by_global_norm` is NaN wherever a gradient was exactly zero. In Adam a large `eps` would avoid the NaN, but
also shrink the meta-gradient. Here the denominator receives no meta-gradient, which keeps it finite and useful.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from metarl.checks import DECAY, NOT_NEGATIVE, POSITIVE, RATE, checked
from metarl.types import Array


@checked
def scale_by_adam(
    b1: Annotated[float, DECAY] = 0.9, b2: Annotated[float, DECAY] = 0.999, eps: Annotated[float, NOT_NEGATIVE] = 1e-8
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` (Kingma and Ba 2014, arXiv 1412.6980), same values; no derivative in the denominator."""
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(jax.lax.stop_gradient(updates), state.nu, b2, 2)
        mu_hat = optax.tree.bias_correction(mu, b1, count)
        denominator = jax.tree.map(lambda x: jnp.sqrt(x) + eps, optax.tree.bias_correction(nu, b2, count))
        updates = jax.tree.map(lambda m, d: m / jax.lax.stop_gradient(d), mu_hat, denominator)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(adam.init, update)


@checked
def adam(
    learning_rate: Annotated[Array | float, RATE] | optax.Schedule,
    b1: Annotated[float, DECAY] = 0.9,
    b2: Annotated[float, DECAY] = 0.999,
    eps: Annotated[float, NOT_NEGATIVE] = 1e-8,
    max_update: Annotated[float, POSITIVE] | None = None,
) -> optax.GradientTransformation:
    """`optax.adam` for inner loops with meta-gradients; see `scale_by_adam`.

    What Adam makes of each entry of a gradient is clipped to `max_update` before the learning rate, if it is given.
    """
    clips = () if max_update is None else (optax.clip(max_update),)
    return optax.chain(scale_by_adam(b1, b2, eps), *clips, optax.scale_by_learning_rate(learning_rate))


def first_order() -> optax.GradientTransformation:
    """Passes gradients on, but no derivative: `optax.chain(first_order(), optax.sgd(0.1))`.

    Meta-gradients then take the learner's gradients for constants, as first-order MAML does (Finn et al. 2017, arXiv
    1703.03400, section 5.2): they reach a learned initialisation and learned rates, but no learned objective.
    """
    return optax.stateless(lambda gradient, params: jax.lax.stop_gradient(gradient))


@checked
def clip_by_global_norm(max_norm: Annotated[float | Array, POSITIVE]) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, same values; its derivative is finite where a gradient is exactly zero."""

    def update(updates, state, params=None):
        square = optax.tree.norm(updates, squared=True)
        clips = square > max_norm**2
        # both branches of a `where` are differentiated, so neither may divide by zero
        scale = jnp.where(clips, max_norm / jnp.sqrt(jnp.where(clips, square, 1.0)), 1.0)
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

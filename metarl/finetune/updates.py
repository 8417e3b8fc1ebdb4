"""Gradient updates: how the gradients of imitation and reward, and their weights, become one step of the policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.finetune.controllers import Weights
from metarl.tree import select
from metarl.types import Array, Params, PyTree


class Gradients(NamedTuple):
    """Of the two losses, at the same parameters."""

    imitation: Params
    reward: Params


class GradientUpdate(NamedTuple):
    """Optimizers of weighted gradients. Pure functions, as in optax.

    For a controller with a meta-parameter, the optimizers must have finite derivatives (`metarl.optimizers`).
    """

    init: Callable[[Params], PyTree]
    # (weights, gradients, state, params) -> what to add to the parameters, state
    update: Callable[[Weights, Gradients, PyTree, Params], tuple[Params, PyTree]]


def joint(optimizer: optax.GradientTransformation) -> GradientUpdate:
    """One optimizer follows the gradient of `weights.imitation * L_imitation + weights.reward * L_reward`."""

    def update(weights: Weights, gradients: Gradients, state: PyTree, params: Params) -> tuple[Params, PyTree]:
        gradient = jax.tree.map(lambda i, r: weights.imitation * i + weights.reward * r, *gradients)
        return optimizer.update(gradient, state, params)

    return GradientUpdate(optimizer.init, update)


def separate(*, imitation: optax.GradientTransformation, reward: optax.GradientTransformation) -> GradientUpdate:
    """An optimizer for each loss (ReLIFT); their steps are added. One whose weight is 0 rests, and so does its state.

    What one learns of the size of its gradients does not disturb the other.
    """

    def init(params: Params) -> tuple[PyTree, PyTree]:
        return imitation.init(params), reward.init(params)

    def update(weights: Weights, gradients: Gradients, state: PyTree, params: Params) -> tuple[Params, PyTree]:
        one, one_state = _unless_zero(imitation, weights.imitation, gradients.imitation, state[0], params)
        other, other_state = _unless_zero(reward, weights.reward, gradients.reward, state[1], params)
        return jax.tree.map(jnp.add, one, other), (one_state, other_state)

    return GradientUpdate(init, update)


def unit_effect(update: Callable[[Weights], Params], weights: Weights) -> Weights:
    """The same weights, but with derivatives as if the step turned by a length of one per unit of the weight.

    `update` maps weights to the policy's step. Behind a utility whose gradient has norm 1, the derivative by the weight
    of imitation (that of reward being its complement) is the cosine between the utility's gradient and the direction in
    which a heavier weight of imitation moves the policy.
    """

    def moved(x: Array) -> Params:
        return update(Weights(weights.imitation + x, weights.reward - x))

    effect = jax.jvp(moved, (jnp.zeros(()),), (jnp.ones(()),))[1]
    scale = 1.0 / jnp.maximum(jax.lax.stop_gradient(optax.tree.norm(effect)), 1e-12)
    return jax.tree.map(lambda x: scale_derivative(x, scale), weights)


def scale_derivative(x: Array, scale: Array | float) -> Array:
    """`x`, whose derivatives are multiplied by `scale`."""
    fixed = jax.lax.stop_gradient(x)
    return fixed + scale * (x - fixed)


def _unless_zero(
    optimizer: optax.GradientTransformation, weight: Array, gradient: Params, state: PyTree, params: Params
) -> tuple[Params, PyTree]:
    """The optimizer's step along `weight * gradient`; none, with the state as it was, where the weight is 0."""
    moves, after = optimizer.update(jax.tree.map(lambda g: weight * g, gradient), state, params)
    rests = weight == 0.0
    return select(rests, jax.tree.map(jnp.zeros_like, moves), moves), select(rests, state, after)

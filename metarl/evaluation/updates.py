"""What a learned optimizer does: its update over gradients and momenta, over the training, and over dormancy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl import plot
from metarl.optimizers.learned import LearnedOptimizer
from metarl.types import Array, Layer, MetaParams, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 41  # of each axis; odd, so that zero is one of them
PAST = 20  # equal gradients that make a momentum
HORIZON = 1000


def surface(transform: optax.GradientTransformationExtraArgs, progress: float = 0.5) -> tuple[Array, Array]:
    """Gradients and momenta [POINTS] from -1 to 1, and the update [momenta, gradients] that follows.

    Every point of the grid is a parameter, 0 as it is, of one tensor: it has had `PAST` gradients that were its
    momentum, and then has its gradient.
    """
    axis = jnp.linspace(-1.0, 1.0, POINTS)
    momentum, gradient = (x.reshape(-1) for x in jnp.meshgrid(axis, axis, indexing="ij"))
    past = jnp.broadcast_to(momentum, (PAST, momentum.size))
    moves = _moves(transform, jnp.concatenate([past, gradient[None]]), progress)
    return axis, moves[-1].reshape(POINTS, POINTS)


def sizes_over_progress(transform: optax.GradientTransformationExtraArgs, updates: int = 200) -> tuple[Array, Array]:
    """Shares of a training of so many updates, and the mean size of each [updates], if its gradient never changes."""
    shares, gradient = jnp.arange(updates) / updates, jax.random.normal(jax.random.key(0), (64,))
    moves = _moves(transform, jnp.broadcast_to(gradient, (updates, 64)), shares)
    return shares, jnp.abs(moves).mean(1)


def sizes_over_dormancy(transform: optax.GradientTransformationExtraArgs, points: int = POINTS) -> tuple[Array, Array]:
    """Dormancies [points] from 0 to 3, and the mean size [points] of updates on the same normal gradients there."""
    dormancy = jnp.linspace(0.0, 3.0, points)

    gradients = jax.random.normal(jax.random.key(0), (PAST, 64))

    def size(x: Array) -> Array:
        layer = Layer(jnp.float32(0.5), x, jnp.float32(0.0))
        return jnp.abs(_moves(transform, gradients, 0.5, layers=layer)[-1]).mean()

    return dormancy, jax.vmap(size)(dormancy)


def draw_update(optimizer: LearnedOptimizer, meta_params: MetaParams) -> Figure:
    """The surface of updates, beside Adam's.

    The grid of the surface is one tensor, of more parameters than a gradient is clipped for: `optimizer` should not
    clip. One that is centred (OPEN) shows moves relative to their mean over the grid.
    """
    found = {name: surface(x) for name, x in _beside_adam(optimizer, meta_params).items()}
    axis = np.asarray(found["learned"][0])
    return plot.surfaces({name: np.asarray(x) for name, (_, x) in found.items()}, axis, axis, "gradient", "momentum")


def draw_sizes(optimizer: LearnedOptimizer, meta_params: MetaParams) -> Figure:
    """What the sizes of updates depend on: the share of the training, and the dormancy of the neuron; beside Adam's."""
    transforms = _beside_adam(optimizer, meta_params)

    def curves(sizes: Callable[[optax.GradientTransformationExtraArgs], tuple[Array, Array]]) -> dict[str, Any]:
        found = {name: sizes(transform) for name, transform in transforms.items()}
        return {name: (np.asarray(x), np.asarray(y)[None]) for name, (x, y) in found.items()}

    panels = {
        "mean size of an update over the share of the training": curves(sizes_over_progress),
        "mean size of an update over the dormancy of its neuron": curves(sizes_over_dormancy),
    }
    return plot.trajectories(panels)


def _beside_adam(
    optimizer: LearnedOptimizer, meta_params: MetaParams
) -> dict[str, optax.GradientTransformationExtraArgs]:
    adam = optax.with_extra_args_support(optax.adam(1e-3))
    return {"learned": optimizer.transform(meta_params), "Adam at 0.001": adam}


def _moves(
    transform: optax.GradientTransformationExtraArgs, gradients: Array, shares: Array | float, **known: Any
) -> Array:
    """Updates [steps, n], with `gradients` [steps, n] at shares of the training; parameters are 0 and stay so."""
    params = jnp.zeros(gradients.shape[1])
    times = jnp.broadcast_to(jnp.asarray(shares) * HORIZON, len(gradients))

    def step(state: Any, x: tuple[Array, Array]) -> tuple[Any, Array]:
        gradient, time = x
        moves, state = transform.update(gradient, state, params, progress=Progress(time, jnp.int32(HORIZON)), **known)
        return state, moves

    return jax.jit(lambda: jax.lax.scan(step, transform.init(params), (gradients, times))[1])()

"""The backward-in-time GRU of the learned policy gradient, with a gradient of its own.

Nearly all of a meta-step's arithmetic is here. Automatic differentiation of the loop stores every gate, or
pads and transposes at every step; this gradient stores the states alone, recomputes the gates beside the one
product that needs them, and takes the kernels' gradients of all steps in one product.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl.types import Array


class GRU(NamedTuple):
    """Kernels of a gated recurrent unit of width H with inputs of size d: reset, update, candidate side by side."""

    input_kernel: Array  # [d, 3H]
    input_bias: Array  # [3H]
    recurrent_kernel: Array  # [H, 3H]
    candidate_bias: Array  # [H]


class _Gates(NamedTuple):
    reset: Array
    update: Array
    candidate: Array
    recalled: Array  # what the reset gate lets through to the candidate


def _gates(gru: GRU, inputs: Array, state: Array) -> _Gates:
    projected = jnp.split(inputs @ gru.input_kernel + gru.input_bias, 3, axis=-1)
    recurrent = jnp.split(state @ gru.recurrent_kernel, 3, axis=-1)
    reset = jax.nn.sigmoid(projected[0] + recurrent[0])
    update = jax.nn.sigmoid(projected[1] + recurrent[1])
    recalled = recurrent[2] + gru.candidate_bias
    return _Gates(reset, update, jnp.tanh(projected[2] + reset * recalled), recalled)


@jax.custom_vjp
def gru_backwards_in_time(gru: GRU, inputs: Array, done: Array) -> Array:
    """States [T, E, H] of a GRU (Cho et al. 2014, arXiv 1406.1078) that reads `inputs` [T, E, d] from last to first.

    The state is zero before it consumes a step with `done` [T, E], so no step sees past its own episode's end.
    The few inputs are projected inside the loop: on CPU, reading [T, E, 3H] projections back from memory takes
    longer than computing them.
    """

    def step(state: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        inputs, done = x
        state = jnp.where(done[:, None], 0.0, state)
        gates = _gates(gru, inputs, state)
        state = (1.0 - gates.update) * gates.candidate + gates.update * state
        return state, state

    start = jnp.zeros((inputs.shape[1], gru.candidate_bias.shape[0]), inputs.dtype)
    return jax.lax.scan(step, start, (inputs, done), reverse=True)[1]


def _forward(gru: GRU, inputs: Array, done: Array) -> tuple[Array, tuple[GRU, Array, Array, Array]]:
    states = gru_backwards_in_time(gru, inputs, done)
    return states, (gru, inputs, done, states)


def _backward(residuals: tuple[GRU, Array, Array, Array], cotangent: Array) -> tuple[GRU, Array, None]:
    gru, inputs, done, states = residuals
    later = jnp.concatenate([states[1:], jnp.zeros_like(states[:1])])
    consumed = jnp.where(done[..., None], 0.0, later)  # the state that each step started from

    def step(flowing: Array, x: tuple[Array, Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        inputs, done, state, cotangent = x
        gates = _gates(gru, inputs, state)
        flowing = flowing + cotangent
        candidate = flowing * (1.0 - gates.update) * (1.0 - jnp.square(gates.candidate))
        update = flowing * (state - gates.candidate) * gates.update * (1.0 - gates.update)
        reset = candidate * gates.recalled * gates.reset * (1.0 - gates.reset)
        recurrent = jnp.concatenate([reset, update, candidate * gates.reset], axis=-1)
        flowing = flowing * gates.update + recurrent @ gru.recurrent_kernel.T
        return jnp.where(done[:, None], 0.0, flowing), (recurrent, candidate)

    over_time = (inputs, done, consumed, cotangent)
    _, (recurrent, candidate) = jax.lax.scan(step, jnp.zeros_like(states[0]), over_time)
    projected = jnp.concatenate([recurrent[..., : -candidate.shape[-1]], candidate], axis=-1)
    gradient = GRU(
        input_kernel=jnp.einsum("ted,teh->dh", inputs, projected),
        input_bias=projected.sum((0, 1)),
        recurrent_kernel=jnp.einsum("tes,teh->sh", consumed, recurrent),
        candidate_bias=recurrent[..., -candidate.shape[-1] :].sum((0, 1)),
    )
    return gradient, projected @ gru.input_kernel.T, None


gru_backwards_in_time.defvjp(_forward, _backward)

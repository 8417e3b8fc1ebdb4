"""A network that looks one action ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.checks import WIDTH, checked
from metarl.rl.networks.network import Network, NetworkFactory, Size, convolution, cut_normal, features
from metarl.types import Array, Key, Params, PyTree


@checked
def action_model(
    sizes: Sequence[Annotated[int, WIDTH]] = (512, 512),
    hidden: Annotated[int, WIDTH] = 128,
    channels: Annotated[int, WIDTH] | None = None,
) -> NetworkFactory:
    """One network for all outputs, which looks one step ahead for those per action.

    A torso of dense layers with relu between them (none after the last) reads the flattened observation, or the output
    of a 3x3 convolution of `channels` channels for boards [height, width, c]. On discrete observations the first layer
    is a table; without `sizes` every layer that reads the torso is one. Outputs of numbers are linear in the torso, and
    nearly 0 at birth. For outputs per action, one step of an LSTM of width `hidden` reads the action (a model as that
    of Muesli, Hessel et al. 2021, arXiv 2104.06159), and each output has a relu layer of `hidden` units on top.

    It is the network of Oh et al. 2025 (doi 10.1038/s41586-025-09761-x).

    Raises ValueError for a width that is not positive.
    """

    def factory(observation_space: Any, outputs: Mapping[str, Size]) -> Network:
        module = _ActionModel(tuple(sizes), hidden, channels, tuple(outputs.items()))
        look = partial(features, observation_space, lambda x: x if channels else x.reshape(-1))

        def init(key: Key) -> Params:
            return module.init(key, look(jnp.zeros(observation_space.shape, observation_space.dtype)))["params"]

        def apply(params: Params, obs: Array, first: Array, carry: PyTree) -> tuple[dict[str, Array], PyTree]:
            return cast(dict[str, Array], module.apply({"params": params}, look(obs))), carry

        return Network(init, apply, ())

    return factory


def lstm_step(gates: Array, cell: Array) -> tuple[Array, Array]:
    """Hidden state and cell [..., H] after one step of an LSTM (Hochreiter and Schmidhuber 1997).

    `gates` [..., 4H] are linear in the input and the last hidden state: input, candidate, forget, output side by side.
    The forget gate has a bias of 1 beside its own.
    """
    enter, candidate, forget, leave = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(forget + 1.0) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


class _ActionModel(nn.Module):
    """The network of `action_model`. Returns {output: [*shape]}."""

    sizes: tuple[int, ...]
    hidden: int
    channels: int | None
    outputs: tuple[tuple[str, Size], ...]

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        def dense(size: int, name: str, deviation: float | None = None) -> nn.Dense:
            return nn.Dense(size, kernel_init=cut_normal(deviation), name=name)

        if self.channels:
            x = nn.relu(convolution(self.channels, "convolution")(x)).reshape(-1)
        for i, size in enumerate(self.sizes):
            x = dense(size, f"torso_{i}")(nn.relu(x) if i else x)
        found = {name: dense(n, name, 0.01)(x) for name, n in self.outputs if isinstance(n, int)}
        per_action = {name: size for name, size in self.outputs if isinstance(size, tuple)}
        if per_action:
            cell = dense(self.hidden, "root")(x)
            num_actions = next(iter(per_action.values()))[0]
            # the LSTM's input is the action, one-hot, so its product with the kernel is the kernel itself
            deviation = (num_actions + self.hidden) ** -0.5
            by_action = self.param("lstm_action", cut_normal(deviation), (num_actions, 4 * self.hidden))
            gates = by_action + dense(4 * self.hidden, "lstm", deviation)(jnp.tanh(cell))
            state, _ = lstm_step(gates, cell)
            for name, (_, size) in per_action.items():
                found[name] = dense(size, name)(nn.relu(dense(self.hidden, f"{name}_hidden")(state)))
        return found

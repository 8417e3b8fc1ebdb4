"""Networks without a memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.rl.networks.network import (
    HIDDEN,
    Network,
    NetworkFactory,
    Size,
    activity,
    convolution,
    features,
    kernel,
    output_scale,
    shape,
    unwatched,
)
from metarl.types import Array, Key, Params, PyTree


def tabular(observation_space: Any, outputs: Mapping[str, Size]) -> Network:
    """One table per output, for integer observations. Tables start at zero, which is a uniform policy.

    Raises ValueError if the observation space is not discrete.
    """
    if not hasattr(observation_space, "n"):
        raise ValueError(f"a tabular network needs a Discrete observation space, got {observation_space!r}")

    def init(key: Key) -> Params:
        return {name: jnp.zeros((observation_space.n, *shape(size))) for name, size in outputs.items()}

    def watch(params: Params, obs: Array, first: Array, carry: PyTree) -> tuple[dict[str, Array], PyTree, PyTree]:
        results = {name: params[name][obs] for name in outputs}
        return results, carry, {name: activity(x, 1, 1) for name, x in results.items()}

    return Network(init, unwatched(watch), (), watch)


def mlp(sizes: Sequence[int] = (64, 64)) -> NetworkFactory:
    """Dense tanh layers of the given sizes on flattened observations; discrete ones are one-hot."""
    return _feedforward(lambda x: x.reshape(-1), lambda: [nn.Dense(n, kernel_init=HIDDEN) for n in sizes], nn.tanh)


def minatar_conv(channels: int = 16, size: int = 128) -> NetworkFactory:
    """A 3x3 convolution and a dense layer with relu, for [10, 10, c] boards (Young and Tian 2019, arXiv 1903.03176)."""

    def layers() -> list[nn.Module]:
        return [
            convolution(channels),
            nn.Dense(size, kernel_init=HIDDEN),
        ]

    return _feedforward(lambda x: x, layers, nn.relu)


class _Stack(nn.Module):
    """Hidden layers, then one linear output. Returns the output, and the `Activity` of each layer by name."""

    layers: Callable[[], Sequence[Any]]
    activation: Callable[[Array], Array]
    size: Size
    scale: float

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, PyTree]:
        layers, activities = self.layers(), {}
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Dense):
                x = x.reshape(-1)
            x = self.activation(layer(x))
            activities[layer.name] = activity(x, i, len(layers))
        output = nn.Dense(math.prod(shape(self.size)), kernel_init=kernel(self.scale))
        x = output(x)
        return x.reshape(shape(self.size)), {**activities, output.name: activity(x, 1, 1)}


def _feedforward(
    prepare: Callable[[Array], Array],
    layers: Callable[[], Sequence[Any]],
    activation: Callable[[Array], Array],
) -> NetworkFactory:
    def factory(observation_space: Any, outputs: Mapping[str, Size]) -> Network:
        modules = {name: _Stack(layers, activation, size, output_scale(name)) for name, size in outputs.items()}
        look = partial(features, observation_space, prepare)

        def init(key: Key) -> Params:
            keys = jax.random.split(key, len(modules))
            x = look(jnp.zeros(observation_space.shape, observation_space.dtype))
            return {name: m.init(k, x)["params"] for k, (name, m) in zip(keys, modules.items(), strict=True)}

        def watch(params: Params, obs: Array, first: Array, carry: PyTree) -> tuple[dict[str, Array], PyTree, PyTree]:
            x = look(obs)
            results: dict[str, Any] = {name: m.apply({"params": params[name]}, x) for name, m in modules.items()}
            outputs, activities = ({name: result[i] for name, result in results.items()} for i in range(2))
            return outputs, carry, activities

        return Network(init, unwatched(watch), (), watch)

    return factory

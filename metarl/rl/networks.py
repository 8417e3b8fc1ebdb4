"""Agent networks. Every output (policy, value, prediction) has its own network, so each can learn at its own rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.types import Array, Key, Layer, Params, PyTree


class Network(NamedTuple):
    """A function of one observation (callers vmap) and, if it is recurrent, of the earlier ones."""

    init: Callable[[Key], Params]  # {output: parameters}
    # (params, obs, first, carry) -> {output: [size]}, carry; `first` () bool marks the first step of an episode
    apply: Callable[[Params, Array, Array, PyTree], tuple[dict[str, Array], PyTree]]
    carry: PyTree  # before the first step; a feed-forward network has one without leaves
    # `apply` with a third result: the parameters' tree with an `Activity` in the place of each layer's parameters
    watch: Callable[[Params, Array, Array, PyTree], tuple[dict[str, Array], PyTree, PyTree]] | None = None


class Activity(NamedTuple):
    """Activations of the n neurons of one layer for one observation."""

    depth: Array  # () of the layer, from 0 at the input to 1 at the output
    size: Array  # [n] absolute activation of each neuron; a convolution's is its mean over the board


def as_layers(activities: PyTree, actor: bool) -> PyTree:
    """The tree of `Layer` for a tree of `Activity` of B observations (leaves [B, ...]), all of one output's network."""

    def layer(x: Activity) -> Layer:
        size = x.size.mean(0)
        mean = size.mean()
        # a layer in which nothing is active, such as a new table, has no dormant neurons
        dormancy = jnp.where(mean > 0.0, size / jnp.where(mean > 0.0, mean, 1.0), 1.0)
        return Layer(x.depth[0], dormancy, jnp.float32(actor))

    return jax.tree.map(layer, activities, is_leaf=lambda x: isinstance(x, Activity))


# (observation space, {output: size}) -> Network: users choose the network of agents by such a function
NetworkFactory = Callable[[Any, Mapping[str, int]], Network]


class PolicyHead(NamedTuple):
    """How the output "policy" becomes actions of one action space."""

    size: int
    distribution: Callable[[Array], Any]  # [..., size] -> distrax.Distribution over actions [...]
    clip: Callable[[Array], Array]  # into the bounds of the action space; only environments see clipped actions


def policy_head(action_space: Any) -> PolicyHead:
    """A categorical policy for a discrete action space, a diagonal Gaussian (mean, log std) for a box.

    Raises ValueError for any other space.
    """
    import distrax

    if hasattr(action_space, "n"):
        return PolicyHead(action_space.n, lambda logits: distrax.Categorical(logits=logits), lambda action: action)
    if hasattr(action_space, "low") and len(action_space.shape) == 1:

        def gaussian(outputs: Array) -> distrax.Distribution:
            mean, log_std = jnp.split(outputs, 2, axis=-1)
            return distrax.MultivariateNormalDiag(mean, jnp.exp(jnp.clip(log_std, -5.0, 2.0)))

        return PolicyHead(
            2 * action_space.shape[0], gaussian, lambda a: jnp.clip(a, action_space.low, action_space.high)
        )
    raise ValueError(f"action space must be Discrete or a one-dimensional Box, got {action_space!r}")


def tabular(observation_space: Any, outputs: Mapping[str, int]) -> Network:
    """One table per output, for integer observations. Tables start at zero, which is a uniform policy.

    Raises ValueError if the observation space is not discrete.
    """
    if not hasattr(observation_space, "n"):
        raise ValueError(f"a tabular network needs a Discrete observation space, got {observation_space!r}")

    def init(key: Key) -> Params:
        return {name: jnp.zeros((observation_space.n, size)) for name, size in outputs.items()}

    def watch(params: Params, obs: Array, first: Array, carry: PyTree) -> tuple[dict[str, Array], PyTree, PyTree]:
        results = {name: params[name][obs] for name in outputs}
        return results, carry, {name: _activity(x, 1, 1) for name, x in results.items()}

    return Network(init, _unwatched(watch), (), watch)


def mlp(sizes: Sequence[int] = (64, 64)) -> NetworkFactory:
    """Dense tanh layers of the given sizes on flattened observations; discrete ones are one-hot."""
    return _feedforward(lambda x: x.reshape(-1), lambda: [nn.Dense(n, kernel_init=_HIDDEN) for n in sizes], nn.tanh)


def minatar_conv(channels: int = 16, size: int = 128) -> NetworkFactory:
    """A 3x3 convolution and a dense layer with relu, for [10, 10, c] boards (Young and Tian 2019, arXiv 1903.03176)."""

    def layers() -> list[nn.Module]:
        return [
            nn.Conv(channels, (3, 3), padding="VALID", kernel_init=_HIDDEN),
            nn.Dense(size, kernel_init=_HIDDEN),
        ]

    return _feedforward(lambda x: x, layers, nn.relu)


def gru(size: int = 64) -> NetworkFactory:
    """A dense tanh layer and a gated recurrent unit, both of `size`. Its state is reset where an episode starts."""

    def factory(observation_space: Any, outputs: Mapping[str, int]) -> Network:
        modules = {name: _Recurrent(size, n, _output_scale(name)) for name, n in outputs.items()}
        carry = {name: jnp.zeros(size) for name in outputs}
        return _network(observation_space, lambda x: x.reshape(-1), modules, carry)

    return factory


def _kernel(gain: float) -> nn.initializers.Initializer:
    """Normal with standard deviation gain / sqrt(inputs).

    The usual orthogonal initialisation is not used: on CPU, batched QR decompositions of jaxlib wait for each other in
    one thread pool, so two at once (agents that are initialised in parallel) can block a program for ever.
    """
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


_HIDDEN = _kernel(2**0.5)


def _output_scale(name: str) -> float:
    return 0.01 if name == "policy" else 1.0  # initial policies are nearly uniform


def _activity(x: Array, layer: int, last: int) -> Activity:
    return Activity(jnp.float32(layer / last), jnp.abs(x).mean(tuple(range(x.ndim - 1))))


def _unwatched(watch: Callable[..., tuple[Any, Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    return lambda *args: watch(*args)[:2]


class _Stack(nn.Module):
    """Hidden layers, then one linear output. It has the signature of `_Recurrent`, so it returns its carry unchanged.

    Both return the carry, the output, and the `Activity` of each layer by name.
    """

    layers: Callable[[], Sequence[Any]]
    activation: Callable[[Array], Array]
    size: int
    scale: float

    @nn.compact
    def __call__(self, carry: PyTree, x: Array) -> tuple[PyTree, Array, PyTree]:
        layers, activities = self.layers(), {}
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Dense):
                x = x.reshape(-1)
            x = self.activation(layer(x))
            activities[layer.name] = _activity(x, i, len(layers))
        output = nn.Dense(self.size, kernel_init=_kernel(self.scale))
        x = output(x)
        return carry, x, {**activities, output.name: _activity(x, 1, 1)}


class _Recurrent(nn.Module):
    """A dense layer, a gated recurrent unit, then one linear output."""

    hidden: int
    size: int
    scale: float

    @nn.compact
    def __call__(self, carry: Array, x: Array) -> tuple[Array, Array, PyTree]:
        first = nn.Dense(self.hidden, kernel_init=_HIDDEN)
        cell = nn.GRUCell(self.hidden, recurrent_kernel_init=_kernel(1.0))
        output = nn.Dense(self.size, kernel_init=_kernel(self.scale))
        x = nn.tanh(first(x))
        carry, state = cell(carry, x)
        y = output(state)
        activations = {first.name: x, cell.name: state, output.name: y}
        return carry, y, {name: _activity(x, i, 2) for i, (name, x) in enumerate(activations.items())}


def _feedforward(
    prepare: Callable[[Array], Array],
    layers: Callable[[], Sequence[Any]],
    activation: Callable[[Array], Array],
) -> NetworkFactory:
    def factory(observation_space: Any, outputs: Mapping[str, int]) -> Network:
        modules = {name: _Stack(layers, activation, size, _output_scale(name)) for name, size in outputs.items()}
        return _network(observation_space, prepare, modules, {name: () for name in outputs})

    return factory


def _network(observation_space: Any, prepare: Callable, modules: Mapping[str, nn.Module], carry: PyTree) -> Network:
    def features(obs: Array) -> Array:
        if hasattr(observation_space, "n"):
            return jax.nn.one_hot(obs, observation_space.n)
        return prepare(obs.astype(jnp.float32))

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(modules))
        x = features(jnp.zeros(observation_space.shape, observation_space.dtype))
        return {name: m.init(k, carry[name], x)["params"] for k, (name, m) in zip(keys, modules.items(), strict=True)}

    def watch(params: Params, obs: Array, first: Array, state: PyTree) -> tuple[dict[str, Array], PyTree, PyTree]:
        state = jax.tree.map(lambda now, start: jnp.where(first, start, now), state, carry)
        x = features(obs)
        results: dict[str, Any] = {n: m.apply({"params": params[n]}, state[n], x) for n, m in modules.items()}
        carries, outputs, activities = ({n: result[i] for n, result in results.items()} for i in range(3))
        return outputs, carries, activities

    return Network(init, _unwatched(watch), carry, watch)

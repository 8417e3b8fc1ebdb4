"""Agent networks: every output (policy, value, prediction) is its own network, so each can learn at its own rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.types import Array, Key, Layer, Params, PyTree


class Network(NamedTuple):
    """A function of one observation (callers vmap) and, if it is recurrent, of what came before."""

    init: Callable[[Key], Params]  # {output: parameters}
    # (params, obs, first, carry) -> {output: [size]}, carry; `first` () bool marks the first step of an episode
    apply: Callable[[Params, Array, Array, PyTree], tuple[dict[str, Array], PyTree]]
    carry: PyTree  # before the first step; without leaves for a feed-forward network
    # as `apply`, and then what its layers' neurons say: a tree of `Activity` in the place of each layer's parameters
    watch: Callable[[Params, Array, Array, PyTree], tuple[dict[str, Array], PyTree, PyTree]] | None = None


class Activity(NamedTuple):
    """What the neurons of one layer say of one observation."""

    depth: Array  # () of the layer, from 0 at the input to 1 at the output
    size: Array  # [n] absolute activation of its neurons, for a convolution their mean over the board


def as_layers(seen: PyTree, actor: bool) -> PyTree:
    """The tree of `Layer` for what the layers of one output say: a tree of `Activity` of B observations [B, ...]."""

    def layer(x: Activity) -> Layer:
        size = x.size.mean(0)
        mean = size.mean()
        # a layer that says nothing at all (tables at birth) has no dormant neurons
        dormancy = jnp.where(mean > 0.0, size / jnp.where(mean > 0.0, mean, 1.0), 1.0)
        return Layer(x.depth[0], dormancy, jnp.float32(actor))

    return jax.tree.map(layer, seen, is_leaf=lambda x: isinstance(x, Activity))


# (observation space, {output: size}) -> Network: how a user says what agents are made of
NetworkFactory = Callable[[Any, Mapping[str, int]], Network]


class PolicyHead(NamedTuple):
    """How the output "policy" becomes actions of one action space."""

    size: int
    distribution: Callable[[Array], Any]  # [..., size] -> distrax.Distribution over actions [...]
    clip: Callable[[Array], Array]  # into the bounds of the action space, for the environment only


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
    """One table per output, zero at birth: a uniform policy. Observations are integers, so this is a look-up.

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
    """Dense layers of the given sizes with tanh, over flattened (or one-hot) observations."""
    return _feedforward(lambda x: x.reshape(-1), lambda: [nn.Dense(n, kernel_init=_HIDDEN) for n in sizes], nn.tanh)


def minatar_conv(channels: int = 16, size: int = 128) -> NetworkFactory:
    """A 3x3 convolution and a dense layer with relu (Young and Tian 2019, arXiv 1903.03176), for [10, 10, c] boards."""

    def layers() -> list[nn.Module]:
        return [
            nn.Conv(channels, (3, 3), padding="VALID", kernel_init=_HIDDEN),
            nn.Dense(size, kernel_init=_HIDDEN),
        ]

    return _feedforward(lambda x: x, layers, nn.relu)


def gru(size: int = 64) -> NetworkFactory:
    """A dense layer and a gated recurrent unit of the given size, reset at the start of every episode."""

    def factory(observation_space: Any, outputs: Mapping[str, int]) -> Network:
        modules = {name: _Recurrent(size, n, _output_scale(name)) for name, n in outputs.items()}
        carry = {name: jnp.zeros(size) for name in outputs}
        return _network(observation_space, lambda x: x.reshape(-1), modules, carry)

    return factory


def _kernel(gain: float) -> nn.initializers.Initializer:
    """Normal with deviation gain / sqrt(inputs).

    Not orthogonal, as is usual in this field: on CPU, jaxlib's batched QR decompositions wait in the same thread pool
    for each other, so that two of them at once (agents that are born side by side) can block a program for ever.
    """
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


_HIDDEN = _kernel(2**0.5)


def _output_scale(name: str) -> float:
    return 0.01 if name == "policy" else 1.0  # nearly uniform at birth


def _activity(x: Array, layer: int, last: int) -> Activity:
    return Activity(jnp.float32(layer / last), jnp.abs(x).mean(tuple(range(x.ndim - 1))))


def _unwatched(watch: Callable[..., tuple[Any, Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    return lambda *args: watch(*args)[:2]


class _Stack(nn.Module):
    """Hidden layers, then one linear output; the unused carry gives it the signature of `_Recurrent`.

    Both return their carry, output, and the `Activity` of their layers by name.
    """

    layers: Callable[[], Sequence[Any]]
    activation: Callable[[Array], Array]
    size: int
    scale: float

    @nn.compact
    def __call__(self, carry: PyTree, x: Array) -> tuple[PyTree, Array, PyTree]:
        layers, seen = self.layers(), {}
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Dense):
                x = x.reshape(-1)
            x = self.activation(layer(x))
            seen[layer.name] = _activity(x, i, len(layers))
        output = nn.Dense(self.size, kernel_init=_kernel(self.scale))
        x = output(x)
        return carry, x, {**seen, output.name: _activity(x, 1, 1)}


class _Recurrent(nn.Module):
    hidden: int
    size: int
    scale: float

    @nn.compact
    def __call__(self, carry: Array, x: Array) -> tuple[Array, Array, PyTree]:
        first = nn.Dense(self.hidden, kernel_init=_HIDDEN)
        cell = nn.GRUCell(self.hidden, recurrent_kernel_init=_kernel(1.0))
        output = nn.Dense(self.size, kernel_init=_kernel(self.scale))
        x = nn.tanh(first(x))
        carry, remembered = cell(carry, x)
        y = output(remembered)
        seen = {first.name: x, cell.name: remembered, output.name: y}
        return carry, y, {name: _activity(x, i, 2) for i, (name, x) in enumerate(seen.items())}


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
        carries, outputs, seen = ({n: result[i] for n, result in results.items()} for i in range(3))
        return outputs, carries, seen

    return Network(init, _unwatched(watch), carry, watch)

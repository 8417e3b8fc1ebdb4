"""Agent networks. Every output (policy, value, prediction) has its own network, so each can learn at its own rate.

The exception is `action_model`, whose outputs share one network. Sizes of outputs are numbers, or shapes (A, n) of
outputs that have n numbers for each of A actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.checks import WIDTH, checked
from metarl.types import Array, Key, Layer, Params, PyTree


class Network(NamedTuple):
    """A function of one observation (callers vmap) and, if it is recurrent, of the earlier ones."""

    init: Callable[[Key], Params]  # {output: parameters}
    # (params, obs, first, carry) -> {output: [*shape]}, carry; `first` () bool marks the first step of an episode
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


Size = int | tuple[int, int]  # of an output: n numbers, or n numbers for each of A actions, (A, n)
# (observation space, {output: size}) -> Network: users choose the network of agents by such a function
NetworkFactory = Callable[[Any, Mapping[str, Size]], Network]


def shape(size: Size) -> tuple[int, ...]:
    """The shape of an output of this size."""
    return size if isinstance(size, tuple) else (size,)


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

    def factory(observation_space: Any, outputs: Mapping[str, Size]) -> Network:
        modules = {name: _Recurrent(size, n, _output_scale(name)) for name, n in outputs.items()}
        carry = {name: jnp.zeros(size) for name in outputs}
        return _network(observation_space, lambda x: x.reshape(-1), modules, carry)

    return factory


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
        features = partial(_features, observation_space, lambda x: x if channels else x.reshape(-1))

        def init(key: Key) -> Params:
            return module.init(key, features(jnp.zeros(observation_space.shape, observation_space.dtype)))["params"]

        def apply(params: Params, obs: Array, first: Array, carry: PyTree) -> tuple[dict[str, Array], PyTree]:
            return cast(dict[str, Array], module.apply({"params": params}, features(obs))), carry

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
    size: Size
    scale: float

    @nn.compact
    def __call__(self, carry: PyTree, x: Array) -> tuple[PyTree, Array, PyTree]:
        layers, activities = self.layers(), {}
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Dense):
                x = x.reshape(-1)
            x = self.activation(layer(x))
            activities[layer.name] = _activity(x, i, len(layers))
        output = nn.Dense(math.prod(shape(self.size)), kernel_init=_kernel(self.scale))
        x = output(x)
        return carry, x.reshape(shape(self.size)), {**activities, output.name: _activity(x, 1, 1)}


class _Recurrent(nn.Module):
    """A dense layer, a gated recurrent unit, then one linear output."""

    hidden: int
    size: Size
    scale: float

    @nn.compact
    def __call__(self, carry: Array, x: Array) -> tuple[Array, Array, PyTree]:
        first = nn.Dense(self.hidden, kernel_init=_HIDDEN)
        cell = nn.GRUCell(self.hidden, recurrent_kernel_init=_kernel(1.0))
        output = nn.Dense(math.prod(shape(self.size)), kernel_init=_kernel(self.scale))
        x = nn.tanh(first(x))
        carry, state = cell(carry, x)
        y = output(state)
        activations = {first.name: x, cell.name: state, output.name: y}
        watched = {name: _activity(x, i, 2) for i, (name, x) in enumerate(activations.items())}
        return carry, y.reshape(shape(self.size)), watched


def cut_normal(deviation: float | None = None) -> nn.initializers.Initializer:
    """A normal distribution, cut at two deviations. The deviation before the cut is 1 / sqrt(inputs) if it is None."""

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        scale = 1.0 / math.sqrt(shape[0]) if deviation is None else deviation
        return scale * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return init


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
            conv = nn.Conv(self.channels, (3, 3), padding="VALID", kernel_init=_HIDDEN, name="convolution")
            x = nn.relu(conv(x)).reshape(-1)
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


def _feedforward(
    prepare: Callable[[Array], Array],
    layers: Callable[[], Sequence[Any]],
    activation: Callable[[Array], Array],
) -> NetworkFactory:
    def factory(observation_space: Any, outputs: Mapping[str, Size]) -> Network:
        modules = {name: _Stack(layers, activation, size, _output_scale(name)) for name, size in outputs.items()}
        return _network(observation_space, prepare, modules, {name: () for name in outputs})

    return factory


def _features(observation_space: Any, prepare: Callable[[Array], Array], obs: Array) -> Array:
    """What the first layer sees of an observation: one-hot if it is discrete."""
    if hasattr(observation_space, "n"):
        return jax.nn.one_hot(obs, observation_space.n)
    return prepare(obs.astype(jnp.float32))


def _network(observation_space: Any, prepare: Callable, modules: Mapping[str, nn.Module], carry: PyTree) -> Network:
    features = partial(_features, observation_space, prepare)

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

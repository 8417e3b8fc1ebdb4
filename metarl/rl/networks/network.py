"""What a network is, what its policy is, and what networks are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metarl.types import Array, Key, Layer, Params, PyTree

Unroll = Callable[[Params, Array, Array, Array, PyTree], tuple[dict[str, Array], dict[str, Array], PyTree]]


class Network(NamedTuple):
    """A function of one observation (callers vmap) and, if it is recurrent, of the earlier ones."""

    init: Callable[[Key], Params]  # {output: parameters}
    # (params, obs, first, carry) -> {output: [*shape]}, carry; `first` () bool marks the first step of an episode
    apply: Callable[[Params, Array, Array, PyTree], tuple[dict[str, Array], PyTree]]
    carry: PyTree  # before the first step; a feed-forward network has one without leaves
    # `apply` with a third result: the parameters' tree with an `Activity` in the place of each layer's parameters
    watch: Callable[[Params, Array, Array, PyTree], tuple[dict[str, Array], PyTree, PyTree]] | None = None
    # `apply` on T steps at once, which a network with a memory may do faster than step by step:
    # (params, obs [T, ...], first [T], next_obs [T, ...], carry) -> outputs [T, ...], next_outputs [T, ...], carry.
    # `next_outputs` are those for the true successors `next_obs`, with the memory after each step.
    unroll: Unroll | None = None


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


def kernel(gain: float) -> nn.initializers.Initializer:
    """An initialiser: normal with standard deviation gain / sqrt(inputs).

    The usual orthogonal initialisation is not used: on CPU, batched QR decompositions of jaxlib wait for each other in
    one thread pool, so two at once (agents that are initialised in parallel) can block a program for ever.
    """
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


HIDDEN = kernel(2**0.5)  # of layers with tanh or relu after them


def convolution(channels: int, name: str | None = None) -> nn.Conv:
    """A 3x3 convolution without padding, for boards [height, width, c]; on CPU it is one matrix product."""
    return nn.Conv(channels, (3, 3), padding="VALID", kernel_init=HIDDEN, name=name, conv_general_dilated=_convolved)


def _convolved(boards: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` for `convolution`, or what is faster where the program runs."""
    convolved = partial(jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    return jax.lax.platform_dependent(boards, kernel, cpu=_product_of_rows, default=convolved)


def _product_of_rows(boards: Array, kernel: Array) -> Array:
    """`boards` [n, height, width, c] convolved with `kernel` [a, b, c, k] without padding, as one matrix product.

    Each row of a result is the product of `a` rows of the board with a matrix that holds the kernel once per column.
    On CPU, XLA takes several times as long for the gradient of a convolution in a loop. A product of patches, which
    needs a third of the multiplications for boards of 10 columns, takes longer too, because it copies and transposes
    more numbers.
    """
    (n, height, width, _), (a, b, _, k) = boards.shape, kernel.shape
    rows, columns = height - a + 1, width - b + 1
    bands = jnp.stack([jnp.pad(kernel, ((0, 0), (j, columns - 1 - j), (0, 0), (0, 0))) for j in range(columns)], 3)
    windows = boards.reshape(n, height, -1)[:, np.arange(rows)[:, None] + np.arange(a)].reshape(n, rows, -1)
    return (windows @ bands.reshape(-1, columns * k)).reshape(n, rows, columns, k)


def output_scale(name: str) -> float:
    """The gain of the `kernel` of an output's layer: initial policies are nearly uniform, action values nearly 0."""
    return 0.01 if name in ("policy", "action_values") else 1.0


def activity(x: Array, layer: int, last: int) -> Activity:
    """The activity of layer number `layer` of 0 .. `last`, whose neurons' activations are `x` [..., n]."""
    return Activity(jnp.float32(layer / last), jnp.abs(x).mean(tuple(range(x.ndim - 1))))


def cut_normal(deviation: float | None = None) -> nn.initializers.Initializer:
    """A normal distribution, cut at two deviations. The deviation before the cut is 1 / sqrt(inputs) if it is None."""

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        scale = 1.0 / math.sqrt(shape[0]) if deviation is None else deviation
        return scale * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return init


def features(observation_space: Any, prepare: Callable[[Array], Array], obs: Array) -> Array:
    """What the first layer sees of an observation: one-hot if it is discrete."""
    if hasattr(observation_space, "n"):
        return jax.nn.one_hot(obs, observation_space.n)
    return prepare(obs.astype(jnp.float32))


def unwatched(watch: Callable[..., tuple[Any, Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """`Network.apply` from `Network.watch`."""
    return lambda *args: watch(*args)[:2]

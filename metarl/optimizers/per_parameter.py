"""Learned optimizers that apply one small network to every parameter: what they have in common.

Each is an optax transformation, made from its meta-parameters. What it may want to know beyond the gradient reaches it
through optax's extra arguments, all of which may be left out:

    progress: Progress      how far the training is; unknown, it counts as its beginning
    epoch_progress: ()      how far the passes over the present batch are, from 0 to 1
    layers: PyTree          of `Layer`, in the place of each layer's parameters; unknown, all neurons are alike
    key: Key                of exploration noise; without it there is none

It finds the layer of a parameter by where the parameter is in the tree, so it works behind `optax.masked` and
`optax.partition` too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.optimizers.differentiable import clip_by_global_norm
from metarl.optimizers.learned import LearnedOptimizer
from metarl.types import Array, Key, Layer, MetaParams, Params, Progress, PyTree

# nothing is known; numpy, for an array of JAX would start it at import
ORDINARY = Layer(np.float32(0.0), np.float32(1.0), np.float32(0.0))  # type: ignore[arg-type]


class Tensor(NamedTuple):
    """One tensor of parameters at one update. Leaves [...] of its shape, but for the layer."""

    gradient: Array
    param: Array
    memory: PyTree  # what is accumulated of its gradients, this one included
    layer: Layer


class Moment(NamedTuple):
    """When an update is made. Leaves ()."""

    updates: Array  # int32, before it
    progress: Array  # of the training, from 0 to 1
    epoch: Array  # of the passes over the present batch, from 0 to 1


class State(NamedTuple):
    """What is remembered of P tensors with N parameters in all."""

    updates: Array  # () int32, so far
    memory: tuple[PyTree, ...]  # P
    hidden: Array  # [N, H] of the recurrent network, whose H may be 0


class UpdateNetwork(nn.Module):
    """The network: a gated recurrent unit if `hidden` is not 0, two layers, and outputs that are zero at birth."""

    hidden: int
    width: int
    outputs: int

    @nn.compact
    def __call__(self, hidden: Array, x: Array) -> tuple[Array, Array]:
        if self.hidden:
            # flax's default, orthogonal, needs a decomposition that must not be batched (see `metarl.rl.networks`)
            cell = nn.GRUCell(self.hidden, recurrent_kernel_init=nn.initializers.lecun_normal())
            hidden, x = cell(hidden, x)
        for _ in range(2):
            x = nn.relu(nn.LayerNorm()(nn.Dense(self.width)(x)))
        return hidden, nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(x)


class Features(NamedTuple):
    """What a learned optimizer sees of a parameter."""

    num: int
    of_tensor: Callable[[Tensor, Moment], Array]  # [size, num]
    start: Callable[[Array], PyTree]  # what is accumulated of a tensor's gradients before the first
    accumulate: Callable[[PyTree, Array, Array], PyTree]  # (memory, gradient, updates so far) -> memory


def per_parameter(
    features: Features,
    *,
    hidden: int = 0,
    width: int = 16,
    scale: float = 1e-3,
    explores: bool = False,
    centred: bool = False,
    max_norm: float | None = None,
) -> LearnedOptimizer:
    """`p <- p - u` with `u = scale o_0 exp(0.001 o_1)`: o are the outputs of `UpdateNetwork` on a parameter's features.

    One that `explores` adds `scale o_2 eps` to the parameters of layers that act, with eps ~ N(0, 1). If it is
    `centred`, the mean of u over all parameters is subtracted. Gradients are first clipped to the norm `max_norm`, each
    network's by itself: a network is an entry of the mapping that the parameters are, as those of our agents are.

    Newborn meta-parameters, and those that are all zero, leave parameters as they are. Raises ValueError for a size
    that is not positive, and, when it is used, without `params`.
    """
    for name, value in {"width": width, "scale": scale}.items():
        if not isinstance(value, jax.Array) and not value > 0:  # an array may be a tracer
            raise ValueError(f"{name} must be positive, got {value}")
    if hidden < 0:
        raise ValueError(f"hidden must not be negative, got {hidden}")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    network = UpdateNetwork(hidden, width, 3 if explores else 2)

    def init_meta(key: Key) -> MetaParams:
        return network.init(key, jnp.zeros((1, hidden)), jnp.zeros((1, features.num)))["params"]

    def transform(meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
        def init(params: Params) -> State:
            tensors = jax.tree.leaves(params)
            room = sum(x.size for x in tensors)
            return State(jnp.int32(0), tuple(map(features.start, tensors)), jnp.zeros((room, hidden)))

        def update(
            updates: Params,
            state: State,
            params: Params | None = None,
            *,
            progress: Progress | None = None,
            epoch_progress: Array | float = 0.0,
            layers: PyTree = (),
            key: Key | None = None,
            **others: Any,
        ) -> tuple[Params, State]:
            if params is None:
                raise ValueError("a learned optimizer needs params: update(updates, state, params)")
            if max_norm is not None:
                updates = clip_by_network(updates, max_norm)
            gradients, tree = jax.tree.flatten(updates)
            if not gradients:  # a label of `optax.partition` that nothing has
                return updates, state
            memory = tuple(
                features.accumulate(m, g, state.updates) for m, g in zip(state.memory, gradients, strict=True)
            )
            which = layers_of(layers, updates)
            share = jnp.zeros(()) if progress is None else progress.step / progress.horizon
            moment = Moment(state.updates, share, jnp.asarray(epoch_progress, float))
            seen = zip(gradients, jax.tree.leaves(params), memory, which, strict=True)
            x = jnp.concatenate([features.of_tensor(Tensor(*each), moment) for each in seen])
            remembered, out = cast(tuple[Array, Array], network.apply({"params": meta_params}, state.hidden, x))
            moves = scale * out[:, 0] * jnp.exp(1e-3 * out[:, 1])
            if explores and key is not None:
                acts = jnp.concatenate(
                    [jnp.broadcast_to(w.actor, g.size) for w, g in zip(which, gradients, strict=True)]
                )
                moves = moves + scale * acts * out[:, 2] * jax.random.normal(key, moves.shape)
            if centred:
                moves = moves - moves.mean()
            places = np.cumsum([g.size for g in gradients])[:-1]
            parts = [
                -x.reshape(g.shape).astype(g.dtype) for x, g in zip(jnp.split(moves, places), gradients, strict=True)
            ]
            return jax.tree.unflatten(tree, parts), State(state.updates + 1, memory, remembered)

        return optax.GradientTransformationExtraArgs(init, update)

    return LearnedOptimizer(init_meta, transform)


def second_moment(x: Array) -> Array:
    """Columns [size, F] divided by the root of their mean square over the tensor."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(0) + 1e-8)


def momenta(decays: Array, memory: Array, gradient: Array) -> Array:
    """Exponential means [D, ...] with `decays` [D], after one more gradient [...]."""
    decays = decays.reshape(-1, *(1,) * gradient.ndim)
    return decays * memory + (1.0 - decays) * gradient


def columns(*arrays: Array) -> Array:
    """Arrays [...], or [D, ...] stacked by `momenta`, of one tensor as [size, F]."""
    size = arrays[0].size
    return jnp.concatenate([x.reshape(-1, size).T for x in arrays], axis=1)


def layers_of(layers: PyTree, params: Params) -> list[Layer]:
    """The layer of each tensor of `params`, by its place; an ordinary one for those that `layers` does not have."""
    known = dict(jax.tree_util.tree_flatten_with_path(layers, is_leaf=lambda x: isinstance(x, Layer))[0])

    def find(path: tuple[Any, ...]) -> Layer:
        prefixes = (path[:n] for n in range(len(path), -1, -1))
        return next((known[x] for x in prefixes if x in known), ORDINARY)

    return [find(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]


def clip_by_network(updates: Params, max_norm: float) -> Params:
    """Gradients, those of each network clipped to the norm `max_norm`: of each entry, if `updates` is a mapping."""
    one = clip_by_global_norm(max_norm)

    def clip(x: PyTree) -> PyTree:
        return one.update(x, one.init(x))[0]

    if isinstance(updates, Mapping):
        return cast(Any, type(updates))({name: clip(network) for name, network in updates.items()})
    return clip(updates)

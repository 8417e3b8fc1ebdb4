"""The common part of learned optimizers that apply one small network to every parameter.

Each is an optax transformation with meta-parameters. It takes optax's extra arguments, all of them optional:

    progress: Progress      how far the training is; by default at its beginning
    epoch_progress: ()      how far the passes over the present batch are, from 0 to 1
    layers: PyTree          a `Layer` in the place of each layer's parameters; by default all neurons are equal
    key: Key                draws exploration noise; by default there is none

The layer of a parameter is found by the parameter's path in the tree, so this also works inside `optax.masked` and
`optax.partition`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.checks import COUNT_OR_ZERO, POSITIVE, WIDTH, checked
from metarl.optimizers.differentiable import clip_by_global_norm
from metarl.optimizers.learned import LearnedOptimizer
from metarl.types import Array, Key, Layer, MetaParams, Params, Progress, PyTree

# for parameters of an unknown layer; of numpy, because arrays of JAX would start its backend at import
ORDINARY = Layer(np.float32(0.0), np.float32(1.0), np.float32(0.0))  # type: ignore[arg-type]


class Tensor(NamedTuple):
    """One tensor of parameters at one update. Leaves have its shape [...], except those of `memory` and `layer`."""

    gradient: Array
    param: Array
    memory: PyTree  # accumulators of its gradients, with this one
    layer: Layer


class Moment(NamedTuple):
    """The time of an update. Leaves ()."""

    updates: Array  # int32, earlier updates
    progress: Array  # of the training, from 0 to 1
    epoch: Array  # of the passes over the present batch, from 0 to 1


class PerParameterState(NamedTuple):
    """The optimizer's state for P tensors with N parameters in all."""

    updates: Array  # () int32, so far
    memory: tuple[PyTree, ...]  # P accumulators
    hidden: Array  # [N, H] states of the recurrent network; H is 0 for a feed-forward one


class UpdateNetwork(nn.Module):
    """A gated recurrent unit if `hidden` is not 0, two dense layers, and outputs that are initially 0."""

    hidden: int
    width: int
    outputs: int

    @nn.compact
    def __call__(self, hidden: Array, x: Array) -> tuple[Array, Array]:
        if self.hidden:
            # not flax's orthogonal default, whose QR decompositions may block (see `metarl.rl.networks`)
            cell = nn.GRUCell(self.hidden, recurrent_kernel_init=nn.initializers.lecun_normal())
            hidden, x = cell(hidden, x)
        for _ in range(2):
            x = nn.relu(nn.LayerNorm()(nn.Dense(self.width)(x)))
        return hidden, nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(x)


class Features(NamedTuple):
    """The features of parameters that a learned optimizer sees, and the accumulators that they need."""

    num: int
    of_tensor: Callable[[Tensor, Moment], Array]  # [size, num]
    start: Callable[[Array], PyTree]  # parameters of a tensor -> its memory before the first gradient
    accumulate: Callable[[PyTree, Array, Array], PyTree]  # (memory, gradient, updates so far) -> memory


@checked
def per_parameter(
    features: Features,
    *,
    hidden: Annotated[int, COUNT_OR_ZERO] = 0,
    width: Annotated[int, WIDTH] = 16,
    scale: Annotated[float, POSITIVE] = 1e-3,
    explores: bool = False,
    centred: bool = False,
    max_norm: Annotated[float, POSITIVE] | None = None,
) -> LearnedOptimizer:
    """`p <- p - u` with `u = scale o_0 exp(0.001 o_1)`, where o are the outputs of `UpdateNetwork` for p's features.

    With `explores`, `scale o_2 eps` with eps ~ N(0, 1) is added to u for parameters of the policy's layers. With
    `centred`, the mean of u over all parameters is subtracted. Gradients are first clipped by `clip_by_network` to
    `max_norm`, if that is not None.

    Initial meta-parameters, and zeros, do not change the parameters. Raises ValueError for a size or a `scale` that is
    not positive; its `update` raises ValueError without `params`.
    """
    network = UpdateNetwork(hidden, width, 3 if explores else 2)

    def init_meta(key: Key) -> MetaParams:
        return network.init(key, jnp.zeros((1, hidden)), jnp.zeros((1, features.num)))["params"]

    def transform(meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
        def init(params: Params) -> PerParameterState:
            tensors = jax.tree.leaves(params)
            size = sum(x.size for x in tensors)
            return PerParameterState(jnp.int32(0), tuple(map(features.start, tensors)), jnp.zeros((size, hidden)))

        def update(
            updates: Params,
            state: PerParameterState,
            params: Params | None = None,
            *,
            progress: Progress | None = None,
            epoch_progress: Array | float = 0.0,
            layers: PyTree = (),
            key: Key | None = None,
            **others: Any,
        ) -> tuple[Params, PerParameterState]:
            if params is None:
                raise ValueError("a learned optimizer needs params: update(updates, state, params)")
            if max_norm is not None:
                updates = clip_by_network(updates, max_norm)
            gradients, tree = jax.tree.flatten(updates)
            if not gradients:  # `optax.partition` may have a label that no parameter has
                return updates, state
            memory = tuple(
                features.accumulate(m, g, state.updates) for m, g in zip(state.memory, gradients, strict=True)
            )
            age = jnp.zeros(()) if progress is None else progress.step / progress.horizon
            moment = Moment(state.updates, age, jnp.asarray(epoch_progress, float))
            parts = zip(gradients, jax.tree.leaves(params), memory, layers_of(layers, updates), strict=True)
            tensors = [Tensor(*part) for part in parts]
            x = jnp.concatenate([features.of_tensor(tensor, moment) for tensor in tensors])
            carry, out = cast(tuple[Array, Array], network.apply({"params": meta_params}, state.hidden, x))
            moves = scale * out[:, 0] * jnp.exp(1e-3 * out[:, 1])
            if explores and key is not None:
                actor = jnp.concatenate([jnp.broadcast_to(x.layer.actor, x.param.size) for x in tensors])
                moves = moves + scale * actor * out[:, 2] * jax.random.normal(key, moves.shape)
            if centred:
                moves = moves - moves.mean()
            return _as_updates(moves, gradients, tree), PerParameterState(state.updates + 1, memory, carry)

        return optax.GradientTransformationExtraArgs(init, update)

    return LearnedOptimizer(init_meta, transform)


def _as_updates(moves: Array, gradients: list[Array], tree: Any) -> Params:
    """`-moves` [N] in the shapes and dtypes of `gradients`, as a tree."""
    parts = jnp.split(moves, np.cumsum([g.size for g in gradients])[:-1])
    return jax.tree.unflatten(
        tree, [-x.reshape(g.shape).astype(g.dtype) for x, g in zip(parts, gradients, strict=True)]
    )


def normalised(x: Array) -> Array:
    """Columns [size, F], each divided by its root mean square over the tensor."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(0) + 1e-8)


def momenta(decays: Array, memory: Array, gradient: Array) -> Array:
    """Exponential moving averages `memory` [D, ...] with `decays` [D], updated by a gradient [...]."""
    decays = decays.reshape(-1, *(1,) * gradient.ndim)
    return decays * memory + (1.0 - decays) * gradient


def columns(*arrays: Array) -> Array:
    """Features of one tensor as columns [size, F]; the first array is [...], others may be [D, ...], for D columns."""
    size = arrays[0].size
    return jnp.concatenate([x.reshape(-1, size).T for x in arrays], axis=1)


def layers_of(layers: PyTree, params: Params) -> list[Layer]:
    """The layer of each tensor of `params`, found by its path; `ORDINARY` for those that `layers` does not have."""
    known = dict(jax.tree_util.tree_flatten_with_path(layers, is_leaf=lambda x: isinstance(x, Layer))[0])

    def find(path: tuple[Any, ...]) -> Layer:
        prefixes = (path[:n] for n in range(len(path), -1, -1))
        return next((known[x] for x in prefixes if x in known), ORDINARY)

    return [find(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]


def clip_by_network(updates: Params, max_norm: float) -> Params:
    """Gradients clipped to the norm `max_norm`; each entry of a mapping (an agent's networks) is clipped by itself."""
    one = clip_by_global_norm(max_norm)

    def clip(x: PyTree) -> PyTree:
        return one.update(x, one.init(x))[0]

    if isinstance(updates, Mapping):
        return cast(Any, type(updates))({name: clip(network) for name, network in updates.items()})
    return clip(updates)

"""Networks with a memory, which is reset where an episode starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.checks import WIDTH, checked
from metarl.rl.networks.network import (
    HIDDEN,
    Network,
    NetworkFactory,
    Size,
    activity,
    features,
    kernel,
    output_scale,
    shape,
    unwatched,
)
from metarl.types import Array, Key, Params, PyTree


@checked
def gru(size: Annotated[int, WIDTH] = 64) -> NetworkFactory:
    """A dense tanh layer and a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), both of `size`.

    Raises ValueError for a size that is not positive.
    """
    return _recurrent(nn.GRUCell, size, lambda: jnp.zeros(size))


@checked
def lstm(size: Annotated[int, WIDTH] = 64) -> NetworkFactory:
    """A dense tanh layer and a long short-term memory (Hochreiter and Schmidhuber 1997), both of `size`.

    Raises ValueError for a size that is not positive.
    """
    return _recurrent(nn.OptimizedLSTMCell, size, lambda: (jnp.zeros(size), jnp.zeros(size)))


def remembering(observation_space: Any, modules: Mapping[str, nn.Module], empty: PyTree) -> Network:
    """The network of modules that read T steps, each with a memory of its own that starts as `empty`.

    A module is a function (memory, first [T], x [T, n], next_x [T, n]) -> memory after the T steps, outputs, outputs
    for `next_x`, and the `Activity` of each layer. Outputs are {name: [T, *shape]}. One step is T = 1.
    """
    look = jax.vmap(partial(features, observation_space, lambda x: x.reshape(-1)))
    start = {name: empty for name in modules}

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(modules))
        x = look(jnp.zeros((1, *observation_space.shape), observation_space.dtype))
        first = jnp.ones(1, bool)
        return {
            name: m.init(k, empty, first, x, x)["params"] for k, (name, m) in zip(keys, modules.items(), strict=True)
        }

    def read(params: Params, obs: Array, first: Array, next_obs: Array, carry: PyTree) -> tuple[Any, ...]:
        x, next_x = look(obs), look(next_obs)
        found: dict[str, Any] = {
            name: m.apply({"params": params[name]}, carry[name], first, x, next_x) for name, m in modules.items()
        }
        outputs, next_outputs = ({n: y for parts in found.values() for n, y in parts[i].items()} for i in (1, 2))
        carry, activities = ({name: parts[i] for name, parts in found.items()} for i in (0, 3))
        return outputs, next_outputs, carry, activities

    def unroll(
        params: Params, obs: Array, first: Array, next_obs: Array, carry: PyTree
    ) -> tuple[dict[str, Array], dict[str, Array], PyTree]:
        outputs, next_outputs, carry, _ = read(params, obs, first, next_obs, carry)
        return outputs, next_outputs, carry

    def watch(params: Params, obs: Array, first: Array, carry: PyTree) -> tuple[dict[str, Array], PyTree, PyTree]:
        outputs, _, carry, activities = read(params, obs[None], first[None], obs[None], carry)
        return {name: y[0] for name, y in outputs.items()}, carry, activities

    return Network(init, unwatched(watch), start, watch, unroll)


def _recurrent(cell: Callable[..., nn.RNNCellBase], size: int, empty: Callable[[], PyTree]) -> NetworkFactory:
    def factory(observation_space: Any, outputs: Mapping[str, Size]) -> Network:
        modules = {name: _Recurrent(cell, size, name, n) for name, n in outputs.items()}
        return remembering(observation_space, modules, empty())

    return factory


class _Recurrent(nn.Module):
    """A dense layer, a recurrent cell, then one linear output. Only the cell goes step by step."""

    cell: Callable[..., nn.RNNCellBase]
    hidden: int
    output: str
    size: Size

    @nn.compact
    def __call__(self, carry: PyTree, first: Array, x: Array, next_x: Array) -> tuple[Any, ...]:
        dense = nn.Dense(self.hidden, kernel_init=HIDDEN)
        cell = self.cell(self.hidden, recurrent_kernel_init=kernel(1.0))

        def step(cell: nn.RNNCellBase, carry: PyTree, now: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
            first, x = now
            carry, _ = cell(jax.tree.map(lambda c: jnp.where(first, 0.0, c), carry), x)
            return carry, carry

        x = nn.tanh(dense(x))
        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        carry, carries = scan(cell, carry, (first, x))
        states = jax.tree.leaves(carries)[-1]  # the output of a cell is the last part of its carry
        _, next_states = cell(carries, nn.tanh(dense(next_x)))
        head = nn.Dense(math.prod(shape(self.size)), kernel_init=kernel(output_scale(self.output)))
        y, next_y = head(states), head(next_states)
        activations = {dense.name: x, cell.name: states, head.name: y}
        watched = {name: activity(x, i, 2) for i, (name, x) in enumerate(activations.items())}
        named = ({self.output: y.reshape(-1, *shape(self.size))} for y in (y, next_y))
        return carry, *named, watched

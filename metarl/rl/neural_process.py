"""A transformer that chooses among candidates by what is known of others.

The network of NAP (Maraval et al. 2023, arXiv 2305.15930): a transformer neural process with a policy and a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, cast

import flax.linen as nn
import jax.numpy as jnp

from metarl.checks import COUNT, WIDTH, checked
from metarl.rl.networks import Network, NetworkFactory, Size, cut_normal, shape
from metarl.types import Array, Key, Params, PyTree


@checked
def neural_process(
    width: Annotated[int, WIDTH] = 32, layers: Annotated[int, COUNT] = 2, heads: Annotated[int, COUNT] = 2
) -> NetworkFactory:
    """All outputs share `layers` transformer layers of `width`, which read a table of rows as tokens.

    The last A rows of an observation are the A actions, and those before say what is known; the first of these stands
    for the whole. The first column says of what is known whether it is there, and of actions whether they are allowed.
    All tokens attend to what is known and there, and to nothing else, so the number for an action depends on no other
    action. The policy has a logit per action, which is lowest for actions that are not allowed. Outputs per action are
    read off the action's token, and outputs of numbers off the first one.

    Raises ValueError if `heads` does not divide `width`, and for other observations or actions.
    """
    if width % heads:
        raise ValueError(f"heads must divide width = {width}, got {heads}")

    def factory(observation_space: Any, outputs: Mapping[str, Size]) -> Network:
        rows = observation_space.shape
        if len(rows) != 2 or rows[0] <= cast(int, outputs["policy"]):
            raise ValueError(
                f"a neural process needs observations [rows, columns] with a row for each of {outputs['policy']} "
                f"actions, and one before them, got shape {tuple(rows)}"
            )
        module = _NeuralProcess(width, layers, heads, tuple(outputs.items()))

        def init(key: Key) -> Params:
            return module.init(key, jnp.zeros(rows))["params"]

        def apply(params: Params, obs: Array, first: Array, carry: PyTree) -> tuple[dict[str, Array], PyTree]:
            return cast(dict[str, Array], module.apply({"params": params}, obs)), carry

        return Network(init, apply, ())

    return factory


class _NeuralProcess(nn.Module):
    """The network of `neural_process`. Returns {output: [*shape]}."""

    width: int
    layers: int
    heads: int
    outputs: tuple[tuple[str, Size], ...]

    @nn.compact
    def __call__(self, obs: Array) -> dict[str, Array]:
        count = obs.shape[0] - cast(int, dict(self.outputs)["policy"])
        is_known, is_allowed = obs[:count, 0] > 0.0, obs[count:, 0] > 0.0
        embedded = [
            nn.Dense(self.width, name="known")(obs[:count]),
            nn.Dense(self.width, name="actions")(obs[count:]),
        ]
        x = jnp.concatenate(embedded)
        for i in range(self.layers):
            y = nn.LayerNorm(name=f"norm_{i}")(x)
            attend = nn.MultiHeadDotProductAttention(self.heads, name=f"attention_{i}")
            x = x + attend(y, y[:count], mask=is_known[None, None])
            y = nn.LayerNorm(name=f"hidden_norm_{i}")(x)
            y = nn.relu(nn.Dense(self.width, name=f"hidden_{i}")(y))
            x = x + nn.Dense(self.width, name=f"back_{i}")(y)
        x = nn.LayerNorm(name="norm")(x)
        found = {name: self._output(name, size, x[0], x[count:]) for name, size in self.outputs}
        return {**found, "policy": jnp.where(is_allowed, found["policy"], -1e9)}

    def _output(self, name: str, size: Size, whole: Array, actions: Array) -> Array:
        if name == "policy":  # small, so that initial policies are nearly uniform
            return nn.Dense(1, kernel_init=cut_normal(0.01), name=name)(actions)[:, 0]
        read = whole if isinstance(size, int) else actions
        return nn.Dense(shape(size)[-1], kernel_init=cut_normal(1.0 / math.sqrt(self.width)), name=name)(read)

"""A causal transformer whose memory is what it saw in the last steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metarl.checks import COUNT, WIDTH, checked
from metarl.rl.networks.memory import remembering
from metarl.rl.networks.network import Network, NetworkFactory, Size, kernel, output_scale, shape
from metarl.types import Array


@checked
def transformer(
    window: Annotated[int, COUNT] = 64,
    layers: Annotated[int, COUNT] = 2,
    width: Annotated[int, WIDTH] = 64,
    heads: Annotated[int, COUNT] = 4,
    shared: bool = False,
) -> NetworkFactory:
    """A causal transformer with normalisation before each layer (Vaswani et al. 2017, arXiv 1706.03762; Xiong et al.
    2020, arXiv 2002.04745) and rotary positions (Su et al. 2021, arXiv 2104.09864).

    In each layer a step attends to itself and to the `window` - 1 steps before it, as far as they are of its episode.
    So the output depends on the last `layers` (`window` - 1) + 1 steps. With a `window` of 1 there is no memory, and
    the network is feed-forward. The carry holds keys and values of the last `window` - 1 steps. With `shared`, one
    transformer serves all outputs.

    Raises ValueError if a size is not positive, or if `width` is not a multiple of 2 `heads`.
    """
    if width % (2 * heads):
        raise ValueError(f"width must be a multiple of 2 * heads, got width={width} and heads={heads}")

    def factory(observation_space: Any, outputs: Mapping[str, Size]) -> Network:
        groups = {"shared": dict(outputs)} if shared else {name: {name: size} for name, size in outputs.items()}
        modules = {
            name: _Transformer(window, layers, width, heads, tuple(sizes.items())) for name, sizes in groups.items()
        }
        empty = _memory(window, layers, width, heads) if window > 1 else ()
        network = remembering(observation_space, modules, empty)
        # it has no activities to show, and nothing to read at once if it has no memory
        return network._replace(watch=None, unroll=network.unroll if window > 1 else None)

    return factory


class _Memory(NamedTuple):
    """Keys and values of the last M = window - 1 steps, the oldest first."""

    keys: tuple[Array, ...]  # of each layer [heads, M, width / heads], before their rotation
    values: tuple[Array, ...]
    steps: Array  # () int32, how many of them are of the present episode


def _memory(window: int, layers: int, width: int, heads: int) -> _Memory:
    zeros = (jnp.zeros((heads, window - 1, width // heads)),) * layers
    return _Memory(zeros, zeros, jnp.int32(0))


class _Transformer(nn.Module):
    """Reads T steps as one sequence after those in its memory: M steps of the past, then the new ones."""

    window: int
    layers: int
    width: int
    heads: int
    outputs: tuple[tuple[str, Size], ...]

    @nn.compact
    def __call__(self, carry: _Memory | tuple[()], first: Array, x: Array, next_x: Array) -> tuple[Any, ...]:
        memory = carry or _memory(self.window, self.layers, self.width, self.heads)
        ages = _ages(first, memory.steps)
        embed, keys, values = nn.Dense(self.width, name="embedding"), [], []
        x, next_x = embed(x), embed(next_x)
        for i in range(self.layers):
            block = _Block(self.heads, name=f"block_{i}")
            x, next_x, key, value = block(x, next_x, memory.keys[i], memory.values[i], ages)
            keys.append(key)
            values.append(value)
        norm = nn.LayerNorm()
        after = _Memory(tuple(keys), tuple(values), jnp.minimum(ages[-1] + 1, self.window - 1))
        return after if carry else (), *_read_out(self.outputs, norm(x), norm(next_x)), ()


def _read_out(outputs: tuple[tuple[str, Size], ...], x: Array, next_x: Array) -> tuple[dict[str, Array], ...]:
    """Linear outputs {name: [T, *shape]} of features [T, n], and of those of the successors, within a module."""
    heads = {name: nn.Dense(math.prod(shape(n)), kernel_init=kernel(output_scale(name))) for name, n in outputs}
    sizes = dict(outputs)
    return tuple({name: head(y).reshape(-1, *shape(sizes[name])) for name, head in heads.items()} for y in (x, next_x))


class _Block(nn.Module):
    """Attention, then two dense layers. The successors `next_x` attend to the steps up to theirs and to themselves."""

    heads: int

    @nn.compact
    def __call__(
        self, x: Array, next_x: Array, past_keys: Array, past_values: Array, ages: Array
    ) -> tuple[Array, Array, Array, Array]:
        length, width = x.shape
        norm, project = nn.LayerNorm(), nn.Dense(3 * width, use_bias=False, name="query_key_value")
        mix, hidden_norm = nn.Dense(width, use_bias=False, name="attended"), nn.LayerNorm()
        hidden, out = nn.Dense(4 * width, name="hidden"), nn.Dense(width, name="out")

        def projected(x: Array) -> Array:
            return project(norm(x)).reshape(length, 3, self.heads, -1).transpose(1, 2, 0, 3)

        def finished(x: Array, attended: Array) -> Array:
            x = x + mix(attended)
            return x + out(nn.gelu(hidden(hidden_norm(x))))

        own = projected(x)
        keys, values = (
            jnp.concatenate([past, new], 1) for past, new in zip((past_keys, past_values), own[1:], strict=True)
        )
        size = past_keys.shape[1]  # M
        rotated = _rotate(keys, np.arange(-size, length))
        following = finished(next_x, _attend(projected(next_x), rotated, values, ages + 1, size, later=1))
        x = finished(x, _attend(own, rotated, values, ages, size, later=0))
        return x, following, keys[:, length:], values[:, length:]


def _ages(first: Array, before: Array) -> Array:
    """How many steps of its episode come before each of T steps [T]; `before` () of them before the first one."""
    times = jnp.arange(len(first))
    return times - jax.lax.cummax(jnp.where(first, times, -before))


def _attend(own: Array, keys: Array, values: Array, ages: Array, size: int, later: int) -> Array:
    """What T queries attend to [T, width].

    `own` [3, heads, T, d] are their queries, keys and values. Each attends to its own key, and to `keys` [heads, M + T,
    d], which are rotated, of at most `size` = M and `ages` [T] steps before it. Query t is at step t + `later`.
    """
    query, key, value = own
    length = query.shape[1]
    query = query / query.shape[-1] ** 0.5
    places = np.arange(length) + later
    before = places[:, None] - np.arange(-size, length)  # [T, M + T] how many steps ago each key was
    hidden = (before < 1) | (before > jnp.minimum(ages, size)[:, None])
    # a softmax over all keys and the own one, which is apart so that nothing is copied to stand beside it
    scores = jnp.einsum("htd,hsd->hts", _rotate(query, places), keys) + jnp.where(hidden, -1e9, 0.0)
    own_score = (query * key).sum(-1, keepdims=True)  # equal rotations cancel
    most = jax.lax.stop_gradient(jnp.maximum(scores.max(-1, keepdims=True), own_score))
    weights, own_weight = jnp.exp(scores - most), jnp.exp(own_score - most)
    attended = jnp.einsum("hts,hsd->htd", weights, values) + own_weight * value
    attended = attended / (weights.sum(-1, keepdims=True) + own_weight)
    return attended.transpose(1, 0, 2).reshape(length, -1)


def _rotate(x: Array, places: np.ndarray) -> Array:
    """Pairs of the entries of `x` [heads, n, d], turned by angles in proportion to the n `places`.

    So the product of a query and a key depends on the distance of their places only.
    """
    half = x.shape[-1] // 2
    angles = places[:, None] * 10_000.0 ** (-np.arange(half) / half)
    cos, sin = np.cos(angles, dtype=np.float32), np.sin(angles, dtype=np.float32)
    one, other = x[..., :half], x[..., half:]
    return jnp.concatenate([one * cos - other * sin, one * sin + other * cos], -1)

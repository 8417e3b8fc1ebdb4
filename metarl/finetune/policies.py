"""Sequence policies over token vocabularies: what fine-tuning trains, and how answers are drawn from it.

A policy is one function, `forward`, that reads tokens after whatever a cache remembers; reading a whole sequence,
reading a prompt and going on by one token are that same function with more or fewer tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.checks import COUNT, NOT_NEGATIVE, WIDTH, checked
from metarl.types import Array, Key, Params, PyTree


class SequencePolicy(NamedTuple):
    """A distribution over the next token given those before it. Unbatched; callers vmap.

    Leaves of a cache that are scalars (how far it is filled) are the same for all sequences that are read in step:
    vmap them with axis None, as `sample` does, or every write to the cache becomes a scatter.
    """

    num_tokens: int  # V
    init: Callable[[Key], Params]
    apply: Callable[[Params, Array], Array]  # (params, tokens [L]) -> logits [L, V]; row i predicts token i + 1
    # (params, prompt [P], room for so many more tokens) -> logits [V] of the next token, cache
    prefill: Callable[[Params, Array, int], tuple[Array, PyTree]]
    # (params, cache, token ()) -> logits [V] of the next token, cache; beyond its room the result is meaningless
    decode: Callable[[Params, PyTree, Array], tuple[Array, PyTree]]


Prefill = Callable[[Array], tuple[Array, PyTree]]  # prompts [B, P] -> logits [B, V], cache
Decode = Callable[[PyTree, Array], tuple[Array, PyTree]]  # (cache, tokens [B]) -> logits [B, V], cache


class Samples(NamedTuple):
    """Answers under a policy. Leaves [B, T].

    Both `log_prob` and `entropy` are those of the policy itself, at temperature 1, whatever temperature the tokens
    were drawn at and whether they were drawn or forced: the ratio of two of them is an importance ratio between
    two policies, not between a policy and how it was sampled. Both are zero where `mask` is False, so that a sum
    over tokens is the log-probability of the answer.
    """

    tokens: Array  # int32; every token after the first end is the end
    log_prob: Array  # of each token
    entropy: Array  # of the distribution of each token, in nats
    mask: Array  # bool: up to and including the first end


class Prefix(NamedTuple):
    """How answers begin: their first tokens are forced."""

    tokens: Array  # [B, T] int32, of which only the first `length` are looked at
    length: Array  # [B] int32


@checked
def transformer(
    num_tokens: Annotated[int, COUNT],
    width: Annotated[int, WIDTH] = 64,
    layers: Annotated[int, COUNT] = 2,
    heads: Annotated[int, COUNT] = 4,
    max_length: Annotated[int, COUNT] = 64,
    mlp_ratio: Annotated[int, COUNT] = 4,
    outputs: Annotated[int, COUNT] | None = None,
) -> SequencePolicy:
    """A causal transformer with normalisation before each layer (Vaswani et al. 2017, arXiv 1706.03762; Xiong et al.
    2020, arXiv 2002.04745) and learned positions; the cache holds keys and values. About 100k parameters as it is.

    `max_length` bounds prompt and answer together; the last token of an answer is never read, so it does not count.
    It gives a logit per token, or `outputs` numbers: one for a critic (`finetune.TokenCritic`).

    Raises ValueError if a size is not positive or `heads` does not divide `width`; its functions raise ValueError
    for a sequence that is longer than `max_length`.
    """
    if width % heads:
        raise ValueError(f"heads must divide width, got heads={heads} and width={width}")
    outputs = num_tokens if outputs is None else outputs
    module = _Transformer(num_tokens, outputs, width, layers, heads, max_length, mlp_ratio)

    def empty(room: int) -> _KeyValues:
        if room > max_length:
            raise ValueError(
                f"a sequence, prompt and answer together, must be at most max_length={max_length} tokens long, "
                f"got {room}"
            )
        zeros = (jnp.zeros((heads, room, width // heads)),) * layers
        return _KeyValues(zeros, zeros, jnp.int32(0))

    return _policy(module, num_tokens, empty)


@checked
def gru(
    num_tokens: Annotated[int, COUNT], width: Annotated[int, WIDTH] = 128, outputs: Annotated[int, COUNT] | None = None
) -> SequencePolicy:
    """A gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) between an embedding and a linear read-out.

    The cache is its state, so sequences may be of any length. `outputs` as in `transformer`. Raises ValueError if a
    size is not positive.
    """
    outputs = num_tokens if outputs is None else outputs
    return _policy(_Recurrent(num_tokens, outputs, width), num_tokens, lambda room: jnp.zeros(width))


@checked
def sample(
    policy: SequencePolicy,
    params: Params,
    prompts: Array,
    key: Key,
    length: Annotated[int, COUNT],
    end: int,
    temperature: Annotated[Array | float, NOT_NEGATIVE] = 1.0,
    prefix: Prefix | None = None,
) -> Samples:
    """One answer of `length` tokens T to each of `prompts` [B, P], all decoded in step through the policy's cache.

    Tokens are drawn from softmax(logits / `temperature`), greedily at temperature 0; the temperature may be traced.
    The first tokens of an answer may be forced by a `prefix`, as in Prefix-RFT (Huang et al. 2025, arXiv 2507.01679).

    Raises ValueError for prompts that are not [B, P], a `length` below 1, an `end` that is no token, a negative
    temperature (if it is a number), or a prefix of another shape.
    """
    _check_prompts(prompts)
    batch, prompt_length = prompts.shape
    _check_end(policy, end)
    if prefix is not None:
        check_prefix(prefix, batch, length)
    prefill, decode = in_step(policy, params, prompt_length, length - 1)  # the last token is not read
    # drawn at once: a large draw costs less per number than many small ones
    noise = jax.random.gumbel(key, (length, batch, policy.num_tokens))
    return answer(decode, *prefill(prompts), jnp.ones(batch, bool), noise, end, temperature, prefix)[0]


def answer(
    decode: Decode,
    logits: Array,
    cache: PyTree,
    alive: Array,
    noise: Array,
    end: int,
    temperature: Array | float = 1.0,
    prefix: Prefix | None = None,
) -> tuple[Samples, PyTree]:
    """One answer of T tokens to what `cache` remembers, and the cache after it, which lacks the last token.

    The first token has `logits` [B, V]; the standard Gumbel `noise` [T, B, V] decides. Sequences that are not `alive`
    [B] say `end` only, and nothing of it is in the mask.
    """
    length, batch = noise.shape[:2]
    if prefix is None:
        prefix = Prefix(jnp.zeros((batch, length), jnp.int32), jnp.zeros(batch, jnp.int32))
    forced = jnp.arange(length)[:, None] < prefix.length

    def draw(logits: Array, alive: Array, noise: Array, forced: Array, prefix: Array) -> Samples:
        # arg max (logits / temperature + noise), but defined at 0
        tokens = jnp.argmax(logits + temperature * noise, -1).astype(jnp.int32)
        tokens = jnp.where(forced, prefix, tokens)
        return of_logits(logits, jnp.where(alive, tokens, end), alive)

    def step(carry: tuple[PyTree, Array, Array], x: tuple[Array, Array, Array]) -> tuple[Any, Samples]:
        cache, tokens, alive = carry
        logits, cache = decode(cache, tokens)
        drawn = draw(logits, alive, *x)
        return (cache, drawn.tokens, alive & (drawn.tokens != end)), drawn

    xs = (noise, forced, prefix.tokens.T.astype(jnp.int32))
    first = draw(logits, alive, *jax.tree.map(lambda x: x[0], xs))
    carry = (cache, first.tokens, alive & (first.tokens != end))
    (cache, _, _), rest = jax.lax.scan(step, carry, jax.tree.map(lambda x: x[1:], xs))
    return jax.tree.map(lambda x, more: jnp.concatenate([x[None], more]).T, first, rest), cache


def answer_logits(policy: SequencePolicy, params: Params, prompts: Array, answers: Array) -> Array:
    """Logits [B, T, V] of each token of `answers` [B, T] to `prompts` [B, P], by one pass over both.

    Differentiable in `params`. Raises ValueError for prompts that are not [B, P] or answers that do not fit them.
    """
    _check_prompts(prompts)
    if answers.ndim != 2 or len(answers) != len(prompts) or answers.shape[1] == 0:
        raise ValueError(f"answers must be [B, T] with B={len(prompts)} and T at least 1, got shape {answers.shape}")
    tokens = jnp.concatenate([prompts, answers[:, :-1]], axis=1)
    return jax.vmap(policy.apply, (None, 0))(params, tokens)[:, prompts.shape[1] - 1 :]


def evaluate_answers(
    policy: SequencePolicy, params: Params, prompts: Array, answers: Array, end: int, mask: Array | None = None
) -> Samples:
    """What the policy thinks of given `answers` [B, T] to `prompts` [B, P]; for its own, what `sample` returned.

    Its own tokens are those in `mask` [B, T], by default all up to the first `end`. Differentiable in `params`. Raises
    ValueError as `answer_logits` does, and for an `end` that is no token.
    """
    _check_end(policy, end)
    mask = until_end(answers, end) if mask is None else mask
    return of_logits(answer_logits(policy, params, prompts, answers), answers, mask)


def until_end(tokens: Array, end: int) -> Array:
    """Whether each of `tokens` [..., T] comes no later than the first `end`."""
    ends = tokens == end
    return jnp.cumsum(ends, axis=-1) - ends == 0


def of_logits(logits: Array, tokens: Array, mask: Array) -> Samples:
    """Log-probability and entropy of `tokens` [...] under `logits` [..., V], zero outside `mask` [...]."""
    log_probs = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
    return Samples(tokens, jnp.where(mask, log_prob, 0.0), jnp.where(mask, entropy, 0.0), mask)


def in_step(policy: SequencePolicy, params: Params, prompt_length: int, room: int) -> tuple[Prefill, Decode]:
    """`prefill` of prompts [B, P] and `decode` of tokens [B], with scalars of the cache shared by all B sequences."""

    def prefill(prompt: Array) -> tuple[Array, PyTree]:
        return policy.prefill(params, prompt, room)

    def decode(cache: PyTree, token: Array) -> tuple[Array, PyTree]:
        return policy.decode(params, cache, token)

    cache = jax.eval_shape(prefill, jax.ShapeDtypeStruct((prompt_length,), jnp.int32))[1]
    axes = jax.tree.map(lambda x: 0 if x.ndim else None, cache)
    return jax.vmap(prefill, out_axes=(0, axes)), jax.vmap(decode, in_axes=(axes, 0), out_axes=(0, axes))


def _policy(module: nn.Module, num_tokens: int, empty: Callable[[int], PyTree]) -> SequencePolicy:
    """The policy of a `module` (tokens [n], cache) -> (logits [n, V], cache); `empty(room)` is its first cache."""

    def forward(params: Params, tokens: Array, cache: PyTree) -> tuple[Array, PyTree]:
        return cast(tuple[Array, PyTree], module.apply({"params": params}, tokens, cache))

    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros(1, jnp.int32), empty(1))["params"]

    def apply(params: Params, tokens: Array) -> Array:
        _check_sequence(tokens)
        return forward(params, tokens, empty(len(tokens)))[0]

    def prefill(params: Params, prompt: Array, room: int) -> tuple[Array, PyTree]:
        _check_sequence(prompt)
        logits, cache = forward(params, prompt, empty(len(prompt) + room))
        return logits[-1], cache

    def decode(params: Params, cache: PyTree, token: Array) -> tuple[Array, PyTree]:
        logits, cache = forward(params, token[None], cache)
        return logits[0], cache

    return SequencePolicy(num_tokens, init, apply, prefill, decode)


# Small, as in GPT-2: a policy that is nearly uniform at birth, and embeddings that a first gradient step can move.
_SMALL = nn.initializers.normal(0.02)


class _KeyValues(NamedTuple):
    """Keys and values of the tokens so far in the first `position` rows, per layer [heads, room, width / heads].

    Heads first, so that attention is a batch of matrix products as it lies; layers apart, so that none is copied out.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    position: Array  # () int32


class _Block(nn.Module):
    heads: int
    mlp_ratio: int

    @nn.compact
    def __call__(self, x: Array, keys: Array, values: Array, position: Array) -> tuple[Array, Array, Array]:
        n, width = x.shape
        # no biases: that of the keys would not change the attention
        projected = nn.Dense(3 * width, use_bias=False, name="query_key_value")(nn.LayerNorm()(x))
        query, key, value = projected.reshape(n, 3, self.heads, -1).transpose(1, 2, 0, 3)
        keys = jax.lax.dynamic_update_slice(keys, key, (0, position, 0))
        values = jax.lax.dynamic_update_slice(values, value, (0, position, 0))
        scores = jnp.einsum("hnd,hsd->hns", query, keys) / query.shape[-1] ** 0.5
        visible = jnp.arange(keys.shape[1]) <= position + jnp.arange(n)[:, None]
        attended = jnp.einsum("hns,hsd->nhd", jax.nn.softmax(jnp.where(visible, scores, -jnp.inf)), values)
        x = x + nn.Dense(width, use_bias=False, name="attended")(attended.reshape(n, width))
        hidden = nn.gelu(nn.Dense(self.mlp_ratio * width, name="hidden")(nn.LayerNorm()(x)))
        return x + nn.Dense(width, name="out")(hidden), keys, values


class _Transformer(nn.Module):
    num_tokens: int
    outputs: int
    width: int
    layers: int
    heads: int
    max_length: int
    mlp_ratio: int

    @nn.compact
    def __call__(self, tokens: Array, cache: _KeyValues) -> tuple[Array, _KeyValues]:
        places = self.param("positions", _SMALL, (self.max_length, self.width))
        x = nn.Embed(self.num_tokens, self.width, embedding_init=_SMALL, name="embedding")(tokens)
        x = x + jax.lax.dynamic_slice_in_dim(places, cache.position, len(tokens))
        keys, values = [], []
        for i in range(self.layers):
            block = _Block(self.heads, self.mlp_ratio, name=f"block_{i}")
            x, k, v = block(x, cache.keys[i], cache.values[i], cache.position)
            keys.append(k)
            values.append(v)
        logits = nn.Dense(self.outputs, kernel_init=_SMALL, name="logits")(nn.LayerNorm()(x))
        return logits, _KeyValues(tuple(keys), tuple(values), cache.position + len(tokens))


class _Recurrent(nn.Module):
    num_tokens: int
    outputs: int
    width: int

    @nn.compact
    def __call__(self, tokens: Array, state: Array) -> tuple[Array, Array]:
        x = nn.Embed(self.num_tokens, self.width, name="embedding")(tokens)
        # flax's default, orthogonal, needs a decomposition that must not be batched (see `metarl.rl.networks`)
        cell = nn.GRUCell(self.width, recurrent_kernel_init=nn.initializers.lecun_normal(), name="cell")
        scan = nn.scan(lambda cell, h, x: cell(h, x), variable_broadcast="params", split_rngs={"params": False})
        state, hidden = scan(cell, state, x)
        return nn.Dense(self.outputs, kernel_init=_SMALL, name="logits")(hidden), state


def _check_sequence(tokens: Array) -> None:
    if tokens.ndim != 1 or len(tokens) == 0:
        raise ValueError(f"tokens must be [L] with L at least 1 (vmap over a batch), got shape {tokens.shape}")


def _check_prompts(prompts: Array) -> None:
    if prompts.ndim != 2 or prompts.shape[1] == 0:
        raise ValueError(f"prompts must be [B, P] with P at least 1, got shape {prompts.shape}")


def _check_end(policy: SequencePolicy, end: int) -> None:
    if not 0 <= end < policy.num_tokens:
        raise ValueError(f"end must be a token between 0 and {policy.num_tokens - 1}, got {end}")


def check_prefix(prefix: Prefix, batch: int, length: int) -> None:
    """Raises ValueError for a prefix that is not of `batch` answers of `length` tokens."""
    if prefix.tokens.shape != (batch, length) or prefix.length.shape != (batch,):
        raise ValueError(
            f"the prefix must have tokens [B, length] = {(batch, length)} and length [B] = {(batch,)}, "
            f"got {prefix.tokens.shape} and {prefix.length.shape}"
        )

"""Policies made of other policies at the time of sampling, by weighted sums of their log-probabilities.

    combined((policy, policy), (1 - w, w))           of (reference, tuned): `pi ~ ref^(1 - w) tuned^w`
    combined((large, small, small), (1, s, -s))      of (large, small tuned, small): what tuning the large one would do

The first is reinforcement learning guidance (RLG; Jin et al. 2025, arXiv 2508.21016): if `tuned` maximises
`E[R] - beta KL(pi || ref)`, the result maximises it with `beta / w`; a w above 1 extrapolates. The second is emulated
fine-tuning (EFT; Mitchell et al. 2023, arXiv 2310.12962). Both are exact for answers of one token; in longer ones each
token is normalised by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metarl.finetune.policies import SequencePolicy
from metarl.types import Array, Key, Params, PyTree


def combined(parts: Sequence[SequencePolicy], weights: Array | Sequence[Array | float]) -> SequencePolicy:
    """The policy `pi(a) ~ prod_i pi_i(a)^w_i` of n parts and weights [n], which may be traced.

    Its parameters and caches are tuples of theirs. Raises ValueError for no part, vocabularies of different sizes, or
    another number of weights.
    """
    sizes = {part.num_tokens for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"parts must have one vocabulary, got {sorted(sizes)} tokens")
    if len(weights) != len(parts):
        raise ValueError(f"there must be a weight for each of the {len(parts)} parts, got {len(weights)}")

    def mixed(logits: Sequence[Array]) -> Array:
        return sum((w * jax.nn.log_softmax(x) for w, x in zip(weights, logits, strict=True)), jnp.zeros(()))

    def each(function: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
        return tuple(function(*x) for x in zip(parts, *arguments, strict=True))

    def init(key: Key) -> Params:
        return each(lambda part, key: part.init(key), jax.random.split(key, len(parts)))

    def apply(params: Params, tokens: Array) -> Array:
        return mixed(each(lambda part, p: part.apply(p, tokens), params))

    def prefill(params: Params, prompt: Array, room: int) -> tuple[Array, PyTree]:
        logits, caches = zip(*each(lambda part, p: part.prefill(p, prompt, room), params), strict=True)
        return mixed(logits), caches

    def decode(params: Params, cache: PyTree, token: Array) -> tuple[Array, PyTree]:
        logits, caches = zip(*each(lambda part, p, c: part.decode(p, c, token), params, cache), strict=True)
        return mixed(logits), caches

    return SequencePolicy(sizes.pop(), init, apply, prefill, decode)

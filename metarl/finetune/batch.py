"""Answers to prompts and what is known of them: the data that credit and losses learn from."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from metarl.types import Array, PyTree


class Batch(NamedTuple):
    """B answers of T tokens to prompts of P tokens. The answers to one problem, its group, are neighbours.

    All groups are of one size. The first `prefix_length` tokens of an answer were forced, by a demonstration or a
    refinement, and the policy drew the others.
    """

    prompts: Array  # [B, P] int32
    answers: Array  # [B, T] int32
    mask: Array  # [B, T] bool: the tokens to learn from, the one that ends the answer included; gaps are allowed
    # [B, T] log-probability of each token, forced or drawn, under the policy that acted; 0 in demonstrations, whose
    # author is taken to be certain
    old_log_prob: Array
    reward: Array  # [B] of the whole answer
    correct: Array  # [B] bool, of the whole answer
    prefix_length: Array  # [B] int32: 0 for an answer that the policy drew alone, T for a demonstration
    problem: PyTree = ()  # leaves [B, ...]
    value: Array | None = None  # [B, T] reward that the critic expects before each token, if there is a critic
    entropy: Array | None = None  # [B, T] of the acting policy before each token, in nats
    turn: Array | None = None  # [B, T] int32, the try of each token, if there are several; replies are not in the mask
    # [B, K] in [0, 1], success if stopped after each of K tries, if it was measured
    success_if_stopped: Array | None = None


def forced(batch: Batch) -> Array:
    """Which tokens [B, T] bool of the mask were forced: those at `t < prefix_length`."""
    return batch.mask & (jnp.arange(batch.mask.shape[1])[None] < batch.prefix_length[:, None])

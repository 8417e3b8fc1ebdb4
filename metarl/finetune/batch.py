"""Answers to prompts, and what is known of them: all that credit and terms learn from."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from metarl.types import Array


class Batch(NamedTuple):
    """Answers to prompts. Leaves [B, ...]; the answers to one prompt are neighbours, as many for every prompt.

    The policy gave each answer from token `prefix_length` on; the tokens before it were forced, by a demonstration.
    What the acting policy said of a token it also says of a forced one.
    """

    tokens: Array  # [B, P] int32, the prompts
    answers: Array  # [B, T] int32
    mask: Array  # [B, T] bool, up to the token that ends the answer, which is included
    old_log_prob: Array  # [B, T] of the answer's tokens, under the policy that acted
    reward: Array  # [B] of the whole answer
    prefix_length: Array  # [B] int32: 0 on policy; T, or the answer's length, for a demonstration
    value: Array | None = None  # [B, T] what the critic expects before each token, if there is one
    entropy: Array | None = None  # [B, T] of the acting policy before each token, if something needs it


def forced(batch: Batch) -> Array:
    """Which tokens [B, T] were forced by a demonstration: `t < prefix_length`, within the answer."""
    return batch.mask & (jnp.arange(batch.mask.shape[1])[None] < batch.prefix_length[:, None])

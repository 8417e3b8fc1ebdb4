"""Rewards of tokens for `credit.gae`: of the process as well as of the outcome, from functions that score tokens.

A scorer maps a batch to scores [B, T], such as how good each step is in the eyes of an imperfect judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from metarl.finetune.batch import Batch
from metarl.finetune.credit import outcome, renorm
from metarl.types import Array

Scorer = Callable[[Batch], Array]


def process(scorer: Scorer) -> Scorer:
    """The scores of the process alone, 0 outside the mask: what pays is what the judge likes."""
    return lambda batch: jnp.where(batch.mask, scorer(batch), 0.0)


def process_and_outcome(scorer: Scorer) -> Scorer:
    """The scores of the process, and the reward of the answer with its last token."""
    return lambda batch: process(scorer)(batch) + outcome(batch)


def renormed(scorer: Scorer) -> Scorer:
    """`credit.renorm` of scores in [0, 1]: nowhere positive in a wrong answer, nowhere negative in a correct one.

    PPR (Xu et al. 2025, arXiv 2509.25598). The outcome is whether the answer is correct, whatever its reward.
    """

    def rewards(batch: Batch) -> Array:
        correct = batch.correct.astype(jnp.float32)
        return jnp.where(batch.mask, jax.vmap(renorm)(scorer(batch), correct), 0.0)

    return rewards


def segments(scorers: Sequence[Scorer], ends: Sequence[Callable[[Batch], Array]], weights: Sequence[float]) -> Scorer:
    """Fine-grained rewards (Wu et al. 2023, arXiv 2306.01693, eq. 1): several scorers, each with segments of its own.

    `ends` say which tokens [B, T] end a segment of each scorer (a token, a sentence, the answer). The sum of its scores
    over a segment comes with the token that ends it, times its weight; scores after the last end are lost.

    Raises ValueError for no scorer, or numbers of scorers, ends and weights that differ.
    """
    counts = len(scorers), len(ends), len(weights)
    if len(set(counts)) > 1 or not scorers:
        raise ValueError(f"there must be as many scorers as ends and weights, one or more, got {counts}")

    def rewards(batch: Batch) -> Array:
        parts = zip(scorers, ends, weights, strict=True)
        return sum(
            (w * jax.vmap(_at_ends)(process(s)(batch), e(batch) & batch.mask) for s, e, w in parts), jnp.zeros(())
        )

    return rewards


def _at_ends(score: Array, ends: Array) -> Array:
    """Scores [T] summed over the segments that end where `ends` [T] says."""
    total = jnp.cumsum(score)
    place = jnp.arange(1, len(ends) + 1)
    last = jnp.append(jnp.zeros(1, place.dtype), jax.lax.cummax(jnp.where(ends, place, 0))[:-1])  # 0: none before
    earlier = jnp.where(last > 0, total[last - 1], 0.0)
    return jnp.where(ends, total - earlier, 0.0)

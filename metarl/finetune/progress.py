"""Meta reinforcement fine-tuning (MRT; Qu et al. 2025, arXiv 2503.07572): credit for the progress of each try.

`J_j` is the success of a meta-prover that answers after try j: the batch's `success_if_stopped`, from `sources.proven`.
The progress of try j is `r_j = J_j - J_{j-1}`. `J_{-1}`, success before the first try, depends on the problem alone, so
it cancels where answers of a group are compared, as they are here. It is not estimated, which would only add noise, but
taken to be 0. The sum then telescopes to `J_{K-1}`, and `sum_j J_j = sum_j (K - j) r_j`: the area under success by
budget, so minus the cumulative regret, is progress weighed by `K - j`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import jax.numpy as jnp

from metarl.checks import NOT_NEGATIVE, SEVERAL, checked
from metarl.finetune.batch import Batch
from metarl.finetune.credit import Credit, by_group, standardised, to_tokens
from metarl.finetune.turns import last_try
from metarl.types import Array

Scope = Literal["episode", "to_go", "scalar_end"]
Weights = Literal["uniform", "regret"]


def progress(success: Array) -> Array:
    """`r_j = J_j - J_{j-1}` [..., K] of success [..., K] after each try, with `J_{-1} = 0`."""
    return jnp.diff(success, axis=-1, prepend=0.0)


def weights(tries: int, kind: Weights) -> Array:
    """Weights [K] of progress: 1 ("uniform"), or `(K - j) / K` ("regret").

    With the latter the weighted sum is the mean of J_j over the K budgets.
    """
    return jnp.ones(tries) if kind == "uniform" else 1.0 - jnp.arange(tries) / tries


def bonus(success: Array, scope: Scope, kind: Weights) -> Array:
    """What each try earns [..., K] by its weighted progress, of success [..., K].

    Its own ("episode"), its own and that of all later ones ("to_go"), or that of all, whichever it is ("scalar_end").
    """
    weighted = weights(success.shape[-1], kind) * progress(success)
    if scope == "episode":
        return weighted
    if scope == "to_go":
        return jnp.flip(jnp.cumsum(jnp.flip(weighted, -1), -1), -1)
    return jnp.broadcast_to(weighted.sum(-1, keepdims=True), weighted.shape)


@checked
def mrt(
    group_size: Annotated[int, SEVERAL],
    alpha: Annotated[Array | float, NOT_NEGATIVE] = 1.0,
    scope: Scope = "episode",
    kind: Weights = "uniform",
) -> Credit:
    """MRT-RL: the advantages of GRPO, plus `alpha` times the `bonus` of the token's try.

    The bonus is centred among the answers of the group that made this try, as the reward is among all. Tries come from
    the policy that is being trained, prefixes are data: in the scope "episode" a try is not paid for what follows from
    it, so the gradient is that of the paper's objective, whose prefixes come from the old policy. In the other scopes
    it is, and with uniform weights the bonus only shapes the outcome.

    Raises ValueError for a `group_size` below 2, a negative `alpha`, an unknown `scope` or `kind`, or, when called, for
    a batch without `success_if_stopped` or whose size is no multiple of `group_size`.
    """

    def of_group(reward: Array, earned: Array, made: Array) -> Array:
        return standardised(reward)[:, None] + alpha * _centred_where(earned, made)

    def advantage(batch: Batch) -> Array:
        success, turn = _needed(batch, "mrt")
        earned = bonus(success, scope, kind)
        advantage = by_group(of_group, group_size)(batch.reward, earned, _made(batch, turn, earned.shape[1]))
        return jnp.where(batch.mask, jnp.take_along_axis(advantage, turn, axis=1), 0.0)

    return Credit(advantage, group_size)


@checked
def star(group_size: Annotated[int, SEVERAL], by_progress: bool = True) -> Credit:
    """STaR (Zelikman et al. 2022, arXiv 2203.14465) as credit: 1 for tokens of answers to be imitated, 0 for others.

    MRT-STaR keeps, of each group's correct answers, the one with the most progress weighed by `K - j`. With uniform
    weights all would have the same, `J_{K-1} = 1`. Without `by_progress` all correct answers are kept. For
    `losses.reinforce`, which then is the cross-entropy of what is kept.

    Raises ValueError for a `group_size` below 2, or, when called, for a batch without `success_if_stopped` (by
    progress), or whose size is no multiple of `group_size`.
    """

    def best(correct: Array, earned: Array) -> Array:
        first = jnp.argmax(jnp.where(correct, earned, -jnp.inf))
        return correct & (jnp.arange(group_size) == first)

    def advantage(batch: Batch) -> Array:
        kept = batch.correct
        if by_progress:
            success, _ = _needed(batch, "star")
            kept = by_group(best, group_size)(kept, bonus(success, "scalar_end", "regret")[:, 0])
        return to_tokens(kept.astype(batch.reward.dtype), batch.mask)

    return Credit(advantage, group_size)


@checked
def length_penalty(group_size: Annotated[int, SEVERAL], cost: Annotated[Array | float, NOT_NEGATIVE] = 0.1) -> Credit:
    """GRPO's advantages of `R - cost * n`, where n tries were made, the first not counted.

    Raises ValueError for a `group_size` below 2, a negative `cost`, or, when called, for a batch without tries or whose
    size is no multiple of `group_size`.
    """
    grouped = by_group(standardised, group_size)

    def advantage(batch: Batch) -> Array:
        return to_tokens(grouped(batch.reward - cost * last_try(batch)), batch.mask)

    return Credit(advantage, group_size)


def _made(batch: Batch, turn: Array, tries: int) -> Array:
    """Which tries [B, K] each answer made."""
    return (batch.mask[..., None] & (turn[..., None] == jnp.arange(tries))).any(1)


def _centred_where(x: Array, where: Array) -> Array:
    """`x` [G, K] less its mean over the group where `where` [G, K], 0 elsewhere."""
    mean = jnp.where(where, x, 0.0).sum(0) / jnp.maximum(where.sum(0), 1)
    return jnp.where(where, x - mean, 0.0)


def _needed(batch: Batch, credit: str) -> tuple[Array, Array]:
    if batch.success_if_stopped is None or batch.turn is None:
        raise ValueError(f"{credit} needs batch.success_if_stopped, got None: draw answers by sources.proven")
    return batch.success_if_stopped, batch.turn

"""Preferences beyond DPO: optimism about answers that the reference policy would not give, and confidence in rankings.

The pairs of a group are those of `losses.best_and_worst`. For CREAM give a `confidence` to `losses.direct_preference`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import chex
import jax
import jax.numpy as jnp

from metarl.checks import NOT_NEGATIVE, POSITIVE, checked
from metarl.finetune import terms
from metarl.finetune.losses import Context, Loss, best_and_worst
from metarl.types import Array


@checked
def optimistic_preference(
    chosen: Array,
    rejected: Array,
    seen: Array,
    beta: Annotated[Array | float, POSITIVE] = 0.1,
    alpha: Annotated[Array | float, NOT_NEGATIVE] = 1e-3,
) -> Array:
    """`-log sigmoid(beta (d_w - d_l)) + alpha beta d_r` [...]: SELM (Zhang et al. 2024, arXiv 2405.19332).

    `d = log(pi / ref)` [...] of the chosen, the rejected, and a `seen` answer: one that the reference policy gives. The
    last term moves probability away from what has been seen, which is optimism about the rest (as in XPO; Xie et al.
    2024, arXiv 2405.21046). Without it (`alpha` 0) this is `terms.direct_preference`.
    """
    chex.assert_equal_shape([chosen, rejected, seen])
    return terms.direct_preference(chosen, rejected, beta) + alpha * beta * seen


@checked
def selm(beta: Annotated[Array | float, POSITIVE] = 0.1, alpha: Annotated[Array | float, NOT_NEGATIVE] = 1e-3) -> Loss:
    """`optimistic_preference` of the best and the worst answer of each group.

    Its expectation over answers of the reference policy is taken over the answers of the group, each with the ratio
    ref / pi_old by which the reference is likelier to give it (clipped to e^5).
    """

    def loss(x: Context) -> Array:
        old = terms.of_answer(x.batch.old_log_prob, x.batch.mask)
        ref = terms.of_answer(x.ref_log_prob, x.batch.mask)
        ratio = jnp.exp(jnp.clip(jax.lax.stop_gradient(ref - old), -20.0, 5.0))
        seen = (ratio * x.answer_log_ratio).reshape(-1, x.group_size).mean(1)
        preferred = best_and_worst(partial(terms.direct_preference, beta=beta), x)
        return preferred + alpha * beta * seen

    return loss


def consistency(score: Array, previous: Array) -> Array:
    """The share () of pairs of k answers that two scores [k] rank alike: `(1 + Kendall's tau) / 2`; ties count half.

    CREAM's confidence in a preference (Wang et al. 2024, arXiv 2410.12735), of the policy's own implicit rewards,
    `log(pi / ref)`, now and one round before. Raises ValueError for fewer than two answers.
    """
    chex.assert_equal_shape([score, previous])
    k = len(score)
    if k < 2:
        raise ValueError(f"consistency needs at least 2 answers, got {k}")
    order, before = (jnp.sign(x[:, None] - x[None]) for x in (score, previous))
    return 0.5 + 0.5 * (order * before).sum() / (k * (k - 1))

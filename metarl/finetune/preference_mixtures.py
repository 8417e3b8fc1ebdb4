"""MiCRo: raters who disagree, as a mixture of reward models, and the weights of a single rater by Hedge.

Shen et al. 2025, arXiv 2505.24846. One Bradley-Terry model cannot say that half of the raters like what the other half
dislikes; K heads can. The network of the `RewardModel` has 2 K outputs: the first K are the heads, read after the
answer, and the others the logits of a router, read after the prompt.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from metarl.checks import NOT_NEGATIVE, POSITIVE, checked
from metarl.finetune.reward_models import Pairs, RewardModel
from metarl.types import Array, Params


def strengths(model: RewardModel, params: Params, pairs: Pairs) -> Array:
    """How much higher each head scores the chosen answers than the rejected ones, [N, K]."""
    chosen, rejected = (model.outputs(params, pairs.prompts, x) for x in (pairs.chosen, pairs.rejected))
    return (chosen - rejected)[:, : chosen.shape[1] // 2]


def routed(model: RewardModel, params: Params, prompts: Array) -> Array:
    """The router's log-weights [N, K] of the heads, given the prompts [N, P] alone."""
    logits = model.read(params, prompts, prompts[:, :0])[:, -1]
    return jax.nn.log_softmax(logits[:, logits.shape[1] // 2 :])


@checked
def mixture_loss(
    model: RewardModel, params: Params, pairs: Pairs, alpha: Annotated[Array | float, NOT_NEGATIVE] = 0.5
) -> Array:
    """`-log sum_k f_k(x) sigmoid(d_k) + alpha sum_k f_k log f_k` [N] (equations 2 to 4), of certain preferences.

    The second term keeps the router from choosing one head for all. 0.5 is the paper's alpha. Raises ValueError for a
    negative number `alpha`.
    """
    log_weight = routed(model, params, pairs.prompts)
    likelihood = jax.nn.logsumexp(log_weight + jax.nn.log_sigmoid(strengths(model, params, pairs)), axis=-1)
    return -likelihood + alpha * (jnp.exp(log_weight) * log_weight).sum(-1)


@checked
def hedge(weights: Array, losses: Array, temperature: Annotated[Array | float, POSITIVE] = 1.0) -> Array:
    """`w_k exp(-L_k / temperature) / Z` [K] (equation 5): weights w [K] of experts after their losses [K].

    The minimiser of `<f, L> + temperature KL(f || w)`. From uniform weights, T rounds of losses in [0, 1] cost at most
    `temperature log K + T / (8 temperature)` more than the best expert. For a rater, the losses are
    `-log sigmoid(strengths)` of one pair. Raises ValueError for a `temperature` that is not positive.
    """
    return jax.nn.softmax(jnp.log(weights) - losses / temperature)

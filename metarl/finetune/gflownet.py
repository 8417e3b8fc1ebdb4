"""GFlowNet objectives: the policy comes to give answers in proportion to `exp(reward / temperature)`.

A reward-maximising policy settles on one good answer; this one keeps all of them. Tokens make a tree of prefixes, whose
backward policy is 1, so an answer y to a prompt is balanced where `log pi(y) + log Z = reward / temperature`. `var_tb`
needs no more than the policy; `balance` learns the flow through every prefix, too (as in GFlowVLM; Kang et al. 2025,
arXiv 2503.06514).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import jax

from metarl.checks import POSITIVE, SHARE, checked
from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.credit import Credit, answer_gae, at_the_end, by_group, needed
from metarl.finetune.critic import TokenCritic
from metarl.finetune.losses import Context, Loss
from metarl.types import Array


@checked
def var_tb(temperature: Annotated[Array | float, POSITIVE] = 1.0) -> Loss:
    """Trajectory balance without a learned log Z: the variance of `log pi(y) - R(y) / temperature` in each group.

    Zhang et al. 2023, arXiv 2302.05446, of the loss of Malkin et al. 2022, arXiv 2201.13259. The losses of k answers
    are `k / (2 (k - 1)) (z_i - mean(z))^2`: their mean is half the unbiased variance. That is `terms.copg` without a
    reference policy, so answers may have been drawn by any policy. Credit has no effect on it.
    """

    def loss(x: Context) -> Array:
        of_group = by_group(partial(terms.copg, beta=1.0), x.group_size)
        return of_group(terms.of_answer(x.now.log_prob, x.batch.mask), x.batch.reward / temperature)

    return loss


@checked
def balance(
    flow: TokenCritic,
    temperature: Annotated[Array | float, POSITIVE] = 1.0,
    flow_lambda: Annotated[float, SHARE] = 0.0,
) -> Credit:
    """Detailed or subtrajectory balance with a learned flow, `log F` before each token, as credit for `reinforce`.

    Detailed balance (Bengio et al. 2021, arXiv 2106.04399) wants `log F(s) + log pi(a | s) = log F(s')` for each token
    and `log F = reward / temperature` after the last. The advantage of a token is `log F(s') - log F(s) - log pi(a|s)`,
    minus the error: `-A log pi` has the gradient of half the squared error by the policy. The flow learns
    `log F(s') - log pi`, so its gradient is a semi-gradient.

    With `flow_lambda` above 0, errors of all subtrajectories that begin at s count, with the geometric weights of a
    lambda-return (subtrajectory balance has weights like these; Madan et al. 2022, arXiv 2209.12782); with 1, those to
    the end alone. Then answers must be drawn at temperature 1. Whatever `flow_lambda` is, the same
    policy has no error.

    Raises ValueError for a `flow_lambda` outside [0, 1], or, when called, if the batch has no values.
    """

    def advantage(batch: Batch) -> Array:
        log_flow = needed(batch.value, "balance", "value")

        def one(reward: Array, log_flow: Array, log_prob: Array, mask: Array) -> Array:
            rewards = at_the_end(reward / temperature, mask) - log_prob
            return answer_gae(rewards, log_flow, mask, 1.0, flow_lambda)

        return jax.vmap(one)(batch.reward, log_flow, batch.old_log_prob, batch.mask)

    return Credit(advantage, critic=flow)

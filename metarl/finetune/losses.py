"""Losses of a training step: terms of `metarl.finetune.terms`, as functions of all that a step knows.

Each function in the second part returns a `Loss`. Write your own as any function of a `Context`:
`lambda x: terms.sft(x.now.log_prob) + 0.01 * terms.entropy_bonus(x.now.logits)`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, checked
from metarl.finetune import terms
from metarl.finetune.batch import Batch, forced
from metarl.finetune.controllers import Signals
from metarl.finetune.credit import by_group
from metarl.finetune.policies import SequencePolicy, answer_logits, of_logits
from metarl.types import Array, Key, Params


class TokenStatistics(NamedTuple):
    """What a policy says of the tokens of a batch of answers."""

    logits: Array  # [B, T, V]
    log_prob: Array  # [B, T] of each token, 0 outside the mask
    entropy: Array  # [B, T] of the distribution of each token in nats, 0 outside the mask
    ref_logits: Array  # [B, T, V] of the policy that the training began with; constant


class Context(NamedTuple):
    """What a loss is a function of: a batch of answers, or of demonstrations, and what is known of them."""

    now: TokenStatistics  # of the policy as it is; gradients flow through it and through nothing else
    batch: Batch
    advantage: Array  # [B, T] of each token; 1 in demonstrations
    success_rate: Array  # [B] share of correct answers in the answer's group
    group_size: int  # answers to each problem; 1 for demonstrations
    key: Key
    signals: Signals  # of the training step, without the loss of imitation

    @property
    def ref_log_prob(self) -> Array:
        """[B, T] log-probability of each token under the policy that the training began with."""
        return terms.log_prob_of(self.now.ref_logits, self.batch.answers)

    @property
    def answer_log_ratio(self) -> Array:
        """[B] log-probability of each answer, less that under the policy that the training began with."""
        return terms.of_answer(self.now.log_prob - self.ref_log_prob, self.batch.mask)


Loss = Callable[[Context], Array]  # losses of tokens [B, T], or of whole answers or pairs of them [n]
Reduce = Callable[[Array, Array], Array]  # (losses [B, T], mask [B, T]) -> ()


def statistics(policy: SequencePolicy, params: Params, reference: Params, batch: Batch) -> TokenStatistics:
    """What the policy says with `params`, and with the constant parameters `reference`, of the answers of a batch."""
    logits = answer_logits(policy, params, batch.prompts, batch.answers)
    found = of_logits(logits, batch.answers, batch.mask)
    ref_logits = jax.lax.stop_gradient(answer_logits(policy, reference, batch.prompts, batch.answers))
    return TokenStatistics(logits, found.log_prob, found.entropy, ref_logits)


# --- of demonstrations ----------------------------------------------------------------------------------------


def sft() -> Loss:
    """Cross-entropy: `terms.sft`."""
    return lambda x: terms.sft(x.now.log_prob)


def dft() -> Loss:
    """Dynamic fine-tuning: `terms.dft`."""
    return lambda x: terms.dft(x.now.log_prob)


@checked
def asft(kl_coef: Annotated[Array | float, NOT_NEGATIVE] = 0.1) -> Loss:
    """Fine-tuning that is anchored to the first policy: `terms.asft`."""
    return lambda x: terms.asft(x.now.logits, x.now.ref_logits, x.batch.answers, kl_coef)


@checked
def otr(
    beta: Array | float = -0.1, num_samples: Annotated[int, COUNT] = 256, temperature: Annotated[float, POSITIVE] = 1.3
) -> Loss:
    """One-token rollouts, drawn anew in every step: `terms.otr` of `terms.otr_samples`."""

    def loss(x: Context) -> Array:
        logits = jax.lax.stop_gradient(x.now.logits)
        sampled = terms.otr_samples(x.key, logits, num_samples, temperature)
        return terms.otr(x.now.logits, x.batch.answers, sampled, beta)

    return loss


# --- of answers with rewards ----------------------------------------------------------------------------------


def reinforce() -> Loss:
    """`terms.reinforce`."""
    return lambda x: terms.reinforce(x.now.log_prob, x.advantage)


@checked
def ppo_clip(
    clip: Annotated[Array | float, POSITIVE] = 0.2, clip_high: Annotated[Array | float, POSITIVE] | None = None
) -> Loss:
    """PPO's clipped objective: `terms.ppo_clip`."""
    return lambda x: terms.ppo_clip(x.now.log_prob, x.batch.old_log_prob, x.advantage, clip, clip_high)


@checked
def dual_clip(
    clip: Annotated[Array | float, POSITIVE] = 0.2,
    clip_high: Annotated[Array | float, POSITIVE] | None = None,
    bound: Annotated[Array | float, terms.ABOVE_ONE] = 3.0,
) -> Loss:
    """PPO's clipped objective, bounded for bad actions, too: `terms.dual_clip`."""
    return lambda x: terms.dual_clip(x.now.log_prob, x.batch.old_log_prob, x.advantage, clip, clip_high, bound)


@checked
def nft(eps: Annotated[float, POSITIVE] = 1.0, weight: terms.Weight = "dr_grpo") -> Loss:
    """Negative-aware fine-tuning: `terms.nft`, whose reward is 1 for a correct answer and 0 for another.

    It replaces the advantage: credit has no effect on it.
    """

    def loss(x: Context) -> Array:
        log_prob, correct = x.now.log_prob, x.batch.correct.astype(x.now.log_prob.dtype)
        return terms.nft(log_prob, x.batch.old_log_prob, correct[:, None], x.success_rate[:, None], eps, weight)

    return loss


@checked
def copg(beta: Array | float) -> Loss:
    """Contrastive policy gradient: `terms.copg` of the answers of each group. Credit has no effect on it."""

    def loss(x: Context) -> Array:
        of_group = by_group(partial(terms.copg, beta=beta), x.group_size)
        return of_group(x.answer_log_ratio, x.batch.reward)

    return loss


@checked
def direct_preference(
    beta: Annotated[Array | float, POSITIVE] = 0.1, confidence: Annotated[Array | float, SHARE] = 1.0
) -> Loss:
    """Direct preference optimisation, `terms.direct_preference`, of the pairs of `best_and_worst`."""
    return lambda x: best_and_worst(partial(terms.direct_preference, beta=beta, confidence=confidence), x)


@checked
def ipo(tau: Annotated[Array | float, POSITIVE] = 0.1) -> Loss:
    """Identity preference optimisation, `terms.ipo`, of the pairs of `best_and_worst`."""
    return lambda x: best_and_worst(partial(terms.ipo, tau=tau), x)


def best_and_worst(term: Callable[[Array, Array], Array], x: Context) -> Array:
    """Losses `term(d_w, d_l)` [B / G] of one pair from each group, with `d = log(pi / ref)` of whole answers.

    The answer with the highest reward is preferred to that with the lowest. The loss of a group whose rewards are all
    equal is 0. Credit has no effect on it.
    """

    def of_group(log_ratio: Array, reward: Array) -> Array:
        best, worst = reward.argmax(), reward.argmin()
        return jnp.where(reward[best] > reward[worst], term(log_ratio[best], log_ratio[worst]), 0.0)

    log_ratio, reward = (y.reshape(-1, x.group_size) for y in (x.answer_log_ratio, x.batch.reward))
    return jax.vmap(of_group)(log_ratio, reward)


# --- added to another -----------------------------------------------------------------------------------------


def with_kl(loss: Loss, coefficient: Callable[[Signals], Array | float]) -> Loss:
    """A `loss` of tokens plus `coefficient` times `terms.kl_k3`: the coefficient may follow time, entropy or success.

    With `controllers.cosine` and `controllers.elapsed`, `lambda signals: cosine(0.1, 0.0)(elapsed(signals.progress))`
    lets go of the first policy over the training.
    """
    return lambda x: loss(x) + coefficient(x.signals) * terms.kl_k3(x.now.log_prob, x.ref_log_prob)


@checked
def shaped(loss: Loss, gamma: Annotated[Array | float, POSITIVE] = 0.1) -> Loss:
    """`terms.shaped` of the tokens that were forced, such as those of `refinement.refined`; of the others, a `loss`."""
    return lambda x: jnp.where(forced(x.batch), terms.shaped(x.now.log_prob, x.advantage, gamma), loss(x))


# --- of a step ------------------------------------------------------------------------------------------------


class Losses(NamedTuple):
    """The two losses that a controller weighs."""

    imitation: Loss = sft()  # of demonstrations
    reward: Loss = ppo_clip()  # of answers
    reduce: Reduce = terms.token_mean  # from losses of tokens to one number; of whole answers the mean is taken

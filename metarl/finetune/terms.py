"""Terms of fine-tuning losses: the loss of each token, or of each answer, and never a mean of them.

Arrays [...] are of tokens, usually [B, T]; logits are [..., V]. Advantages and everything called `old` or `ref` are
data, but nothing here stops a gradient through them. The reducers at the end take losses [B, T] to a scalar. They
differ on purpose: the choice between them is a part of the algorithm. `metarl.finetune.losses` uses these terms in a
training step.
"""

from __future__ import annotations

from typing import Annotated, Literal

import chex
import jax
import jax.numpy as jnp

from metarl.checks import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Bound, checked
from metarl.types import Array, Key

Weight = Literal["dr_grpo", "grpo", "one"]
ABOVE_ONE = Bound(1, 1e9, above=True)

# --- learning from demonstrations -----------------------------------------------------------------------------


def sft(log_prob: Array) -> Array:
    """`-log pi` [...]: supervised fine-tuning, cross-entropy on demonstrated tokens."""
    return -log_prob


def dft(log_prob: Array) -> Array:
    """`-sg[pi] log pi` [...]: dynamic fine-tuning (Wu et al. 2025, arXiv 2508.05629). The gradient is that of `-pi`."""
    return -jax.lax.stop_gradient(jnp.exp(log_prob)) * log_prob


@checked
def asft(
    logits: Array, ref_logits: Array, token: Array, kl_coef: Annotated[Array | float, NOT_NEGATIVE] = 0.1
) -> Array:
    """`-sg[pi] log pi + kl_coef KL(ref || pi)` [...]: anchored fine-tuning (Zhu et al. 2025, arXiv 2509.23753).

    Of logits [..., V] and demonstrated tokens [...]. The KL is the forward one, as in the official code.
    """
    return dft(log_prob_of(logits, token)) + kl_coef * forward_kl(logits, ref_logits)


def forward_kl(logits: Array, ref_logits: Array) -> Array:
    """`KL(ref || pi) = sum_a ref(a) log(ref(a) / pi(a))` [...] of logits [..., V]."""
    import distrax

    chex.assert_equal_shape([logits, ref_logits])
    return distrax.Categorical(logits=ref_logits).kl_divergence(distrax.Categorical(logits=logits))


@checked
def otr(logits: Array, token: Array, sampled: Array, beta: Array | float) -> Array:
    """`-mean_k r_k log pi(a_k)` with `r_k = 1` if `a_k` is the demonstrated token, else `beta` [...].

    One-token rollout (Ming et al. 2025, arXiv 2509.26313) of logits [..., V], tokens [...] and `sampled` ones [..., K]
    from `otr_samples`; `beta` is small and negative. At temperature 1 its expected gradient is `1 - beta` times that of
    `dft`, which has no variance.
    """
    reward = jnp.where(sampled == token[..., None], 1.0, beta)
    log_pi = jax.nn.log_softmax(logits)
    return -(reward * jnp.take_along_axis(log_pi, sampled, axis=-1)).mean(-1)


@checked
def otr_samples(
    key: Key, logits: Array, num_samples: Annotated[int, COUNT] = 256, temperature: Annotated[float, POSITIVE] = 1.3
) -> Array:
    """Tokens [..., num_samples] from `softmax(logits / temperature)`, logits [..., V].

    Raises ValueError if `num_samples` is below 1 or `temperature` not within `metarl.checks.POSITIVE`.
    """
    return jax.random.categorical(key, logits[..., None, :] / temperature, shape=(*logits.shape[:-1], num_samples))


# --- learning from rewards ------------------------------------------------------------------------------------


def reinforce(log_prob: Array, advantage: Array) -> Array:
    """`-A log pi` [...] (Williams 1992)."""
    chex.assert_equal_shape([log_prob, advantage])
    return -advantage * log_prob


@checked
def ppo_clip(
    log_prob: Array,
    old_log_prob: Array,
    advantage: Array,
    clip: Annotated[Array | float, POSITIVE] = 0.2,
    clip_high: Annotated[Array | float, POSITIVE] | None = None,
) -> Array:
    """`-min(rho A, clip(rho, 1 - clip, 1 + clip_high) A)`, `rho = pi / pi_old` [...] (Schulman et al. 2017, eq. 7).

    `clip_high` is `clip` unless it is given (DAPO; Yu et al. 2025, arXiv 2503.14476). log rho is clipped to [-20, 20],
    so that nothing overflows.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    ratio = _ratio(log_prob, old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + (clip if clip_high is None else clip_high))
    return -jnp.minimum(ratio * advantage, clipped * advantage)


@checked
def dual_clip(
    log_prob: Array,
    old_log_prob: Array,
    advantage: Array,
    clip: Annotated[Array | float, POSITIVE] = 0.2,
    clip_high: Annotated[Array | float, POSITIVE] | None = None,
    bound: Annotated[Array | float, ABOVE_ONE] = 3.0,
) -> Array:
    """`min(L, -bound A)` where A < 0, else L, the loss L of `ppo_clip` [...] (Ye et al. 2020, arXiv 1912.09729).

    Without it the loss of an action that has become far more likely is unbounded. Raises ValueError for a number
    `bound` that is not above 1.
    """
    loss = ppo_clip(log_prob, old_log_prob, advantage, clip, clip_high)
    return jnp.where(advantage < 0.0, jnp.minimum(loss, -bound * advantage), loss)


@checked
def nft(
    log_prob: Array,
    old_log_prob: Array,
    reward: Array,
    success_rate: Array,
    eps: Annotated[float, POSITIVE] = 1.0,
    weight: Weight = "dr_grpo",
) -> Array:
    """Negative-aware fine-tuning (Chen et al. 2025, arXiv 2505.18116): wrong answers train an implicit negative policy.

    `-w [r log rho + (1 - r) log max_v((1 - q rho) / (1 - q), eps)]` [...] with `rho = pi / pi_old`, the reward r of the
    answer, 0 or 1, and the share q of right ones among the answers to the prompt (both [...], or () for one answer).
    `max_v(x, eps) = sg[max(x, eps) - x] + x` passes the gradient straight through. Zero where q is 0 or 1.

    w is `1 - q` ("dr_grpo"), `sqrt((1 - q) / q)` ("grpo") or 1 ("one"): on policy, with `eps=1`, the gradient is that
    of `reinforce` with the advantages of the same name. log rho is clipped to [-20, 20].

    Raises ValueError for an unknown `weight` or `eps` that is not within `metarl.checks.POSITIVE`.
    """
    chex.assert_equal_shape([log_prob, old_log_prob])
    mixed = (success_rate > 0.0) & (success_rate < 1.0)
    q = jnp.where(mixed, success_rate, 0.5)  # any number that divides by no zero
    w = {"dr_grpo": 1.0 - q, "grpo": jnp.sqrt((1.0 - q) / q), "one": jnp.ones_like(q)}[weight]
    ratio = _ratio(log_prob, old_log_prob)
    negative = (1.0 - q * ratio) / (1.0 - q)
    floored = jax.lax.stop_gradient(jnp.maximum(negative, eps) - negative) + negative
    return -jnp.where(mixed, w, 0.0) * (reward * jnp.log(ratio) + (1.0 - reward) * jnp.log(floored))


@checked
def shaped(log_prob: Array, advantage: Array, gamma: Annotated[Array | float, POSITIVE] = 0.1) -> Array:
    """`-A pi / (pi + gamma)` [...]: learning from what another policy drew (LUFFY; Yan et al. 2025, arXiv 2504.14945).

    The gradient is that of `reinforce` times `pi gamma / (pi + gamma)^2`, which is 1/4 at `pi = gamma` and less
    elsewhere. Of a token that the policy hardly knows it is nearly `pi / gamma` times that of `reinforce`.

    Raises ValueError for a number `gamma` that is not within `metarl.checks.POSITIVE`.
    """
    chex.assert_equal_shape([log_prob, advantage])
    return -advantage * jax.nn.sigmoid(log_prob - jnp.log(gamma))


# --- learning from whole answers ------------------------------------------------------------------------------


@checked
def copg(log_ratio: Array, reward: Array, beta: Array | float) -> Array:
    """Contrastive policy gradient (Flet-Berliac et al. 2024, arXiv 2406.19185): losses [k] of k answers to one prompt.

    `k / (2 (k - 1)) (S_i - mean(S))^2` with `S = R - beta log(pi / ref)` of rewards R and log-ratios [k] of whole
    answers, which any policy may have drawn. Their sum is `1 / (k - 1)` times the sum of `(S_i - S_j)^2 / 2` over the
    pairs, and its gradient that of REINFORCE with leave-one-out advantages of S, times beta.

    Raises ValueError for fewer than two answers.
    """
    chex.assert_equal_shape([log_ratio, reward])
    chex.assert_rank(reward, 1)
    k = len(reward)
    if k < 2:
        raise ValueError(f"copg needs at least 2 answers to a prompt, got {k}")
    score = reward - beta * log_ratio
    return jnp.square(score - score.mean()) * (k / (2 * (k - 1)))


@checked
def direct_preference(
    chosen: Array,
    rejected: Array,
    beta: Annotated[Array | float, POSITIVE] = 0.1,
    confidence: Annotated[Array | float, SHARE] = 1.0,
) -> Array:
    """`-log sigmoid(beta (d_w - d_l))` [...]: direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290,
    eq. 7).

    `d = log(pi / ref)` [...] of the whole chosen and rejected answer. With a `confidence` c below 1 in the preference,
    the loss is `-c log sigmoid(beta d) - (1 - c) log sigmoid(-beta d)` of `d = d_w - d_l`, which is least where
    `sigmoid(beta d) = c` (CREAM; Wang et al. 2024, arXiv 2410.12735). Raises ValueError for a number `beta` that is not
    within `metarl.checks.POSITIVE`, or a `confidence` outside [0, 1].
    """
    chex.assert_equal_shape([chosen, rejected])
    margin = beta * (chosen - rejected)
    return -confidence * jax.nn.log_sigmoid(margin) - (1.0 - confidence) * jax.nn.log_sigmoid(-margin)


@checked
def ipo(chosen: Array, rejected: Array, tau: Annotated[Array | float, POSITIVE] = 0.1) -> Array:
    """`(d_w - d_l - 1 / (2 tau))^2` [...] (Azar et al. 2023, arXiv 2310.12036), of the same d as `direct_preference`.

    Raises ValueError for a number `tau` that is not within `metarl.checks.POSITIVE`.
    """
    chex.assert_equal_shape([chosen, rejected])
    return jnp.square(chosen - rejected - 1.0 / (2.0 * tau))


# --- staying close, staying open ------------------------------------------------------------------------------


def kl_k1(log_prob: Array, ref_log_prob: Array) -> Array:
    """`d = log(pi / ref)` [...] of sampled tokens, an estimate of KL(pi || ref) (Schulman 2020, "Approximating KL").

    Use it in rewards and logs: as a loss its expected gradient is zero, because that of `log pi` is.
    """
    chex.assert_equal_shape([log_prob, ref_log_prob])
    return log_prob - ref_log_prob


def kl_k3(log_prob: Array, ref_log_prob: Array) -> Array:
    """`exp(-d) - 1 + d` with `d = log(pi / ref)` [...]: as `kl_k1`, but never negative and of less variance.

    As a loss on sampled tokens its expected gradient is that of the forward KL(ref || pi), not of KL(pi || ref).
    """
    d = jnp.clip(kl_k1(log_prob, ref_log_prob), -20.0, 20.0)
    return jnp.expm1(-d) + d


def entropy_bonus(logits: Array) -> Array:
    """`-H(pi)` [...] of logits [..., V]: a loss, so the weight of a bonus is positive."""
    import distrax

    return -distrax.Categorical(logits=logits).entropy()


# --- from logits to log-probabilities -------------------------------------------------------------------------


def log_prob_of(logits: Array, token: Array) -> Array:
    """`log pi(token)` [...] of logits [..., V] and tokens [...]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), token[..., None], axis=-1)[..., 0]


def of_answer(x: Array, mask: Array) -> Array:
    """`sum_t x_t` [...] over the tokens [..., T] of an answer: from log-probabilities of tokens to those of answers."""
    chex.assert_equal_shape([x, mask])
    return jnp.where(mask, x, 0.0).sum(-1)


# --- reducers: losses and mask [B, T] -> () -------------------------------------------------------------------


def token_mean(loss: Array, mask: Array) -> Array:
    """`sum_it l_it / sum_i n_i`: every token counts alike, so long answers count more. 0 if there is none."""
    return of_answer(loss, mask).sum() / jnp.maximum(mask.sum(dtype=loss.dtype), 1.0)


def sequence_mean(loss: Array, mask: Array) -> Array:
    """`mean_i (sum_t l_it / n_i)`: every answer counts alike, so tokens of long ones count less, as in GRPO.

    The mean is over answers with a token in the mask.
    """
    length = mask.sum(-1, dtype=loss.dtype)
    answers = (length > 0.0).sum(dtype=loss.dtype)
    return (of_answer(loss, mask) / jnp.maximum(length, 1.0)).sum() / jnp.maximum(answers, 1.0)


@checked
def constant_length(loss: Array, mask: Array, length: Annotated[int, COUNT]) -> Array:
    """`sum_it l_it / (B length)`: one weight for every token whatever else is in the batch, as in Dr. GRPO.

    `length` is usually the longest that an answer may be. Raises ValueError if it is below 1.
    """
    return of_answer(loss, mask).sum() / (len(loss) * length)


def _ratio(log_prob: Array, old_log_prob: Array) -> Array:
    return jnp.exp(jnp.clip(log_prob - old_log_prob, -20.0, 20.0))

"""Credit: how much better or worse each token of an answer was than expected, the advantage that a loss weighs it by.

Each function in the first part returns a `Credit`. Groups are the answers to one problem: `group_size` neighbours in
the batch. The leaf functions after them are of one group, or of one answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import chex
import jax
import jax.numpy as jnp

from metarl.checks import POSITIVE, SEVERAL, SHARE, checked
from metarl.finetune.batch import Batch, forced
from metarl.finetune.critic import TokenCritic
from metarl.types import Array

Lone = Literal["zero", "reward"]


@dataclass(frozen=True)
class Credit:
    """Maps a batch to the advantages [B, T] of its tokens, zero outside the mask. Call it as a function."""

    advantage: Callable[[Batch], Array]
    group_size: int | None = None  # answers to each problem that it compares; None if it looks at each alone
    critic: TokenCritic | None = None  # gives `batch.value`, and learns from what follows

    def __call__(self, batch: Batch) -> Array:
        return self.advantage(batch)


# --- credits --------------------------------------------------------------------------------------------------


@checked
def grpo(group_size: Annotated[int, SEVERAL], eps: Annotated[float, POSITIVE] = 1e-6) -> Credit:
    """Group relative advantages (Shao et al. 2024, arXiv 2402.03300): `standardised` rewards.

    Raises ValueError for a `group_size` below 2, or, when called, one that does not divide the batch; or for an `eps`
    that is not positive, with which a group of equal rewards would have no finite advantages.
    """
    return _of_outcome(lambda reward: standardised(reward, eps), group_size)


@checked
def dr_grpo(group_size: Annotated[int, SEVERAL]) -> Credit:
    """GRPO done right (Liu et al. 2025, arXiv 2503.20783): `centred` rewards. Reduce with `constant_length`.

    Raises ValueError as `grpo` does.
    """
    return _of_outcome(centred, group_size)


@checked
def rloo(group_size: Annotated[int, SEVERAL]) -> Credit:
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740): `leave_one_out` rewards.

    Raises ValueError as `grpo` does.
    """
    return _of_outcome(leave_one_out, group_size)


@checked
def reward_weighted(group_size: Annotated[int, SEVERAL], beta: Annotated[Array | float, POSITIVE] = 1.0) -> Credit:
    """Reward-weighted regression (Peters & Schaal 2007): `G softmax(R / beta)` of a group of G, for `reinforce`.

    Every answer is imitated, in proportion to `exp(R / beta)`; toward 0, beta leaves the best ones, as `best_of` does.
    Raises ValueError as `grpo` does.
    """
    return _of_outcome(lambda reward: len(reward) * jax.nn.softmax(reward / beta), group_size)


@checked
def best_of(group_size: Annotated[int, SEVERAL]) -> Credit:
    """Best-of-N fine-tuning (RAFT; Dong et al. 2023, arXiv 2304.06767): imitation of the first best answer alone.

    Its advantage is 1, that of the others 0; a group whose rewards are all equal teaches nothing. Raises ValueError as
    `grpo` does.
    """

    def of_group(reward: Array) -> Array:
        is_best = jnp.arange(len(reward)) == reward.argmax()
        return jnp.where(is_best & (reward > reward.min()), 1.0, 0.0)

    return _of_outcome(of_group, group_size)


def successes() -> Credit:
    """Imitation of the correct answers: 1 for each token of them that the policy drew, 0 for all others.

    Rejection fine-tuning, and with `sources.branched` that of EEF (Lan et al. 2025, arXiv 2504.13145).
    """

    def advantage(batch: Batch) -> Array:
        return jnp.where(batch.mask & ~forced(batch) & batch.correct[:, None], 1.0, 0.0)

    return Credit(advantage)


def outcome(batch: Batch) -> Array:
    """Rewards [B, T] of tokens: that of the answer, with its last token."""
    return jax.vmap(at_the_end)(batch.reward, batch.mask)


@checked
def gae(
    critic: TokenCritic,
    discount: Annotated[float, SHARE] = 1.0,
    gae_lambda: Annotated[float, SHARE] = 0.95,
    rewards: Callable[[Batch], Array] = outcome,
) -> Credit:
    """Generalised advantages (`answer_gae`) under the values of `critic`, of the `rewards` [B, T] of tokens.

    Those of `metarl.finetune.rewards` come with every token. Raises ValueError if `discount` or `gae_lambda` is outside
    [0, 1], or, when called, if the batch has no values.
    """

    def advantage(batch: Batch) -> Array:
        value = needed(batch.value, "gae", "value")

        def one(reward: Array, value: Array, mask: Array) -> Array:
            return answer_gae(reward, value, mask, discount, gae_lambda)

        return jax.vmap(one)(rewards(batch), value, batch.mask)

    return Credit(advantage, critic=critic)


def by_difficulty(credit: Credit, difficulty: Callable[[Batch], Array]) -> Credit:
    """`credit` times `difficulty_scale` of the difficulties [B]: harder problems teach more, easier ones less.

    DR-IRL (Cheng et al. 2025, arXiv 2503.18991) scales by two, how far the answer is from a demonstration and how much
    worse its reward is: nest this function for that. Raises ValueError for credit with a critic, which would learn
    scaled returns.
    """
    if credit.critic is not None:
        raise ValueError("by_difficulty needs credit without a critic, whose returns it would scale")

    def advantage(batch: Batch) -> Array:
        return credit(batch) * difficulty_scale(difficulty(batch))[:, None]

    return Credit(advantage, credit.group_size)


@checked
def prefix_group(
    group_size: Annotated[int, SEVERAL], top: Annotated[float, SHARE] = 0.2, lone: Lone = "zero"
) -> Credit:
    """Credit of Prefix-RFT (Huang et al. 2025, arXiv 2507.01679): some answers continue a demonstration.

    Tokens that the policy drew have the reward, `centred` among the answers to the problem with the same number of
    forced tokens (so with the same prefix). Of all forced tokens of the batch only a share `top` has an advantage, the
    `prefix_advantage`: those with the highest `batch.entropy`, where the policy was least sure.

    The reward of an answer that shares its prefix with no other is centred on itself: its continuation has no advantage
    (`lone="zero"`), or its reward for one (`lone="reward"`). The official code has both.

    Raises ValueError as `grpo` does, for `top` outside [0, 1], for an unknown `lone`, or, when called, if the batch has
    no entropies.
    """

    def advantages(reward: Array, prefix_length: Array) -> tuple[Array, Array]:
        return prefix_advantage(reward, prefix_length), continuation_advantage(reward, prefix_length, lone)

    grouped = by_group(advantages, group_size)

    def advantage(batch: Batch) -> Array:
        entropy = needed(batch.entropy, "prefix_group", "entropy")
        prefix = forced(batch)
        begun, drawn = grouped(batch.reward, batch.prefix_length)
        begun = to_tokens(begun, highest(entropy, prefix, top))
        return jnp.where(prefix, begun, to_tokens(drawn, batch.mask))

    return Credit(advantage, group_size)


# --- of one group ---------------------------------------------------------------------------------------------


def centred(reward: Array) -> Array:
    """`R_i - mean(R)` [G]."""
    reward = reward - reward[0]  # makes equal rewards exactly zero, which the rounding of a mean does not
    return reward - reward.mean()


def standardised(reward: Array, eps: float = 1e-6) -> Array:
    """`(R_i - mean(R)) / (std(R) + eps)` [G], with the deviation of the group, not that estimated from it."""
    return centred(reward) / (centred(reward).std() + eps)


def leave_one_out(reward: Array) -> Array:
    """`R_i - mean_{j != i}(R_j)` [G]."""
    return centred(reward) * (len(reward) / (len(reward) - 1))


def continuation_advantage(reward: Array, prefix_length: Array, lone: Lone = "zero") -> Array:
    """`R_i - mean_{j: l_j = l_i}(R_j)` [G] of rewards and prefix lengths [G]; for `lone` see `prefix_group`."""
    same = prefix_length[:, None] == prefix_length[None]
    alone = same.sum(1) == 1
    return jnp.where(alone & (lone == "reward"), reward, reward - _mean(reward, same))


def prefix_advantage(reward: Array, prefix_length: Array) -> Array:
    """`(R_i - mean_{j: l_j = 0}(R_j)) / n_i` [G]: what starting with a prefix was better than starting without.

    n_i answers start with it. Zero where l_i = 0; the mean is 0 if no answer of the group is on policy.
    """
    same = prefix_length[:, None] == prefix_length[None]
    advantage = (reward - _mean(reward, prefix_length == 0)) / same.sum(1, dtype=reward.dtype)
    return jnp.where(prefix_length == 0, 0.0, advantage)


def difficulty_scale(difficulty: Array, deviations: float = 3.0) -> Array:
    """`sigmoid(x) / sigmoid(mean(x))` [n] of difficulties x [n]; 1 for outliers, which the mean leaves out.

    An outlier is more than `deviations` standard deviations from the mean of all. That of DR-IRL (arXiv 2503.18991).
    """
    usual = jnp.abs(difficulty - difficulty.mean()) <= deviations * difficulty.std() + 1e-6
    mean = jnp.where(usual, difficulty, 0.0).sum() / jnp.maximum(usual.sum(), 1)
    return jnp.where(usual, jax.nn.sigmoid(difficulty) / jax.nn.sigmoid(mean), 1.0)


# --- of one answer --------------------------------------------------------------------------------------------


def at_the_end(reward: Array, mask: Array) -> Array:
    """Rewards [T] of tokens: `reward` () at the last token in `mask` [T], 0 elsewhere."""
    remaining = jnp.cumsum(mask[::-1])[::-1]
    return jnp.where(mask & (remaining == 1), reward, 0.0)


def renorm(process: Array, outcome: Array) -> Array:
    """`r_t = p_t + R - 1` [T] of process rewards p in [0, 1] [T] and an outcome R in {0, 1} ().

    ReNorm of PPR (Xu et al. 2025, arXiv 2509.25598). Nowhere positive in a wrong answer and nowhere negative in a right
    one, so steps that please an imperfect judge cannot pay for failing. Rewards, not advantages: for `answer_gae`.
    """
    return process + outcome - 1.0


def answer_gae(
    reward: Array, value: Array, mask: Array, discount: Array | float = 1.0, gae_lambda: Array | float = 0.95
) -> Array:
    """Generalised advantages [T] of the tokens in `mask` [T] (Schulman et al. 2015, arXiv 1506.02438, eq. 16).

    `reward` [T] comes with a token, `value` [T] is the one expected before it. A token is followed by the next one in
    the mask, across a gap where another has spoken; nothing follows the last. Outside the mask rewards and values are
    ignored, and advantages are 0.
    """
    import rlax

    chex.assert_equal_shape([reward, value, mask])
    order = jnp.argsort(~mask, stable=True)  # moves the tokens in the mask together, and keeps their order
    inside = mask[order]
    reward, value = jnp.where(inside, reward[order], 0.0), jnp.where(inside, value[order], 0.0)
    continues = jnp.where(jnp.append(inside[1:], False), discount, jnp.zeros_like(value))
    values = jnp.append(value, jnp.zeros_like(value[:1]))
    advantage = rlax.truncated_generalized_advantage_estimation(reward, continues, gae_lambda, values)
    return jnp.where(mask, jnp.zeros_like(advantage).at[order].set(advantage), 0.0)


# --- plumbing -------------------------------------------------------------------------------------------------


@checked
def by_group(function: Callable[..., Any], group_size: Annotated[int, SEVERAL]) -> Callable[..., Any]:
    """`function` of one group's arrays [G, ...], made one of a batch's [B, ...]; results [G, ...] join to [B, ...].

    Raises ValueError for a `group_size` below 2, or, when called, one that does not divide B.
    """

    def over_groups(*arrays: Array) -> Any:
        rows = len(arrays[0])
        if rows % group_size:
            raise ValueError(f"group_size must divide the {rows} rows of the batch, got {group_size}")
        groups = [x.reshape(-1, group_size, *x.shape[1:]) for x in arrays]
        return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), jax.vmap(function)(*groups))

    return over_groups


def to_tokens(advantage: Array, mask: Array) -> Array:
    """The advantage [B] of an answer for each of its tokens [B, T], 0 outside the mask."""
    return jnp.where(mask, advantage[:, None], 0.0)


def highest(x: Array, where: Array, share: float) -> Array:
    """Whether an entry is one of the greatest `round(share * where.sum())` of `x` [...], among those in `where`."""
    order = jnp.argsort(-jnp.where(where, x, -jnp.inf), axis=None)
    rank = jnp.zeros(x.size, jnp.int32).at[order].set(jnp.arange(x.size, dtype=jnp.int32)).reshape(x.shape)
    return where & (rank < jnp.round(share * where.sum(dtype=x.dtype)).astype(jnp.int32))


def _of_outcome(function: Callable[[Array], Array], group_size: int) -> Credit:
    grouped = by_group(function, group_size)
    return Credit(lambda batch: to_tokens(grouped(batch.reward), batch.mask), group_size)


def _mean(x: Array, where: Array) -> Array:
    """Means of `x` [G] where `where` [..., G]; 0 where that is nowhere."""
    weight = where.astype(x.dtype)
    return weight @ x / jnp.maximum(weight.sum(-1), 1.0)


def needed(array: Array | None, credit: str, name: str) -> Array:
    """`array`. Raises ValueError, for the `credit` that needs `batch.<name>`, if it is None."""
    if array is None:
        raise ValueError(f"{credit} needs batch.{name}, got None")
    return array

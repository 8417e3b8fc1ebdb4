"""Reward models: what raters like, learned from pairs of answers of which they preferred one.

A `RewardModel` is a sequence policy with a score in place of logits. Its `step` descends any loss of its parameters:
`bradley_terry` of `Pairs`, or `meta_loss`, `peer_review` and those of `metarl.finetune.preference_mixtures` and
`stepwise`. What is wrong with the pairs is mended in the pairs: `voted` flips those that an ensemble disbelieves, and
gives each a margin. `metarl.finetune.judged` makes a score the reward of a source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.checks import COUNT_OR_ZERO, NOT_NEGATIVE, SEVERAL, SHARE, checked
from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.credit import highest
from metarl.finetune.policies import SequencePolicy, until_end
from metarl.tree import select
from metarl.types import Array, Key, Params, PyTree

State = tuple[Params, PyTree]  # parameters of a reward model, and the state of its optimizer


class Pairs(NamedTuple):
    """N pairs of answers of T tokens to prompts of P tokens, of which a rater preferred one."""

    prompts: Array  # [N, P] int32
    chosen: Array  # [N, T] int32
    rejected: Array  # [N, T] int32
    confidence: Array  # [N] in the preference, 1 if it is certain and 0.5 if nothing is known
    margin: Array  # [N] by how much the chosen answer is to be ahead, 0 if it need only be ahead


def ranked(prompts: Array, first: Array, second: Array, prefers_first: Array) -> Pairs:
    """Certain preferences: of answers `first` and `second` [N, T], the first where `prefers_first` [N] says so."""
    chosen, rejected = select(prefers_first, first, second), select(prefers_first, second, first)
    return Pairs(prompts, chosen, rejected, jnp.ones(len(prompts)), jnp.zeros(len(prompts)))


def some_of(pairs: Pairs, key: Key, count: int) -> Pairs:
    """`count` of the pairs, drawn with replacement."""
    rows = jax.random.randint(key, (count,), 0, len(pairs.prompts))
    return jax.tree.map(lambda x: x[rows], pairs)


class RewardModel(NamedTuple):
    """Scores whole answers. What follows the end of an answer has no effect.

    The network has one output, or K for K scores. It reads the last token, too, so a transformer needs a `max_length`
    of prompt and answer together.
    """

    network: SequencePolicy
    optimizer: optax.GradientTransformation
    end: int  # the token that ends an answer

    def init(self, key: Key) -> State:
        """A newborn reward model: its parameters and its optimizer's state."""
        params = self.network.init(key)
        return params, self.optimizer.init(params)

    def read(self, params: Params, prompts: Array, answers: Array) -> Array:
        """Outputs [B, P + T, K] after each token of prompts [B, P] and answers [B, T]."""
        return jax.vmap(self.network.apply, (None, 0))(params, jnp.concatenate([prompts, answers], 1))

    def outputs(self, params: Params, prompts: Array, answers: Array) -> Array:
        """All K outputs [B, K] after the last token of each answer."""
        last = prompts.shape[1] + until_end(answers, self.end).sum(1) - 1
        read = self.read(params, prompts, answers)
        return jnp.take_along_axis(read, last[:, None, None], axis=1)[:, 0]

    def score(self, params: Params, prompts: Array, answers: Array) -> Array:
        """The score [B] of each answer: the first output."""
        return self.outputs(params, prompts, answers)[:, 0]

    def strength(self, params: Params, pairs: Pairs) -> Array:
        """How much higher the chosen answers score than the rejected ones, [N]."""
        return self.score(params, pairs.prompts, pairs.chosen) - self.score(params, pairs.prompts, pairs.rejected)

    def step(self, state: State, loss: Callable[[Params], Array]) -> State:
        """The state after one step down the gradient of a `loss` ()."""
        params, opt_state = state
        moves, opt_state = self.optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, moves), opt_state


def bradley_terry(model: RewardModel, params: Params, pairs: Pairs) -> Array:
    """`-c log sigmoid(d - m) - (1 - c) log sigmoid(m - d)` [N], with the `strength` d of the preference.

    That is the loss of Stiennon et al. 2020 (arXiv 2009.01325), `-log sigmoid(d)`, for a certain preference (c = 1)
    without a margin (m = 0). Smoothed labels are a confidence of `1 - alpha`, and margins adapt to each pair, in Wang
    et al. 2024 (arXiv 2401.06080, eq. 5 and 6; the text prints the margin outside of the logarithm, where it would have
    no effect).
    """
    strength = model.strength(params, pairs)
    return terms.direct_preference(strength, pairs.margin, 1.0, pairs.confidence)


# --- votes of an ensemble -----------------------------------------------------------------------------------------


def votes(model: RewardModel, params: Params, pairs: Pairs) -> tuple[Array, Array]:
    """Mean and deviation [N] of the strength of each preference among M reward models, whose leaves are [M, ...].

    Wang et al. 2024 (arXiv 2401.06080, eq. 4). A negative mean suggests that the label is wrong.
    """
    strength = jax.vmap(model.strength, (0, None))(params, pairs)
    return strength.mean(0), strength.std(0)


@checked
def voted(
    pairs: Pairs,
    mean: Array,
    flip: Annotated[float, SHARE] = 0.2,
    smoothing: Annotated[float, SHARE] = 0.0,
    margin: Annotated[Array | float, NOT_NEGATIVE] = 0.0,
) -> Pairs:
    """The pairs after the `votes`: the share `flip` of them with the lowest mean [N] the other way round.

    Only negative means are flipped. Each label gets the confidence `1 - smoothing` and a margin of `margin` times the
    strength of the preference as it now stands, if that is positive. Wang et al. 2024 (arXiv 2401.06080, section 2.4)
    flip the lowest 20 % and use the strength itself as margin. Raises ValueError for a number out of bounds.
    """
    flipped = highest(-mean, jnp.ones(mean.shape, bool), flip) & (mean < 0.0)
    return Pairs(
        pairs.prompts,
        select(flipped, pairs.rejected, pairs.chosen),
        select(flipped, pairs.chosen, pairs.rejected),
        jnp.full(mean.shape, 1.0 - smoothing),
        margin * jnp.maximum(jnp.where(flipped, -mean, mean), 0.0),
    )


# --- peers --------------------------------------------------------------------------------------------------------


@checked
def peer_review(
    model: RewardModel, states: tuple[State, State], pairs: Pairs, keep: Annotated[float, SHARE] = 0.6
) -> tuple[State, State]:
    """One step of two reward models, each on the share `keep` of the pairs whose strength the *other* thinks highest.

    Collaborative reward modelling (Zhang et al. 2025, arXiv 2505.10597): a model that chose its own pairs would believe
    its own errors. The paper also orders the pairs from easy to hard, which is not done here. Raises ValueError for a
    `keep` outside [0, 1].
    """

    def kept(reviewer: State) -> Array:
        return highest(model.strength(reviewer[0], pairs), jnp.ones(len(pairs.prompts), bool), keep)

    def learned(state: State, kept: Array) -> State:
        return model.step(state, lambda params: terms.token_mean(bradley_terry(model, params, pairs), kept))

    first, second = states
    return learned(first, kept(second)), learned(second, kept(first))


# --- answers that were never rated --------------------------------------------------------------------------------


def difference(score: Array) -> Array:
    """`2 / k^2 sum_{i < j} sigmoid(|r_i - r_j|)` () of the scores [k] of k answers to one prompt: how far apart they
    are (Dou et al. 2024, arXiv 2405.00438)."""
    apart = jax.nn.sigmoid(jnp.abs(score[:, None] - score[None]))
    return 2.0 / len(score) ** 2 * jnp.triu(apart, 1).sum()


@checked
def meta_loss(
    model: RewardModel,
    params: Params,
    pairs: Pairs,
    shifted: Batch,
    group_size: Annotated[int, SEVERAL],
    rate: Annotated[Array | float, NOT_NEGATIVE] = 0.1,
    first_order: bool = True,
) -> Array:
    """MetaRM's loss (): `bradley_terry` of the pairs at parameters that tell the `shifted` answers further apart.

    `L(theta + rate grad J(theta))`, with the mean J of `difference` over groups of answers of the policy as it is now,
    which nobody has rated (Dou et al. 2024, arXiv 2405.00438). The paper's update is the gradient of L at the moved
    parameters (`first_order`); its analysis (equation 17 of arXiv 2401.06080) is of a gradient that also flows through
    the move, which is exact with `first_order=False`. With rate 0 both are Bradley-Terry.

    Raises ValueError for a `group_size` below 2 or one that does not divide the answers, or a negative `rate`.
    """
    if len(shifted.prompts) % group_size:
        raise ValueError(f"group_size must divide the {len(shifted.prompts)} shifted answers, got {group_size}")

    def apart(params: Params) -> Array:
        score = model.score(params, shifted.prompts, shifted.answers).reshape(-1, group_size)
        return jax.vmap(difference)(score).mean()

    move = jax.grad(apart)(params)
    if first_order:
        move = jax.lax.stop_gradient(move)
    return bradley_terry(model, jax.tree.map(lambda x, y: x + rate * y, params, move), pairs).mean()


# --- training on a given set --------------------------------------------------------------------------------------


@checked
def fit(
    model: RewardModel,
    state: State,
    pairs: Pairs,
    key: Key,
    steps: Annotated[int, COUNT_OR_ZERO],
    batch_size: Annotated[int, SEVERAL] = 32,
) -> State:
    """The state after `steps` steps of Bradley-Terry on `batch_size` pairs each, drawn with replacement."""

    def one(state: State, key: Key) -> tuple[State, None]:
        some = some_of(pairs, key, batch_size)
        return model.step(state, lambda params: bradley_terry(model, params, some).mean()), None

    return jax.lax.scan(one, state, jax.random.split(key, steps))[0]

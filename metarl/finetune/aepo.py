"""AEPO: entropy is held by imitating the policy's own good answers at another temperature.

Arbitrary entropy policy optimisation (Wang et al. 2025, arXiv 2510.08141) adds
`alpha E_{o ~ pi^T}[R(o) grad log pi(o)]` to the gradient of GRPO, where `pi^T` is the policy at temperature T. With
T > 1 this raises the policy's entropy, with T < 1 it lowers it, and it pulls toward good answers only. T follows from
the entropy: `two_levels` or `linear`. Use `tempered` answers with the credit `grpo_and_tempered` of the same count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from metarl.checks import COUNT, NOT_NEGATIVE, POSITIVE, SEVERAL, checked
from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.credit import Credit, by_group, standardised, to_tokens
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sampling import Sampling, answered, problems_of
from metarl.finetune.sources import Keys, Outcome, Source
from metarl.types import Array, Key, Params, Progress, TokenTask

Rule = Callable[[Array], Array]  # from an entropy in nats per token to a temperature, both ()


@checked
def two_levels(
    target: Annotated[Array | float, NOT_NEGATIVE],
    low: Annotated[Array | float, POSITIVE] = 0.8,
    high: Annotated[Array | float, POSITIVE] = 1.2,
) -> Rule:
    """`high` where the entropy is below `target`, else `low`: the paper's first version."""
    return lambda entropy: jnp.where(entropy < target, high, low)


@checked
def linear(
    target: Annotated[Array | float, NOT_NEGATIVE],
    low: Annotated[Array | float, POSITIVE] = 0.8,
    high: Annotated[Array | float, POSITIVE] = 1.2,
) -> Rule:
    """`clip(1 + target - entropy, low, high)`: the paper's later version."""
    return lambda entropy: jnp.clip(1.0 + target - entropy, low, high)


@checked
def tempered(task: TokenTask, rule: Rule, count: Annotated[int, COUNT] = 2, sampling: Sampling = Sampling()) -> Source:  # noqa: B008
    """Answers of the policy to fresh problems, the last `count` of each group at the temperature of the `rule`.

    The temperature () is the state: 1 at first, then that for the entropy of the other answers of the step before.
    Raises ValueError if fewer than two answers of a group are left to be drawn as `sampling` says.
    """
    own = _own(sampling.group_size, count)

    def is_own() -> Array:
        return jnp.arange(sampling.num_problems * sampling.group_size) % sampling.group_size < own

    def sample(policy: SequencePolicy, params: Params, state: Array, progress: Progress, keys: Keys) -> Batch:
        problems = problems_of(task, keys.problems, sampling.num_problems, sampling.group_size)
        temperature = jnp.where(is_own(), sampling.temperature, state)[:, None]
        return answered(policy, params, task, problems, keys.answers, temperature)

    def update(state: Array, outcome: Outcome) -> Array:
        answers = outcome.answers
        assert answers.entropy is not None  # the policy drew them
        entropy = terms.token_mean(answers.entropy, answers.mask & is_own()[:, None])
        return rule(entropy).astype(state.dtype)

    def init(key: Key) -> Array:
        return jnp.ones(())

    return Source(task, sampling.num_problems, sampling.group_size, sampling, init, sample, update)


@checked
def grpo_and_tempered(
    group_size: Annotated[int, SEVERAL],
    count: Annotated[int, COUNT] = 2,
    alpha: Annotated[Array | float, NOT_NEGATIVE] = 1.0,
) -> Credit:
    """`standardised` rewards of the first answers of a group; `alpha` times the reward of its last `count` ones.

    Rewards must not be negative: a wrong answer, with reward 0, teaches nothing if it was tempered. Raises ValueError
    if fewer than two answers of a group are left for GRPO.
    """
    own = _own(group_size, count)

    def of_group(reward: Array) -> Array:
        return jnp.concatenate([standardised(reward[:own]), alpha * reward[own:]])

    grouped = by_group(of_group, group_size)
    return Credit(lambda batch: to_tokens(grouped(batch.reward), batch.mask), group_size)


def _own(group_size: int, count: int) -> int:
    """How many answers of a group are not tempered."""
    if group_size - count < 2:
        raise ValueError(f"count must leave 2 or more of the {group_size} answers of a group, got {count}")
    return group_size - count

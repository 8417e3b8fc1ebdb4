"""Problems, the answers that a policy gives to them, and demonstrations: what sources and utilities are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import COUNT, NOT_NEGATIVE, SEVERAL, checked
from metarl.finetune.batch import Batch
from metarl.finetune.policies import Prefix, SequencePolicy, sample
from metarl.finetune.turns import Prover, mask_of, play, tokens_drawn, turns_of
from metarl.tree import repeated
from metarl.types import Array, Key, Params, PyTree, TokenTask, TurnTask


@dataclass(frozen=True)
class Sampling:
    """How many answers a policy draws, and how.

    Raises ValueError if `num_problems` is below 1, `group_size` below 2 or `temperature` negative.
    """

    num_problems: Annotated[int, COUNT] = 16
    group_size: Annotated[int, SEVERAL] = 8  # answers to each problem
    temperature: Annotated[float, NOT_NEGATIVE] = 1.0

    def __post_init__(self) -> None:
        checks.fields(self)

    def tokens(self, task: TokenTask) -> int:
        """How many tokens are drawn, those after the ends of answers included."""
        return self.num_problems * self.group_size * tokens_drawn(task)


def problems_of(task: TokenTask, key: Key, count: int, copies: int = 1) -> PyTree:
    """`count` problems, each of them `copies` times in a row. Leaves [count * copies, ...]."""
    return repeated(jax.vmap(task.sample)(jax.random.split(key, count)), copies)


def demonstrate(task: TokenTask, problems: PyTree, key: Key) -> Array:
    """A demonstration [B, T] int32 of each of the problems, whose leaves are [B, ...]."""
    keys = jax.random.split(key, len(jax.tree.leaves(problems)[0]))
    return jax.vmap(task.demonstrate)(keys, problems)


def demonstrated(task: TokenTask, problems: PyTree, key: Key) -> Batch:
    """A batch of one demonstration for each of the problems, whose leaves are [B, ...]."""
    answers = demonstrate(task, problems, key)
    verdict = jax.vmap(task.verify)(problems, answers)
    return Batch(
        prompts=jax.vmap(task.prompt)(problems),
        answers=answers,
        mask=mask_of(task, answers),
        old_log_prob=jnp.zeros(answers.shape),
        reward=verdict.reward,
        correct=verdict.correct,
        prefix_length=jnp.full(len(answers), answers.shape[1], jnp.int32),
        problem=problems,
        turn=turns_of(task, len(answers)),
    )


def answered(
    policy: SequencePolicy,
    params: Params,
    task: TokenTask,
    problems: PyTree,
    key: Key,
    temperature: Array | float = 1.0,
    prefix: Prefix | None = None,
    prover: Prover | None = None,
) -> Batch:
    """A batch of one answer, drawn from the policy, to each of the problems, whose leaves are [B, ...].

    No gradient flows through it. Raises ValueError for a `prover` if the task has one try.
    """
    prompts, stopped = jax.vmap(task.prompt)(problems), None
    if isinstance(task, TurnTask):
        drawn, stopped = play(policy, params, task, problems, prompts, key, temperature, prefix, prover)
    elif prover is None:
        drawn = sample(policy, params, prompts, key, task.answer_length, task.end, temperature, prefix)
    else:
        raise ValueError(f"a prover needs a task of several tries, got {type(task).__name__}")
    drawn, stopped = jax.lax.stop_gradient((drawn, stopped))
    verdict = jax.vmap(task.verify)(problems, drawn.tokens)
    return Batch(
        prompts=prompts,
        answers=drawn.tokens,
        mask=drawn.mask,
        old_log_prob=drawn.log_prob,
        reward=verdict.reward,
        correct=verdict.correct,
        prefix_length=jnp.zeros(len(prompts), jnp.int32) if prefix is None else prefix.length,
        problem=problems,
        entropy=drawn.entropy,
        turn=turns_of(task, len(prompts)),
        success_if_stopped=stopped,
    )


@checked
def success_rate(
    policy: SequencePolicy,
    task: TokenTask,
    params: Params,
    key: Key,
    count: Annotated[int, COUNT],
    temperature: Annotated[Array | float, NOT_NEGATIVE] = 0.0,
) -> Array:
    """Share () of `count` fresh problems of `task` that the policy answers correctly, by default greedily."""
    problem_key, sample_key = jax.random.split(key)
    problems = problems_of(task, problem_key, count)
    return answered(policy, params, task, problems, sample_key, temperature).correct.mean()

"""Which categories of problems to train on: a source that chooses among those of `tasks.Categories`, and its rules.

A rule is a function of what the source remembers of each category, and of the progress of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import FACTOR, POSITIVE, checked
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import elapsed
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sampling import Sampling, answered
from metarl.finetune.sources import Keys, Outcome, Source
from metarl.finetune.tasks import Categories
from metarl.tree import repeated
from metarl.types import Array, Key, Params, Progress


class Record(NamedTuple):
    """What is remembered of each of C categories. Leaves [C]; all 0 at first."""

    advantage: Array  # mean |A| of its answers
    success: Array  # share of its answers that were correct


Rule = Callable[[Record, Progress], Array]  # -> unnormalised probabilities [C]


@checked
def categorised(
    task: Categories,
    rule: Rule,
    sampling: Sampling = Sampling(),  # noqa: B008
    rate: Annotated[Array | float, FACTOR] = 0.5,
) -> Source:
    """Answers of the policy to fresh problems, whose categories are drawn from what the `rule` says.

    After a step the record moves toward what the step has found of each category that was in it, by
    `Q <- rate r + (1 - rate) Q`, TD(0). Raises ValueError if `rate` is outside (0, 1].
    """
    number = len(task.tasks)

    def init(key: Key) -> Record:
        return Record(jnp.zeros(number), jnp.zeros(number))

    def sample(policy: SequencePolicy, params: Params, state: Record, progress: Progress, keys: Keys) -> Batch:
        category_key, problem_key = jax.random.split(keys.problems)
        chances = jnp.log(jnp.broadcast_to(rule(state, progress), (number,)))
        categories = jax.random.categorical(category_key, chances, shape=(sampling.num_problems,))
        problems = jax.vmap(task.sample_of)(jax.random.split(problem_key, sampling.num_problems), categories)
        problems = repeated(problems, sampling.group_size)
        return answered(policy, params, task, problems, keys.answers, sampling.temperature)

    def update(state: Record, outcome: Outcome) -> Record:
        answers, mask = outcome.answers, outcome.answers.mask
        advantage = jnp.where(mask, jnp.abs(outcome.advantage), 0.0).sum(1) / jnp.maximum(mask.sum(1), 1)
        member = jax.nn.one_hot(answers.problem.category, number, axis=0)  # [C, B]
        count = member.sum(1)

        def moved(old: Array, seen: Array) -> Array:
            mean = member @ seen / jnp.maximum(count, 1.0)
            return jnp.where(count > 0.0, old + rate * (mean - old), old)

        return Record(moved(state.advantage, advantage), moved(state.success, answers.correct.astype(jnp.float32)))

    return Source(task, sampling.num_problems, sampling.group_size, sampling, init, sample, update)


@checked
def bandit(temperature: Annotated[Array | float, POSITIVE] = 1.0) -> Rule:
    """`softmax(Q / temperature)` of the mean |A| of each category: SEC (Chen et al. 2025, arXiv 2505.14970).

    With rewards 0 and 1 and success rate p the expected |A| is `2 p (1 - p)`, or `2 sqrt(p (1 - p))` if divided by the
    deviation (GRPO): greatest at p = 1/2, where there is most to learn.
    """
    return lambda record, progress: jax.nn.softmax(record.advantage / temperature)


def missing() -> Rule:
    """In proportion to the share of answers that fail: STAT (He et al. 2025, arXiv 2510.10023), skills for categories.

    That of STAT-Sel, which weighs problems by the skills that a policy lacks. A category that never fails is left out,
    unless none fails.
    """

    def rule(record: Record, progress: Progress) -> Array:
        failing = 1.0 - record.success
        return jnp.where(failing.sum() > 0.0, failing, 1.0)

    return rule


def easy_to_hard() -> Rule:
    """Each category in turn, for an equal share of the training, in the order of the tasks."""

    def rule(record: Record, progress: Progress) -> Array:
        number = len(record.success)
        now = jnp.minimum(jnp.floor(elapsed(progress) * number), number - 1)
        return (jnp.arange(number) == now).astype(jnp.float32)

    return rule

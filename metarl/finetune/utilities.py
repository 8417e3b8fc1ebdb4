"""Utilities: what the meta-gradient of a controller climbs, measured on validation problems after the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.checks import COUNT, checked
from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.credit import by_group, leave_one_out
from metarl.finetune.policies import SequencePolicy, evaluate_answers
from metarl.finetune.sampling import Sampling, answered, demonstrated, problems_of
from metarl.types import Array, Key, Metrics, Params, TokenTask


class Utility(NamedTuple):
    """How good a policy is, and where it gets better.

    With `normalise`, the meta-gradient of one gradient step is a cosine, between -1 and 1, instead of a number whose
    scale is that of both learning rates (see `updates.unit_effect`). With n gradient steps, each counts for 1 / n.
    """

    task: TokenTask  # the validation problems
    tokens_drawn: int  # by the policy in each measurement, those after the ends of answers included
    normalise: bool
    # (policy, params, key) -> gradient by the parameters of minus the utility, utility ()
    estimate: Callable[[SequencePolicy, Params, Key], tuple[Params, Array]]
    # (policy, params, answers, group_size) -> the same, from the answers that the next training step learns from: no
    # other answers are drawn; None: `estimate` draws its own
    of_next: Callable[[SequencePolicy, Params, Batch, int], tuple[Params, Array]] | None = None


def reward(task: TokenTask, sampling: Sampling = Sampling(), *, normalise: bool = True) -> Utility:  # noqa: B008
    """The expected reward of answers to fresh problems of `task`.

    Its gradient is estimated by REINFORCE; the baseline is the mean reward of the other answers to the problem.
    """

    def estimate(policy: SequencePolicy, params: Params, key: Key) -> tuple[Params, Array]:
        problem_key, sample_key = jax.random.split(key)
        problems = problems_of(task, problem_key, sampling.num_problems, sampling.group_size)
        batch = answered(policy, params, task, problems, sample_key, sampling.temperature)
        return _of_answers(policy, params, batch, sampling.group_size, task.end)

    return Utility(task, sampling.tokens(task), normalise, estimate)


def next_reward(task: TokenTask, *, normalise: bool = True) -> Utility:
    """As `reward`, but of the answers to `task` that the next training step learns from, so validation costs no answer.

    Their problems are as fresh to the policy as any others, so the estimate has no bias for it. Only for
    `sources.fresh` answers: what continues a demonstration is not the policy's. `finetune` raises ValueError unless
    `task` is that of the answers.
    """

    def of_next(policy: SequencePolicy, params: Params, answers: Batch, group_size: int) -> tuple[Params, Array]:
        return _of_answers(policy, params, answers, group_size, task.end)

    return unmeasured(task)._replace(normalise=normalise, of_next=of_next)


def unmeasured(task: TokenTask) -> Utility:
    """A utility of 0 everywhere: for the training steps between two measurements (`metarl.meta.alternate`)."""

    def estimate(policy: SequencePolicy, params: Params, key: Key) -> tuple[Params, Array]:
        return jax.tree.map(jnp.zeros_like, params), jnp.zeros(())

    return Utility(task, 0, True, estimate)


@checked
def cross_entropy(task: TokenTask, count: Annotated[int, COUNT] = 16, *, normalise: bool = True) -> Utility:
    """Minus the cross-entropy, in nats per token, of demonstrations of `count` fresh problems of `task`.

    Raises ValueError if `count` is below 1.
    """

    def estimate(policy: SequencePolicy, params: Params, key: Key) -> tuple[Params, Array]:
        problem_key, demonstration_key = jax.random.split(key)
        shown = demonstrated(task, problems_of(task, problem_key, count), demonstration_key)

        def loss(params: Params) -> Array:
            found = evaluate_answers(policy, params, shown.prompts, shown.answers, task.end, shown.mask)
            return terms.token_mean(terms.sft(found.log_prob), found.mask)

        value, gradient = jax.value_and_grad(loss)(params)
        return gradient, -value

    return Utility(task, 0, normalise, estimate)


def minus_utility(
    utility: Utility,
    policy: SequencePolicy,
    params: Params,
    key: Key,
    answers: Batch | None = None,
    group_size: int = 1,
) -> tuple[Array, Metrics]:
    """Minus the utility () at `params`, with metrics. Its gradient by `params` is the one that the utility estimates.

    `answers` are those of the next training step, for a utility that is measured on them, `group_size` to a problem.
    Where the utility is normalised, the gradient is divided by its norm.
    """
    fixed = jax.lax.stop_gradient(params)
    if utility.of_next is None:
        gradient, value = utility.estimate(policy, fixed, key)
    else:
        assert answers is not None  # `finetune` sees to it
        gradient, value = utility.of_next(policy, fixed, answers, group_size)
    norm = optax.tree.norm(gradient)
    if utility.normalise:
        gradient = jax.tree.map(lambda g: g / jnp.maximum(norm, 1e-12), gradient)
    slope = optax.tree.vdot(gradient, jax.tree.map(jnp.subtract, params, fixed))  # 0, but not its gradient
    return slope - value, {"utility": value, "utility_gradient_norm": norm}


def _of_answers(
    policy: SequencePolicy, params: Params, batch: Batch, group_size: int, end: int
) -> tuple[Params, Array]:
    """The gradient of minus the expected reward, estimated by REINFORCE, and the mean reward of the answers."""
    advantage = by_group(leave_one_out, group_size)(batch.reward)

    def loss(params: Params) -> Array:
        found = evaluate_answers(policy, params, batch.prompts, batch.answers, end, batch.mask)
        return -(advantage * terms.of_answer(found.log_prob, found.mask)).mean()

    return jax.grad(loss)(params), batch.reward.mean()

"""Fine-tuning a sequence policy as an inner loop: `Source -> Credit -> Loss -> Controller -> GradientUpdate`.

A training step draws answers and demonstrations, gives credit to the tokens of the answers, takes the gradients of both
losses, asks the controller for their weights, and follows the weighted sum: once, or over several epochs and
minibatches. The lifetime of the seam `InnerLoop` is one training, and the meta-parameter is that of the controller, so
`compose` and every `Estimator` train the weight of AMFT as they train a learned objective. Where a step is one gradient
step, the meta-gradient costs hardly more than the gradient of the utility: the weight enters where two finished
gradients are added.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import Controller, Signals, Weights
from metarl.finetune.credit import Credit
from metarl.finetune.learning import Constants, Data, Learner, Minibatch, Parts, learn
from metarl.finetune.losses import Losses
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sampling import success_rate
from metarl.finetune.sources import Keys, Outcome
from metarl.finetune.updates import GradientUpdate
from metarl.finetune.utilities import Utility, minus_utility
from metarl.meta import InnerLoop, Update, no_loss
from metarl.types import Array, Key, Level, MetaParams, Metrics, Params, Progress, PyTree


class Tuning(NamedTuple):
    """A policy that is being tuned, one lifetime."""

    params: Params
    reference: Params  # those that it began with
    opt_state: PyTree
    controller: PyTree
    critic: PyTree  # () without one
    answers: PyTree  # state of the source of answers
    demonstrations: PyTree  # state of the source of demonstrations
    level: Level  # its horizon is the training's length in steps; it has no problem
    step: Array  # () int32, training steps so far
    # what the next step learns from, answers and demonstrations, if the utility is measured on it; else None
    drawn: tuple[Batch, Batch] | None = None


def finetune(
    policy: SequencePolicy,
    start: Callable[[Key], Params],
    data: Data,
    credit: Credit,
    controller: Controller,
    update: GradientUpdate,
    *,
    losses: Losses = Losses(),  # noqa: B008
    utility: Utility | None = None,
) -> InnerLoop:
    """Tunes `policy` from the parameters `start(key)`.

    In each training step the policy answers the problems of `data.answers`, whose tokens get their advantages from
    `credit`. Then it learns from the answers by `losses.reward` and from `data.demonstrations` by `losses.imitation`,
    weighed by the `controller`: `update` makes each gradient step. A critic of the credit learns along with it.

    The meta-objective is minus the `utility` of the policy after the step, plus what the controller adds. A controller
    without a meta-parameter needs none. The `fitness` is the share of correct answers, one each to as many fresh
    problems as a step has, of the utility's task, or without a utility of that of the answers.

    A level needs no problem: `Level((), horizon)`. The metric `env_steps` counts the tokens that the policy draws.

    Raises ValueError for parts that do not fit together: a task and a policy of different vocabularies, credit and
    answers of different group sizes, a controller that waits for failures which no source gathers, and a utility
    without a controller that climbs it, or the reverse.
    """
    parts = Parts(policy, data, credit, controller, update, losses, utility)
    _check(parts)
    return InnerLoop(
        init_meta=lambda key: controller.init_meta(),
        init=partial(_init, parts, start),
        step=partial(_step, parts),
        loss=no_loss if utility is None else partial(_loss, parts, utility),
        fitness=partial(_fitness, parts),
    )


def _check(parts: Parts) -> None:
    data, utility = parts.data, parts.utility
    tasks = [data.answers.task, data.demonstrations.task] + ([utility.task] if utility else [])
    for task in tasks:
        if task.num_tokens != parts.policy.num_tokens:
            raise ValueError(f"the task has {task.num_tokens} tokens, but the policy {parts.policy.num_tokens}")
    if parts.credit.group_size not in (None, data.answers.group_size):
        raise ValueError(
            f"the credit compares groups of {parts.credit.group_size} answers, but the source draws "
            f"{data.answers.group_size} to each problem"
        )
    if (
        utility
        and utility.of_next is not None
        and (utility.task is not data.answers.task or data.answers.group_size < 2)
    ):
        raise ValueError("next_reward needs the task of the answers, and two or more answers to each problem")
    if parts.controller.needs_failures and data.demonstrations.gathered is None:
        raise ValueError("the controller waits for failed problems: give it demonstrations from sources.failures")
    learns = bool(jax.tree.leaves(jax.eval_shape(parts.controller.init_meta)))
    if learns and utility is None:
        raise ValueError("the controller has a meta-parameter, which needs a utility, such as utilities.reward(task)")
    if utility and not learns:
        raise ValueError("the utility has no effect: this controller has no meta-parameter (controllers.amft has)")


# --- the lifetime ---------------------------------------------------------------------------------------------


def _init(parts: Parts, start: Callable[[Key], Params], key: Key, level: Level) -> Tuning:
    params, critic = start(key), parts.credit.critic
    newborn = Tuning(
        params=params,
        reference=params,
        opt_state=parts.update.init(params),
        controller=parts.controller.init(),
        critic=() if critic is None else critic.init(jax.random.fold_in(key, 1)),
        answers=parts.data.answers.init(key),
        demonstrations=parts.data.demonstrations.init(key),
        level=level,
        step=jnp.int32(0),
    )
    ahead = parts.utility is not None and parts.utility.of_next
    return newborn._replace(drawn=_draw(parts, newborn, jax.random.fold_in(key, 2))) if ahead else newborn


def _step(parts: Parts, meta_params: MetaParams, tuning: Tuning, key: Key) -> Update:
    """One training step: draw, give credit, learn, and tell the controller and the sources what was found."""
    data = parts.data
    answers, shown = tuning.drawn or _draw(parts, tuning, key)
    advantage, returns = _credited(parts.credit, tuning.critic, answers)
    signals = _signals(data, tuning, answers)

    constants = Constants(tuning.reference, tuning.controller, signals)
    learner = Learner(tuning.params, tuning.opt_state, tuning.critic)
    drawn = Minibatch(answers, advantage, returns, shown)
    learner, found = learn(parts, meta_params, constants, learner, drawn, jax.random.fold_in(key, 5))

    signals = signals._replace(imitation_loss=found["imitation_loss"])
    controller, objective = parts.controller.update(meta_params, tuning.controller, signals)
    weights = Weights(found["imitation_weight"], found["reward_weight"])
    outcome = Outcome(answers, data.answers.group_size, advantage, weights)
    after = tuning._replace(
        params=learner.params,
        opt_state=learner.opt_state,
        controller=controller,
        critic=learner.critic,
        answers=data.answers.update(tuning.answers, outcome),
        demonstrations=data.demonstrations.update(tuning.demonstrations, outcome),
        step=tuning.step + 1,
    )
    if tuning.drawn is not None:  # the utility is measured on what the next step learns from
        after = after._replace(drawn=_draw(parts, jax.lax.stop_gradient(after), jax.random.fold_in(key, 6)))
    cost = jnp.float32(data.answers.tokens_drawn + data.demonstrations.tokens_drawn)
    return Update(after, objective, {**_metrics(answers, signals), **found, "env_steps": cost})


def _loss(parts: Parts, utility: Utility, meta_params: MetaParams, tuning: Tuning, key: Key) -> Update:
    """Minus the utility of the policy as it is."""
    answers = tuning.drawn[0] if tuning.drawn else None
    size = parts.data.answers.group_size
    loss, metrics = minus_utility(utility, parts.policy, tuning.params, key, answers, size)
    return Update(tuning, loss, {**metrics, "env_steps": jnp.float32(utility.tokens_drawn)})


def _fitness(parts: Parts, meta_params: MetaParams, tuning: Tuning, key: Key) -> Array:
    """The share () of correct answers to fresh problems."""
    source, utility = parts.data.answers, parts.utility
    assert source.sampling is not None  # `Data` sees to it
    task = source.task if utility is None else utility.task
    return success_rate(parts.policy, task, tuning.params, key, source.num_problems, source.sampling.temperature)


# --- what a step learns from ----------------------------------------------------------------------------------


def _draw(parts: Parts, tuning: Tuning, key: Key) -> tuple[Batch, Batch]:
    """Answers and demonstrations."""
    data, progress = parts.data, Progress(tuning.step, tuning.level.horizon)
    problem_key, shown_problem_key, shown_key, prefix_key, sample_key = jax.random.split(key, 5)
    keys = Keys(problem_key, prefix_key, sample_key)
    answers = data.answers.sample(parts.policy, tuning.params, tuning.answers, progress, keys)
    keys = Keys(shown_problem_key, shown_key, jax.random.fold_in(shown_key, 1))
    shown = data.demonstrations.sample(parts.policy, tuning.params, tuning.demonstrations, progress, keys)
    return answers, shown


def _credited(credit: Credit, critic: PyTree, answers: Batch) -> tuple[Array, Array | None]:
    """Advantages [B, T], and the returns [B, T] that a critic is to learn, None without one."""
    if credit.critic is None:
        return credit(answers), None
    value = credit.critic.value(critic[0], answers)
    advantage = credit(answers._replace(value=value))
    return advantage, value + advantage


def _signals(data: Data, tuning: Tuning, answers: Batch) -> Signals:
    """What is known before the first gradient step; the loss of imitation is not."""
    assert answers.entropy is not None  # the policy drew them
    own = answers.prefix_length == 0
    gathered = data.demonstrations.gathered
    signals = Signals(
        progress=Progress(tuning.step, tuning.level.horizon),
        entropy=terms.token_mean(answers.entropy, answers.mask & own[:, None]),
        success=(answers.correct & own).sum() / own.sum(),
        imitation_loss=jnp.zeros(()),
        failures=jnp.int32(0) if gathered is None else gathered(tuning.demonstrations),
    )
    return jax.lax.stop_gradient(signals)


def _metrics(answers: Batch, signals: Signals) -> Metrics:
    own = answers.prefix_length == 0
    return {
        "success": signals.success,
        "reward": (answers.reward * own).sum() / own.sum(),
        "entropy": signals.entropy,
    }

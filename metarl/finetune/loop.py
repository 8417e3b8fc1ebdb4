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
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import Controller, Signals, Weights
from metarl.finetune.credit import Credit
from metarl.finetune.losses import Context, Loss, Losses, TokenStatistics, statistics
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sampling import check_count, success_rate
from metarl.finetune.sources import Keys, Outcome, Source
from metarl.finetune.updates import Gradients, GradientUpdate, scale_derivative, unit_effect
from metarl.finetune.utilities import Utility, minus_utility
from metarl.meta import InnerLoop, Update, no_loss
from metarl.types import Array, Key, Level, MetaParams, Metrics, Params, Progress, PyTree


@dataclass(frozen=True)
class Data:
    """What a training step learns from, and how often.

    Each of the `epochs` splits the problems at random into `minibatches`, the demonstrations likewise, and makes one
    gradient step with each. The answers to one problem stay together.

    Raises ValueError if a number is below 1, if `minibatches` does not divide the problems of both sources, or if
    the answers are not drawn by the policy.
    """

    answers: Source
    demonstrations: Source
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self) -> None:
        check_count(epochs=self.epochs, minibatches=self.minibatches)
        if self.answers.sampling is None:
            raise ValueError("answers must come from the policy (sources.fresh, sources.prefixed), got demonstrations")
        for name, source in (("answers", self.answers), ("demonstrations", self.demonstrations)):
            if source.num_problems % self.minibatches:
                raise ValueError(
                    f"minibatches must divide the {source.num_problems} problems of {name}, got {self.minibatches}"
                )

    @property
    def gradient_steps(self) -> int:
        """In one training step."""
        return self.epochs * self.minibatches


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
    parts = _Parts(policy, data, credit, controller, update, losses, utility)
    _check(parts)
    return InnerLoop(
        init_meta=lambda key: controller.init_meta(),
        init=partial(_init, parts, start),
        step=partial(_step, parts),
        loss=no_loss if utility is None else partial(_loss, policy, utility),
        fitness=partial(_fitness, parts),
    )


class _Parts(NamedTuple):
    """The arguments of `finetune`."""

    policy: SequencePolicy
    data: Data
    credit: Credit
    controller: Controller
    update: GradientUpdate
    losses: Losses
    utility: Utility | None


def _check(parts: _Parts) -> None:
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
    if parts.controller.needs_failures and data.demonstrations.gathered is None:
        raise ValueError("the controller waits for failed problems: give it demonstrations from sources.failures")
    learns = bool(jax.tree.leaves(jax.eval_shape(parts.controller.init_meta)))
    if learns and utility is None:
        raise ValueError("the controller has a meta-parameter, which needs a utility, such as utilities.reward(task)")
    if utility and not learns:
        raise ValueError("the utility has no effect: this controller has no meta-parameter (controllers.amft has)")


# --- the lifetime ---------------------------------------------------------------------------------------------


def _init(parts: _Parts, start: Callable[[Key], Params], key: Key, level: Level) -> Tuning:
    params, critic = start(key), parts.credit.critic
    return Tuning(
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


def _step(parts: _Parts, meta_params: MetaParams, tuning: Tuning, key: Key) -> Update:
    """One training step: draw, give credit, learn, and tell the controller and the sources what was found."""
    data = parts.data
    answers, shown = _draw(parts, tuning, key)
    advantage, returns = _credited(parts.credit, tuning.critic, answers)
    seen = _signals(data, tuning, answers)

    learner = _Learner(tuning.params, tuning.opt_state, tuning.critic)
    lesson = _Lesson(answers, advantage, returns, shown)
    step = partial(_gradient_step, parts, meta_params, tuning, seen)
    learner, found = _all_passes(data, step, learner, lesson, jax.random.fold_in(key, 5))

    seen = seen._replace(imitation_loss=found["imitation_loss"])
    controller, objective = parts.controller.update(meta_params, tuning.controller, seen)
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
    cost = jnp.float32(data.answers.tokens_drawn + data.demonstrations.tokens_drawn)
    return Update(after, objective, {**_metrics(answers, seen), **found, "env_steps": cost})


def _loss(policy: SequencePolicy, utility: Utility, meta_params: MetaParams, tuning: Tuning, key: Key) -> Update:
    """Minus the utility of the policy as it is."""
    loss, metrics = minus_utility(utility, policy, tuning.params, key)
    return Update(tuning, loss, {**metrics, "env_steps": jnp.float32(utility.tokens_drawn)})


def _fitness(parts: _Parts, meta_params: MetaParams, tuning: Tuning, key: Key) -> Array:
    """The share () of correct answers to fresh problems."""
    source, utility = parts.data.answers, parts.utility
    assert source.sampling is not None  # `Data` sees to it
    task = source.task if utility is None else utility.task
    return success_rate(parts.policy, task, tuning.params, key, source.num_problems, source.sampling.temperature)


# --- what a step learns from ----------------------------------------------------------------------------------


def _draw(parts: _Parts, tuning: Tuning, key: Key) -> tuple[Batch, Batch]:
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


# --- learning from it -----------------------------------------------------------------------------------------


class _Learner(NamedTuple):
    """What changes in a gradient step."""

    params: Params
    opt_state: PyTree
    critic: PyTree


class _Lesson(NamedTuple):
    """What a gradient step learns from: all of what was drawn, or a minibatch."""

    answers: Batch
    advantage: Array  # [B, T]
    returns: Array | None  # [B, T] for the critic
    shown: Batch


_Step = Callable[[_Learner, _Lesson, Key], tuple[_Learner, Metrics]]


def _all_passes(data: Data, step: _Step, learner: _Learner, lesson: _Lesson, key: Key) -> tuple[_Learner, Metrics]:
    """The learner after all epochs and minibatches, and the means of their metrics."""
    if data.gradient_steps == 1:  # no scan: a meta-gradient would flow through the gradients, too, for nothing
        return step(learner, lesson, key)
    answer_key, shown_key, step_key = jax.random.split(key, 3)
    answer_rows = _rows(answer_key, data.answers, data.epochs, data.minibatches)
    shown_rows = _rows(shown_key, data.demonstrations, data.epochs, data.minibatches)

    def one(learner: _Learner, x: tuple[Array, Array, Key]) -> tuple[_Learner, Metrics]:
        answer_rows, shown_rows, key = x
        answers, advantage, returns = jax.tree.map(lambda y: y[answer_rows], lesson[:3])
        shown = jax.tree.map(lambda y: y[shown_rows], lesson.shown)
        return step(learner, _Lesson(answers, advantage, returns, shown), key)

    keys = jax.random.split(step_key, data.gradient_steps)
    learner, metrics = jax.lax.scan(one, learner, (answer_rows, shown_rows, keys))
    return learner, jax.tree.map(lambda x: x.mean(0), metrics)


def _rows(key: Key, source: Source, epochs: int, minibatches: int) -> Array:
    """Which rows of a batch each minibatch has [epochs * minibatches, B / minibatches]; groups stay whole."""
    keys = jax.random.split(key, epochs)
    groups = jax.vmap(lambda key: jax.random.permutation(key, source.num_problems))(keys)
    rows = groups[..., None] * source.group_size + jnp.arange(source.group_size)
    return rows.reshape(epochs * minibatches, -1)


def _gradient_step(
    parts: _Parts, meta_params: MetaParams, tuning: Tuning, seen: Signals, learner: _Learner, lesson: _Lesson, key: Key
) -> tuple[_Learner, Metrics]:
    """One step of the policy, and of the critic if there is one."""
    gradients, found = _gradients(parts, tuning.reference, learner.params, lesson, key)
    seen = seen._replace(imitation_loss=jax.lax.stop_gradient(found["imitation_loss"]))
    weights = parts.controller.weights(meta_params, tuning.controller, seen)

    def moved(weights: Weights) -> tuple[Params, PyTree]:
        return parts.update.update(weights, gradients, learner.opt_state, learner.params)

    if parts.utility is not None and parts.utility.normalise:
        weights = unit_effect(lambda weights: moved(weights)[0], weights)
        weights = Weights(*(scale_derivative(x, 1.0 / parts.data.gradient_steps) for x in weights))
    moves, opt_state = moved(weights)
    critic = learner.critic
    if parts.credit.critic is not None and lesson.returns is not None:
        critic = parts.credit.critic.update(critic, lesson.answers, lesson.returns)
    metrics = {
        **found,
        "imitation_weight": weights.imitation,
        "reward_weight": weights.reward,
        "imitation_gradient_norm": optax.tree.norm(gradients.imitation),
        "reward_gradient_norm": optax.tree.norm(gradients.reward),
    }
    return _Learner(optax.apply_updates(learner.params, moves), opt_state, critic), jax.lax.stop_gradient(metrics)


def _gradients(
    parts: _Parts, reference: Params, params: Params, lesson: _Lesson, key: Key
) -> tuple[Gradients, Metrics]:
    """Of both losses, with the cross-entropy of the demonstrations and the loss of the answers."""
    imitation_key, reward_key = jax.random.split(key)
    data, losses = parts.data, parts.losses

    def imitation(params: Params) -> tuple[Array, Array]:
        shown = lesson.shown
        now = statistics(parts.policy, params, reference, shown)
        context = _context(now, shown, jnp.ones(shown.mask.shape), data.demonstrations, imitation_key)
        return _reduced(losses, losses.imitation, context), terms.token_mean(terms.sft(now.log_prob), shown.mask)

    def reward(params: Params) -> Array:
        now = statistics(parts.policy, params, reference, lesson.answers)
        context = _context(now, lesson.answers, lesson.advantage, data.answers, reward_key)
        return _reduced(losses, losses.reward, context)

    (_, imitation_loss), of_imitation = jax.value_and_grad(imitation, has_aux=True)(params)
    reward_loss, of_reward = jax.value_and_grad(reward)(params)
    return Gradients(of_imitation, of_reward), {"imitation_loss": imitation_loss, "reward_loss": reward_loss}


def _context(now: TokenStatistics, batch: Batch, advantage: Array, source: Source, key: Key) -> Context:
    return Context(now, batch, advantage, _success_rate(batch, source.group_size), source.group_size, key)


def _success_rate(batch: Batch, group_size: int) -> Array:
    """Share [B] of correct answers in each answer's group."""
    correct = batch.correct.reshape(-1, group_size).mean(1)
    return jnp.repeat(correct, group_size)


def _reduced(losses: Losses, loss: Loss, context: Context) -> Array:
    """The loss () of a batch."""
    each = loss(context)
    return each.mean() if each.ndim == 1 else losses.reduce(each, context.batch.mask)

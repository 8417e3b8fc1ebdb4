"""Learning from a batch of answers and demonstrations: epochs, minibatches, and one gradient step for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl import checks
from metarl.checks import COUNT
from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import Controller, Signals, Weights
from metarl.finetune.credit import Credit
from metarl.finetune.losses import Context, Loss, Losses, TokenStatistics, statistics
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sources import Source
from metarl.finetune.updates import Gradients, GradientUpdate, scale_derivative, unit_effect
from metarl.finetune.utilities import Utility
from metarl.types import Array, Key, MetaParams, Metrics, Params, PyTree


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
    epochs: Annotated[int, COUNT] = 1
    minibatches: Annotated[int, COUNT] = 1

    def __post_init__(self) -> None:
        checks.fields(self)
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


class Parts(NamedTuple):
    """The arguments of `metarl.finetune.finetune`."""

    policy: SequencePolicy
    data: Data
    credit: Credit
    controller: Controller
    update: GradientUpdate
    losses: Losses
    utility: Utility | None


class Learner(NamedTuple):
    """What changes with each gradient step."""

    params: Params
    opt_state: PyTree
    critic: PyTree


class Minibatch(NamedTuple):
    """What a gradient step learns from: all that was drawn, or a part of it."""

    answers: Batch
    advantage: Array  # [B, T]
    returns: Array | None  # [B, T] for the critic
    shown: Batch


class Constants(NamedTuple):
    """What is the same for all gradient steps of a training step."""

    reference: Params  # of the policy that the training began with
    controller: PyTree  # state of the controller
    signals: Signals  # without the loss of imitation, which each gradient step finds


def learn(
    parts: Parts, meta_params: MetaParams, constants: Constants, learner: Learner, drawn: Minibatch, key: Key
) -> tuple[Learner, Metrics]:
    """The learner after all epochs and minibatches of what was drawn, and the means of their metrics."""
    data, step = parts.data, partial(_gradient_step, parts, meta_params, constants)
    if data.gradient_steps == 1:  # in a scan a meta-gradient would flow through the gradients, too, for nothing
        return step(learner, drawn, key)
    answer_key, shown_key, step_key = jax.random.split(key, 3)
    answer_rows = _rows(answer_key, data.answers, data.epochs, data.minibatches)
    shown_rows = _rows(shown_key, data.demonstrations, data.epochs, data.minibatches)

    def one(learner: Learner, x: tuple[Array, Array, Key]) -> tuple[Learner, Metrics]:
        answer_rows, shown_rows, key = x
        answers, advantage, returns = jax.tree.map(lambda y: y[answer_rows], drawn[:3])
        shown = jax.tree.map(lambda y: y[shown_rows], drawn.shown)
        return step(learner, Minibatch(answers, advantage, returns, shown), key)

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
    parts: Parts, meta_params: MetaParams, constants: Constants, learner: Learner, batch: Minibatch, key: Key
) -> tuple[Learner, Metrics]:
    """One step of the policy, and of the critic if there is one."""
    gradients, found = _gradients(parts, constants, learner.params, batch, key)
    signals = constants.signals._replace(imitation_loss=jax.lax.stop_gradient(found["imitation_loss"]))
    weights = parts.controller.weights(meta_params, constants.controller, signals)

    def moved(weights: Weights) -> tuple[Params, PyTree]:
        return parts.update.update(weights, gradients, learner.opt_state, learner.params)

    if parts.utility is not None and parts.utility.normalise:
        weights = unit_effect(lambda weights: moved(weights)[0], weights)
        weights = Weights(*(scale_derivative(x, 1.0 / parts.data.gradient_steps) for x in weights))
    moves, opt_state = moved(weights)
    critic = learner.critic
    if parts.credit.critic is not None and batch.returns is not None:
        critic = parts.credit.critic.update(critic, batch.answers, batch.returns)
    metrics = {
        **found,
        "imitation_weight": weights.imitation,
        "reward_weight": weights.reward,
        "imitation_gradient_norm": optax.tree.norm(gradients.imitation),
        "reward_gradient_norm": optax.tree.norm(gradients.reward),
    }
    return Learner(optax.apply_updates(learner.params, moves), opt_state, critic), jax.lax.stop_gradient(metrics)


def _gradients(
    parts: Parts, constants: Constants, params: Params, batch: Minibatch, key: Key
) -> tuple[Gradients, Metrics]:
    """Of both losses, with the cross-entropy of the demonstrations and the loss of the answers."""
    imitation_key, reward_key = jax.random.split(key)
    data, losses = parts.data, parts.losses
    reference, signals = constants.reference, constants.signals

    def imitation(params: Params) -> tuple[Array, Array]:
        shown = batch.shown
        now = statistics(parts.policy, params, reference, shown)
        context = _context(now, shown, jnp.ones(shown.mask.shape), data.demonstrations, imitation_key, signals)
        return _reduced(losses, losses.imitation, context), terms.token_mean(terms.sft(now.log_prob), shown.mask)

    def reward(params: Params) -> Array:
        now = statistics(parts.policy, params, reference, batch.answers)
        context = _context(now, batch.answers, batch.advantage, data.answers, reward_key, signals)
        return _reduced(losses, losses.reward, context)

    (_, imitation_loss), of_imitation = jax.value_and_grad(imitation, has_aux=True)(params)
    reward_loss, of_reward = jax.value_and_grad(reward)(params)
    return Gradients(of_imitation, of_reward), {"imitation_loss": imitation_loss, "reward_loss": reward_loss}


def _context(
    now: TokenStatistics, batch: Batch, advantage: Array, source: Source, key: Key, signals: Signals
) -> Context:
    success_rate = _success_rate(batch, source.group_size)
    return Context(now, batch, advantage, success_rate, source.group_size, key, signals)


def _success_rate(batch: Batch, group_size: int) -> Array:
    """Share [B] of correct answers in each answer's group."""
    correct = batch.correct.reshape(-1, group_size).mean(1)
    return jnp.repeat(correct, group_size)


def _reduced(losses: Losses, loss: Loss, context: Context) -> Array:
    """The loss () of a batch."""
    each = loss(context)
    return each.mean() if each.ndim == 1 else losses.reduce(each, context.batch.mask)

"""Fine-tuning a sequence policy as an inner loop: imitation and reward, weighed by a controller, one lifetime.

A training step draws answers and demonstrations, takes the gradients of both losses at the policy, asks the controller
for their weights, and follows the weighted sum. Behind the seam `InnerLoop`, so `compose` and every `Estimator` serve
the weight of AMFT as they serve a learned objective: it is the meta-parameter of a lifetime that lasts the whole
training. For one step the meta-gradient costs hardly more than the gradient of the utility, because the weight only
enters where two finished gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import Controller, Signals, Weights
from metarl.finetune.credit import Credit, by_group, leave_one_out
from metarl.finetune.policies import SequencePolicy, answer_logits, evaluate_answers, of_logits, sample, until_end
from metarl.meta import InnerLoop, Update, select
from metarl.types import Array, Key, Level, MetaParams, Metrics, Params, Progress, PyTree, TokenTask


class Failures(NamedTuple):
    """The last problems on which every answer failed (ReLIFT's buffer)."""

    problems: PyTree  # leaves [capacity, ...]
    gathered: Array  # () int32, since the last step of imitation


class Tuning(NamedTuple):
    """A policy that is being tuned, one lifetime."""

    params: Params
    reference: Params  # those that it began with
    opt_state: PyTree
    controller: PyTree
    critic: PyTree  # parameters and its optimizer's state; () without one
    failures: Failures | tuple[()]
    level: Level  # its horizon is the training's length; it has no other parameters
    step: Array  # () int32, training steps so far


class Judged(NamedTuple):
    """What the policy says now of answers or demonstrations: what terms are made of. Leaves [B, T, ...]."""

    tokens: Array  # int32
    mask: Array  # bool, up to and including the first end
    logits: Array  # [B, T, V]
    log_prob: Array  # 0 after the end
    entropy: Array  # 0 after the end
    ref_logits: Array  # [B, T, V] of the policy that the training began with; constant


class Critic(NamedTuple):
    """Learns what reward is to be expected before each token of an answer: for credit that needs `batch.value`."""

    network: SequencePolicy  # with one output instead of logits
    optimizer: optax.GradientTransformation

    def advantage(self, state: PyTree, batch: Batch, credit: Credit) -> tuple[Array, PyTree]:
        """Advantages [B, T] by `credit`, and the critic's state after a step toward the returns that they imply."""
        params, opt_state = state

        def value(params: Params) -> Array:
            return answer_logits(self.network, params, batch.tokens, batch.answers)[..., 0]

        expected = value(params)
        advantage = credit(batch._replace(value=expected))

        def loss(params: Params) -> Array:
            return terms.token_mean(optax.squared_error(value(params), expected + advantage) / 2, batch.mask)

        moves, opt_state = self.optimizer.update(jax.grad(loss)(params), opt_state, params)
        return advantage, (optax.apply_updates(params, moves), opt_state)


Imitation = Callable[[Judged], Array]  # losses [B, T] of demonstrations
Reward = Callable[[Judged, Batch, Array], Array]  # losses [B, T] of answers with these advantages [B, T]


def sft(x: Judged) -> Array:
    """Cross-entropy."""
    return terms.sft(x.log_prob)


def ppo_clip(x: Judged, batch: Batch, advantage: Array) -> Array:
    """PPO's clipped objective."""
    return terms.ppo_clip(x.log_prob, batch.old_log_prob, advantage)


class Settings(NamedTuple):
    """Sizes and switches of `finetune`."""

    num_prompts: int = 16  # problems that the policy answers in a step
    group_size: int = 8  # answers to each
    num_demonstrations: int = 64  # of a step of imitation
    num_validation: int = 16  # problems on which the utility is measured, `group_size` answers each
    temperature: float = 1.0  # of sampling
    utility: Literal["reward", "cross_entropy"] = "reward"  # what AMFT's meta-gradient climbs, on validation problems
    normalise: bool = True  # meta-gradient as a cosine, see `finetune`
    hybrid: float = 0.0  # the last answer of each group goes on from at most this share of a demonstration (Prefix-RFT)
    failures: int = 0  # demonstrations are of so many problems that the policy failed on (ReLIFT), not fresh ones
    separate: bool = False  # imitation and reward have optimizers of their own, which rest while their weight is 0


def finetune(
    policy: SequencePolicy,
    task: TokenTask,
    start: Callable[[Key], Params],
    controller: Controller,
    optimizer: optax.GradientTransformation,
    credit: Credit,
    settings: Settings = Settings(),  # noqa: B008
    *,
    validation: TokenTask | None = None,
    critic: Critic | None = None,
    imitation: Imitation = sft,
    reward: Reward = ppo_clip,
    reduce: Callable[[Array, Array], Array] = terms.token_mean,
) -> InnerLoop:
    """Tunes `policy`, from the parameters `start(key)`, on `task`; its answers are judged by `task.verify`.

    One step: `settings.num_prompts` problems, `group_size` answers to each with advantages by `credit`, and
    `num_demonstrations` demonstrations. `imitation` and `reward` give the losses of tokens, from the terms of
    `metarl.finetune.terms`, `reduce(loss, mask)` one number of them. The policy follows the gradient of the sum that
    the controller weighs with `optimizer`, which must have finite derivatives (`metarl.optimizers`) for a controller
    with a meta-parameter. Credit by `gae` needs a `critic`, which makes a step of its own on the same answers.

    The meta-objective is the utility of the updated policy on fresh problems of `validation` (default `task`): its
    expected reward, estimated by REINFORCE with the mean of the group's other answers as baseline, or minus its
    cross-entropy on demonstrations. With `normalise`, the meta-gradient of a one-step truncation is the cosine between
    the utility's gradient at the updated policy and the direction in which a heavier weight of imitation would have
    moved it (instead of a number whose scale is that of both learning rates): between -1 and 1.

    Its `fitness` is the share of correct answers, one each to `num_prompts` fresh problems of `validation`.

    Raises ValueError for a setting out of range, and for a task whose vocabulary is not the policy's.
    """
    for name in ("num_prompts", "num_demonstrations", "num_validation"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")
    if settings.group_size < 2:
        raise ValueError(f"group_size must be at least 2 answers, got {settings.group_size}")
    if not 0.0 <= settings.hybrid <= 1.0:
        raise ValueError(f"hybrid must be from 0 to 1, got {settings.hybrid}")
    if settings.failures < 0:
        raise ValueError(f"failures must not be negative, got {settings.failures}")
    if settings.utility not in ("reward", "cross_entropy"):
        raise ValueError(f"utility must be 'reward' or 'cross_entropy', got {settings.utility!r}")
    held_in = validation or task
    for place in (task, held_in):
        if place.num_tokens != policy.num_tokens:
            raise ValueError(f"the task has {place.num_tokens} tokens, but the policy {policy.num_tokens}")
    learns = bool(jax.tree.leaves(jax.eval_shape(controller.init_meta)))

    def judge(params: Params, reference: Params, prompts: Array, answers: Array) -> Judged:
        logits = answer_logits(policy, params, prompts, answers)
        found = of_logits(logits, answers, until_end(answers, task.end))
        ref_logits = jax.lax.stop_gradient(answer_logits(policy, reference, prompts, answers))
        return Judged(answers, found.mask, logits, found.log_prob, found.entropy, ref_logits)

    def answer(place: TokenTask, params: Params, problems: PyTree, key: Key, **prefix: Array) -> tuple[Batch, Array]:
        """One answer to each of `problems` (leaves [B, ...]) and its reward; and whether it is correct [B]."""
        prompts = jax.vmap(place.prompt)(problems)
        drawn = sample(policy, params, prompts, key, place.answer_length, place.end, settings.temperature, **prefix)
        drawn = jax.lax.stop_gradient(drawn)
        verdict = jax.vmap(place.verify)(problems, drawn.tokens)
        return Batch(
            tokens=prompts,
            answers=drawn.tokens,
            mask=drawn.mask,
            old_log_prob=drawn.log_prob,
            reward=verdict.reward,
            prefix_length=prefix.get("prefix_length", jnp.zeros(len(prompts), jnp.int32)),
            entropy=drawn.entropy,
        ), verdict.correct

    def problems_of(place: TokenTask, key: Key, count: int, copies: int = 1) -> PyTree:
        """`count` problems, each `copies` times in a row."""
        problems = jax.vmap(place.sample)(jax.random.split(key, count))
        return jax.tree.map(lambda x: jnp.repeat(x, copies, 0), problems)

    def demonstrations(place: TokenTask, problems: PyTree, key: Key) -> tuple[Array, Array]:
        keys = jax.random.split(key, len(jax.tree.leaves(problems)[0]))
        return jax.vmap(place.prompt)(problems), jax.vmap(place.demonstrate)(keys, problems)

    def imitation_loss(params: Params, reference: Params, prompts: Array, answers: Array) -> tuple[Array, Array]:
        """And the cross-entropy."""
        found = judge(params, reference, prompts, answers)
        return reduce(imitation(found), found.mask), terms.token_mean(terms.sft(found.log_prob), found.mask)

    def reward_loss(params: Params, reference: Params, batch: Batch, advantage: Array) -> Array:
        found = judge(params, reference, batch.tokens, batch.answers)
        return reduce(reward(found, batch, advantage), found.mask)

    def prefixes(problems: PyTree, least: Array, key: Key) -> dict[str, Array]:
        """Of the last answer of each group: the first tokens of a demonstration, at least this share of them."""
        if not settings.hybrid:
            return {}
        demonstration_key, share_key = jax.random.split(key)
        _, shown = demonstrations(task, problems, demonstration_key)
        share = jax.random.uniform(share_key, (len(shown),), minval=least, maxval=settings.hybrid)
        length = jnp.floor(share * until_end(shown, task.end).sum(1)).astype(jnp.int32)
        last = jnp.arange(len(shown)) % settings.group_size == settings.group_size - 1
        return {"prefix": shown, "prefix_length": jnp.where(last, length, 0)}

    def init_meta(key: Key) -> MetaParams:
        return controller.init_meta()

    def init(key: Key, level: Level) -> Tuning:
        params = start(key)
        judges: PyTree = ()
        if critic is not None:
            newborn = critic.network.init(jax.random.fold_in(key, 1))
            judges = (newborn, critic.optimizer.init(newborn))
        failures: Failures | tuple[()] = ()
        if settings.failures:
            failures = Failures(problems_of(task, key, settings.failures), jnp.int32(0))
        opt_state = optimizer.init(params)
        if settings.separate:
            opt_state = (opt_state, opt_state)
        return Tuning(params, params, opt_state, controller.init(), judges, failures, level, jnp.int32(0))

    def step(meta_params: MetaParams, tuning: Tuning, key: Key) -> Update:
        problem_key, demo_problem_key, demo_key, prefix_key, sample_key = jax.random.split(key, 5)
        params, progress = tuning.params, Progress(tuning.step, tuning.level.horizon)

        # 1. what the policy answers, and what it is shown
        problems = problems_of(task, problem_key, settings.num_prompts, settings.group_size)
        nothing = jnp.zeros(())  # is known yet, but how far the training is
        unknown = Signals(progress, nothing, nothing, nothing, jnp.int32(0))
        least = controller.weights(meta_params, tuning.controller, unknown).prefix
        batch, correct = answer(task, params, problems, sample_key, **prefixes(problems, least, prefix_key))
        assert batch.entropy is not None  # `answer` fills it in
        own = batch.prefix_length == 0
        entropy = terms.token_mean(batch.entropy, batch.mask & own[:, None])
        if isinstance(tuning.failures, Failures):
            shown_problems, missed = tuning.failures.problems, tuning.failures.gathered
        else:
            shown_problems = problems_of(task, demo_problem_key, settings.num_demonstrations)
            missed = jnp.int32(0)
        shown = demonstrations(task, shown_problems, demo_key)

        # 2. where imitation and reward would take it
        reference = tuning.reference
        (_, unlike), imitation_gradient = jax.value_and_grad(imitation_loss, has_aux=True)(params, reference, *shown)
        if critic is None:
            advantage, judges = credit(batch), ()
        else:
            advantage, judges = critic.advantage(tuning.critic, batch, credit)
        rewards, reward_gradient = jax.value_and_grad(reward_loss)(params, reference, batch, advantage)

        # 3. how much of each
        signals = jax.lax.stop_gradient(
            Signals(
                progress,
                entropy,
                success=(correct & own).sum() / own.sum(),
                imitation_loss=unlike,
                failures=missed,
            )
        )
        weights = controller.weights(meta_params, tuning.controller, signals)

        def updates(imitation: Array, reward: Array) -> tuple[Params, PyTree]:
            if not settings.separate:
                gradient = jax.tree.map(lambda i, r: imitation * i + reward * r, imitation_gradient, reward_gradient)
                return optimizer.update(gradient, tuning.opt_state, params)
            each = zip((imitation, reward), (imitation_gradient, reward_gradient), tuning.opt_state, strict=True)
            parts = [_unless_zero(weight, optimizer.update, gradient, state) for weight, gradient, state in each]
            return jax.tree.map(jnp.add, *(moves for moves, _ in parts)), tuple(state for _, state in parts)

        if learns and settings.normalise:
            weights = _unit_effect(updates, weights)
        moves, opt_state = updates(weights.imitation, weights.reward)
        state, penalty = controller.update(meta_params, tuning.controller, signals)

        failures = tuning.failures
        if isinstance(failures, Failures):
            failures = failures._replace(gathered=jnp.where(weights.imitation > 0.0, 0, failures.gathered))
            failures = _remember(failures, problems, correct, settings.group_size)
        older = tuning._replace(
            params=optax.apply_updates(params, moves),
            opt_state=opt_state,
            controller=state,
            critic=judges,
            failures=failures,
            step=tuning.step + 1,
        )
        frozen = done(tuning)
        metrics = {
            "success": signals.success,
            "reward": (batch.reward * own).sum() / own.sum(),
            "entropy": signals.entropy,
            "imitation_loss": unlike,
            "reward_loss": rewards,
            "imitation_weight": weights.imitation,
            "reward_weight": weights.reward,
            "prefix_share": weights.prefix,
            "imitation_gradient_norm": optax.tree.norm(imitation_gradient),
            "reward_gradient_norm": optax.tree.norm(reward_gradient),
        }
        return Update(select(frozen, tuning, older), jnp.where(frozen, 0.0, penalty), jax.lax.stop_gradient(metrics))

    def loss(meta_params: MetaParams, tuning: Tuning, key: Key) -> tuple[Array, tuple[Tuning, Metrics]]:
        if not learns:  # nothing to learn: no need to look
            return jnp.zeros(()), (tuning, {})
        problem_key, sample_key = jax.random.split(key)
        place = jax.lax.stop_gradient(tuning.params)
        if settings.utility == "cross_entropy":
            shown = demonstrations(held_in, problems_of(held_in, problem_key, settings.num_validation), sample_key)

            def surrogate(params: Params) -> Array:
                found = evaluate_answers(policy, params, *shown, task.end)
                return terms.token_mean(terms.sft(found.log_prob), found.mask)

            utility = -surrogate(place)
        else:
            problems = problems_of(held_in, problem_key, settings.num_validation, settings.group_size)
            batch, _ = answer(held_in, place, problems, sample_key)
            advantage = by_group(leave_one_out, settings.group_size)(batch.reward)

            def surrogate(params: Params) -> Array:
                found = evaluate_answers(policy, params, batch.tokens, batch.answers, task.end)
                return -(advantage * terms.of_answer(found.log_prob, found.mask)).mean()

            utility = batch.reward.mean()
        gradient = jax.grad(surrogate)(place)
        norm = optax.tree.norm(gradient)
        if settings.normalise:
            gradient = jax.tree.map(lambda g: g / jnp.maximum(norm, 1e-12), gradient)
        # its value is the loss, and its gradient at the updated policy is the one that was found
        slope = optax.tree.vdot(gradient, jax.tree.map(jnp.subtract, tuning.params, place))
        metrics = {"utility": utility, "utility_gradient_norm": norm}
        return slope - utility, (tuning, metrics)

    def fitness(meta_params: MetaParams, tuning: Tuning, key: Key) -> Array:
        return success_rate(policy, held_in, tuning.params, key, settings.num_prompts, settings.temperature)

    def done(tuning: Tuning) -> Array:
        return tuning.step >= tuning.level.horizon

    group = settings.group_size * task.answer_length  # tokens, those after the end of answers, too
    tested = settings.num_validation * group if learns and settings.utility == "reward" else 0
    return InnerLoop(init_meta, init, step, loss, fitness, done, None, settings.num_prompts * group, tested)


def _unless_zero(weight: Array, update: Callable[..., tuple[Params, PyTree]], gradient: Params, state: PyTree) -> Any:
    """An optimizer's step along `weight * gradient`; where the weight is 0, none, and its state stays."""
    moves, after = update(jax.tree.map(lambda g: weight * g, gradient), state)
    rests = weight == 0.0
    return select(rests, jax.tree.map(jnp.zeros_like, moves), moves), select(rests, state, after)


def _unit_effect(updates: Callable[[Array, Array], tuple[Params, PyTree]], weights: Weights) -> Weights:
    """The same weights, through which a derivative is that of a policy that moves by one per unit of the weight."""

    def moved(x: Array) -> Params:
        return updates(weights.imitation + x, weights.reward - x)[0]

    effect = jax.jvp(moved, (jnp.zeros(()),), (jnp.ones(()),))[1]
    scale = 1.0 / jnp.maximum(jax.lax.stop_gradient(optax.tree.norm(effect)), 1e-12)

    def scaled(x: Array) -> Array:
        fixed = jax.lax.stop_gradient(x)
        return fixed + scale * (x - fixed)

    return weights._replace(imitation=scaled(weights.imitation), reward=scaled(weights.reward))


def _remember(failures: Failures, problems: PyTree, correct: Array, group_size: int) -> Failures:
    """Puts the problems that no answer of a group solved in the places of the oldest."""
    failed = ~correct.reshape(-1, group_size).any(1)
    capacity = len(jax.tree.leaves(failures.problems)[0])
    place = jnp.where(failed, (failures.gathered + jnp.cumsum(failed) - 1) % capacity, capacity)
    new = jax.tree.map(lambda x: x[::group_size], problems)
    stored = jax.tree.map(lambda x, y: x.at[place].set(y, mode="drop"), failures.problems, new)
    return Failures(stored, failures.gathered + failed.sum(dtype=jnp.int32))


def success_rate(
    policy: SequencePolicy, task: TokenTask, params: Params, key: Key, count: int, temperature: Array | float = 0.0
) -> Array:
    """Share () of `count` problems of `task` to which the policy gives a correct answer; greedily by default."""
    problem_key, sample_key = jax.random.split(key)
    problems = jax.vmap(task.sample)(jax.random.split(problem_key, count))
    prompts = jax.vmap(task.prompt)(problems)
    answers = sample(policy, params, prompts, sample_key, task.answer_length, task.end, temperature)
    return jax.vmap(task.verify)(problems, answers.tokens).correct.mean()

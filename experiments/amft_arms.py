"""What `experiments.amft` compares: its tasks, its policies, and its arms, the ways to weigh imitation and reward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax

from envs import tokens
from experiments import parts
from metarl import estimators
from metarl.finetune import (
    Context,
    Controller,
    Credit,
    Data,
    GradientUpdate,
    Losses,
    Sampling,
    SequencePolicy,
    Source,
    TokenCritic,
    Utility,
    controllers,
    credit,
    losses,
    policies,
    sources,
    terms,
    updates,
    utilities,
)
from metarl.meta import Estimator
from metarl.types import Array, TokenTask

if TYPE_CHECKING:
    from experiments.amft import Config

# --- problems and policies ------------------------------------------------------------------------------------


class Tasks(NamedTuple):
    """What policies learn from, and the problems that they are tested on. All have one vocabulary."""

    base: TokenTask  # wider than what the arms train on: an arm can forget some of it, or improve on it
    train: TokenTask  # of the arms
    questions: Mapping[str, TokenTask]  # the first is what arms are compared by


def tasks(config: Config) -> Tasks:
    """The problems of the configuration."""
    return {"sorting": sorting, "countdown": countdown, "general_points": general_points}[config.setting.task]()


def sorting() -> Tasks:
    """Two to four digits. No problem is held out: short ones are met often in training, those of four about once."""
    task = tokens.make_task("sorting", shortest=2, longest=4, room=4)
    return Tasks(task, task, {"all problems": task})


def countdown() -> Tasks:
    """Three numbers and targets up to 20; the base policy learns from two to four numbers and targets up to 30."""
    some = partial(tokens.make_task, "countdown", max_numbers=3, max_target=20)
    held_out = partial(tokens.make_task, "countdown", part="held_out")
    questions = {
        "held out": some(min_numbers=3, part="held_out"),
        "other targets": held_out(min_numbers=3, max_numbers=3, min_target=21),
        "four numbers": held_out(min_numbers=4),
    }
    return Tasks(tokens.make_task("countdown"), some(min_numbers=3), questions)


def general_points() -> Tasks:
    """J = Q = K = 10; the base policy learns from the eight rules of the diverse set."""
    make = partial(tokens.make_task, "general_points", max_cards=5, scale="binary")
    splits = {"held out": "id", "rule shift": "rule", "large cards": "large", "five cards": "five", "fake": "fake"}
    questions = {name: make(split=split, part="held_out") for name, split in splits.items()}
    return Tasks(make(split="diverse"), make(split="id"), questions)


def policy(config: Config, outputs: int | None = None) -> SequencePolicy:
    """The policy that every arm trains; with one output, a critic like it."""
    task, width = tasks(config).train, config.setting.width
    if config.setting.network == "gru":
        return policies.gru(task.num_tokens, width, outputs)
    longest = task.prompt_length + task.answer_length
    return policies.transformer(task.num_tokens, width, max_length=longest, outputs=outputs)


# --- the arms -------------------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """The parts of fine-tuning in which arms differ."""

    controller: Controller
    data: Data
    credit: Credit
    update: GradientUpdate
    losses: Losses = Losses(reward=losses.dual_clip())
    utility: Utility | None = None
    between: Data | None = None  # what steps without validation learn from, where most have none
    # how the controller's meta-parameter is estimated to matter, and follows that
    estimator: Estimator = estimators.backprop(1)
    meta_optimizer: optax.GradientTransformation = optax.sgd(0.0)


def plain(config: Config, task: TokenTask, controller: Controller, answers: Source | None = None) -> Recipe:
    """A controller, with the same data, credit and optimizer as most arms."""
    batch = config.batch
    shown = sources.demonstrations(task, batch.num_demonstrations, batch.demonstrated)
    data = Data(answers or sources.fresh(task, batch.make()), shown)
    update = updates.joint(parts.clipped_adam(config.arm.learning_rate))
    return Recipe(controller, data, credit.grpo(batch.group_size), update)


def with_critic(config: Config, task: TokenTask) -> Recipe:
    """Reward alone, with advantages from a critic."""
    critic = TokenCritic(policy(config, outputs=1), parts.clipped_adam(config.arm.critic_learning_rate))
    return plain(config, task, controllers.constant(0.0))._replace(credit=credit.gae(critic))


def srft(config: Config, task: TokenTask) -> Recipe:
    """SRFT (arXiv 2506.19767), as a third-party note describes it; the paper itself was not read.

    Demonstrations count by their likelihood, weighed by `0.5 exp(-H)` with the policy's entropy H, and by their reward.
    Of the policy's own answers, the likelihood of right ones is raised with the weight `0.1 exp(H)` (so the prose; a
    printed formula has exp(-H)), and that of wrong ones lowered with the weight 1. Rewards are 1 and -1, with no
    baseline.
    """
    return plain(config, task, controllers.constant(0.5))._replace(losses=Losses(_srft_shown, _srft_own))


def _srft_shown(x: Context) -> Array:
    imitation = 0.5 * jnp.exp(-_entropy(x)) * terms.sft(x.now.log_prob)
    return imitation + terms.reinforce(x.now.log_prob, _signed(x, 1.0))


def _srft_own(x: Context) -> Array:
    return terms.reinforce(x.now.log_prob, _signed(x, 0.1 * jnp.exp(_entropy(x))))


def _entropy(x: Context) -> Array:
    return jax.lax.stop_gradient(terms.token_mean(x.now.entropy, x.batch.mask))


def _signed(x: Context, of_right: Array | float) -> Array:
    """`of_right` for the tokens [B, T] of right answers, -1 for those of wrong ones."""
    return credit.to_tokens(jnp.where(x.batch.correct, of_right, -1.0), x.batch.mask)


def relift(config: Config, task: TokenTask) -> Recipe:
    """ReLIFT: steps of imitation on the problems that the policy has failed on, by an optimizer of their own.

    Problems without a demonstration do not count.
    """
    size, rate = config.batch.num_demonstrations, config.arm.learning_rate
    recipe = plain(config, task, controllers.success_gate(size))
    return recipe._replace(
        data=dataclasses.replace(recipe.data, demonstrations=sources.failures(task, size, config.batch.demonstrated)),
        update=updates.separate(imitation=parts.clipped_adam(rate), reward=parts.clipped_adam(rate)),
        losses=recipe.losses._replace(imitation=_with_entropy),
    )


def _with_entropy(x: Context) -> Array:
    """ReLIFT's loss of demonstrations, with the coefficient of the paper's last version."""
    return terms.sft(x.now.log_prob) + 1e-4 * terms.entropy_bonus(x.now.logits)


def prefix_rft(config: Config, task: TokenTask) -> Recipe:
    """Prefix-RFT: reward alone, for answers some of which continue a demonstration."""
    answers = sources.prefixed(task, config.batch.make(), share=config.batch.demonstrated)
    recipe = plain(config, task, controllers.constant(0.0), answers)
    return recipe._replace(credit=credit.prefix_group(config.batch.group_size, lone="reward"))


def amft(config: Config, task: TokenTask, *, entropy: bool = True, meta: bool = True, sign: float = 1.0) -> Recipe:
    """AMFT with its entropy term, its meta-gradient, or both, as the paper's equations have it.

    Validation takes its share of the answers in every `meta_every`-th step, and none in the others.
    """
    arm = config.arm
    controller = controllers.amft(
        arm.initial_weight,
        entropy_rate=arm.entropy_rate if entropy else 0.0,
        target=arm.entropy_target,
        sign=sign,
        warm_up=arm.warm_up,
    )
    usual = plain(config, task, controller)
    usual = usual._replace(utility=utilities.unmeasured(task), meta_optimizer=optax.sgd(arm.meta_rate))
    return validated(config, task, usual) if meta else usual


def validated(config: Config, task: TokenTask, usual: Recipe) -> Recipe:
    """The `usual` recipe in most steps; in every `meta_every`-th some answers are to validation problems."""
    batch = config.batch
    utility = utilities.reward(task, Sampling(batch.num_validation, batch.group_size))
    if config.arm.utility == "cross_entropy":
        utility = utilities.cross_entropy(task, batch.num_validation)
    rest = sources.fresh(task, Sampling(batch.num_prompts - batch.num_validation, batch.group_size))
    rare = dataclasses.replace(usual.data, answers=rest)
    return usual._replace(data=rare, utility=utility, between=usual.data)


def amft_next(
    config: Config, task: TokenTask, *, own: bool = True, low: float = 0.0, high: float = 1.0, natural: bool = True
) -> Recipe:
    """AMFT's meta-gradient, improved: the utility is measured on the next step's own answers, and costs none.

    The weight may be anything between 0 and 1, and its logit moves as far wherever it is. Without any of the three (not
    on its `own` answers, with other bounds, not `natural`), the rate is such that the weight moves as fast at one half.
    """
    arm = config.arm
    controller = controllers.amft(
        arm.initial_weight, entropy_rate=0.0, low=low, high=high, natural=natural, warm_up=arm.warm_up
    )
    rate = arm.next_rate * (1 if own else arm.meta_every) * (1 if natural else 4)  # 4: the sigmoid's slope is 1/4
    recipe = plain(config, task, controller)._replace(meta_optimizer=optax.sgd(rate))
    return recipe._replace(utility=utilities.next_reward(task)) if own else validated(config, task, recipe)


def amft_optimistic(config: Config, task: TokenTask) -> Recipe:
    """`amft_next`, whose weight follows twice the last meta-gradient less the one before."""
    optimizer = optax.optimistic_gradient_descent(config.arm.next_rate)
    return amft_next(config, task)._replace(meta_optimizer=optimizer)


def amft_ahead(config: Config, task: TokenTask) -> Recipe:
    """`amft_next`, whose meta-gradient flows through the last `look_ahead` steps, and which moves after these.

    It is a sum over the steps, so that the weight moves as far in all.
    """
    return amft_next(config, task)._replace(estimator=estimators.backprop(config.arm.look_ahead))


def amft_pairs(config: Config, task: TokenTask) -> Recipe:
    """No gradient: of two policies with other weights and common random numbers, the better one is kept.

    They train for `look_ahead` steps on half as much data each: answers, of which a group less makes room for what
    measures them after each step, and demonstrations. The logits of their weights differ by a few units. So they draw
    no more answers than other arms where half of `num_prompts` is at most `group_size` + 1.
    """
    arm, batch = config.arm, config.batch
    half = Sampling(batch.num_prompts // 2 - 1, batch.group_size)
    recipe = amft_next(config, task)
    shown = sources.demonstrations(task, batch.num_demonstrations // 2, batch.demonstrated)
    return recipe._replace(
        data=Data(sources.fresh(task, half), shown),
        utility=utilities.unmeasured(task),
        estimator=estimators.es(arm.look_ahead, sigma=1.0, measure_every=1),
        meta_optimizer=optax.sgd(arm.pairs_rate),
    )


Arm = Callable[["Config", TokenTask], Recipe]


def _fixed(weight: float) -> Arm:
    return lambda config, task: plain(config, task, controllers.constant(weight))


def _scheduled(weight: Callable[[Array], Array]) -> Arm:
    return lambda config, task: plain(config, task, controllers.schedule(weight))


def _servo(config: Config, task: TokenTask) -> Recipe:
    arm = config.arm
    servo = controllers.entropy_servo(arm.initial_weight, arm.servo_rate, arm.entropy_target, arm.warm_up)
    return plain(config, task, servo)


FIXED = {
    **{"rl": 0.0, "fixed_002": 0.02, "fixed_005": 0.05, "fixed_01": 0.1, "fixed_02": 0.2},
    **{"fixed_05": 0.5, "fixed_08": 0.8, "sft": 1.0},
}

# All arms draw as many answers and make as many steps (but see `amft_pairs`).
ARMS: dict[str, Arm] = {
    **{name: _fixed(weight) for name, weight in FIXED.items()},
    "rl_critic": with_critic,
    "sft_rl": _scheduled(controllers.switch(0.5)),
    "cosine": _scheduled(controllers.cosine(0.9, 0.1)),
    "srft": srft,
    "srft_of_amft": lambda config, task: plain(config, task, controllers.srft_of_amft()),
    "servo": _servo,
    "dual": lambda config, task: plain(config, task, controllers.dual_ascent(limit=0.5)),
    "relift": relift,
    "prefix_rft": prefix_rft,
    "amft": amft,
    "amft_entropy": partial(amft, meta=False),
    "amft_meta": partial(amft, entropy=False),
    "amft_other_sign": partial(amft, sign=-1.0),
    "amft_entropy_other_sign": partial(amft, meta=False, sign=-1.0),
    "amft_next": amft_next,
    "amft_next_validated": partial(amft_next, own=False),
    "amft_next_bounded": partial(amft_next, low=0.05, high=0.95),
    "amft_next_sigmoid": partial(amft_next, natural=False),
    "amft_optimistic": amft_optimistic,
    "amft_ahead": amft_ahead,
    "amft_pairs": amft_pairs,
}

_BOTH = ("amft", "amft_other_sign")
_ENTROPY = (*_BOTH, "amft_entropy", "amft_entropy_other_sign")
META = (*_BOTH, "amft_meta")
VALIDATED = (*META, "amft_next_validated")
AHEAD = ("amft_ahead", "amft_pairs")  # their weight moves after several steps
_NEXT = ("amft_next", "amft_next_validated", "amft_next_bounded", "amft_next_sigmoid", "amft_optimistic", "amft_ahead")
AMFT = (*_ENTROPY, "amft_meta", *_NEXT, "amft_pairs")
# Options that only some arms have.
OPTIONS_OF = {
    ("rl_critic",): ["critic_learning_rate"],
    ("servo",): ["servo_rate"],
    _ENTROPY: ["entropy_rate"],
    (*_ENTROPY, "servo"): ["entropy_target"],
    META: ["meta_rate"],
    VALIDATED: ["meta_every", "num_validation", "utility"],
    _NEXT: ["next_rate"],
    AHEAD: ["look_ahead"],
    ("amft_pairs",): ["pairs_rate"],
    (*AMFT, "servo"): ["initial_weight", "warm_up"],
}


def together(config: Config, arm: str) -> int:
    """Training steps in each meta-step of an arm."""
    return config.arm.look_ahead if arm in AHEAD else 1


def of_no_arm(arms: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The options that none of the `arms` has, each with the arms that have it."""
    return {option: owners for owners, own in OPTIONS_OF.items() if not set(owners) & set(arms) for option in own}

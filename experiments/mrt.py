"""Meta reinforcement fine-tuning (MRT, arXiv 2503.07572): progress of each try against the outcome alone.

python -m experiments.mrt                    # three CPU minutes
python -m experiments.mrt --preset full      # 5 seeds, more arms: ten CPU minutes
python -m experiments.mrt --preset all       # all arms
python -m experiments.mrt --arms grpo mrt --directory runs/mrt

A small transformer sorts digits in several tries. After each the verifier says where the first wrong token is. Base
policies imitate demonstrations with errors and corrections; then copies of them are fine-tuned, in one run with the
base policies, by

    grpo             the outcome alone: is the problem solved within the tries
    length           the same, less a cost for every further try
    mrt, mrt_regret  MRT-RL: the try's own progress in the eyes of a meta-prover, weighed alike or by the tries left
    mrt_to_go, mrt_end, mrt_end_regret    its progress and all that follows; that of the whole answer
    mrt_own          as mrt_regret, but the last try is the prover's answer: no forks
    star, mrt_star   imitation of all correct answers; of that with the most progress in each group

Every arm draws as many tokens in a step: those whose meta-prover answers after every try pose fewer problems.

The report has the normalised regret (1 minus the mean success over budgets of 1 to K tries), success at the first, last
and twice the last try, and differences from `grpo`, and of `mrt_own` from `length`, seed by seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs import tokens
from experiments import launch, parts
from metarl import checks, plot
from metarl.checks import COUNT, NOT_NEGATIVE, RATE, SEVERAL, SHARE, WIDTH, Bound
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import over_runs
from metarl.finetune import (
    Credit,
    Data,
    Losses,
    Prover,
    Sampling,
    SequencePolicy,
    Source,
    Tuning,
    controllers,
    credit,
    finetune,
    losses,
    policies,
    progress,
    sources,
    updates,
)
from metarl.finetune.losses import Loss
from metarl.finetune.sampling import answered, problems_of
from metarl.finetune.turns import solved, tokens_drawn
from metarl.meta import InnerLoop, Meta
from metarl.run.checkpoint import Log
from metarl.run.files import write_json
from metarl.run.options import replace
from metarl.types import Array, Key, Level, Metrics, Params

# --- the arms -------------------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """The parts of fine-tuning in which arms differ."""

    answers: Source
    credit: Credit
    loss: Loss = losses.ppo_clip()


def outcome(config: Config) -> Recipe:
    return Recipe(sources.fresh(task_of(config), sampling(config)), credit.grpo(config.arm.group_size))


def length(config: Config) -> Recipe:
    arm = config.arm
    return outcome(config)._replace(credit=progress.length_penalty(arm.group_size, arm.cost))


def mrt(config: Config, scope: progress.Scope, kind: progress.Weights, *, forks: bool = True) -> Recipe:
    arm, prover = config.arm, config.arm.prover() if forks else None
    answers = sources.proven(task_of(config), sampling(config, prover), prover)
    return Recipe(answers, progress.mrt(arm.group_size, arm.alpha, scope, kind))


def star(config: Config) -> Recipe:
    kept = progress.star(config.arm.group_size, by_progress=False)
    return Recipe(outcome(config).answers, kept, losses.reinforce())


def mrt_star(config: Config) -> Recipe:
    proven = mrt(config, "episode", "uniform")
    return proven._replace(credit=progress.star(config.arm.group_size), loss=losses.reinforce())


ARMS: dict[str, Callable[[Config], Recipe]] = {
    "grpo": outcome,
    "length": length,
    "mrt": partial(mrt, scope="episode", kind="uniform"),
    "mrt_regret": partial(mrt, scope="episode", kind="regret"),
    "mrt_to_go": partial(mrt, scope="to_go", kind="uniform"),
    "mrt_end": partial(mrt, scope="scalar_end", kind="uniform"),
    "mrt_end_regret": partial(mrt, scope="scalar_end", kind="regret"),
    "mrt_own": partial(mrt, scope="episode", kind="regret", forks=False),
    "star": star,
    "mrt_star": mrt_star,
}
# What the report subtracts.
PAIRS = [*((name, "grpo") for name in ARMS if name != "grpo"), ("mrt_own", "length")]
# Options that only some arms have.
OPTIONS_OF = {
    "cost": {"length"},
    "alpha": set(ARMS) - {"grpo", "length", "star", "mrt_star"},
    "forks": set(ARMS) - {"grpo", "length", "star", "mrt_own"},
    "prover_temperature": set(ARMS) - {"grpo", "length", "star", "mrt_own"},
}

# --- options --------------------------------------------------------------------------------------------------

if TYPE_CHECKING:
    ArmName = str
else:
    ArmName = Literal[tuple(ARMS)]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compared, and where."""

    arms: tuple[ArmName, ...] = ("grpo", "length", "mrt", "mrt_regret", "mrt_end_regret", "mrt_own", "mrt_star")
    """What is compared."""
    num_seeds: Annotated[int, SEVERAL] = 5
    """Base policies, and runs of each arm."""
    tries: Annotated[int, Bound(2, 16)] = 3
    """K, tries in training; policies are also tested with twice as many."""
    shortest: Annotated[int, Bound(2, 8)] = 4
    """Digits to be sorted, at least."""
    longest: Annotated[int, Bound(2, 8)] = 5
    """Digits to be sorted, at most."""
    width: Annotated[int, WIDTH] = 64
    """Of the transformer."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms must be different, and at least one, got {self.arms}")
        if self.shortest > self.longest:
            raise ValueError(f"shortest must be at most longest = {self.longest}, got {self.shortest}")


@dataclasses.dataclass(frozen=True)
class Base:
    """How base policies are made, by imitation alone."""

    base_steps: Annotated[int, COUNT] = 300
    """Steps of imitation, the first of the run."""
    base_batch: Annotated[int, COUNT] = 64
    """Demonstrations in each of them."""
    base_learning_rate: Annotated[float, RATE] = 1e-3
    """Adam's learning rate for the base policy."""
    mistakes: Annotated[float, SHARE] = 0.8
    """Probability that a demonstrated try is wrong."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Arm:
    """How arms learn."""

    learning_rate: Annotated[float, RATE] = 3e-4
    """Adam's learning rate."""
    num_problems: Annotated[int, COUNT] = 14
    """Problems in a step, in arms whose tokens are all of their tries."""
    group_size: Annotated[int, SEVERAL] = 8
    """Answers to each."""
    alpha: Annotated[float, NOT_NEGATIVE] = 1.0
    """MRT-RL: weight of progress."""
    cost: Annotated[float, NOT_NEGATIVE] = 0.1
    """Length penalty: cost of a further try."""
    forks: Annotated[int, COUNT] = 1
    """Answers of the meta-prover at every boundary between tries."""
    prover_temperature: Annotated[float, NOT_NEGATIVE] = 1.0
    """Temperature of the meta-prover."""

    def __post_init__(self) -> None:
        checks.fields(self)
        self.prover()

    def prover(self) -> Prover:
        return Prover(self.forks, self.prover_temperature)


@dataclasses.dataclass(frozen=True)
class Test:
    """How policies are measured."""

    held_out_problems: Annotated[int, COUNT] = 2048
    """Problems of the final test, the same for all policies."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """Fine-tunes policies that have several tries, by their outcome and by the progress of each try."""

    run: parts.Run = parts.Run(steps=400, chunk=50)
    setting: Setting = Setting()
    base: Base = Base()
    arm: Arm = Arm()
    test: Test = Test()

    def __post_init__(self) -> None:
        if self.base.base_steps >= self.run.steps:
            raise ValueError(f"base_steps must be below steps = {self.run.steps}, got {self.base.base_steps}")
        for option, arms in OPTIONS_OF.items():
            if not arms & set(self.setting.arms):
                parts.refuse_inert(self.arm, (option,), f"without one of the arms {', '.join(sorted(arms))}")


PRESETS = {
    "quick": replace(Config(), num_seeds=2, arms=("grpo", "length", "mrt", "mrt_end_regret")),
    "full": Config(),
    "all": replace(Config(), arms=tuple(ARMS)),
}

# --- problems and policies ------------------------------------------------------------------------------------


def task_of(config: Config, times: int = 1) -> tokens.Turns:
    """Sorting with hints, with `times` K tries."""
    shortest, longest = config.setting.shortest, config.setting.longest
    task = tokens.HintedSorting(shortest, longest, room=longest)
    return tokens.Turns(task, times * config.setting.tries, config.base.mistakes)


def policy_of(config: Config) -> SequencePolicy:
    """The policy, which has room for twice the tries and for an answer of the prover."""
    task = task_of(config, times=2)
    longest = task.prompt_length + task.answer_length + task.try_length
    return policies.transformer(task.num_tokens, config.setting.width, max_length=longest)


def sampling(config: Config, prover: Prover | None = None) -> Sampling:
    """As many problems as cost no more tokens than `num_problems` without a prover, but at least one."""
    task, arm = task_of(config), config.arm
    own = tokens_drawn(task)
    share = own / (own + (prover.tokens(task) if prover else 0))
    return Sampling(max(int(arm.num_problems * share), 1), arm.group_size)


# --- the run --------------------------------------------------------------------------------------------------

Start = Callable[[Key], Params]


class Study(NamedTuple):
    """All that is trained; leaves [num_seeds, ...], but for `step`."""

    base: Tuning
    arms: dict[str, Tuning]  # as the base policy is, until its training ends
    step: Array  # () int32


def base_loop(config: Config) -> InnerLoop:
    """Imitation, from random parameters, of demonstrations with twice the tries, so that all places are learned."""
    task, learner = task_of(config, times=2), policy_of(config)
    data = Data(sources.fresh(task, Sampling(1, 2)), sources.demonstrations(task, config.base.base_batch))
    update = updates.joint(parts.clipped_adam(config.base.base_learning_rate))
    return finetune(learner, learner.init, data, credit.dr_grpo(2), controllers.constant(1.0), update)


def arm_loop(config: Config, name: str, start: Start) -> InnerLoop:
    """Fine-tuning by reward alone."""
    recipe = ARMS[name](config)
    data = Data(recipe.answers, sources.demonstrations(task_of(config), 1))
    update = updates.joint(parts.clipped_adam(config.arm.learning_rate))
    chosen = Losses(reward=recipe.loss)
    return finetune(policy_of(config), start, data, recipe.credit, controllers.constant(0.0), update, losses=chosen)


def make(config: Config) -> Meta:
    """The base policies and then, from copies of them, all arms; seeds side by side."""
    count, base = config.setting.num_seeds, base_loop(config)
    level = Level((), jnp.int32(config.run.steps))

    def copies(params: Params) -> dict[str, Tuning]:
        def one(name: str, params: Params) -> Tuning:
            return arm_loop(config, name, lambda key: params).init(jax.random.key(0), level)

        return {name: jax.vmap(partial(one, name))(params) for name in config.setting.arms}

    def init(key: Key) -> Study:
        tuning = jax.vmap(lambda key: base.init(key, level))(jax.random.split(key, count))
        return Study(tuning, copies(tuning.params), jnp.int32(0))

    def advance(inner: InnerLoop, tuning: Tuning, keys: Array) -> tuple[Tuning, Metrics]:
        after = jax.vmap(lambda tuning, key: inner.step((), tuning, key))(tuning, keys)
        return after.lifetime, after.metrics

    def imitate(study: Study, keys: Array) -> tuple[Study, Metrics]:
        tuning, found = advance(base, study.base, keys)
        unknown = {f"success_{name}": jnp.full(count, jnp.nan) for name in config.setting.arms}
        tokens_drawn = {f"tokens_{name}": jnp.zeros(count) for name in config.setting.arms}
        metrics = {"cross_entropy": found["imitation_loss"], **unknown, **tokens_drawn}
        return Study(tuning, copies(tuning.params), study.step), metrics

    def reinforce(study: Study, keys: Array) -> tuple[Study, Metrics]:
        arms, metrics = {}, {"cross_entropy": jnp.full(count, jnp.nan)}
        for name in config.setting.arms:  # they have the same keys
            inner = arm_loop(config, name, policy_of(config).init)
            arms[name], found = advance(inner, study.arms[name], keys)
            metrics |= {f"success_{name}": found["success"], f"tokens_{name}": found["env_steps"]}
        return study._replace(arms=arms), metrics

    def step(study: Study, key: Key) -> tuple[Study, Metrics]:
        keys = jax.random.split(key, count)
        study, metrics = jax.lax.cond(study.step < config.base.base_steps, imitate, reinforce, study, keys)
        return study._replace(step=study.step + 1), metrics

    return Meta(init, step)


# --- the report -----------------------------------------------------------------------------------------------


def examiner(config: Config) -> Callable[[Params], dict[str, np.ndarray]]:
    """Gives the success [num_seeds, 2 K] within 1 to 2 K tries, sampled and greedy, of policies [num_seeds, ...]."""
    learner, task = policy_of(config), task_of(config, times=2)
    problem_key, key = jax.random.split(jax.random.key(HELD_OUT))

    def by_try(params: Params, temperature: Array) -> Array:
        problems = problems_of(task, problem_key, config.test.held_out_problems)
        batch = answered(learner, params, task, problems, key, temperature)
        return solved(batch, task.tries).mean(0)

    exam = jax.jit(jax.vmap(by_try, (0, None)))  # compiled once, for all arms
    return lambda params: {"sampled": np.asarray(exam(params, 1.0)), "greedy": np.asarray(exam(params, 0.0))}


def measures(success: np.ndarray, tries: int) -> dict[str, np.ndarray]:
    """Numbers [num_seeds] of success [num_seeds, 2 K] by try."""
    return {
        "regret": 1.0 - success[:, :tries].mean(1),
        "regret over twice the tries": 1.0 - success.mean(1),
        "first try": success[:, 0],
        "last try": success[:, tries - 1],
        "twice the tries": success[:, -1],
    }


def report(config: Config, study: Study, log: Log, directory: Path) -> launch.Report:
    """Measures of every policy, and the differences of `PAIRS`, seed by seed: Student's 95 % intervals."""
    tries, examine = config.setting.tries, examiner(config)
    trained = {"base": study.base.params} | {name: x.params for name, x in study.arms.items()}
    success = {name: examine(params) for name, params in trained.items()}
    rows: dict[str, dict[str, float]] = {}
    for how in ("sampled", "greedy"):
        found = {name: measures(x[how], tries) for name, x in success.items()}
        for name, numbers in found.items():
            rows |= {f"{name}, {what}, {how}": over_runs(x)._asdict() for what, x in numbers.items()}
        for name, other in PAIRS:
            if name in found and other in found:
                for what, x in found[name].items():
                    rows[f"{name} minus {other}, {what}, {how}"] = over_runs(x - found[other][what])._asdict()
    tokens_of = {name: float(np.mean(log[f"tokens_{name}"][-1])) for name in study.arms}
    write_json(directory / "success_by_try.json", {"success": success, "tokens of a step": tokens_of})
    budget = np.arange(1, 2 * tries + 1)
    curves = {name: (budget, x["sampled"]) for name, x in success.items()}
    plot.save(plot.trajectories({"success within so many tries": curves}, "tries"), directory / "success_by_try.png")
    return rows


EXPERIMENT = launch.Experiment("mrt", make, report=report, score="share of problems, or regret")


def main(argv: Sequence[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

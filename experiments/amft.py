"""Compare AMFT (arXiv 2508.06944) with other ways to weigh imitation and reward, on small token tasks.

python -m experiments.amft                       # sorting, a few arms and seeds: ten minutes on two cores
python -m experiments.amft --preset sorting      # all arms: an hour and a half
python -m experiments.amft --preset countdown    # Countdown with three numbers, three minutes an arm
python -m experiments.amft --preset points       # General Points, an hour
python -m experiments.amft --preset full         # General Points, all arms, larger: for a GPU
python -m experiments.amft --directory runs/amft --resume

Demonstrators and verifiers err more or less, so that no one weight is best everywhere. What counts is the regret to the
best fixed weight of each setting, compared with that of the best single fixed weight.

The paper was withdrawn by its authors (version 3, October 2025), and its public code has no reinforcement learning and
the sign of the meta-gradient wrong. What is tested here is the idea, from the paper's equations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metarl
from envs import tokens
from experiments import cli, launch, parts, sweeps
from experiments.amft_arms import AHEAD, ARMS, VALIDATED, of_no_arm, policy, tasks, together
from experiments.amft_report import report
from metarl import checks, parallel
from metarl.checks import COUNT, COUNT_OR_ZERO, FACTOR, NOT_NEGATIVE, RATE, SEVERAL, SHARE, WIDTH, Bound
from metarl.evaluation.held_out import HELD_OUT
from metarl.finetune import Data, Sampling, controllers, credit, finetune, sources, success_rate, updates, utilities
from metarl.finetune.sampling import answered
from metarl.meta import Meta, MetaState, alternate
from metarl.parallel import Placement
from metarl.run import checkpoint
from metarl.run.checkpoint import Log
from metarl.run.options import flatten, replace
from metarl.run.sweep import side_by_side
from metarl.types import Array, Key, Level, Levels, Metrics, Params, TokenTask

CURVES = ("success", "entropy", "imitation_weight", "imitation_loss")

# --- options --------------------------------------------------------------------------------------------------

if TYPE_CHECKING:
    ArmName = str
else:
    ArmName = Literal[tuple(ARMS)]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compared, and where."""

    task: Literal["sorting", "countdown", "general_points"] = "sorting"
    """Sorting of two to four digits, Countdown with three numbers, or General Points with J = Q = K = 10."""
    copies: tuple[Annotated[float, SHARE], ...] = (0.0, 0.5, 0.9, 0.0)
    """Of each setting: how likely a demonstration is to copy the prompt instead."""
    flips: tuple[Annotated[float, SHARE], ...] = (0.0, 0.0, 0.0, 0.3)
    """Of each setting: the share of answers whose verdict is the opposite. What is measured has no such errors."""
    arms: tuple[ArmName, ...] = ("rl", "fixed_005", "fixed_02", "sft", "amft_meta", "amft_next")
    """What is compared."""
    num_seeds: Annotated[int, SEVERAL] = 2
    """Base policies, and runs of each arm in each setting."""
    network: Literal["transformer", "gru"] = "gru"
    """The policy."""
    width: Annotated[int, WIDTH] = 64
    """Of the policy."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if len(self.copies) != len(self.flips) or not self.copies:
            raise ValueError(
                f"copies and flips must have an entry for each setting, got {self.copies} and {self.flips}"
            )
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms must be different, got {self.arms}")

    @property
    def names(self) -> list[str]:
        """Of the settings."""
        return [f"copies {copies:g}, flips {flips:g}" for copies, flips in zip(self.copies, self.flips, strict=True)]


@dataclasses.dataclass(frozen=True)
class Base:
    """How base policies are made, by supervised learning alone, from demonstrations that are all right."""

    base_steps: Annotated[int, COUNT_OR_ZERO] = 0
    """Steps of supervised learning that make the base policy (0: arms begin with newborn policies)."""
    base_batch: Annotated[int, COUNT] = 128
    """Demonstrations in each of them."""
    base_learning_rate: Annotated[float, RATE] = 1e-3
    """Adam's learning rate for the base policy."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if not self.base_steps:
            parts.refuse_inert(self, ("base_batch", "base_learning_rate"), "without base_steps")


@dataclasses.dataclass(frozen=True)
class Batch:
    """What an arm learns from in a step."""

    num_prompts: Annotated[int, COUNT] = 16
    """Problems that are answered in a step (AMFT's validation problems are among them)."""
    group_size: Annotated[int, SEVERAL] = 8
    """Answers to each."""
    num_demonstrations: Annotated[int, COUNT] = 32
    """Demonstrations in a step."""
    demonstrated: Annotated[float, FACTOR] = 1.0
    """Share of the problems that have a demonstration, always the same ones."""
    num_validation: Annotated[int, COUNT] = 5
    """Problems on which AMFT measures the utility of a step."""

    def __post_init__(self) -> None:
        checks.fields(self)

    def make(self) -> Sampling:
        return Sampling(self.num_prompts, self.group_size)


@dataclasses.dataclass(frozen=True)
class Arm:
    """How arms learn."""

    learning_rate: Annotated[float, RATE] = 3e-3
    """Adam's learning rate in the arms."""
    critic_learning_rate: Annotated[float, RATE] = 1e-3
    """Arm rl_critic: Adam's learning rate for the critic."""
    meta_rate: Annotated[float, RATE] = 50.0
    """AMFT: step size of the weight's logit along the normalised meta-gradient."""
    next_rate: Annotated[float, RATE] = 1.0
    """Arms amft_next and those like it: the same."""
    pairs_rate: Annotated[float, RATE] = 0.3
    """Arm amft_pairs: the same, along an estimate from a pair of policies."""
    look_ahead: Annotated[int, SEVERAL] = 5
    """Arms amft_ahead, amft_pairs: steps before the weight moves, all of which the estimate heeds."""
    meta_every: Annotated[int, COUNT] = 5
    """AMFT: steps between two validations."""
    entropy_rate: Annotated[float, NOT_NEGATIVE] = 0.01
    """AMFT: how much a nat of entropy counts, compared with a meta-gradient of cosine 1."""
    entropy_target: Annotated[float, NOT_NEGATIVE] = 0.1
    """AMFT, entropy servo: the entropy that is aimed at in nats per token: that of policies which succeed."""
    servo_rate: Annotated[float, NOT_NEGATIVE] = 0.02
    """Entropy servo: change of the weight per nat."""
    initial_weight: Annotated[float, Bound(0.05, 0.95, above=True, below=True)] = 0.5
    """AMFT, entropy servo: the weight of imitation after the warm-up."""
    warm_up: Annotated[int, COUNT_OR_ZERO] = 0
    """AMFT, entropy servo: steps of imitation before."""
    utility: Literal["reward", "cross_entropy"] = "reward"
    """AMFT: what the meta-gradient climbs."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Looks:
    """How policies are measured while they learn; at the end all problems are posed."""

    eval_every: Annotated[int, COUNT] = 50
    """Steps between two looks at problems that are held out, if the task holds out any."""
    eval_problems: Annotated[int, COUNT] = 256
    """Problems of each look."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """Fine-tunes copies of a base policy, each arm with its own weights of imitation and reward, and compares them."""

    run: parts.Run = parts.Run(steps=300)
    sweep: parts.Sweep = parts.Sweep()
    setting: Setting = Setting()
    base: Base = Base()
    batch: Batch = Batch()
    arm: Arm = Arm()
    looks: Looks = Looks()

    def __post_init__(self) -> None:
        batch = self.batch
        if set(VALIDATED) & set(self.setting.arms) and batch.num_validation >= batch.num_prompts:
            raise ValueError(
                f"num_validation must be below num_prompts = {batch.num_prompts}, got {batch.num_validation}"
            )
        if "amft_pairs" in self.setting.arms and batch.num_prompts < 4:
            raise ValueError(f"num_prompts must be at least 4 with the arm amft_pairs, got {batch.num_prompts}")


SHARED = {"task", "num_seeds", "network", "width", *vars(Base())}  # what the base policies are made from
EVERYTHING = tuple(name for name in ARMS if name != "rl_critic")
COUNTDOWN = replace(
    Config(),
    task="countdown",
    copies=(0.0,),
    flips=(0.0,),
    steps=400,
    num_seeds=5,
    arms=EVERYTHING,
    network="transformer",
    base_steps=1200,
    learning_rate=3e-4,
    num_prompts=24,
    num_validation=8,
    num_demonstrations=64,
    warm_up=10,
    eval_every=20,
)
POINTS = replace(
    COUNTDOWN,
    task="general_points",
    num_seeds=3,
    arms=("sft", "rl", "sft_rl", "fixed_02", "fixed_05", "amft"),
    base_steps=4000,
    base_batch=256,
)
PRESETS = {
    "quick": Config(),
    "sorting": replace(Config(), steps=700, num_seeds=8, arms=EVERYTHING),
    "countdown": COUNTDOWN,
    "points": POINTS,
    "full": replace(
        POINTS,
        steps=500,
        num_seeds=5,
        arms=EVERYTHING,
        width=128,
        num_prompts=64,
        num_validation=16,
        num_demonstrations=256,
        eval_problems=1024,
    ),
}

# --- runs -----------------------------------------------------------------------------------------------------


class Member(NamedTuple):
    """One run of an arm. All runs of an arm are one program; leaves [settings * seeds, ...] there."""

    start: Params
    copies: Array
    flips: Array


def members(config: Config, start: Params) -> Member:
    """The runs of an arm from the base policies `start` (leaves [num_seeds, ...]): every seed in every setting."""
    setting = config.setting
    count = len(setting.copies)
    errors = (jnp.repeat(jnp.array(x), setting.num_seeds) for x in (setting.copies, setting.flips))
    return Member(jax.tree.map(lambda x: jnp.concatenate([x] * count), start), *errors)


def base(config: Config) -> Meta:
    """Supervised learning from a random start, one policy per seed."""
    task, learner = tasks(config).base, policy(config)
    data = Data(sources.fresh(task, Sampling(1, 2)), sources.demonstrations(task, config.base.base_batch))
    update = updates.joint(parts.clipped_adam(config.base.base_learning_rate))

    def make(seed: Array) -> Meta:
        inner = finetune(learner, learner.init, data, credit.dr_grpo(2), controllers.constant(1.0), update)
        return _compose(inner, config.base.base_steps)

    return _watched(config, side_by_side(make, jnp.arange(config.setting.num_seeds), ONE_AT_A_TIME))


def newborn(config: Config) -> Params:
    """Policies that have learned nothing, leaves [num_seeds, ...]."""
    keys = jax.random.split(jax.random.key(config.run.seed), config.setting.num_seeds)
    return jax.vmap(policy(config).init)(keys)


def tuned(config: Config, arm: str, start: Params) -> Meta:
    """The runs of one arm, from the base policies `start` (leaves [num_seeds, ...])."""
    learner, train = policy(config), tasks(config).train

    def make(member: Member) -> Meta:
        task = tokens.Imperfect(train, member.copies, member.flips)
        x = ARMS[arm](config, task)

        def steps_from(data: Data, utility: utilities.Utility | None) -> Meta:
            def begin(key: Key) -> Params:
                return member.start

            inner = finetune(learner, begin, data, x.credit, x.controller, x.update, losses=x.losses, utility=utility)
            return _compose(inner, config.run.steps, x.estimator, x.meta_optimizer)

        if x.between is None:
            return steps_from(x.data, x.utility)
        usual = steps_from(x.between, utilities.unmeasured(task))
        return alternate(config.arm.meta_every, steps_from(x.data, x.utility), usual)

    return _watched(config, side_by_side(make, members(config, start), ONE_AT_A_TIME), together(config, arm))


ONE_AT_A_TIME = Placement(batch_size=1)  # runs of a program: the caches of CPUs are small


def _compose(
    inner: metarl.InnerLoop,
    horizon: int,
    estimator: metarl.Estimator = metarl.estimators.backprop(1),  # noqa: B008
    optimizer: optax.GradientTransformation = optax.sgd(0.0),  # noqa: B008
) -> Meta:
    training = Levels(lambda key: Level((), jnp.int32(horizon + 1)))
    curriculum = metarl.curricula.uniform(training)
    return metarl.compose(inner, estimator, optimizer, curriculum, num_lifetimes=1)


def _policies(state: MetaState) -> Params:
    """Leaves [n, ...]: those of the only lifetime of each run."""
    return jax.tree.map(lambda x: x[:, 0], state.lifetimes.params)


def _watched(config: Config, meta: Meta, each: int = 1) -> Meta:
    """`meta` with the metric `held_out` [n], success on the first question every so often and NaN in between.

    A meta-step has `each` training steps.
    """
    learner, question, looks = policy(config), next(iter(tasks(config).questions.values())), config.looks

    def look(params: Params) -> Array:
        key = jax.random.key(HELD_OUT)
        return jax.vmap(lambda p: success_rate(learner, question, p, key, looks.eval_problems))(params)

    def skip(params: Params) -> Array:
        return jnp.full(len(jax.tree.leaves(params)[0]), jnp.nan)

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        state, metrics = meta.step(state, key)
        held_out = jax.lax.cond(state.step * each % looks.eval_every < each, look, skip, _policies(state))
        return state, {**metrics, "held_out": held_out}

    return Meta(meta.init, step)


def part(config: Config, directory: Path, name: str, meta: Meta, steps: int) -> tuple[Params, Log]:
    """One run of the comparison, with its own files; the trained policies (leaves [n, ...]) and its log.

    It has `steps` training steps, of which some arms make several in a meta-step. Raises ValueError if its directory
    has a run of another length: schedules are stretched to the length.
    """
    place = directory / name
    theirs = {option: flatten(Config())[option] for option in of_no_arm([name])}  # no matter here: arms may join
    meta_steps = steps // together(config, name)
    own = launch.placed(replace(config, arms=(name,) if name in ARMS else (), steps=meta_steps, **theirs), place)
    if own.run.resume:
        template, step = jax.eval_shape(meta.init, jax.random.key(0)), own.run.resume_from or None
        _, state, _ = checkpoint.restore(place, template, step=step)
        if (was := int(state.lifetimes.level.horizon.max()) - 1) != steps:
            raise ValueError(f"{place} was begun as a run of {was} steps: it cannot become one of {steps}")
    state, log, _ = launch.run(launch.Experiment("amft", lambda config: meta, CURVES), own)
    return _policies(state), log


def beginning(config: Config, directory: Path) -> Params:
    """The base policies, leaves [num_seeds, ...]."""
    steps = config.base.base_steps
    return part(config, directory, "base", base(config), steps)[0] if steps else newborn(config)


# --- the command ----------------------------------------------------------------------------------------------


def examiner(config: Config) -> Callable[[Params], dict[str, np.ndarray]]:
    """Gives the success [n] of policies (leaves [n, ...]) on each kind of problems, greedy and sampled.

    All problems of a kind are posed, each counts by its probability. Every kind is compiled once, for all arms.
    """
    learner, key = policy(config), jax.random.key(HELD_OUT - 1)

    def rate(task: TokenTask, temperature: float) -> Callable[[Params], Array]:
        problems, probability = task.every()  # type: ignore[attr-defined]

        def one(params: Params) -> Array:
            return answered(learner, params, task, problems, key, temperature).correct @ probability

        return jax.jit(lambda params: jax.lax.map(one, params))

    questions = tasks(config).questions
    exams = {name: rate(task, 0.0) for name, task in questions.items()}
    first, task = next(iter(questions.items()))
    exams[f"{first}, sampled"] = rate(task, 1.0)
    return lambda params: {name: np.asarray(exam(params)) for name, exam in exams.items()}


def compare(config: Config, directory: Path, start: Params) -> None:
    """Trains all arms from the base policies `start`, and reports."""
    examine, count = examiner(config), len(config.setting.copies)
    found: dict[str, dict[str, np.ndarray]] = {}
    logs: dict[str, Log] = {}

    def keep(name: str, success: Mapping[str, np.ndarray]) -> None:
        for question, x in success.items():
            found.setdefault(question, {})[name] = x.reshape(count, -1)

    keep("base", examine(members(config, start).start))
    for arm in config.setting.arms:
        params, logs[arm] = part(config, directory, arm, tuned(config, arm, start), config.run.steps)
        keep(arm, examine(params))
    report(config, found, logs, directory)


def sweep_arms(config: Config, directory: Path, start: Params) -> None:
    """A sweep of each arm from the base policies `start`."""
    for arm in config.setting.arms:
        make = partial(tuned, arm=arm, start=start)
        resume_from = config.run.resume_from if cli.has_checkpoint(directory / arm, config.run.resume_from) else 0
        own = replace(config, arms=(arm,), directory=str(directory / arm), resume_from=resume_from)
        sweeps.run_sweep(launch.Experiment("amft", make, CURVES), own)


def refuse_unused(config: Config, argv: list[str] | None) -> None:
    """Raises ValueError for an option, on the command line or in the sweep, that none of the arms has."""
    for option, arms in of_no_arm(config.setting.arms).items():
        because = f"without one of the arms {', '.join(arms)}"
        cli.refuse_given(argv, [option], because)
        cli.refuse_given([f"--{name}" for name in config.sweep.swept], [option], because)


def check_ahead(config: Config) -> None:
    """Raises ValueError if the steps of an arm are no whole meta-steps, or if it is swept, which counts meta-steps."""
    if ahead := sorted(set(AHEAD) & set(config.setting.arms)):
        if config.sweep.sweep:
            raise ValueError(f"sweep must leave out the arms {ahead}, whose meta-steps have several steps")
        if config.run.steps % config.arm.look_ahead:
            raise ValueError(f"look_ahead must divide steps = {config.run.steps}, got {config.arm.look_ahead}")


def check_sweep(config: Config) -> None:
    """Raises ValueError for a sweep over what the base policies, which all members start from, are made from."""
    if swept := sorted(SHARED & sweeps.parse(config).keys()):
        raise ValueError(f"sweep must leave {swept} alone: all members start from the same base policies")


def main(argv: list[str] | None = None) -> None:
    config: Any = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit():
        if not config.setting.arms:
            raise ValueError("arms must name at least one")
        check_sweep(config)
        check_ahead(config)
        launch.refuse_ignored(config, argv)
        refuse_unused(config, argv)
        if config.sweep.sweep:
            parallel.one_device_per_core()
        with cli.directory_of_runs(config.run, "amft") as directory:
            (sweep_arms if config.sweep.sweep else compare)(config, directory, beginning(config, directory))


if __name__ == "__main__":
    main()

"""Compare AMFT (arXiv 2508.06944) with other ways to weigh imitation and reward, on small token tasks.

python -m experiments.amft                       # Countdown with three numbers, a quarter of an hour
python -m experiments.amft --arms sft rl amft --num-seeds 5
python -m experiments.amft --preset points       # General Points, an hour
python -m experiments.amft --preset full         # General Points, all arms, larger: for a GPU
python -m experiments.amft --directory runs/amft --resume

The paper was withdrawn by its authors (version 3, October 2025), and its public code has no reinforcement learning and
the sign of the meta-gradient wrong. What is tested here is the idea, from the paper's equations.
"""

from __future__ import annotations

import dataclasses
import sys
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
from metarl import checks, optimizers, parallel, plot
from metarl.checks import COUNT, COUNT_OR_ZERO, NOT_NEGATIVE, RATE, SEVERAL, WIDTH, Bound
from metarl.evaluation import tables
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import Interval, over_runs
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
    finetune,
    losses,
    policies,
    sources,
    success_rate,
    terms,
    updates,
    utilities,
)
from metarl.meta import Meta, MetaState
from metarl.run import checkpoint
from metarl.run.checkpoint import Log
from metarl.run.files import hardware, write_json
from metarl.run.options import flatten, replace
from metarl.run.sweep import side_by_side
from metarl.types import Array, Key, Level, Levels, Metrics, Params, TokenTask

LAST = 20  # steps over which the results at the end of an arm are averaged
GOAL = 0.6  # held-out success; the results say after how many steps it is reached
CURVES = ("success", "entropy", "imitation_weight", "imitation_loss")

# --- the arms -------------------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """The parts of fine-tuning in which arms differ."""

    controller: Controller
    data: Data
    credit: Credit
    update: GradientUpdate
    losses: Losses = Losses(reward=losses.dual_clip())
    utility: Utility | None = None


def plain(config: Config, controller: Controller, answers: Source | None = None) -> Recipe:
    """A controller, with the same data, credit and optimizer as most arms."""
    task, batch = tasks(config).train, config.batch
    data = Data(answers or sources.fresh(task, batch.make()), sources.demonstrations(task, batch.num_demonstrations))
    update = updates.joint(optimizer(config.arm.learning_rate))
    return Recipe(controller, data, credit.grpo(batch.group_size), update)


def with_critic(config: Config) -> Recipe:
    """Reward alone, with advantages from a critic."""
    critic = TokenCritic(policy(config, outputs=1), optimizer(config.arm.critic_learning_rate))
    return plain(config, controllers.constant(0.0))._replace(credit=credit.gae(critic))


def relift(config: Config) -> Recipe:
    """ReLIFT: steps of imitation on the problems that the policy has failed on, by an optimizer of their own."""
    size, rate = config.batch.num_demonstrations, config.arm.learning_rate
    recipe = plain(config, controllers.success_gate(size))
    return recipe._replace(
        data=dataclasses.replace(recipe.data, demonstrations=sources.failures(tasks(config).train, size)),
        update=updates.separate(imitation=optimizer(rate), reward=optimizer(rate)),
        losses=recipe.losses._replace(imitation=with_entropy),
    )


def with_entropy(x: Context) -> Array:
    """ReLIFT's loss of demonstrations, with the coefficient of the paper's last version."""
    return terms.sft(x.now.log_prob) + 1e-4 * terms.entropy_bonus(x.now.logits)


def prefix_rft(config: Config) -> Recipe:
    """Prefix-RFT: reward alone, for answers some of which continue a demonstration."""
    answers = sources.prefixed(tasks(config).train, config.batch.make())
    recipe = plain(config, controllers.constant(0.0), answers)
    return recipe._replace(credit=credit.prefix_group(config.batch.group_size, lone="reward"))


def amft(config: Config, *, entropy: bool = True, meta: bool = True, sign: float = 1.0) -> Recipe:
    """AMFT with its entropy term, its meta-gradient, or both. Validation takes its share of the answers."""
    arm, batch, task = config.arm, config.batch, tasks(config).train
    controller = controllers.amft(
        arm.initial_weight,
        entropy_rate=arm.entropy_rate if entropy else 0.0,
        meta_every=1 if meta else 0,
        sign=sign,
        warm_up=arm.warm_up,
    )
    validation = utilities.reward(task, Sampling(batch.num_validation, batch.group_size))
    if arm.utility == "cross_entropy":
        validation = utilities.cross_entropy(task, batch.num_validation)
    rest = Sampling(batch.num_prompts - batch.num_validation, batch.group_size)
    return plain(config, controller, sources.fresh(task, rest))._replace(utility=validation)


def _constant(weight: float) -> Callable[[Config], Recipe]:
    return lambda config: plain(config, controllers.constant(weight))


def _scheduled(weight: Callable[[Array], Array]) -> Callable[[Config], Recipe]:
    return lambda config: plain(config, controllers.schedule(weight))


def _servo(config: Config) -> Recipe:
    arm = config.arm
    return plain(config, controllers.entropy_servo(arm.initial_weight, arm.servo_rate, warm_up=arm.warm_up))


# All arms draw as many answers and make as many steps.
ARMS: dict[str, Callable[[Config], Recipe]] = {
    "sft": _constant(1.0),
    "rl": _constant(0.0),
    "rl_critic": with_critic,
    "sft_rl": _scheduled(controllers.switch(0.5)),
    "fixed_02": _constant(0.2),
    "fixed_05": _constant(0.5),
    "fixed_08": _constant(0.8),
    "cosine": _scheduled(controllers.cosine(0.9, 0.1)),
    "srft": lambda config: plain(config, controllers.srft()),
    "servo": _servo,
    "dual": lambda config: plain(config, controllers.dual_ascent(limit=0.5)),
    "relift": relift,
    "prefix_rft": prefix_rft,
    "amft": amft,
    "amft_entropy": partial(amft, meta=False),
    "amft_meta": partial(amft, entropy=False),
    "amft_other_sign": partial(amft, sign=-1.0),
    "amft_entropy_other_sign": partial(amft, meta=False, sign=-1.0),
}

_ENTROPY = ("amft", "amft_entropy", "amft_other_sign", "amft_entropy_other_sign")
_AMFT = (*_ENTROPY, "amft_meta")
# Options that only some arms have.
OPTIONS_OF = {
    ("rl_critic",): ["critic_learning_rate"],
    ("servo",): ["servo_rate"],
    _ENTROPY: ["entropy_rate"],
    _AMFT: ["meta_rate", "num_validation", "utility"],
    (*_AMFT, "servo"): ["initial_weight", "warm_up"],
}

# --- options --------------------------------------------------------------------------------------------------

if TYPE_CHECKING:
    ArmName = str
else:
    ArmName = Literal[tuple(ARMS)]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compared, and where."""

    task: Literal["countdown", "general_points"] = "countdown"
    """Countdown with three numbers and targets up to 20, or General Points with J = Q = K = 10. The base policy learns
    from more: two to four numbers and targets up to 30, and the eight rules of the diverse set."""
    arms: tuple[ArmName, ...] = (
        "sft",
        "rl",
        "sft_rl",
        "fixed_02",
        "fixed_05",
        "fixed_08",
        "cosine",
        "amft",
        "amft_meta",
    )
    """What is compared."""
    num_seeds: Annotated[int, SEVERAL] = 3
    """Base policies, and runs of each arm."""
    network: Literal["transformer", "gru"] = "transformer"
    """The policy."""
    width: Annotated[int, WIDTH] = 64
    """Of the policy."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms must be different, got {self.arms}")


@dataclasses.dataclass(frozen=True)
class Base:
    """How base policies are made, by supervised learning alone."""

    base_steps: Annotated[int, COUNT] = 1200
    """Steps of supervised learning that make the base policy."""
    base_batch: Annotated[int, COUNT] = 128
    """Demonstrations in each of them."""
    base_learning_rate: Annotated[float, RATE] = 1e-3
    """Adam's learning rate for the base policy."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Batch:
    """What an arm learns from in a step."""

    num_prompts: Annotated[int, COUNT] = 24
    """Problems that are answered in a step (AMFT's validation problems are among them)."""
    group_size: Annotated[int, SEVERAL] = 8
    """Answers to each."""
    num_demonstrations: Annotated[int, COUNT] = 64
    """Demonstrations in a step."""
    num_validation: Annotated[int, COUNT] = 8
    """Problems on which AMFT measures the utility of a step."""

    def __post_init__(self) -> None:
        checks.fields(self)

    def make(self) -> Sampling:
        return Sampling(self.num_prompts, self.group_size)


@dataclasses.dataclass(frozen=True)
class Arm:
    """How arms learn."""

    learning_rate: Annotated[float, RATE] = 3e-4
    """Adam's learning rate in the arms."""
    critic_learning_rate: Annotated[float, RATE] = 1e-3
    """Arm rl_critic: Adam's learning rate for the critic."""
    meta_rate: Annotated[float, RATE] = 3.0
    """AMFT: step size of the weight's logit along the normalised meta-gradient."""
    entropy_rate: Annotated[float, NOT_NEGATIVE] = 0.3
    """AMFT: how much a nat of entropy counts, compared with a meta-gradient of cosine 1."""
    servo_rate: Annotated[float, NOT_NEGATIVE] = 0.02
    """Entropy servo: change of the weight per nat."""
    initial_weight: Annotated[float, Bound(0.05, 0.95, above=True, below=True)] = 0.5
    """AMFT, entropy servo: the weight of imitation after the warm-up."""
    warm_up: Annotated[int, COUNT_OR_ZERO] = 10
    """AMFT, entropy servo: steps of imitation before."""
    utility: Literal["reward", "cross_entropy"] = "reward"
    """AMFT: what the meta-gradient climbs."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Looks:
    """How policies are measured on held-out problems."""

    eval_every: Annotated[int, COUNT] = 20
    """Steps between two looks at held-out problems."""
    eval_problems: Annotated[int, COUNT] = 256
    """Problems of each look, and twice as many of each kind at the end."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """Fine-tunes copies of a base policy, each arm with its own weights of imitation and reward, and compares them."""

    run: parts.Run = parts.Run(steps=400)
    sweep: parts.Sweep = parts.Sweep()
    setting: Setting = Setting()
    base: Base = Base()
    batch: Batch = Batch()
    arm: Arm = Arm()
    looks: Looks = Looks()

    def __post_init__(self) -> None:
        batch = self.batch
        if set(_AMFT) & set(self.setting.arms) and batch.num_validation >= batch.num_prompts:
            raise ValueError(
                f"num_validation must be below num_prompts = {batch.num_prompts}, got {batch.num_validation}"
            )


SHARED = {"task", "num_seeds", "network", "width", *vars(Base())}  # what the base policies are made from
POINTS = replace(
    Config(),
    task="general_points",
    arms=("sft", "rl", "sft_rl", "fixed_02", "fixed_05", "amft"),
    base_steps=4000,
    base_batch=256,
)
PRESETS = {
    "quick": Config(),
    "small": replace(Config(), num_seeds=5, arms=tuple(ARMS)),
    "points": POINTS,
    "full": replace(
        POINTS,
        steps=500,
        num_seeds=5,
        arms=tuple(ARMS),
        width=128,
        num_prompts=64,
        num_validation=16,
        num_demonstrations=256,
        eval_problems=1024,
    ),
}

# --- problems and policies ------------------------------------------------------------------------------------


class Tasks(NamedTuple):
    """What policies learn from, and the problems that they are tested on. All have one vocabulary."""

    base: TokenTask  # wider than what the arms train on: an arm can forget some of it, or improve on it
    train: TokenTask  # of the arms
    questions: dict[str, TokenTask]  # the first is held out, but otherwise as `train`


def tasks(config: Config) -> Tasks:
    """The problems of the configuration."""
    return countdown() if config.setting.task == "countdown" else general_points()


def countdown() -> Tasks:
    some = partial(tokens.make_task, "countdown", max_numbers=3, max_target=20)
    held_out = partial(tokens.make_task, "countdown", part="held_out")
    questions = {
        "held out": some(min_numbers=3, part="held_out"),
        "other targets": held_out(min_numbers=3, max_numbers=3, min_target=21),
        "four numbers": held_out(min_numbers=4),
    }
    return Tasks(tokens.make_task("countdown"), some(min_numbers=3), questions)


def general_points() -> Tasks:
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


def optimizer(learning_rate: float) -> optax.GradientTransformation:
    """Adam on clipped gradients, with derivatives that are finite."""
    return optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(learning_rate))


# --- runs -----------------------------------------------------------------------------------------------------


def base(config: Config) -> Meta:
    """Supervised learning from a random start, one policy per seed."""
    task, learner = tasks(config).base, policy(config)
    data = Data(sources.fresh(task, Sampling(1, 2)), sources.demonstrations(task, config.base.base_batch))
    update = updates.joint(optimizer(config.base.base_learning_rate))

    def make(seed: Array) -> Meta:
        inner = finetune(learner, learner.init, data, credit.dr_grpo(2), controllers.constant(1.0), update)
        return _compose(config, inner, config.base.base_steps)

    return _watched(config, side_by_side(make, jnp.arange(config.setting.num_seeds)))


def tuned(config: Config, arm: str, start: Params) -> Meta:
    """The runs of one arm, from the base policies `start` (leaves [num_seeds, ...])."""
    x = ARMS[arm](config)

    def make(params: Params) -> Meta:
        inner = finetune(
            policy(config),
            lambda key: params,
            x.data,
            x.credit,
            x.controller,
            x.update,
            losses=x.losses,
            utility=x.utility,
        )
        return _compose(config, inner, config.run.steps)

    return _watched(config, side_by_side(make, start))


def _compose(config: Config, inner: metarl.InnerLoop, horizon: int) -> Meta:
    training = Levels(lambda key: Level((), jnp.int32(horizon + 1)))
    curriculum = metarl.curricula.uniform(training)
    return metarl.compose(
        inner, metarl.estimators.backprop(1), optax.sgd(config.arm.meta_rate), curriculum, num_lifetimes=1
    )


def _policies(state: MetaState) -> Params:
    """Leaves [num_seeds, ...]: those of the only lifetime of each seed."""
    return jax.tree.map(lambda x: x[:, 0], state.lifetimes.params)


def _watched(config: Config, meta: Meta) -> Meta:
    """`meta` with the metric `held_out` [num_seeds], success on held-out problems every so often and NaN in between."""
    learner, question, looks = policy(config), next(iter(tasks(config).questions.values())), config.looks

    def look(params: Params) -> Array:
        key = jax.random.key(HELD_OUT)
        return jax.vmap(lambda p: success_rate(learner, question, p, key, looks.eval_problems))(params)

    def skip(params: Params) -> Array:
        return jnp.full(config.setting.num_seeds, jnp.nan)

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        state, metrics = meta.step(state, key)
        held_out = jax.lax.cond(state.step % looks.eval_every == 0, look, skip, _policies(state))
        return state, {**metrics, "held_out": held_out}

    return Meta(meta.init, step)


def part(config: Config, directory: Path, name: str, meta: Meta, steps: int) -> tuple[Params, Log]:
    """One run of the comparison, with its own files; the trained policies (leaves [num_seeds, ...]) and its log.

    Raises ValueError if its directory has a run of another length: schedules are stretched to the length.
    """
    place = directory / name
    of_others = [option for arms, options in OPTIONS_OF.items() if name not in arms for option in options]
    theirs = {option: flatten(Config())[option] for option in of_others}  # no matter here, so that arms may join
    own = launch.placed(replace(config, arms=(name,) if name in ARMS else (), steps=steps, **theirs), place)
    if own.run.resume:
        template, step = jax.eval_shape(meta.init, jax.random.key(0)), own.run.resume_from or None
        _, state, _ = checkpoint.restore(place, template, step=step)
        if (was := int(state.lifetimes.level.horizon.max()) - 1) != steps:
            raise ValueError(f"{place} was begun as a run of {was} steps: it cannot become one of {steps}")
    state, log, _ = launch.run(launch.Experiment("amft", lambda config: meta, CURVES), own)
    return _policies(state), log


# --- results --------------------------------------------------------------------------------------------------

Found = Mapping[str, Mapping[str, np.ndarray]]  # arm -> name of a number -> its values [num_seeds]


def examiner(config: Config) -> Callable[[Params], dict[str, np.ndarray]]:
    """Gives the success [num_seeds] of policies (leaves [num_seeds, ...]) on each kind of problems, greedy and sampled.

    Every kind is compiled once, for all arms.
    """
    learner, key, count = policy(config), jax.random.key(HELD_OUT - 1), 2 * config.looks.eval_problems

    def rate(task: TokenTask, temperature: float) -> Callable[[Params], Array]:
        return jax.jit(jax.vmap(lambda params: success_rate(learner, task, params, key, count, temperature)))

    questions = tasks(config).questions
    exams = {name: rate(task, 0.0) for name, task in questions.items()}
    first, task = next(iter(questions.items()))
    exams[f"{first}, sampled"] = rate(task, 1.0)
    return lambda params: {name: np.asarray(exam(params)) for name, exam in exams.items()}


def intervals(found: Found) -> dict[str, dict[str, Interval]]:
    """Over seeds."""
    return {arm: {name: over_runs(jnp.asarray(x)) for name, x in row.items()} for arm, row in found.items()}


def lead_of_amft(found: Found) -> dict[str, dict[str, np.ndarray]]:
    """Success of the arm `amft` minus that of each other, seed by seed; empty if it did not run."""
    others = {arm: row for arm, row in found.items() if "amft" in found and arm != "amft"}
    return {arm: {name: found["amft"][name] - x for name, x in row.items()} for arm, row in others.items()}


def at_the_end(log: Log) -> dict[str, np.ndarray]:
    """Means over the last steps, for each seed [num_seeds]."""
    names = ("success", "entropy", "imitation_weight", "reward_weight")
    return {name: np.asarray(log[name])[-LAST:].mean(0).reshape(-1) for name in names}


def best_fixed(success: Found, question: str) -> str | None:
    """Of the arms of one weight throughout, the one that is best on `question`, which favours it; None without any."""
    fixed = [arm for arm in success if arm.startswith("fixed_")]
    return max(fixed, key=lambda arm: success[arm][question].mean(), default=None)


def steps_to_goal(log: Log) -> list[int | None]:
    """For each seed, the first step at which held-out success was seen to be at least `GOAL`."""
    seen = np.asarray(log["held_out"])  # [steps, num_seeds]
    reached = [np.flatnonzero(column >= GOAL) for column in seen.T]
    return [int(steps[0]) + 1 if len(steps) else None for steps in reached]


def draw(logs: Mapping[str, Log], path: Path) -> None:
    """The arms over their training: held-out success, entropy, and the weight of imitation."""

    def curves(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        rows = {arm: np.asarray(log[name]).reshape(len(log[name]), -1) for arm, log in logs.items()}
        looks = {arm: np.flatnonzero(np.isfinite(x).all(1)) for arm, x in rows.items()}
        return {arm: (at + 1, rows[arm][at].T) for arm, at in looks.items() if len(at)}

    panels = {
        "held-out success": curves("held_out"),
        "entropy in nats per token": curves("entropy"),
        "weight of imitation": curves("imitation_weight"),
    }
    plot.save(plot.trajectories({name: x for name, x in panels.items() if x}, "training step"), path)


def report(config: Config, found: Found, logs: Mapping[str, Log], directory: Path) -> None:
    """Prints, writes and draws the results."""
    success, lead = intervals(found), intervals(lead_of_amft(found))
    last = intervals({arm: at_the_end(log) for arm, log in logs.items()})
    goal = {arm: steps_to_goal(log) for arm, log in logs.items()}
    question = next(iter(success["base"]))
    best = best_fixed(found, question)
    tables.show(success, "share of problems solved", "arm")
    if lead:
        tables.show(lead, "share of problems solved by amft minus that by the arm, seed by seed,", "arm")
    if best and lead:
        by = lead[best][question]
        print(f"amft minus the best fixed weight ({best}), {question}: {by.mean:.3f} [{by.low:.3f}, {by.high:.3f}]")
    tables.show(last, f"means over the last {LAST} steps", "arm")
    for name, steps in goal.items():
        print(f"{name}: steps to {GOAL:g} held out, by seed: {', '.join(map(str, steps))}")
    results: dict[str, Any] = {"config": flatten(config), "hardware": hardware(), "success": found}
    for title, table in (("intervals", success), ("amft minus", lead), ("at the end", last)):
        results[title] = {row: {x: i._asdict() for x, i in columns.items()} for row, columns in table.items()}
    results |= {"best fixed weight": best, f"steps to {GOAL:g} held out": goal}
    write_json(directory / "amft.json", results)
    draw(logs, directory / "amft.png")
    print(f"results in {directory}", file=sys.stderr)


# --- the command ----------------------------------------------------------------------------------------------


def compare(config: Config, directory: Path, start: Params) -> None:
    """Trains all arms from the base policies `start`, and reports."""
    examine = examiner(config)
    found, logs = {"base": examine(start)}, dict[str, Log]()
    for arm in config.setting.arms:
        params, logs[arm] = part(config, directory, arm, tuned(config, arm, start), config.run.steps)
        found[arm] = examine(params)
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
    for arms, options in OPTIONS_OF.items():
        if not set(arms) & set(config.setting.arms):
            because = f"without one of the arms {', '.join(arms)}"
            cli.refuse_given(argv, options, because)
            cli.refuse_given([f"--{name}" for name in config.sweep.swept], options, because)


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
        launch.refuse_ignored(config, argv)
        refuse_unused(config, argv)
        if config.sweep.sweep:
            parallel.one_device_per_core()
        with cli.directory_of_runs(config.run, "amft") as directory:
            start, _ = part(config, directory, "base", base(config), config.base.base_steps)
            (sweep_arms if config.sweep.sweep else compare)(config, directory, start)


if __name__ == "__main__":
    main()

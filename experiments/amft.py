"""AMFT (arXiv 2508.06944) against other ways to weigh imitation and reward, on small token tasks.

python -m experiments.amft                       # Countdown with three numbers, a quarter of an hour
python -m experiments.amft --arms sft rl amft --num-seeds 5
python -m experiments.amft --preset points       # General Points, an hour
python -m experiments.amft --preset full         # General Points, all arms, larger: for a GPU
python -m experiments.amft --directory runs/amft --resume

The paper was withdrawn by its authors (version 3, October 2025), and its public code has no reinforcement learning and
the sign of the meta-gradient wrong. What is tested here is the idea, from the paper's equations, on its own merits.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metarl
from envs import tokens
from experiments import cli, sweeps
from experiments.report import HELD_OUT
from metarl import optimizers, plot
from metarl.evaluation.statistics import Interval, over_runs
from metarl.finetune import controllers, credit, policies, terms
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import Controller
from metarl.finetune.loop import Critic, Imitation, Judged, Settings, finetune, sft, success_rate
from metarl.finetune.policies import SequencePolicy
from metarl.meta import Meta, MetaState
from metarl.run import checkpoint
from metarl.run.checkpoint import Log
from metarl.run.sweep import side_by_side
from metarl.types import Array, Key, Level, Levels, Metrics, Params, TokenTask

Arm = Literal[
    "sft",
    "rl",
    "rl_critic",
    "sft_rl",
    "fixed_02",
    "fixed_05",
    "fixed_08",
    "cosine",
    "srft",
    "servo",
    "dual",
    "relift",
    "prefix_rft",
    "amft",
    "amft_entropy",
    "amft_meta",
    "amft_other_sign",
    "amft_entropy_other_sign",
]
LAST = 20  # steps that show where an arm has come to
GOAL = 0.6  # held-out success: how many steps does it take


@dataclasses.dataclass(frozen=True)
class Config(cli.Run):
    """Fine-tunes copies of a base policy, each arm with its own weights of imitation and reward, and compares them."""

    task: Literal["countdown", "general_points"] = "countdown"
    """Countdown with three numbers and targets up to 20, or General Points with J = Q = K = 10. The base policy learns
    from more: two to four numbers and targets up to 30, and the eight rules of the diverse set."""
    arms: tuple[Arm, ...] = ("sft", "rl", "sft_rl", "fixed_02", "fixed_05", "fixed_08", "cosine", "amft", "amft_meta")
    """What is compared."""
    num_seeds: int = 3
    """Base policies, and runs of each arm."""
    network: Literal["transformer", "gru"] = "transformer"
    """The policy."""
    width: int = 64
    """Of the policy."""
    base_steps: int = 1200
    """Steps of supervised learning that make the base policy."""
    base_batch: int = 128
    """Demonstrations in each of them."""
    base_learning_rate: float = 1e-3
    """Adam's learning rate for the base policy."""
    num_prompts: int = 24
    """Problems that are answered in a step (AMFT's validation problems are among them)."""
    group_size: int = 8
    """Answers to each."""
    num_demonstrations: int = 64
    """Demonstrations in a step."""
    num_validation: int = 8
    """Problems on which AMFT measures the utility of a step."""
    learning_rate: float = 3e-4
    """Adam's learning rate in the arms."""
    critic_learning_rate: float = 1e-3
    """Arm rl_critic: Adam's learning rate for the critic."""
    meta_rate: float = 3.0
    """AMFT: step size of the weight's logit along the normalised meta-gradient."""
    entropy_rate: float = 0.3
    """AMFT: how much a nat of entropy counts, compared with a meta-gradient of cosine 1."""
    servo_rate: float = 0.02
    """Entropy servo: change of the weight per nat."""
    initial_weight: float = 0.5
    """AMFT, entropy servo: the weight of imitation after the warm-up."""
    warm_up: int = 10
    """AMFT, entropy servo: steps of imitation before."""
    utility: Literal["reward", "cross_entropy"] = "reward"
    """AMFT: what the meta-gradient climbs."""
    eval_every: int = 20
    """Steps between two looks at held-out problems."""
    eval_problems: int = 256
    """Problems of each look, and twice as many of each at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("width", "base_steps", "base_batch", "num_prompts", "num_demonstrations")
        rates = ("base_learning_rate", "learning_rate", "critic_learning_rate", "meta_rate")
        cli.check(
            self,
            positive=(*counts, "num_validation", "eval_every", "eval_problems", *rates),
            not_negative=("entropy_rate", "servo_rate", "warm_up"),
        )
        for name in ("num_seeds", "group_size"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if not 0.05 < self.initial_weight < 0.95:
            raise ValueError(f"initial_weight must lie between 0.05 and 0.95, got {self.initial_weight}")
        if self.num_validation >= self.num_prompts:
            raise ValueError(
                f"num_validation must be below num_prompts = {self.num_prompts}, got {self.num_validation}"
            )
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms must be different, got {self.arms}")


PRESETS = {
    "quick": Config(steps=400),
    "small": Config(steps=400, num_seeds=5, arms=get_args(Arm)),
    "points": Config(
        task="general_points",
        steps=400,
        arms=("sft", "rl", "sft_rl", "fixed_02", "fixed_05", "amft"),
        base_steps=4000,
        base_batch=256,
    ),
    "full": Config(
        task="general_points",
        steps=500,
        num_seeds=5,
        arms=get_args(Arm),
        width=128,
        base_steps=4000,
        base_batch=256,
        num_prompts=64,
        num_validation=16,
        num_demonstrations=256,
        eval_problems=1024,
    ),
}
CURVES = ("success", "entropy", "imitation_weight", "imitation_loss")


class Tasks(NamedTuple):
    """What policies learn from, and what is asked of them then. All have one vocabulary."""

    base: TokenTask  # wider than what the arms train on: an arm can forget some of it, or carry its progress over
    train: TokenTask  # of the arms
    questions: dict[str, TokenTask]  # the first is held out, but otherwise alike


def tasks(config: Config) -> Tasks:
    """The problems of the configuration."""
    if config.task == "countdown":
        some = partial(tokens.make_task, "countdown", max_numbers=3, max_target=20)
        return Tasks(
            tokens.make_task("countdown"),
            some(min_numbers=3),
            {
                "held out": some(min_numbers=3, part="held_out"),
                "other targets": tokens.make_task(
                    "countdown", part="held_out", min_numbers=3, max_numbers=3, min_target=21
                ),
                "four numbers": tokens.make_task("countdown", part="held_out", min_numbers=4),
            },
        )
    make = partial(tokens.make_task, "general_points", max_cards=5, scale="binary")
    return Tasks(
        make(split="diverse"),
        make(split="id"),
        {
            "held out": make(split="id", part="held_out"),
            "rule shift": make(split="rule", part="held_out"),
            "large cards": make(split="large", part="held_out"),
            "five cards": make(split="five", part="held_out"),
            "fake": make(split="fake", part="held_out"),
        },
    )


def policy(config: Config, outputs: int | None = None) -> SequencePolicy:
    """The policy that everybody trains; with one output, a critic like it."""
    task = tasks(config).train
    if config.network == "gru":
        return policies.gru(task.num_tokens, config.width, outputs)
    longest = task.prompt_length + task.answer_length
    return policies.transformer(task.num_tokens, config.width, max_length=longest, outputs=outputs)


def optimizer(learning_rate: float) -> optax.GradientTransformation:
    """Adam on clipped gradients, with derivatives that are finite."""
    return optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(learning_rate))


class Way(NamedTuple):
    """How an arm trains."""

    controller: Controller
    settings: Settings
    credit: credit.Credit
    imitation: Imitation = sft
    critic: Critic | None = None


def way(config: Config, arm: str) -> Way:
    """What makes `arm` what it is. All arms draw as many answers and make as many steps."""
    settings = Settings(
        num_prompts=config.num_prompts,
        group_size=config.group_size,
        num_demonstrations=config.num_demonstrations,
        num_validation=config.num_validation,
        utility=config.utility,
    )
    given = credit.grpo(config.group_size)
    simple: dict[str, Controller] = {
        "sft": controllers.constant(1.0),
        "rl": controllers.constant(0.0),
        "sft_rl": controllers.schedule(controllers.switch(0.5)),
        "fixed_02": controllers.constant(0.2),
        "fixed_05": controllers.constant(0.5),
        "fixed_08": controllers.constant(0.8),
        "cosine": controllers.schedule(controllers.cosine(0.9, 0.1)),
        "srft": controllers.srft(),
        "servo": controllers.entropy_servo(config.initial_weight, config.servo_rate, warm_up=config.warm_up),
        "dual": controllers.dual_ascent(limit=0.5),
    }
    if arm in simple:
        return Way(simple[arm], settings, given)
    if arm == "rl_critic":
        judge = Critic(policy(config, outputs=1), optimizer(config.critic_learning_rate))
        return Way(controllers.constant(0.0), settings, credit.gae(), critic=judge)
    if arm == "relift":
        size = config.num_demonstrations
        settings = settings._replace(failures=size, separate=True)
        return Way(controllers.success_gate(size), settings, given, _with_entropy)
    if arm == "prefix_rft":
        shown = credit.prefix_group(config.group_size, lone="reward")
        return Way(controllers.prefix_schedule(), settings._replace(hybrid=0.95), shown)
    controller = controllers.amft(
        config.initial_weight,
        entropy_rate=0.0 if arm == "amft_meta" else config.entropy_rate,
        meta_every=0 if arm.startswith("amft_entropy") else 1,
        sign=-1.0 if arm.endswith("other_sign") else 1.0,
        warm_up=config.warm_up,
    )
    # validation has its share of the answers
    settings = settings._replace(num_prompts=config.num_prompts - config.num_validation)
    return Way(controller, settings, given)


def _dual_clip(x: Judged, batch: Batch, advantage: Array) -> Array:
    return terms.dual_clip(x.log_prob, batch.old_log_prob, advantage)


def _with_entropy(x: Judged) -> Array:
    """ReLIFT's loss of demonstrations, with the coefficient of the paper's last version."""
    return sft(x) + 1e-4 * terms.entropy_bonus(x.logits)


def base(config: Config) -> Meta:
    """Supervised learning from nothing, one policy per seed."""
    settings = Settings(num_prompts=1, group_size=2, num_demonstrations=config.base_batch)
    learner = policy(config)

    def make(seed: Array) -> Meta:
        inner = finetune(
            learner,
            tasks(config).base,
            learner.init,
            controllers.constant(1.0),
            optimizer(config.base_learning_rate),
            credit.dr_grpo(2),
            settings,
        )
        return _compose(config, inner, config.base_steps)

    return _watched(config, side_by_side(make, jnp.arange(config.num_seeds)))


def tuned(config: Config, arm: str, start: Params) -> Meta:
    """The runs of one arm, from the base policies `start` (leaves [num_seeds, ...])."""
    controller, settings, given, imitation, critic = way(config, arm)

    def make(params: Params) -> Meta:
        inner = finetune(
            policy(config),
            tasks(config).train,
            lambda key: params,
            controller,
            optimizer(config.learning_rate),
            given,
            settings,
            critic=critic,
            imitation=imitation,
            reward=_dual_clip,
        )
        return _compose(config, inner, config.steps)

    return _watched(config, side_by_side(make, start))


def _compose(config: Config, inner: metarl.InnerLoop, horizon: int) -> Meta:
    training = Levels(None, lambda key: Level((), jnp.int32(horizon + 1)))  # type: ignore[arg-type]
    return metarl.compose(
        inner,
        metarl.estimators.backprop(1),
        optax.sgd(config.meta_rate),
        metarl.curricula.uniform(training),
        num_lifetimes=1,
    )


def _policies(state: MetaState) -> Params:
    """Leaves [num_seeds, ...]: those of the only lifetime of each seed."""
    return jax.tree.map(lambda x: x[:, 0], state.lifetimes.params)


def _watched(config: Config, meta: Meta) -> Meta:
    """`meta`, which looks at held-out problems every so often: `held_out` [num_seeds], NaN in between."""
    learner, question = policy(config), next(iter(tasks(config).questions.values()))

    def look(params: Params) -> Array:
        key = jax.random.key(HELD_OUT)
        return jax.vmap(lambda p: success_rate(learner, question, p, key, config.eval_problems))(params)

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        state, metrics = meta.step(state, key)
        held_out = jax.lax.cond(
            state.step % config.eval_every == 0,
            look,
            lambda params: jnp.full(config.num_seeds, jnp.nan),
            _policies(state),
        )
        return state, {**metrics, "held_out": held_out}

    return Meta(meta.init, step)


def part(config: Config, directory: Path, name: str, meta: Meta, steps: int) -> tuple[Params, Log]:
    """One run of the comparison, with its own files; the trained policies (leaves [num_seeds, ...]) and its log."""
    place = directory / name
    started = bool(checkpoint.steps(place))
    if started:  # how long it lasts is a part of what it is: schedules are stretched to it
        _, state, _ = checkpoint.restore(place, jax.eval_shape(meta.init, jax.random.key(0)))
        if (was := int(state.lifetimes.level.horizon.max()) - 1) != steps:
            raise ValueError(f"{place} was begun as a run of {was} steps: it cannot become one of {steps}")
    own = dataclasses.replace(
        config, arms=(name,) if name in config.arms else (), directory=str(place), steps=steps, resume=started
    )
    state, log = cli.run(meta, own, curves=CURVES)
    return _policies(state), log


def examiner(config: Config) -> Callable[[Params], dict[str, np.ndarray]]:
    """Gives the success [num_seeds] of policies (leaves [num_seeds, ...]) on each kind of problems, greedy and sampled.

    Every kind is compiled once, for all arms.
    """
    learner, key, count = policy(config), jax.random.key(HELD_OUT - 1), 2 * config.eval_problems

    def rate(task: TokenTask, temperature: float) -> Callable[[Params], Array]:
        return jax.jit(jax.vmap(lambda params: success_rate(learner, task, params, key, count, temperature)))

    questions = tasks(config).questions
    exams = {name: rate(task, 0.0) for name, task in questions.items()}
    first, task = next(iter(questions.items()))
    exams[f"{first}, sampled"] = rate(task, 1.0)
    return lambda params: {name: np.asarray(exam(params)) for name, exam in exams.items()}


def intervals(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Interval]]:
    """Over seeds, of what was found of each arm (values [num_seeds])."""
    return {arm: {name: over_runs(jnp.asarray(x)) for name, x in row.items()} for arm, row in found.items()}


def at_the_end(log: Log) -> dict[str, np.ndarray]:
    """For each seed [num_seeds], what its last steps were like."""
    names = ("success", "entropy", "imitation_weight", "reward_weight")
    return {name: np.asarray(log[name])[-LAST:].mean(0).reshape(-1) for name in names}


def best_fixed(success: Mapping[str, Mapping[str, np.ndarray]], question: str) -> str | None:
    """Of the arms of one weight throughout, the one that is best on `question`, which favours it; None without any."""
    fixed = [arm for arm in success if arm.startswith("fixed_")]
    return max(fixed, key=lambda arm: success[arm][question].mean(), default=None)


def steps_to_goal(log: Log) -> list[int | None]:
    """For each seed, the first step at which held-out success was seen to be at least `GOAL`."""
    seen = np.asarray(log["held_out"])  # [steps, num_seeds]
    reached = [np.flatnonzero(column >= GOAL) for column in seen.T]
    return [int(steps[0]) + 1 if len(steps) else None for steps in reached]


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit():
        if not config.arms:
            raise ValueError("arms must name at least one")
        if config.sweep:
            cli.one_device_per_core()
            shared = {"task", "network", "width", "num_seeds"} | {x for x in vars(config) if x.startswith("base_")}
            if swept := sorted(shared & sweeps.parse(config).keys()):
                raise ValueError(f"sweep must leave {swept} alone: all members go on from the same base policies")
        directory = cli.directory_of_runs(config, "amft")
        start, _ = part(config, directory, "base", base(config), config.base_steps)
        if config.sweep:
            for arm in config.arms:
                own = dataclasses.replace(config, arms=(arm,), directory=str(directory / arm))
                sweeps.run(partial(tuned, arm=arm, start=start), own, CURVES)
            return
        examine = examiner(config)
        found, logs = {"base": examine(start)}, dict[str, Log]()
        for arm in config.arms:
            params, logs[arm] = part(config, directory, arm, tuned(config, arm, start), config.steps)
            found[arm] = examine(params)
        success = intervals(found)
        cli.show_intervals(success, "arm", "share of problems solved")
        others = {arm: row for arm, row in found.items() if "amft" in found and arm != "amft"}
        lead = intervals({arm: {x: found["amft"][x] - row[x] for x in row} for arm, row in others.items()})
        if lead:
            cli.show_intervals(lead, "arm", "share of problems solved by amft minus that by the arm, seed by seed,")
        question = next(iter(tasks(config).questions))
        best = best_fixed(found, question)
        if best and lead:
            by = lead[best][question]
            print(f"amft minus the best fixed weight ({best}), {question}: {by.mean:.3f} [{by.low:.3f}, {by.high:.3f}]")
        last = intervals({arm: at_the_end(log) for arm, log in logs.items()})
        cli.show_intervals(last, "arm", f"means over the last {LAST} steps")
        goal = {arm: steps_to_goal(log) for arm, log in logs.items()}
        for name, steps in goal.items():
            print(f"{name}: steps to {GOAL:g} held out, by seed: {', '.join(map(str, steps))}")
        cli.write_json(
            directory / "amft.json",
            {
                "config": dataclasses.asdict(config),
                "hardware": cli.hardware(),
                "success": found,
                **{
                    name: {row: {x: i._asdict() for x, i in columns.items()} for row, columns in table.items()}
                    for name, table in (("intervals", success), ("amft minus", lead), ("at the end", last))
                },
                "best fixed weight": best,
                f"steps to {GOAL:g} held out": goal,
            },
        )
        draw(logs, directory / "amft.png")
        print(f"results in {directory}", file=sys.stderr)


def draw(logs: Mapping[str, Log], path: Path) -> None:
    """What the arms did over their training: held-out success, entropy, and the weight of imitation."""

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


if __name__ == "__main__":
    main()

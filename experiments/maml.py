"""Meta-train where learners begin: MAML, Meta-SGD, first-order MAML and Reptile, for regression and for agents.

python -m experiments.maml                                     # few-shot regression of sinusoids, a minute
python -m experiments.maml --preset sinusoid --method meta_sgd
python -m experiments.maml --preset gridworld                  # agents that must find a hidden goal
python -m experiments.maml --preset cartpole
python -m experiments.maml --preset sources                    # Meta-RTL: which sources help a target?

Finn et al. 2017 (arXiv 1703.03400), Li et al. 2017 (arXiv 1707.09835), Nichol et al. 2018 (arXiv 1803.02999). The
report is on unseen tasks, after 0, 1, 2, ... updates: of the method, of pretraining on all tasks together, and of
random parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import envs
import metarl
from envs import regression
from experiments import launch, parts
from metarl import checks, curricula, estimators, optimizers, plot
from metarl.checks import COUNT, COUNT_OR_ZERO, RATE, SHARE
from metarl.evaluation.families import family
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.measure import learning_curves
from metarl.evaluation.scales import diverged_as_random
from metarl.evaluation.statistics import over_points
from metarl.inner.initial import Initial
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.meta import Curriculum, Estimator, InnerLoop, Meta, MetaState
from metarl.optimizers.learned import LearnedOptimizer, transform
from metarl.parallel import Placement
from metarl.rl.rollout import model
from metarl.rules import Part, Recipe, build, build_part
from metarl.run.checkpoint import Log
from metarl.run.files import write_json
from metarl.run.options import replace
from metarl.types import Array, Key, Levels, Params, Task

Method = Literal["maml", "meta_sgd", "fomaml", "reptile", "pretraining"]
SINUSOID, SOURCES = "regression/sinusoid", "regression/sources"
RATES = np.logspace(-3.0, 2.0, 11)  # of fine-tuning, for those that are compared with
TUNING_TASKS = 64


@dataclasses.dataclass(frozen=True)
class Problems:
    """What is learned."""

    levels: str = SINUSOID
    """Distribution of tasks: regression/sinusoid, regression/sources, or for agents any name that envs.make accepts."""
    shots: Annotated[int, COUNT] = 10
    """Regression: points of a curve that a learner sees."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check((SINUSOID, SOURCES), levels=self.levels)
        if not self.supervised:
            parts.refuse_inert(self, ("shots",), f"on {self.levels}, where agents make their own experience")

    @property
    def supervised(self) -> bool:
        """Whether the learners are no agents."""
        return self.levels in (SINUSOID, SOURCES)

    def task(self) -> Task:
        """The regression to be good at."""
        return regression.few_shot(regression.target if self.levels == SOURCES else regression.sinusoids(), self.shots)

    def make(self, updates: int) -> Levels:
        """The tasks to be good at, for lives of `updates`."""
        return task_levels(self.task(), updates) if self.supervised else envs.make(self.levels, updates)


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """How learners adapt to a task, and how their initialisation is trained."""

    method: Method = "maml"
    """Meta-gradients through the updates (maml), with a learned rate for each parameter (meta_sgd), with constant
    gradients (fomaml); towards the adapted learners (reptile); or of learners that do not adapt (pretraining)."""
    updates: Annotated[int, COUNT] = 1
    """Updates that a learner makes on a task in training."""
    adaptation_rate: Annotated[float, RATE] = 0.01
    """Learning rate of these updates (meta_sgd: where the rates begin)."""
    num_lifetimes: Annotated[int, COUNT] = 25
    """Tasks in a meta-step."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.method == "pretraining":
            parts.refuse_inert(self, ("updates", "adaptation_rate"), "with method pretraining, which does not adapt")

    def estimator(self) -> Estimator:
        make = estimators.reptile if self.method == "reptile" else estimators.backprop
        return make(self.updates)

    def optimizer(
        self, learner: optax.GradientTransformation | LearnedOptimizer
    ) -> optax.GradientTransformation | LearnedOptimizer:
        """The learners' optimizer in training, made of that which they have afterwards."""
        if self.method == "pretraining":
            return optax.set_to_zero()
        if self.method == "fomaml":
            assert not isinstance(learner, LearnedOptimizer)
            return optax.chain(optimizers.first_order(), learner)
        return learner


@dataclasses.dataclass(frozen=True)
class Agents(parts.Agents):
    """How agents collect experience, and what they minimise (A2C)."""

    discount: Annotated[float, SHARE] = 0.99
    """Discount of their returns, and of those in the meta-objective."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """Meta-RTL: which of the sources are trained on."""

    weights: Literal["uniform", "improvement", "similarity"] = "uniform"
    """How sources are weighed: alike, or by REINFORCE, which rewards what improves learners of the target, or what
    moves learners as the target does."""
    weight_rate: Annotated[float, RATE] = 0.03
    """Adam's learning rate of the weights."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.weights == "uniform":
            parts.refuse_inert(self, ("weight_rate",), "with weights uniform, which stay")


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The report at the end, on tasks that are never trained on."""

    held_out_levels: Annotated[int, COUNT_OR_ZERO] = 600
    """Tasks of the report, with one learner each; 0 for no report."""
    held_out_updates: tuple[Annotated[int, COUNT_OR_ZERO], ...] = (0, 1, 2, 5, 10)
    """Updates after which learners are tested, in increasing order."""
    held_out_episodes: Annotated[int, COUNT] = 16
    """Episodes of each test of an agent."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.held_out_levels == 1:
            raise ValueError("held_out_levels must be at least 2, for an interval, or 0, got 1")
        updates = self.held_out_updates
        if not updates or list(updates) != sorted(set(updates)) or updates[-1] < 1:
            raise ValueError(f"held_out_updates must increase, to at least 1, got {updates}")


@dataclasses.dataclass(frozen=True)
class Config:
    """A learned initialisation."""

    run: parts.Run = parts.Run(steps=6_000, chunk=500, checkpoint_every=3_000)
    sweep: parts.Sweep = parts.Sweep()
    problems: Problems = Problems()
    adaptation: Adaptation = Adaptation()
    agents: Agents = Agents()
    sources: Sources = Sources()
    optimizer: parts.ClippedAdam = parts.ClippedAdam()
    held_out: HeldOut = HeldOut()

    def __post_init__(self) -> None:
        name = self.problems.levels
        if self.problems.supervised:
            parts.refuse_inert(self.agents, vars(self.agents), f"on {name}, which has no agents", Agents())
            parts.refuse_inert(self.held_out, ("held_out_episodes",), f"on {name}, which has no agents")
        if name != SOURCES:
            parts.refuse_inert(self.sources, ("weights", "weight_rate"), f"on {name}, which has no sources")


AGENTS = replace(
    Config(), levels="gridworld/hidden_goal", steps=500, chunk=20, checkpoint_every=100, held_out_levels=256
)
PRESETS = {
    "quick": replace(Config(), steps=3_000, held_out_levels=200),
    "sinusoid": Config(),
    "gridworld": replace(AGENTS, steps=200, adaptation_rate=50.0, learning_rate=0.1, rollout_length=16),
    "cartpole": replace(
        AGENTS,
        levels="cartpole/varied",
        adaptation_rate=0.3,
        learning_rate=3e-3,
        rollout_length=64,
        held_out_levels=64,
        held_out_episodes=4,
    ),
    "sources": replace(Config(), levels=SOURCES, weights="improvement", method="reptile", updates=10, steps=2_000),
}


def recipe(config: Config) -> Recipe:
    """The learners: agents that follow A2C's gradient, or an optimizer for regression; from a learned start."""
    how = config.adaptation
    optimizer: Part = {"name": "sgd", "learning_rate": how.adaptation_rate}
    learned: Recipe = {"optimizer": optimizer, "initial": {"name": "learned"}}
    if not config.problems.supervised:
        env = envs.make(config.problems.levels).environment
        agents = vars(config.agents)
        learned = {
            **learned,
            "objective": {"name": "a2c", "normalise_advantage": True, "discount": config.agents.discount},
            "network": family(config.problems.levels, env).network,
            "policy": {"name": "by_action_space"},
            "experience": {name: x for name, x in agents.items() if name != "discount"},
        }
    if how.method == "meta_sgd":
        shapes = optimizers.shapes_of(_init(config, learned))
        return {**learned, "optimizer": {"name": "meta_sgd", "shapes": shapes, "learning_rate": how.adaptation_rate}}
    return learned


def _init(config: Config, learned: Recipe) -> Callable[[Key], Params]:
    """Random initial parameters of the learners."""
    if config.problems.supervised:
        task = config.problems.task()
        return lambda key: task.init(key, task.sample(key))
    env, outputs = envs.make(config.problems.levels).environment, build_part("objective", learned["objective"]).outputs
    return model(env, build_part("network", learned["network"]), outputs).network.init


def inner_loop(
    config: Config,
    optimizer: optax.GradientTransformation | LearnedOptimizer,
    initial: Initial,
) -> InnerLoop:
    """Learners with this optimizer and this initialisation."""
    if config.problems.supervised:
        return supervised_inner_loop(config.problems.task(), optimizer, initial=initial)
    learner, levels = build(recipe(config)), envs.make(config.problems.levels)
    critic = build_part("optimizer", family(config.problems.levels, levels.environment).critic)
    return learner._replace(optimizer=optimizer, initial=initial).inner_loop(
        levels.environment,
        critic=metarl.Critic(critic, discount=config.agents.discount),
        num_eval_episodes=config.held_out.held_out_episodes,
    )


def make(config: Config) -> Meta:
    """The meta-training run that `config` describes."""
    how = config.adaptation
    inner = inner_loop(config, how.optimizer(build(recipe(config)).optimizer), "learned")
    meta_optimizer = config.optimizer.make(config.run.steps)
    return metarl.compose(inner, how.estimator(), meta_optimizer, curriculum(config), how.num_lifetimes)


def curriculum(config: Config) -> Curriculum:
    """Tasks like those to be good at; with sources, theirs."""
    updates, shots = config.adaptation.updates, config.problems.shots
    target = config.problems.make(updates)
    if config.problems.levels != SOURCES:
        return curricula.uniform(target)
    levels = [task_levels(regression.few_shot(draw, shots), updates) for draw in regression.SOURCES.values()]
    rewards = {"improvement": curricula.improvement, "similarity": curricula.similarity}
    if config.sources.weights == "uniform":
        return curricula.uniform(curricula.pooled(levels))
    return curricula.weighted(
        levels, rewards[config.sources.weights](target, updates), optax.adam(config.sources.weight_rate)
    )


# --- the report -----------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """Where learners begin, and how they go on."""

    initial: Initial
    optimizer: Callable[[Array], optax.GradientTransformation]  # of a rate


def report(config: Config, state: MetaState, log: Log, directory: Path) -> launch.Report:
    """What learners of unseen tasks are worth after some updates; as a table, a plot and `adaptation.json`.

    A learner that diverged counts as one at random parameters that has not begun.
    """
    if not config.held_out.held_out_levels:
        return {}
    how, learned = config.adaptation, build(recipe(config)).optimizer
    tuned = {"random": Start("random", optax.sgd)}
    if how.method != "pretraining":
        tuned["pretraining"] = Start(_pretrained(config), optax.sgd)
    found: dict[str, np.ndarray] = {}
    if how.method == "meta_sgd":
        assert isinstance(learned, LearnedOptimizer)
        found[how.method] = measured(
            config, Start(state.params["initial"], lambda rate: transform(learned, state.params))
        )
    elif how.method == "pretraining":
        tuned[how.method] = Start(state.params["initial"], optax.sgd)
    else:
        found[how.method] = measured(config, Start(state.params["initial"], optax.sgd), how.adaptation_rate)
    rates = {name: tune(config, start) for name, start in tuned.items()}
    found |= {name: measured(config, start, rates[name]) for name, start in tuned.items()}
    untrained = float(found["random"][:, 0].mean())
    found = {name: diverged_as_random(curves, untrained) for name, curves in found.items()}

    updates = config.held_out.held_out_updates
    bands = {name: np.stack(over_points(curves), 1) for name, curves in found.items()}
    drawn = {name: (np.array(updates), *band.T) for name, band in bands.items()}
    figure = plot.sample_efficiency({config.problems.levels: drawn}, "updates on an unseen task", _score(config))
    plot.save(figure, directory / "adaptation.png")
    write_json(
        directory / "adaptation.json",
        {"updates": list(updates), "rates": rates} | {x: y.tolist() for x, y in bands.items()},
    )
    return {
        f"{name} after {count}": {"mean": mean, "low": low, "high": high, "rate": rates.get(name, how.adaptation_rate)}
        for name, band in bands.items()
        for count, (mean, low, high) in zip(updates, band, strict=True)
    }


def _score(config: Config) -> str:
    return "squared error" if config.problems.supervised else "return"


def _pretrained(config: Config) -> Params:
    """Parameters that were trained for as many meta-steps on all tasks together, by learners that do not adapt."""
    how = Adaptation("pretraining", num_lifetimes=config.adaptation.num_lifetimes)
    plain = dataclasses.replace(config, adaptation=how, sources=Sources())
    options = {name: x for name, x in launch.training_options(config.run).items() if not name.startswith("resume")}
    return metarl.train(make(plain), **options)[0].params["initial"]


def measured(config: Config, start: Start, rate: float = 1.0) -> np.ndarray:
    """Squared errors or returns [tasks, points] of learners of unseen tasks."""
    return _curves(config, start, jnp.float32([rate]), jax.random.key(HELD_OUT), config.held_out.held_out_levels)[0]


def tune(config: Config, start: Start) -> float:
    """The best of `RATES` for fine-tuning, by the mean over the updates of the report, on tasks as in training."""
    sign = -1.0 if config.problems.supervised else 1.0
    tested = [i for i, count in enumerate(config.held_out.held_out_updates) if count]
    curves = _curves(config, start, jnp.asarray(RATES, jnp.float32), jax.random.key(config.run.seed), TUNING_TASKS)
    values = sign * curves[..., tested].mean((1, 2))
    return float(RATES[np.where(np.isfinite(values), values, -np.inf).argmax()])


def _curves(config: Config, start: Start, rates: Array, key: Key, count: int) -> np.ndarray:
    """[rates, tasks, points] of one learner for each rate and each of `count` tasks."""
    updates = config.held_out.held_out_updates
    level_keys, keys = jax.random.split(key, (2, count))
    levels = jax.vmap(config.problems.make(updates[-1]).sample)(level_keys)
    every = jnp.repeat(rates, count)
    pairs = jax.tree.map(lambda x: jnp.tile(x, (len(rates),) + (1,) * (x.ndim - 1)), (levels, keys))

    def learner(rate: Array) -> InnerLoop:
        return inner_loop(config, start.optimizer(rate), start.initial)

    curves = partial(learning_curves, learner, ends=updates, placement=Placement(batch_size=256))
    found = np.asarray(jax.jit(curves)(every, *pairs), float).reshape(len(rates), count, -1)
    return -found if config.problems.supervised else found


EXPERIMENT = launch.Experiment(
    "maml",
    make,
    curves=(
        "meta_loss",
        "loss",
        "episode_return",
        "meta_gradient_norm",
        "source_reward",
        *(f"weight_{i}" for i in range(6)),
    ),
    recipe=recipe,
    report=report,
    score="squared error of regression, or return of agents, after some updates on unseen tasks",
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

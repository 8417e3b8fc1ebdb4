"""Meta-train how networks follow their gradients: learned optimizers, by evolution over whole or truncated trainings.

python -m experiments.learned_optimizer                   # a network on handwritten digits, some minutes
python -m experiments.learned_optimizer --preset gridworld
python -m experiments.learned_optimizer --preset mixture
python -m experiments.learned_optimizer --preset gridworld --without dormancy layer
python -m experiments.learned_optimizer --preset gridworld --objective lpg   # the objective is learned, too

OPEN (Goldie et al. 2024, arXiv 2407.07082) and its kin, against Adam, RMSprop and SGD at the best rate of a sweep.
`python -m experiments.ablation` trains OPEN without each group of its features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import envs
import metarl
from envs import tasks
from experiments import launch, parts
from metarl import checks, networks, objectives, plot
from metarl.checks import COUNT, NOT_NEGATIVE, POSITIVE, WIDTH
from metarl.curricula import uniform
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.measure import final_returns
from metarl.evaluation.scales import normalised_return
from metarl.evaluation.updates import draw_sizes, draw_update
from metarl.inner.mixture import mixed_levels, mixture
from metarl.inner.rl import Experience
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.meta import InnerLoop, Meta, MetaState
from metarl.objectives.lpg import UNREGULARISED
from metarl.optimizers.learned import LearnedOptimizer
from metarl.optimizers.open import Group
from metarl.optimizers.per_parameter import clip_by_network
from metarl.parallel import Placement, dividing
from metarl.rules import Part, Recipe, build_part, load_rule
from metarl.run.checkpoint import Log
from metarl.run.options import replace
from metarl.types import Array, Key, Level, Levels, Task

OptimizerName = Literal["open", "open_feedforward", "no_features", "adafac", "schedule"]
Rate = Array | float

RATES = np.logspace(-3.5, 1.0, 10)  # of the sweep of every plain optimizer
TASKS: dict[str, Callable[[], Task]] = {
    "supervised/digits": tasks.mlp_digits,
    "supervised/logistic": tasks.logistic_digits,
    "supervised/quadratic": tasks.quadratic,
}


@dataclasses.dataclass(frozen=True)
class Distribution(parts.Distribution):
    """The problems that are trained on."""

    others: ClassVar[Collection[str]] = tuple(TASKS)


@dataclasses.dataclass(frozen=True)
class More:
    """What else is learned with the optimizer."""

    more_levels: tuple[str, ...] = ()
    """More distributions, each with a lifetime of its own in every member: fitness is relative to tuned Adam's."""

    def __post_init__(self) -> None:
        envs.check(TASKS, more_levels=self.more_levels)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The learned optimizer."""

    optimizer: OptimizerName = "open"
    """Which optimizer is learned."""
    without: tuple[Group, ...] = ()
    """OPEN: features that it does not see, or noise that it does not make."""
    hidden: Annotated[int, WIDTH] = 8
    """OPEN: units of its recurrent network."""
    width: Annotated[int, WIDTH] = 16
    """Of the optimizer's other layers."""
    scale: Annotated[float, POSITIVE] = 1e-3
    """Size of an update whose output is 1 (schedule: its learning rate at the start)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.optimizer != "open":
            parts.refuse_inert(self, ("hidden",), f"with optimizer {self.optimizer}")
        if not self.optimizer.startswith("open"):
            parts.refuse_inert(self, ("without",), f"with optimizer {self.optimizer}")
        if self.optimizer == "schedule":
            parts.refuse_inert(self, ("width",), "with optimizer schedule")

    def recipe(self) -> Part:
        if self.optimizer == "schedule":
            return {"name": "schedule", "learning_rate": self.scale}
        sizes: dict[str, Any] = {"width": self.width, "scale": self.scale}
        if self.optimizer.startswith("open"):
            hidden = self.hidden if self.optimizer == "open" else 0
            return {"name": "open_rl", "hidden": hidden, "without": self.without, **sizes}
        return {"name": self.optimizer, **sizes}

    def make(self, **options: Any) -> LearnedOptimizer:
        """The optimizer; its `max_norm` is its own unless given."""
        return build_part("optimizer", {**self.recipe(), **options})


@dataclasses.dataclass(frozen=True)
class AgentRule:
    """What agents follow, if there are any."""

    objective: Literal["ppo", "lpg"] = "ppo"
    """What they follow. That of LPG is learned together with the optimizer, and plain optimizers follow PPO."""
    rule: str = ""
    """An LPG that all follow as it is: the name of a shipped one, or the rule.safetensors of a run."""
    rule_hidden: Annotated[int, WIDTH] = 32
    """Width of LPG's GRU, if it is learned."""
    temporal: bool = False
    """Let LPG, if it is learned, see the agent's age and how long it will live."""
    network: tuple[Annotated[int, COUNT], ...] = ()
    """Hidden layers (none: tables where observations are integers, else 64 and 64)."""
    entropy_coef: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight of the entropy of PPO's policy in its loss."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.objective != "lpg":
            parts.refuse_inert(self, ("rule", "rule_hidden", "temporal"), f"with objective {self.objective}")
        elif self.rule:
            inert = ("rule_hidden", "temporal", "entropy_coef")
            parts.refuse_inert(self, inert, "with a rule that is learned already")

    def lpg(self) -> Part:
        """LPG, to be learned by evolution, whose whole meta-objective is fitness."""
        return {"name": "lpg", "hidden": self.rule_hidden, "temporal": self.temporal, **UNREGULARISED}

    def ppo(self) -> metarl.Objective:
        return objectives.ppo(entropy_coef=self.entropy_coef)

    def make(self) -> metarl.Objective:
        """What the agents of the learned optimizer follow. Raises ValueError if `rule` is no LPG."""
        if self.objective == "ppo":
            return self.ppo()
        if not self.rule:
            return build_part("objective", self.lpg())
        rule = load_rule(self.rule)
        if rule.objective is None or rule.card["recipe"]["objective"]["name"] != "lpg":
            raise ValueError(f"rule must have learned an LPG, got {self.rule!r}: {rule.card['recipe']}")
        return rule.objective

    def network_part(self, env: Any) -> Part:
        integers = hasattr(env.observation_space(env.default_params), "n")
        return (
            {"name": "tabular"} if integers and not self.network else {"name": "mlp", "sizes": self.network or (64, 64)}
        )


PASSES = parts.Passes(epochs=2, minibatches=2)  # LPG's targets are for one step on the whole rollout


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The sweep of the plain optimizers that the report compares with."""

    tuning_levels: Annotated[int, COUNT] = 8
    """Training levels on which the rates of plain optimizers are swept, with `tuning_seeds` agents each."""
    tuning_seeds: Annotated[int, COUNT] = 4
    """Agents per level in the sweep."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """A learned optimizer, meta-trained by evolution strategies."""

    run: parts.Run = parts.Run()
    sweep: parts.Sweep = parts.Sweep()
    distribution: Distribution = Distribution("supervised/digits", longest_life=250, shortest_life=250)
    more: More = More()
    learned: Optimizer = Optimizer()
    agents: parts.Agents = parts.Agents()
    passes: parts.Passes = PASSES
    rule: AgentRule = AgentRule()
    estimator: parts.Evolution = parts.Evolution()
    optimizer: parts.DecayedAdam = parts.DecayedAdam()
    tuning: Tuning = Tuning()
    held_out: parts.HeldOut = parts.HeldOut(32, 4, 128)

    def __post_init__(self) -> None:
        lives = self.distribution
        checks.within(int, COUNT, longest_life=lives.longest_life, shortest_life=lives.shortest_life)
        if self.distribution.levels in TASKS and self.distribution.shortest_life != self.distribution.longest_life:
            raise ValueError(
                f"shortest_life must be longest_life = {self.distribution.longest_life}: trainings of "
                f"{self.distribution.levels} are all of one length, got {self.distribution.shortest_life}"
            )
        if len(set(self.places)) < len(self.places):
            raise ValueError(f"levels must be different, got {self.places}")
        if self.supervised:
            because = f"on {', '.join(self.places)}, which have no agents"
            parts.refuse_inert(self.estimator, ("eval_episodes",), because)
            for part, default in ((self.agents, parts.Agents()), (self.passes, PASSES), (self.rule, AgentRule())):
                parts.refuse_inert(part, vars(part), because, default)
        elif self.rule.rule:
            parts.refuse_inert(self.passes, vars(self.passes), "with a rule, which takes one step per rollout", PASSES)
        parts.refuse_inert(self.held_out, ("held_out_horizons",), "here, where reports are over one horizon")

    @property
    def places(self) -> tuple[str, ...]:
        """All that is learned with the optimizer: names that envs.make accepts, or of `TASKS`."""
        return self.distribution.levels, *self.more.more_levels

    @property
    def supervised(self) -> bool:
        """Whether there are no agents."""
        return set(self.places) <= set(TASKS)


GRIDWORLD = replace(
    Config(),
    levels="gridworld/small",
    steps=40,
    chunk=5,
    scale=0.1,
    longest_life=100,
    shortest_life=100,
    num_envs=8,
    learning_rate=0.03,
    sigma=0.03,
    shaping="centred_ranks",
)
PRESETS = {
    "quick": replace(
        Config(),
        steps=100,
        optimizer="adafac",
        shortest_life=200,
        longest_life=200,
        num_pairs=8,
        held_out_levels=4,
        shaping="centred_ranks",
        learning_rate=0.03,
        sigma=0.03,
        scale=1e-2,
        tuning_levels=2,
    ),
    "gridworld": GRIDWORLD,
    "mixture": replace(GRIDWORLD, more_levels=("bandit/bernoulli",)),
    "minatar": replace(
        Config(),
        levels="Breakout-MinAtar",
        steps=500,
        shortest_life=250,
        longest_life=250,
        num_pairs=32,
        num_envs=64,
        rollout_length=128,
        network=(64, 64),
        epochs=4,
        minibatches=8,
        sigma=0.03,
        sigma_decay=0.999,
        learning_rate=0.03,
        shaping="centred_ranks",
    ),
}


def recipe(config: Config) -> Recipe:
    """The optimizer that is meta-trained, in the agents that follow it first; LPG too, if it is learned.

    The optimizer alone where there are no agents, or they follow a rule as it is, which a recipe cannot name.
    """
    rule, first = config.rule, next((x for x in config.places if x not in TASKS), None)
    if first is None or rule.rule:
        return {"optimizer": config.learned.recipe()}
    objective: Part = rule.lpg() if rule.objective == "lpg" else {"name": "ppo", "entropy_coef": rule.entropy_coef}
    return {
        "objective": objective,
        "optimizer": config.learned.recipe(),
        "network": rule.network_part(envs.make(first).environment),
        "policy": {"name": "by_action_space"},
        "experience": _experience(config, objective["name"])._asdict(),
    }


def _experience(config: Config, objective: str) -> Experience:
    passes = config.passes if objective == "ppo" else parts.Passes()
    return Experience(**vars(config.agents), **vars(passes))


def _clipped(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.stateless(lambda gradient, _: clip_by_network(gradient, 0.5)), optimizer)


# What learned optimizers are compared with, made from one of `RATES` and from how many updates there will be. The
# gradients of each network are clipped as for OPEN.
PLAIN: dict[str, Callable[[Rate, int], optax.GradientTransformation]] = {
    "adam": lambda rate, total: _clipped(optax.adam(rate)),
    "adam to 0": lambda rate, total: _clipped(optax.adam(optax.linear_schedule(rate, 0.0, total))),
    "rmsprop": lambda rate, total: _clipped(optax.rmsprop(rate)),
    "sgd": lambda rate, total: _clipped(optax.sgd(rate)),
}


class Place(NamedTuple):
    """One kind of problem that optimizers are for."""

    levels: Levels
    inner_loop: Callable[[LearnedOptimizer], InnerLoop]
    plain: Callable[[Callable[[int], optax.GradientTransformation]], InnerLoop]  # of a function of the updates in all


def place(config: Config, name: str) -> Place:
    """The problems called `name`. Raises ValueError for an unknown name."""
    longest = config.distribution.longest_life
    if name in TASKS:
        task = TASKS[name]()
        return Place(
            task_levels(task, longest),
            partial(supervised_inner_loop, task),
            lambda make: supervised_inner_loop(task, make(longest)),
        )
    rule = config.rule
    levels = envs.make(name, config.distribution.lifetimes)
    network: networks.NetworkFactory = build_part("network", rule.network_part(levels.environment))
    ours, theirs = rule.make(), rule.make() if rule.rule else rule.ppo()

    def inner_loop(objective: metarl.Objective, kind: str, make: Callable[[int], Any]) -> InnerLoop:
        experience = _experience(config, kind)
        return metarl.rl_inner_loop(
            levels.environment,
            network,
            objective,
            make(longest * experience.epochs * experience.minibatches),
            experience,
            num_eval_episodes=config.estimator.eval_episodes,
        )

    plain = partial(inner_loop, theirs, "lpg" if rule.rule else "ppo")
    return Place(levels, lambda optimizer: inner_loop(ours, rule.objective, lambda total: optimizer), plain)


def tune(
    config: Config, where: Place, make: Callable[[Rate, int], optax.GradientTransformation]
) -> tuple[float, float]:
    """The best of `RATES` for a plain optimizer, by the final fitness on levels like those of training, and that.

    All rates at once: `tuning_levels` levels, `tuning_seeds` agents each, of the run's seed. One that diverges is last.
    """
    level_key, key = jax.random.split(jax.random.key(config.run.seed))
    levels = _living(config, where, level_key, config.tuning.tuning_levels)
    rates = jnp.asarray(RATES, jnp.float32)
    placement = Placement(batch_size=max(config.held_out.held_out_batch // len(rates), 1))

    def fitness(rate: Array) -> Array:
        inner = where.plain(partial(make, rate))
        final = partial(final_returns, inner, num_seeds=config.tuning.tuning_seeds, placement=placement)
        return final(inner.init_meta(key), levels, key).mean()

    found = jax.jit(jax.vmap(fitness))(rates)
    found = jnp.where(jnp.isfinite(found), found, -jnp.inf)
    return float(RATES[found.argmax()]), float(found.max())


def scale(config: Config, where: Place, name: str) -> float:
    """What fitness there is divided by in a mixture: tuned Adam's return, or the loss before any training."""
    if name not in TASKS:
        return abs(tune(config, where, PLAIN["adam"])[1])
    key = jax.random.key(config.run.seed)
    levels = _living(config, where, key, config.tuning.tuning_levels, horizon=0)
    inner = where.inner_loop(config.learned.make())
    newborn = final_returns(inner, inner.init_meta(key), levels, key, num_seeds=config.tuning.tuning_seeds)
    return float(jnp.abs(newborn.mean()))


def _living(config: Config, where: Place, key: Key, count: int, horizon: int | None = None) -> Level:
    levels = jax.vmap(where.levels.sample)(jax.random.split(key, count))
    return levels._replace(horizon=jnp.full(count, config.distribution.longest_life if horizon is None else horizon))


def judge(config: Config, where: Place, params: Any) -> dict[str, dict[str, float]]:
    """Final fitness on held-out levels, of the learned optimizer, of its start and of tuned plain ones.

    As `{name: {mean, low, high, rate}}`, with the same levels and seeds for all, and by them the differences of the
    learned one from the others.
    """
    options = config.held_out
    level_key, key = jax.random.split(jax.random.key(HELD_OUT))
    levels = _living(config, where, level_key, options.held_out_levels)
    placement = Placement(dividing(options.held_out_levels * options.held_out_seeds), options.held_out_batch)

    def fitness(inner: InnerLoop, params: Any) -> Array:
        final = partial(final_returns, inner, num_seeds=options.held_out_seeds, placement=placement)
        return jax.block_until_ready(jax.jit(final)(params, levels, key))  # as in `Judge.players`

    inner = where.inner_loop(config.learned.make())
    rates = {name: tune(config, where, make)[0] for name, make in PLAIN.items()}
    scores = {"trained": fitness(inner, params), "newborn": fitness(inner, inner.init_meta(jax.random.key(0)))}
    for name, rate in rates.items():
        plain = where.plain(partial(PLAIN[name], rate))
        scores[name] = fitness(plain, plain.init_meta(key))
    zero, one = jnp.zeros(options.held_out_levels), jnp.ones(options.held_out_levels)
    lead = {f"trained minus {name}": scores["trained"] - x for name, x in scores.items() if name != "trained"}
    return {
        name: {**normalised_return(x, zero, one)._asdict(), "rate": rates.get(name, float("nan"))}
        for name, x in (scores | lead).items()
    }


def make(config: Config, scales: Sequence[float] = ()) -> Meta:
    """The meta-training run that `config` describes; in a mixture, with what fitness is divided by in each place."""
    places = {name: place(config, name) for name in config.places}
    inners = [where.inner_loop(config.learned.make()) for where in places.values()]
    inner, levels = inners[0], next(iter(places.values())).levels
    if config.more.more_levels:
        inner = mixture(inners, scales)
        levels = mixed_levels([where.levels for where in places.values()])
    estimator = config.estimator.make(config.distribution.longest_life)
    return metarl.compose(
        inner, estimator, config.optimizer.make(config.run.steps), uniform(levels), config.estimator.num_lifetimes
    )


def prepare(config: Config) -> dict[str, Any]:
    """The scales of a mixture."""
    if not config.more.more_levels:
        return {}
    places = {name: place(config, name) for name in config.places}  # all of them before any is tuned: errors come early
    return {"scales": [scale(config, where, name) for name, where in places.items()]}


def report(config: Config, state: MetaState, log: Log, directory: Path) -> launch.Report:
    """Draws the updates, and compares on held-out levels: the table is empty without `held_out_seeds`."""
    unclipped, params = config.learned.make(max_norm=None), state.params["optimizer"]
    plot.save(draw_update(unclipped, params), directory / "update.png")
    plot.save(draw_sizes(unclipped, params), directory / "update_sizes.png")
    table: dict[str, dict[str, float]] = {}
    for name in config.places if config.held_out.held_out_seeds else ():
        prefix = f"{name}: " if config.more.more_levels else ""
        table |= {prefix + row: x for row, x in judge(config, place(config, name), state.params).items()}
    return table


EXPERIMENT = launch.Experiment(
    "learned_optimizer",
    make,
    curves=("fitness", "fitness_max", "meta_gradient_norm", "meta_gradient_cosine", "nonfinite_members"),
    recipe=recipe,
    report=report,
    score="fitness after training (return, or minus the loss)",
    shards=True,
    prepare=prepare,
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

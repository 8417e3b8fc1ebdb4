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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import envs
import metarl
from envs import tasks as supervised
from experiments import cli, evolution, sweeps, updates
from experiments.report import HELD_OUT
from metarl import networks, objectives
from metarl.run.checkpoint import Log
from metarl.evaluation.measure import final_returns, normalised_return
from metarl.meta import InnerLoop, LearnedOptimizer, Meta, MetaState, Objective
from metarl.inner.mixture import mixed, mixture
from metarl.optimizers.open import Group
from metarl.optimizers.per_parameter import clip_by_network
from metarl.rules import Recipe, cook, load_rule
from metarl.inner.supervised import levels as problems
from metarl.inner.supervised import supervised_inner_loop
from metarl.types import Array, Key, Level, Levels, Task

CURVES = ("fitness", "fitness_max", "meta_gradient_norm", "meta_gradient_cosine", "nonfinite_members")
OptimizerName = Literal["open", "open_feedforward", "no_features", "adafac", "schedule"]
Rate = Array | float

RATES = np.logspace(-3.5, 1.0, 10)  # of the sweep of every plain optimizer
TASKS: dict[str, Callable[[], Task]] = {
    "supervised/digits": supervised.mlp_digits,
    "supervised/logistic": supervised.logistic_digits,
    "supervised/quadratic": supervised.quadratic,
}


@dataclasses.dataclass(frozen=True)
class Config(evolution.Evolution):
    """A learned optimizer, meta-trained by evolution strategies."""

    levels: str = "supervised/digits"
    """What is learned with it: any name of envs.names(), or supervised/digits, supervised/logistic or
    supervised/quadratic."""
    more_levels: tuple[str, ...] = ()
    """More of them, each with a lifetime of its own in every member: fitness is then relative to tuned Adam's."""
    optimizer: OptimizerName = "open"
    """Which optimizer is learned."""
    without: tuple[Group, ...] = ()
    """OPEN: features that it does not see, or noise that it does not make."""
    hidden: int = 8
    """OPEN: units of its recurrent network."""
    width: int = 16
    """Of the optimizer's other layers."""
    scale: float = 1e-3
    """Size of an update whose output is 1 (schedule: its learning rate at the start)."""
    objective: Literal["ppo", "lpg"] = "ppo"
    """Agents: what they follow. That of LPG is learned together with the optimizer, and plain optimizers follow PPO."""
    rule: str = ""
    """Agents: an LPG that all follow as it is: the name of a shipped one, or the rule.safetensors of a run."""
    rule_hidden: int = 32
    """Agents: width of LPG's GRU, if it is learned."""
    network: tuple[int, ...] = ()
    """Agents: hidden layers (none: tables where observations are integers, else 64 and 64)."""
    epochs: int = 2
    """Agents: passes over each rollout (LPG: 1)."""
    minibatches: int = 2
    """Agents: parts that each pass is cut into, with a gradient step for each (LPG: 1)."""
    entropy_coef: float = 0.01
    """Agents: weight of the entropy of PPO's policy in its loss."""
    tuning_levels: int = 8
    """Training levels on which the rates of plain optimizers are swept, with `tuning_seeds` agents each."""
    tuning_seeds: int = 4
    """Agents per level in the sweep."""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(
            self,
            positive=(
                *("hidden", "width", "scale", "rule_hidden", "epochs", "minibatches", "tuning_levels", "tuning_seeds"),
            ),
            not_negative=("entropy_coef",),
        )
        if self.without and not self.optimizer.startswith("open"):
            raise ValueError(f"without is for the features of open, got optimizer {self.optimizer!r}")
        if self.rule and self.objective != "lpg":
            raise ValueError(f"rule needs objective lpg, got {self.objective!r}")
        if self.rule and set(self.places) <= set(TASKS):
            raise ValueError(f"rule is for agents, got levels {self.levels!r}")
        if len(set(self.places)) < len(self.places):
            raise ValueError(f"levels must be different, got {self.places}")
        if min(self.network, default=1) < 1:
            raise ValueError(f"network must have sizes of at least 1, got {self.network}")
        if self.score != "uniform":
            raise ValueError(f"score must be uniform: fitness is all that is known of an optimizer, got {self.score!r}")

    @property
    def places(self) -> tuple[str, ...]:
        """All that is learned with the optimizer."""
        return self.levels, *self.more_levels


GRIDWORLD = Config(
    levels="gridworld/small",
    steps=40,
    chunk=5,
    scale=0.1,
    longest_life=100,
    shortest_life=100,
    num_pairs=16,
    num_envs=8,
    learning_rate=0.03,
    sigma=0.03,
    shaping="centred_ranks",
    temporal=False,
)
PRESETS = {
    "quick": Config(
        steps=100,
        optimizer="adafac",
        shortest_life=200,
        longest_life=200,
        num_pairs=8,
        held_out_levels=4,
        temporal=False,
        shaping="centred_ranks",
        learning_rate=0.03,
        sigma=0.03,
        scale=1e-2,
        tuning_levels=2,
    ),
    "gridworld": GRIDWORLD,
    "mixture": dataclasses.replace(GRIDWORLD, more_levels=("bandit/bernoulli",)),
    "minatar": Config(
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
        temporal=False,
    ),
}


def recipe(config: Config) -> Recipe:
    """The optimizer that is meta-trained, and LPG if it is, too."""
    sizes: dict[str, Any] = {"width": config.width, "scale": config.scale}
    parts: dict[str, dict[str, Any]] = {"optimizer": {"name": config.optimizer, **sizes}}
    if config.optimizer == "schedule":
        parts["optimizer"] = {"name": "schedule", "learning_rate": config.scale}
    elif config.optimizer.startswith("open"):
        hidden = config.hidden if config.optimizer == "open" else 0
        parts["optimizer"] = {"name": "open_rl", "hidden": hidden, "without": config.without, **sizes}
    if config.objective == "lpg" and not config.rule and not set(config.places) <= set(TASKS):
        parts["objective"] = {"name": "lpg", "hidden": config.rule_hidden, "temporal": config.temporal}
    return parts


def learned(config: Config, **options: Any) -> LearnedOptimizer:
    """The optimizer of `recipe`; its `max_norm` is its own unless given."""
    return cook({"optimizer": {**recipe(config)["optimizer"], **options}})["optimizer"]


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
    if name in TASKS:
        task = TASKS[name]()
        return Place(
            problems(task, config.longest_life),
            partial(supervised_inner_loop, task),
            lambda make: supervised_inner_loop(task, make(config.longest_life)),
        )
    levels = envs.make(name, config.lifetimes)
    integers = hasattr(levels.env.observation_space(levels.env.default_params), "n")
    network = networks.tabular if integers and not config.network else networks.mlp(config.network or (64, 64))
    ppo = objectives.ppo(entropy_coef=config.entropy_coef)
    ours = ppo if config.objective == "ppo" else lpg(config)
    theirs = ours if config.rule else ppo

    def agents(
        objective: Objective, make: Callable[[int], LearnedOptimizer | optax.GradientTransformation]
    ) -> InnerLoop:
        # LPG's targets are for one step on the whole rollout
        epochs, minibatches = (config.epochs, config.minibatches) if objective is ppo else (1, 1)
        return metarl.rl_inner_loop(
            levels.env,
            network,
            objective,
            make(config.longest_life * epochs * minibatches),
            num_envs=config.num_envs,
            rollout_length=config.rollout_length,
            epochs=epochs,
            minibatches=minibatches,
            num_eval_episodes=config.eval_episodes,
        )

    return Place(levels, lambda optimizer: agents(ours, lambda total: optimizer), partial(agents, theirs))


def lpg(config: Config) -> Objective:
    """A learned objective: to be learned, or the one that `config.rule` has learned.

    Raises ValueError if that is no LPG.
    """
    if not config.rule:
        return cook(recipe(config))["objective"]
    rule = load_rule(config.rule)
    if rule.objective is None or rule.card["recipe"]["objective"]["name"] != "lpg":
        raise ValueError(f"rule must have learned an LPG, got {config.rule!r}: {rule.card['recipe']}")
    return rule.objective


def tune(
    config: Config, where: Place, make: Callable[[Rate, int], optax.GradientTransformation]
) -> tuple[float, float]:
    """The best of `RATES` for a plain optimizer, by the final fitness on levels like those of training, and that.

    All rates at once: `tuning_levels` levels, `tuning_seeds` agents each, of the run's seed. Who diverges is worst.
    """
    level_key, key = jax.random.split(jax.random.key(config.seed))
    levels = _living(config, where, level_key, config.tuning_levels)
    rates = jnp.asarray(RATES, jnp.float32)
    batch = max(config.held_out_batch // len(rates), 1)

    def fitness(rate: Array) -> Array:
        inner = where.plain(partial(make, rate))
        final = partial(final_returns, inner, num_seeds=config.tuning_seeds, batch_size=batch)
        return final(inner.init_meta(key), levels, key).mean()

    found = jax.jit(jax.vmap(fitness))(rates)
    found = jnp.where(jnp.isfinite(found), found, -jnp.inf)
    return float(RATES[found.argmax()]), float(found.max())


def scale(config: Config, where: Place, name: str) -> float:
    """What fitness there is divided by in a mixture: tuned Adam's return, or the loss before any training."""
    if name not in TASKS:
        return abs(tune(config, where, PLAIN["adam"])[1])
    key = jax.random.key(config.seed)
    levels = _living(config, where, key, config.tuning_levels, horizon=0)
    inner = where.inner_loop(learned(config))
    newborn = final_returns(inner, inner.init_meta(key), levels, key, num_seeds=config.tuning_seeds)
    return float(jnp.abs(newborn.mean()))


def _living(config: Config, where: Place, key: Key, count: int, horizon: int | None = None) -> Level:
    levels = jax.vmap(where.levels.sample)(jax.random.split(key, count))
    return levels._replace(horizon=jnp.full(count, config.longest_life if horizon is None else horizon))


def judge(config: Config, where: Place, params: Any) -> dict[str, dict[str, float]]:
    """Final fitness on held-out levels, of the learned optimizer, of its start and of tuned plain ones.

    As `{name: {mean, low, high, rate}}`, with the same levels and seeds for all, and by them the differences of the
    learned one from the others.
    """
    level_key, key = jax.random.split(jax.random.key(HELD_OUT))
    levels = _living(config, where, level_key, config.held_out_levels)
    devices = cli.devices_dividing(config.held_out_levels * config.held_out_seeds)
    options: dict[str, Any] = {"batch_size": config.held_out_batch, "devices": devices}

    def fitness(inner: InnerLoop, params: Any) -> Array:
        final = partial(final_returns, inner, num_seeds=config.held_out_seeds, **options)
        return jax.block_until_ready(jax.jit(final)(params, levels, key))  # as in `Judge.players`

    inner = where.inner_loop(learned(config))
    rates = {name: tune(config, where, make)[0] for name, make in PLAIN.items()}
    scores = {"trained": fitness(inner, params), "newborn": fitness(inner, inner.init_meta(jax.random.key(0)))}
    for name, rate in rates.items():
        plain = where.plain(partial(PLAIN[name], rate))
        scores[name] = fitness(plain, plain.init_meta(key))
    zero, one = jnp.zeros(config.held_out_levels), jnp.ones(config.held_out_levels)
    lead = {f"trained minus {name}": scores["trained"] - x for name, x in scores.items() if name != "trained"}
    return {
        name: {**normalised_return(x, zero, one)._asdict(), "rate": rates.get(name, float("nan"))}
        for name, x in (scores | lead).items()
    }


def make(config: Config, scales: Sequence[float] = ()) -> Meta:
    """The meta-training run that `config` describes; of a mixture, with what fitness is divided by in each place."""
    places = {name: place(config, name) for name in config.places}
    inners = [where.inner_loop(learned(config)) for where in places.values()]
    inner, levels = inners[0], next(iter(places.values())).levels
    if config.more_levels:
        inner = mixture(inners, scales)
        levels = mixed([where.levels for where in places.values()])
    return evolution.make(config, levels, inner)


def run(config: Config) -> cli.Report:
    """Meta-trains, draws, and reports on held-out levels: the report, empty without `held_out_seeds`."""
    table: cli.Report = {}

    def report(state: MetaState, log: Log, directory: Path) -> cli.Report:
        nonlocal table
        updates.draw(learned(config, max_norm=None), state.params["optimizer"], directory / "update.png")
        for name in config.places if config.held_out_seeds else ():
            prefix = f"{name}: " if config.more_levels else ""
            found = judge(config, place(config, name), state.params)
            table = {**table, **{prefix + row: x for row, x in found.items()}}
        return table

    score = "fitness after training (return, or minus the loss)"
    scales = [scale(config, place(config, name), name) for name in config.places] if config.more_levels else []
    sweeps.launch(partial(make, scales=scales), config, curves=CURVES, report=report, score=score, recipe=recipe)
    return table


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    cli.one_device_per_core()
    with cli.clean_exit():
        cli.join(config)
        run(config)


if __name__ == "__main__":
    main()

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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import envs
import metarl
from envs import supervised
from experiments import cli, evolution, updates
from experiments.report import HELD_OUT
from metarl import networks, objectives, optimizers
from metarl.checkpoint import Log
from metarl.evaluate import final_returns, normalised_return
from metarl.meta import InnerLoop, LearnedOptimizer, MetaState, Objective
from metarl.mixture import mixed, mixture
from metarl.optimizers.open import Group
from metarl.pretrained import load_params
from metarl.supervised import levels as problems
from metarl.supervised import supervised_inner_loop
from metarl.types import Array, Levels, Task

CURVES = ("fitness", "fitness_max", "meta_gradient_norm", "meta_gradient_cosine", "nonfinite_members")
OptimizerName = Literal["open", "open_feedforward", "no_features", "adafac", "schedule"]
Rate = Array | float

RATES = jnp.logspace(-4.0, 0.5, 10)  # of the sweep of every plain optimizer
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
    """Size of an update whose output is 1."""
    objective: Literal["ppo", "lpg"] = "ppo"
    """Agents: what they follow. That of LPG is learned together with the optimizer."""
    rule: str = ""
    """Agents: a finished run of experiments.lpg or ta_lpg, whose learned objective they follow as it is."""
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
            positive=("hidden", "width", "scale", "epochs", "minibatches", "tuning_levels", "tuning_seeds"),
            not_negative=("entropy_coef",),
        )
        if self.without and not self.optimizer.startswith("open"):
            raise ValueError(f"without is for the features of open, got optimizer {self.optimizer!r}")
        if self.rule and self.objective != "lpg":
            raise ValueError(f"rule needs objective lpg, got {self.objective!r}")
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
    steps=150,
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
        steps=150,
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


def learned(config: Config) -> LearnedOptimizer:
    """The optimizer that is meta-trained."""
    sizes: dict[str, Any] = {"width": config.width, "scale": config.scale}
    if config.optimizer == "schedule":
        return optimizers.schedule()
    if config.optimizer == "no_features":
        return optimizers.no_features(**sizes)
    if config.optimizer == "adafac":
        return optimizers.adafac(**sizes)
    hidden = config.hidden if config.optimizer == "open" else 0
    return optimizers.open_rl(hidden, without=config.without, **sizes)


def _clipped(make: Callable[[Rate], optax.GradientTransformation], rate: Rate) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(0.5), make(rate))


# What learned optimizers are compared with, at the best of `RATES`. Gradients are clipped as OPEN's.
PLAIN: dict[str, Callable[[Rate], optax.GradientTransformation]] = {
    "adam": partial(_clipped, optax.adam),
    "rmsprop": partial(_clipped, optax.rmsprop),
    "sgd": partial(_clipped, optax.sgd),
}


class Place(NamedTuple):
    """One kind of problem that optimizers are for."""

    levels: Levels
    inner_loop: Callable[[LearnedOptimizer | optax.GradientTransformation], InnerLoop]


def place(config: Config, name: str) -> Place:
    """The problems called `name`. Raises ValueError for an unknown name."""
    if name in TASKS:
        task = TASKS[name]()
        return Place(problems(task, config.longest_life), partial(supervised_inner_loop, task))
    levels = envs.make(name, config.lifetimes)
    integers = hasattr(levels.env.observation_space(levels.env.default_params), "n")
    network = networks.tabular if integers and not config.network else networks.mlp(config.network or (64, 64))
    whole = config.objective == "lpg"  # its targets are for one step on the whole rollout

    def inner_loop(optimizer: LearnedOptimizer | optax.GradientTransformation) -> InnerLoop:
        return metarl.rl_inner_loop(
            levels.env,
            network,
            objective(config),
            optimizer,
            num_envs=config.num_envs,
            rollout_length=config.rollout_length,
            epochs=1 if whole else config.epochs,
            minibatches=1 if whole else config.minibatches,
            num_eval_episodes=config.eval_episodes,
        )

    return Place(levels, inner_loop)


def objective(config: Config) -> Objective:
    """PPO's, LPG's to be learned, or the one that the run `config.rule` learned."""
    if config.objective == "ppo":
        return objectives.ppo(entropy_coef=config.entropy_coef)
    if not config.rule:
        return objectives.lpg(temporal=config.temporal)
    params, origin = load_params(Path(config.rule) / "rule.safetensors")
    sizes = origin["config"]
    rule = objectives.lpg(sizes["bins"], sizes["hidden"], sizes.get("temporal", False))
    return objectives.fixed(rule, params["objective"])


def tune(config: Config, where: Place) -> dict[str, tuple[float, float]]:
    """For each plain optimizer, the best of `RATES` by the final fitness on levels like those of training, and that.

    All rates at once: `tuning_levels` levels, `tuning_seeds` agents each, of the run's seed. Who diverges is worst.
    """
    level_key, key = jax.random.split(jax.random.key(config.seed))
    levels = jax.vmap(where.levels.sample)(jax.random.split(level_key, config.tuning_levels))
    levels = levels._replace(horizon=jnp.full_like(levels.horizon, config.longest_life))

    def best(make: Callable[[Rate], optax.GradientTransformation]) -> tuple[float, float]:
        def fitness(rate: Array) -> Array:
            inner = where.inner_loop(make(rate))
            return final_returns(inner, inner.init_meta(key), levels, key, num_seeds=config.tuning_seeds).mean()

        found = jax.jit(jax.vmap(fitness))(RATES)
        found = jnp.where(jnp.isfinite(found), found, -jnp.inf)
        return float(RATES[found.argmax()]), float(found.max())

    return {name: best(make) for name, make in PLAIN.items()}


def judge(
    config: Config, where: Place, params: Any, rates: dict[str, tuple[float, float]]
) -> dict[str, dict[str, float]]:
    """Final fitness `{name: {mean, low, high}}` on held-out levels, of the learned optimizer and of tuned plain ones.

    The same levels and seeds for all, and differences from the learned one by them.
    """
    level_key, key = jax.random.split(jax.random.key(HELD_OUT))
    levels = jax.vmap(where.levels.sample)(jax.random.split(level_key, config.held_out_levels))
    levels = levels._replace(horizon=jnp.full_like(levels.horizon, config.longest_life))
    count = config.held_out_levels * config.held_out_seeds

    def fitness(inner: InnerLoop, params: Any) -> Array:
        final = partial(
            final_returns,
            inner,
            num_seeds=config.held_out_seeds,
            batch_size=config.held_out_batch,
            devices=cli.devices_dividing(count),
        )
        return jax.jit(final)(params, levels, key)

    inner = where.inner_loop(learned(config))
    scores = {"trained": fitness(inner, params), "newborn": fitness(inner, inner.init_meta(jax.random.key(0)))}
    for name, (rate, _) in rates.items():
        plain = where.inner_loop(PLAIN[name](rate))
        scores[f"{name} at {rate:.2g}"] = fitness(plain, plain.init_meta(key))
    zero, one = jnp.zeros(config.held_out_levels), jnp.ones(config.held_out_levels)
    ours = scores["trained"]
    others = {name: x for name, x in scores.items() if name not in ("trained", "newborn")}
    rows = scores | {f"trained minus {name}": ours - x for name, x in others.items()}
    return {name: normalised_return(x, zero, one)._asdict() for name, x in rows.items()}


def run(config: Config) -> cli.Report:
    """Meta-trains, draws, and reports on held-out levels: the report, empty without `held_out_seeds`."""
    places = {name: place(config, name) for name in config.places}
    inners = [where.inner_loop(learned(config)) for where in places.values()]
    tuned: dict[str, dict[str, tuple[float, float]]] = {}
    inner, levels = inners[0], next(iter(places.values())).levels
    if config.more_levels:
        tuned = {name: tune(config, where) for name, where in places.items()}
        inner = mixture(inners, [abs(tuned[name]["adam"][1]) for name in places])
        levels = mixed([where.levels for where in places.values()])
    table: cli.Report = {}

    def report(state: MetaState, log: Log, directory: Path) -> cli.Report:
        nonlocal table
        params = jax.device_get(state.params)
        updates.draw(learned(config), params["optimizer"], directory / "update.png")
        for name, where in places.items() if config.held_out_seeds else ():
            rates = tuned.get(name) or tune(config, where)
            prefix = f"{name}: " if config.more_levels else ""
            table = {**table, **{prefix + row: x for row, x in judge(config, where, params, rates).items()}}
        return table

    score = "fitness after training (return, or minus the loss)"
    cli.run(evolution.make(config, levels, inner), config, curves=CURVES, report=report, score=score)
    return table


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    cli.one_device_per_core()
    with cli.clean_exit():
        run(config)


if __name__ == "__main__":
    main()

"""What experiments share that meta-train by evolution over lifetimes of many lengths: options, run, and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax

import envs
import metarl
from experiments import cli, curriculum, horizons, sweeps
from experiments.report import Judge, check_held_out, held_out_report, horizon_report
from metarl.run.checkpoint import Log
from metarl.estimators.es import Shaping
from metarl.meta import Estimator, InnerLoop, Meta, MetaState
from metarl.rules import Recipe, cook
from metarl.types import Array, Levels, MetaParams


@dataclasses.dataclass(frozen=True)
class Evolution(curriculum.Options):
    """An update rule, meta-trained by evolution strategies."""

    temporal: bool = True
    """Let the rule see the agent's age and how long it will live."""
    levels: str = "gridworld/small"
    """Distribution of levels to meta-train on: any name of envs.names()."""
    shortest_life: int = 10
    """Lifetimes of agents in updates are log-uniform from here ..."""
    longest_life: int = 250
    """... to here."""
    num_pairs: int = 16
    """Antithetic pairs of agents that live side by side."""
    num_envs: int = 16
    """Environments of each agent."""
    rollout_length: int = 20
    """Environment steps between two agent updates."""
    eval_episodes: int = 16
    """Episodes in which an agent's fitness is measured."""
    estimator: Literal["es", "pes"] = "es"
    """Evolution strategies, or persistent ones (which need `truncation`)."""
    truncation: int = 0
    """Agent updates between two meta-steps (0: whole lifetimes)."""
    measure_every: int = 0
    """Fitness is the mean over measurements after so many agent updates (es only; 0: that at the end)."""
    shaping: Shaping = "pair_rank"
    """What counts for fitness (es only): fitness as it is, ranks in the population, or the rank within a pair."""
    sigma: float = 0.1
    """Standard deviation of the perturbations."""
    sigma_decay: float = 1.0
    """Factor on sigma after each meta-step."""
    learning_rate: float = 1e-2
    """Adam's learning rate for the meta-parameters at the start."""
    learning_rate_decay: float = 0.999
    """Factor on the learning rate after each meta-step."""
    last_learning_rate: float = 1e-5
    """Where the decay of the learning rate ends."""
    batch_size: int = 0
    """Pairs that live at a time on each device (0: all); small batches save memory, and on CPU time too."""
    devices: int = 0
    """Devices (of each process) that pairs are dealt out to (0: all that divide their number; on CPU, each core is
    one). A run resumes bit for bit on as many, and up to rounding on others."""
    held_out_levels: int = 32
    """Levels of the reports at the end, never trained on."""
    held_out_seeds: int = 4
    """Agents per rule and held-out level in the reports; 0 for no reports."""
    held_out_batch: int = 128
    """Agents of one seed that live side by side on each device in the reports."""
    held_out_horizons: tuple[int, ...] = (25, 100, 250, 500, 1000)
    """Lifetimes at which the horizon plot compares rules, in agent updates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(
            self,
            positive=(
                *("shortest_life", "longest_life", "num_pairs", "num_envs", "rollout_length", "eval_episodes"),
                *("sigma", "sigma_decay", "learning_rate", "learning_rate_decay", "last_learning_rate"),
            ),
            not_negative=("truncation", "measure_every", "batch_size", "devices"),
        )
        check_held_out(self)
        if self.learning_rate_decay > 1:
            raise ValueError(f"learning_rate_decay must be at most 1, got {self.learning_rate_decay}")
        if self.shortest_life > self.longest_life:
            raise ValueError(
                f"shortest_life must be at most longest_life = {self.longest_life}, got {self.shortest_life}"
            )
        if self.estimator == "pes" and not self.truncation:
            raise ValueError("estimator pes needs truncation, the agent updates between two meta-steps, got 0")
        if self.devices and self.num_pairs % self.devices:
            raise ValueError(f"devices must divide num_pairs = {self.num_pairs}, got {self.devices}")

    @property
    def lifetimes(self) -> tuple[int, int]:
        """Of agents, as `envs.make` takes them."""
        return self.shortest_life, self.longest_life


CURVES = ("fitness", "fitness_max", "policy_entropy", "meta_gradient_norm", "meta_gradient_cosine", "nonfinite_members")


def estimator(config: Evolution) -> Estimator:
    """How the configuration estimates meta-gradients."""
    options: dict[str, Any] = {
        "sigma": config.sigma,
        "sigma_decay": config.sigma_decay,
        "batch_size": config.batch_size or None,
        "devices": cli.training_devices(config.num_pairs, config.devices),
    }
    if config.estimator == "pes":
        return metarl.estimators.pes(config.truncation, **options)
    steps, measured = config.truncation or config.longest_life, config.measure_every or None
    return metarl.estimators.es(steps, shaping=config.shaping, measure_every=measured, **options)


def learning_rate(config: Evolution, step: Array | int) -> Array:
    """Of meta-step `step`, the first of which is 0."""
    last = jnp.minimum(config.last_learning_rate, config.learning_rate)
    return jnp.maximum(config.learning_rate * config.learning_rate_decay**step, last)


def make(config: Evolution, levels: Levels, inner: InnerLoop) -> Meta:
    """The meta-training run that `config` describes, of the agents of `inner`."""
    optimizer = optax.adam(partial(learning_rate, config))
    chosen, score = curriculum.make(config, levels)
    return curriculum.logged(
        metarl.compose(inner, estimator(config), optimizer, chosen, config.num_pairs, score),
    )


class Experiment(NamedTuple):
    """What one experiment of this kind adds to the options."""

    inner_loop: Callable[[Any, Levels], InnerLoop]
    recipe: Callable[[Any], Recipe]  # of the objective that its agents follow
    plain: Callable[[Any, Levels], tuple[str, InnerLoop]]  # the agent that reports compare with, and its name
    draw: Callable[[Any, MetaParams, Path], None]  # (config, the objective's meta-parameters, file): looks inside


def main(experiment: Experiment, config: Evolution) -> None:
    """Trains, reports on held-out levels and over horizons, and draws what was learned."""
    cli.one_device_per_core()
    with cli.clean_exit():
        cli.join(config)

        def rule(config: Evolution) -> Meta:
            levels = envs.make(config.levels, config.lifetimes)
            return make(config, levels, experiment.inner_loop(config, levels))

        def report(state: MetaState, log: Log, directory: Path) -> cli.Report:
            levels = envs.make(config.levels, config.lifetimes)
            inner, params = experiment.inner_loop(config, levels), state.params
            experiment.draw(config, params["objective"], directory / "update.png")
            objective = cook(experiment.recipe(config))["objective"]
            curriculum.draw_gallery(config, levels, inner, objective, state, directory)
            if not config.held_out_seeds:
                return {}
            judge = Judge(config, levels, experiment.plain(config, levels))
            rules = {"trained": lambda key: state.params, "untrained": inner.init_meta}
            players = judge.players(inner, rules)
            over_horizons = horizon_report(judge, {name: [player] for name, player in players.items()})
            horizons.write(over_horizons, directory, trained=(config.shortest_life, config.longest_life))
            return held_out_report(judge, players)

        sweeps.launch(rule, config, curves=(*CURVES, *curriculum.CURVES), report=report, recipe=experiment.recipe)

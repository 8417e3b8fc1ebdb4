"""GROOVE (Jackson et al. 2023): meta-train a Learned Policy Gradient on levels chosen by a score, such as regret.

python -m experiments.groove                     # regret against A2C
python -m experiments.groove --score pvl         # positive value loss
python -m experiments.groove --score uniform     # domain randomisation, for comparison
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

import envs
from envs import gridworld
from experiments import cli, lpg
from experiments.report import a2c_agent
from metarl.checkpoint import Log
from metarl.curricula import replay, scores
from metarl.curricula.replay import Buffer, Prioritisation, replay_metrics
from metarl.meta import Curriculum, Meta, MetaState, Score
from metarl.types import Key, Level, Levels, Metrics


@dataclasses.dataclass(frozen=True)
class Config(lpg.Config):
    """A Learned Policy Gradient, meta-trained on the levels that a score asks for again."""

    score: Literal["regret", "optimal", "pvl", "l1", "maxmc", "uniform"] = "regret"
    """Regret against A2C or against the optimum, positive or absolute value loss, MaxMC; uniform: fresh levels only."""
    capacity: int = 1000
    """Levels that the buffer holds."""
    replay_probability: float = 0.5
    """How often a newborn agent gets a level of the buffer."""
    prioritisation: Prioritisation = "rank"
    """Levels are replayed by the rank of their score, or in proportion to it."""
    temperature: float = 1.0
    """The higher, the more alike are the probabilities of levels."""
    staleness: float = 0.0
    """Share of replays that go by how long ago a level was lived on."""
    warm_up: int = 32
    """No replay before so many levels have a score."""
    mutation_probability: float = 0.0
    """How often a level that would be fresh is an edit of one in the buffer (gridworlds only)."""
    score_batch: int = 4
    """Lifetimes that are scored at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, positive=("capacity", "temperature", "warm_up", "score_batch"))
        for name in ("replay_probability", "staleness", "mutation_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.capacity < self.num_lifetimes:
            raise ValueError(f"capacity must be at least num_lifetimes = {self.num_lifetimes}, got {self.capacity}")


def _of(config: lpg.Config, **options: object) -> Config:
    return Config(**{**{x.name: getattr(config, x.name) for x in dataclasses.fields(config)}, **options})


PRESETS = {name: _of(config, capacity=4000 if name == "paper" else 1000) for name, config in lpg.PRESETS.items()}
CURVES = ("episode_return", "score_median", "score_high", "replayed_share", "level_size", "level_horizon")


def score(config: Config, levels: Levels) -> Score | None:
    """The score that `config` asks for; None for domain randomisation.

    Raises ValueError if the optimum is asked for where it is not known.
    """
    if config.score == "optimal" and envs.optimal_return(levels.env) is None:
        raise ValueError(f"score optimal needs levels whose optimal return is known, got {config.levels!r}")
    return {
        "regret": lambda: scores.algorithmic_regret(a2c_agent(config, levels)[1], config.score_batch),
        "optimal": lambda: scores.optimal_regret(envs.optimal_return(levels.env), config.score_batch),
        "pvl": lambda: scores.positive_value_loss(config.score_batch),
        "l1": lambda: scores.l1_value_loss(config.score_batch),
        "maxmc": scores.max_monte_carlo,
        "uniform": lambda: None,
    }[config.score]()


def curriculum(config: Config, levels: Levels) -> Curriculum:
    """Level replay as `config` describes it.

    Raises ValueError for mutation of levels that are not gridworlds.
    """
    if config.mutation_probability and not isinstance(levels.env, gridworld.Gridworld):
        raise ValueError(f"mutation_probability must be 0 for levels that are not gridworlds, got {config.levels!r}")
    return replay(
        levels,
        config.capacity,
        probability=config.replay_probability,
        prioritisation=config.prioritisation,
        temperature=config.temperature,
        staleness=config.staleness,
        warm_up=config.warm_up,
        mutate=gridworld.mutate if config.mutation_probability else None,
        mutation_probability=config.mutation_probability,
    )


def features(levels: Level) -> Metrics:
    """What levels [n] are lived on: lifetimes, and of gridworlds the free cells, objects and lengths of episodes."""
    params, means = levels.env_params, {"level_horizon": levels.horizon.mean(dtype=jnp.float32)}
    if isinstance(params, gridworld.GridworldParams):
        means["level_size"] = params.free.sum(1).mean(dtype=jnp.float32)
        means["level_objects"] = params.num_objects.mean(dtype=jnp.float32)
        means["level_max_steps"] = params.max_steps.mean(dtype=jnp.float32)
    return means


def make(config: Config, levels: Levels) -> Meta:
    """The meta-training run that `config` describes, which also logs what its curriculum does."""
    by = score(config, levels)
    meta = lpg.make(config, levels, curriculum(config, levels) if by else None, by)

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        state, metrics = meta.step(state, key)
        chosen = replay_metrics(state.curriculum) if isinstance(state.curriculum, Buffer) else {}
        return state, {**metrics, **chosen, **features(state.lifetimes.level)}

    return Meta(meta.init, step)


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit():
        levels = envs.make(config.levels, config.horizon or None)
        meta = make(config, levels)
        key = jax.random.key(0)
        logged = jax.eval_shape(meta.step, jax.eval_shape(meta.init, key), key)[1]

        def held_out(state: MetaState, log: Log, directory: Path) -> cli.Report:
            return lpg.report(config, levels, state)

        curves = [name for name in CURVES if name in logged]
        cli.run(meta, config, curves=curves, report=held_out if config.held_out_seeds else None)


if __name__ == "__main__":
    main()

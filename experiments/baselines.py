"""A2C and PPO with Adam, and what the sweeps of `experiments.tune` say of them: one table beside each suite."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import optax

import metarl
from experiments import cli
from experiments.agents import TABULAR, family
from experiments.suite import Entry, Suite
from metarl.meta import InnerLoop, LearnedOptimizer, Objective
from metarl.types import Array, Levels

Name = Literal["a2c", "ppo"]
BASELINES: tuple[Name, ...] = ("a2c", "ppo")


class Settings(NamedTuple):
    """How an agent collects experience and follows its objective."""

    num_envs: int
    rollout_length: int
    epochs: int = 1
    minibatches: int = 1
    learning_rate: Array | float = 1e-3  # of Adam
    discount: Array | float = 0.99

    @property
    def batch(self) -> int:
        """Environment steps per update."""
        return self.num_envs * self.rollout_length


class Trial(NamedTuple):
    """What one setting came to in a sweep."""

    environment: str
    env_steps: int
    objective: Name
    settings: Settings
    mean: float  # of the final returns of the agents of all seeds; NaN if one diverged
    std: float
    num_seeds: int


# What a sweep tries: each of these with every learning rate and discount. The first is that of who was never tuned.
GEOMETRIES: dict[Name, tuple[Settings, ...]] = {
    "a2c": (Settings(16, 8),),
    "ppo": (Settings(8, 64, 4, 4),),
}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TABULAR_RATES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)  # tables start at zero, and must come to logits of order one
DISCOUNTS = (0.95, 0.99)


def grid(name: str, levels: Levels) -> tuple[tuple[float, float], ...]:
    """The pairs of a learning rate and a discount that a sweep tries in the environment called `name`."""
    tables = family(name, levels.env) is TABULAR
    return tuple(itertools.product(TABULAR_RATES if tables else RATES, DISCOUNTS))


def untuned(which: Name, name: str, levels: Levels) -> Settings:
    """The settings of a baseline in an environment that no sweep knows: those of its family."""
    return GEOMETRIES[which][0]._replace(learning_rate=family(name, levels.env).learning_rate)


def baseline(which: Name, entry: Entry, levels: Levels, settings: Settings) -> InnerLoop:
    """A2C or PPO agents."""
    options: dict[str, Any] = {"discount": settings.discount, "normalise_advantage": True}
    objective = metarl.objectives.a2c(**options) if which == "a2c" else metarl.objectives.ppo(**options)
    return agents(entry, levels, objective, adam(settings.learning_rate), settings)


def adam(learning_rate: Array | float) -> optax.GradientTransformation:
    """What baselines follow their gradients with."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(learning_rate, eps=1e-5))


def agents(
    entry: Entry,
    levels: Levels,
    objective: Objective,
    optimizer: optax.GradientTransformation | LearnedOptimizer,
    settings: Settings,
) -> InnerLoop:
    """Agents with the networks of their environment's family."""
    return metarl.rl_inner_loop(
        levels.env,
        family(entry.name, levels.env).network,
        objective,
        optimizer,
        num_envs=settings.num_envs,
        rollout_length=settings.rollout_length,
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        num_eval_episodes=entry.eval_episodes,
    )


def best(trials: Iterable[Trial]) -> dict[tuple[str, Name], Trial]:
    """The trial of the greatest mean return for each environment and objective; one that diverged is never the best."""
    found: dict[tuple[str, Name], Trial] = {}
    for trial in trials:
        place = trial.environment, trial.objective
        if math.isfinite(trial.mean) and (place not in found or trial.mean > found[place].mean):
            found[place] = trial
    return found


def trials(suite: Suite) -> list[Trial]:
    """Those of the sweep of `suite` that had its budgets: one with another says nothing of this one.

    Raises ValueError as `read` does.
    """
    budgets = {entry.name: entry.env_steps for entry in suite.entries}
    return [trial for trial in read(suite.sweep) if budgets.get(trial.environment) == trial.env_steps]


def read(path: Path) -> list[Trial]:
    """The trials that `write` wrote; none if there is no such file. Raises ValueError for another kind of file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        try:
            return [_trial(row) for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a table of a sweep: {error!r}") from error


def write(path: Path, trials: Iterable[Trial]) -> None:
    """One row per trial, in place at once."""
    rows = []
    for trial in trials:
        row = trial._asdict()
        settings = row.pop("settings")._asdict()
        rows.append({"environment": row.pop("environment"), "objective": row.pop("objective"), **settings, **row})
    cli.write_csv(path, rows)


def _trial(row: Mapping[str, str]) -> Trial:
    num_envs, rollout_length, epochs, minibatches = (int(row[x]) for x in Settings._fields[:4])
    rate, discount = float(row["learning_rate"]), float(row["discount"])
    settings = Settings(num_envs, rollout_length, epochs, minibatches, rate, discount)
    if row["objective"] not in BASELINES:
        raise ValueError(f"objective must be one of {BASELINES}, got {row['objective']!r}")
    name: Any = row["objective"]
    mean, std = float(row["mean"]), float(row["std"])
    return Trial(row["environment"], int(row["env_steps"]), name, settings, mean, std, int(row["num_seeds"]))

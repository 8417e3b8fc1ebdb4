"""A2C and PPO with Adam, and the tables of sweeps that say how to set them in each environment."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from metarl.evaluation.families import TABULAR, Family
from metarl.inner.rl import Experience
from metarl.rules import Part, Recipe
from metarl.run.files import write_csv
from metarl.types import Array

Name = Literal["a2c", "ppo"]
BASELINES: tuple[Name, ...] = get_args(Name)


class Settings(NamedTuple):
    """How an agent collects experience and follows its objective."""

    num_envs: int
    rollout_length: int
    epochs: int = 1
    minibatches: int = 1
    learning_rate: Array | float = 1e-3  # of Adam
    discount: Array | float = 0.99

    @property
    def experience(self) -> Experience:
        return Experience(self.num_envs, self.rollout_length, self.epochs, self.minibatches)


class Trial(NamedTuple):
    """What one setting came to in a sweep."""

    environment: str
    env_steps: int
    objective: Name
    settings: Settings
    mean: float  # of the final returns of the agents of all seeds; NaN if one diverged
    std: float
    num_seeds: int


# What a sweep tries: each of these with every learning rate and discount. The first is the one of untuned agents.
GEOMETRIES: dict[Name, tuple[Settings, ...]] = {
    "a2c": (Settings(16, 8),),
    "ppo": (Settings(8, 64, 4, 4),),
}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TABULAR_RATES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)  # tables start at zero, and must come to logits of order one
DISCOUNTS = (0.95, 0.99)


def grid(kind: Family) -> tuple[tuple[float, float], ...]:
    """The pairs of a learning rate and a discount that a sweep tries for agents of this family."""
    return tuple(itertools.product(TABULAR_RATES if kind is TABULAR else RATES, DISCOUNTS))


def untuned(which: Name, kind: Family) -> Settings:
    """The settings of a baseline in an environment that no sweep knows: those of its family."""
    return GEOMETRIES[which][0]._replace(learning_rate=kind.learning_rate)


def baseline(which: Name, kind: Family, settings: Settings) -> Recipe:
    """A2C or PPO agents, with the network of their environment's family. Settings may be traced."""
    objective = {"name": which, "discount": settings.discount, "normalise_advantage": True}
    return {
        "objective": objective,
        "optimizer": adam(settings.learning_rate),
        "network": kind.network,
        "experience": settings.experience._asdict(),
    }


def adam(learning_rate: Array | float) -> Part:
    """The optimizer of the baselines."""
    return {"name": "adam", "learning_rate": learning_rate, "max_norm": 0.5, "eps": 1e-5}


def best(trials: Iterable[Trial]) -> dict[tuple[str, Name], Trial]:
    """The trial of the greatest mean return for each environment and objective; one that diverged is never the best."""
    found: dict[tuple[str, Name], Trial] = {}
    for trial in trials:
        place = trial.environment, trial.objective
        if math.isfinite(trial.mean) and (place not in found or trial.mean > found[place].mean):
            found[place] = trial
    return found


def trials(path: Path, env_steps: Mapping[str, int]) -> list[Trial]:
    """The trials in the file `path` of environments with these budgets; those of another budget are left out.

    Raises ValueError as `read` does.
    """
    return [trial for trial in read(path) if env_steps.get(trial.environment) == trial.env_steps]


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
    """Writes a CSV with one row per trial; the file is replaced at once."""
    rows = []
    for trial in trials:
        row = trial._asdict()
        settings = row.pop("settings")._asdict()
        rows.append({"environment": row.pop("environment"), "objective": row.pop("objective"), **settings, **row})
    write_csv(path, rows)


def _trial(row: Mapping[str, str]) -> Trial:
    num_envs, rollout_length, epochs, minibatches = (int(row[x]) for x in Settings._fields[:4])
    rate, discount = float(row["learning_rate"]), float(row["discount"])
    settings = Settings(num_envs, rollout_length, epochs, minibatches, rate, discount)
    if row["objective"] not in BASELINES:
        raise ValueError(f"objective must be one of {BASELINES}, got {row['objective']!r}")
    name: Any = row["objective"]
    mean, std = float(row["mean"]), float(row["std"])
    return Trial(row["environment"], int(row["env_steps"]), name, settings, mean, std, int(row["num_seeds"]))

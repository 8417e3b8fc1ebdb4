"""What sweeps of agents' settings have tried: their tables, and the best of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metarl.run.files import write_csv
from metarl.types import Array


class Settings(NamedTuple):
    """What a sweep varies. None: not a setting of these agents."""

    learning_rate: Array | float = 1e-3  # of a baseline's Adam; of a learned rule a factor on its agents' rates
    discount: Array | float | None = 0.99
    gae_lambda: Array | float | None = 0.95
    entropy_coef: Array | float | None = 0.01
    reward_scale: Array | float = 1.0  # of a baseline; of a learned rule a factor on that of its agents


class Trial(NamedTuple):
    """What one setting came to in a sweep."""

    environment: str
    env_steps: int
    objective: str  # the name of a baseline, or the label that a learned rule had in the sweep
    settings: Settings
    mean: float  # of the final returns of the agents of all seeds; NaN if one diverged
    std: float
    num_seeds: int
    returns: tuple[float, ...] = ()  # of seeds 0, 1, ...; tables of older versions have none
    hash: str = ""  # of the agents of a learned rule, see `metarl.evaluation.players.key`

    @property
    def key(self) -> tuple[str, str]:
        """The environment, and what was swept there: the name of a baseline or the hash of a learned rule's agents."""
        return self.environment, self.hash or self.objective


class Tuned(NamedTuple):
    """The settings that a sweep has found."""

    settings: Settings
    mean: float  # final return in the sweep
    num_seeds: int
    tried: int  # number of settings


def trial(
    environment: str, env_steps: int, objective: str, settings: Settings, returns: Sequence[float], hash: str = ""
) -> Trial:
    """The trial of agents with these final `returns`."""
    mean, std = float(np.mean(returns)), float(np.std(returns))
    return Trial(environment, env_steps, objective, settings, mean, std, len(returns), tuple(returns), hash)


def best(trials: Iterable[Trial]) -> dict[tuple[str, str], Tuned]:
    """The settings of the greatest mean return by `Trial.key`, among those that have the most seeds.

    Settings with which an agent diverged are never the best.
    """
    groups: dict[tuple[str, str], list[Trial]] = {}
    for each in trials:
        groups.setdefault(each.key, []).append(each)
    found = {}
    for key, group in groups.items():
        finite = [x for x in group if math.isfinite(x.mean)]
        if finite:
            top = max(finite, key=lambda x: (x.num_seeds, x.mean))
            found[key] = Tuned(top.settings, top.mean, top.num_seeds, len(group))
    return found


def trials(path: Path, env_steps: Mapping[str, int]) -> list[Trial]:
    """The trials in the file `path` of environments with these budgets; those of another budget are left out.

    Raises ValueError as `read` does.
    """
    return [x for x in read(path) if env_steps.get(x.environment) == x.env_steps]


def read(path: Path) -> list[Trial]:
    """The trials that `write` wrote; none if there is no such file. Raises ValueError for another kind of file.

    Where a table of an older version has no column for one of the `Settings`, it is at its default.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        try:
            return [_trial(row) for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a table of a sweep: {error!r}") from error


def write(path: Path, trials: Iterable[Trial]) -> None:
    """Writes a CSV with one row per trial; the file is replaced at once."""
    write_csv(path, [_row(x) for x in trials])


def _row(x: Trial) -> dict[str, object]:
    start = {"environment": x.environment, "objective": x.objective, "hash": x.hash, **x.settings._asdict()}
    end = {"env_steps": x.env_steps, "mean": x.mean, "std": x.std, "num_seeds": x.num_seeds}
    return {**start, **end, "returns": " ".join(f"{value:.6g}" for value in x.returns)}


def _trial(row: Mapping[str, str]) -> Trial:
    given = {name: float(row[name]) if row[name] else None for name in Settings._fields if name in row}
    for name in ("learning_rate", "reward_scale"):
        if given.get(name, 1.0) is None:
            raise ValueError(f"{name} is missing")
    returns = tuple(float(x) for x in row.get("returns", "").split())
    return Trial(
        row["environment"],
        int(row["env_steps"]),
        row["objective"],
        Settings(**given),  # type: ignore[arg-type]
        float(row["mean"]),
        float(row["std"]),
        int(row["num_seeds"]),
        returns,
        row.get("hash", ""),
    )

"""Tables of a meta-test: its cells, the long table of all measurements, and how intervals are printed."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from metarl.evaluation.scales import Scale, diverged_as_random, on_scale
from metarl.evaluation.statistics import Interval

Place = tuple[str, str]  # the names of a suite and of one of its environments


class Cell(NamedTuple):
    """The agents that one rule has trained in one environment."""

    suite: str
    environment: str
    rule: str
    env_steps: tuple[int, ...]  # [points], at which they were measured
    updates: tuple[int, ...]  # [points], the same in updates
    returns: np.ndarray  # [seeds, points]; NaN for an agent that has diverged
    seconds: float  # of the program, its compilation included
    batch: str = ""  # of each update: environments x steps, and minibatches; empty for the random policy
    settings_tried: int = 1  # in the sweep that tuned the agents; 1 if none did

    @property
    def place(self) -> Place:
        return self.suite, self.environment

    @property
    def key(self) -> tuple[Place, str]:
        return self.place, self.rule

    def counted(self, scale: Scale) -> np.ndarray:
        """Returns [seeds, points]; an agent that has diverged counts as the random policy."""
        return diverged_as_random(self.returns, scale.random)

    def scores(self, scale: Scale) -> np.ndarray:
        """`counted` on the scale from 0 to 1, [seeds, points]."""
        return on_scale(self.counted(scale), scale.random, scale.reference)


Cells = Mapping[tuple[Place, str], Cell]  # by `Cell.key`


def rows(cells: Cells, scales: Mapping[Place, Scale]) -> list[dict[str, Any]]:
    """The long table: a row per agent and measurement. Scores are None where there is no (valid) scale."""
    return [row for cell in cells.values() for row in _rows(cell, scales.get(cell.place))]


def _rows(cell: Cell, scale: Scale | None) -> Iterable[dict[str, Any]]:
    scores = cell.scores(scale) if scale and scale.valid else None
    for seed, point in np.ndindex(cell.returns.shape):
        value = float(cell.returns[seed, point])
        yield {
            "suite": cell.suite,
            "environment": cell.environment,
            "rule": cell.rule,
            "seed": seed,
            "env_steps": cell.env_steps[point],
            "agent_updates": cell.updates[point],
            "return": value if np.isfinite(value) else None,
            "score": None if scores is None else float(scores[seed, point]),
            "diverged": not np.isfinite(value),
            "seconds": cell.seconds,
            "batch": cell.batch,
            "settings_tried": cell.settings_tried,
        }


def cells(table: Iterable[Mapping[str, Any]]) -> dict[tuple[Place, str], Cell]:
    """The cells that `rows` made this table of."""
    groups = itertools.groupby(table, lambda row: (row["suite"], row["environment"], row["rule"]))
    found = [_cell(*names, list(group)) for names, group in groups]
    return {cell.key: cell for cell in found}


def _cell(suite: str, environment: str, rule: str, rows: list[Mapping[str, Any]]) -> Cell:
    points = [row for row in rows if row["seed"] == 0]
    returns = np.array([np.nan if row["return"] is None else row["return"] for row in rows], float)
    env_steps, updates = (tuple(row[name] for row in points) for name in ("env_steps", "agent_updates"))
    of_all = {name: rows[0][name] for name in ("seconds", "batch", "settings_tried") if name in rows[0]}
    return Cell(suite, environment, rule, env_steps, updates, returns.reshape(-1, len(points)), **of_all)


def show(table: Mapping[str, Mapping[Any, Interval | float | str]], title: str, corner: str = "") -> None:
    """Prints a table, a row per name, of intervals, plain numbers or text; `corner` says what the names are.

    A row with the numbers `mean`, `low` and `high` is one interval, and its other numbers follow.
    """
    from rich.console import Console
    from rich.table import Table

    shown = {name: _as_intervals(row) for name, row in table.items()}
    columns = list(next(iter(shown.values())))
    has_intervals = any(isinstance(x, Interval) for row in shown.values() for x in row.values())
    drawn = Table(title=f"{title} with 95 % intervals" if has_intervals else title)
    drawn.add_column(corner, overflow="fold")  # where it is narrow, names are told apart by their ends
    for column in columns:
        drawn.add_column(str(column))
    for name, row in shown.items():
        drawn.add_row(name, *(_text(row[column]) for column in columns))
    # brackets are no markup here, and a file has no 80 columns
    Console(markup=False, width=None if sys.stdout.isatty() else 160).print(drawn)


def _as_intervals(row: Mapping[Any, Any]) -> dict[Any, Any]:
    if not set(Interval._fields) <= row.keys():
        return dict(row)
    others = {name: x for name, x in row.items() if name not in Interval._fields}
    return {"mean": Interval(**{name: row[name] for name in Interval._fields}), **others}


def _text(x: Interval | float | str) -> str:
    if isinstance(x, str):
        return x
    return f"{x.mean:.3f} [{x.low:.3f}, {x.high:.3f}]" if isinstance(x, Interval) else f"{x:.3f}"

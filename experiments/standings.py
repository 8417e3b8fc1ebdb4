"""What the returns of a meta-test say: scores on one scale, and how the rules stand to each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cli
from metarl import plot
from metarl.evaluation import statistics
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

    @property
    def place(self) -> Place:
        return self.suite, self.environment


class Scale(NamedTuple):
    """What scores 0 and 1 in one environment: mean final returns."""

    random: float
    reference: float
    rule: str  # whose the reference is
    valid: bool  # the reference is above random, by more than twice the standard error of their difference


Cells = Mapping[tuple[Place, str], Cell]  # by place and rule


def scale(random: Cell, reference: Cell) -> Scale:
    """The scale of an environment from the agents of the random policy and of the tuned baseline there."""
    zero = float(random.returns[:, -1].mean())
    lead = _counted(reference, zero)[:, -1] - random.returns[:, -1]  # pair by pair: seeds may have levels of their own
    valid = lead.mean() > 2.0 * lead.std(ddof=1) / len(lead) ** 0.5
    return Scale(zero, zero + float(lead.mean()), reference.rule, bool(valid))


def scores(cell: Cell, scale: Scale) -> np.ndarray:
    """Normalised returns [seeds, points]; an agent that has diverged counts as the random policy."""
    return (_counted(cell, scale.random) - scale.random) / (scale.reference - scale.random)


def _counted(cell: Cell, random: float) -> np.ndarray:
    return np.where(np.isfinite(cell.returns), cell.returns, random)


def rows(cells: Cells, scales: Mapping[Place, Scale]) -> list[dict[str, Any]]:
    """The long table: a row per agent and measurement. Scores are None where there is no (valid) scale."""
    table = []
    for cell in cells.values():
        known = scales.get(cell.place)
        score = scores(cell, known) if known and known.valid else None
        for seed, point in np.ndindex(cell.returns.shape):
            value = float(cell.returns[seed, point])
            table.append(
                {
                    "suite": cell.suite,
                    "environment": cell.environment,
                    "rule": cell.rule,
                    "seed": seed,
                    "env_steps": cell.env_steps[point],
                    "agent_updates": cell.updates[point],
                    "return": value if np.isfinite(value) else None,
                    "score": None if score is None else float(score[seed, point]),
                    "diverged": not np.isfinite(value),
                    "seconds": cell.seconds,
                }
            )
    return table


def cells(table: Iterable[Mapping[str, Any]]) -> dict[tuple[Place, str], Cell]:
    """The cells that `rows` made this table of."""
    found: dict[tuple[Place, str], Cell] = {}
    for (suite, environment, rule), group in itertools.groupby(
        table, lambda row: (row["suite"], row["environment"], row["rule"])
    ):
        those = list(group)
        points = [row for row in those if row["seed"] == 0]
        returns = np.array([np.nan if row["return"] is None else row["return"] for row in those], float)
        found[(suite, environment), rule] = Cell(
            suite,
            environment,
            rule,
            tuple(row["env_steps"] for row in points),
            tuple(row["agent_updates"] for row in points),
            returns.reshape(-1, len(points)),
            those[0]["seconds"],
        )
    return found


def report(cells: Cells, scales: Mapping[Place, Scale], rules: Sequence[str], directory: Path) -> dict[str, Any]:
    """Prints and draws how `rules` stand, suite by suite and in all of them, and returns the numbers.

    Aggregates, probabilities of improvement and profiles leave out the environments whose scale is not valid.
    """
    suites = list(dict.fromkeys(suite for suite, _ in scales))
    groups = {suite: [place for place in scales if place[0] == suite] for suite in suites}
    if len(suites) > 1:
        groups["all"] = list(scales)
    for place, known in scales.items():
        left_out = "" if known.valid else ": not above random, left out of aggregates"
        said = f"0 is random ({known.random:.4g}), 1 is {known.rule} ({known.reference:.4g})"
        print(f"{_title(place, suites)}: {said}{left_out}")
    finals = {
        _title(place, suites): {rule: statistics.over_runs(_final(cells, scales, place, rule)) for rule in rules}
        for place in scales
    }
    cli.show_intervals(finals, "environment", "final return")
    results = {name: _group(name, cells, scales, rules, places) for name, places in groups.items()}
    curves = {_title(p, suites): {rule: _curve(cells[p, rule], scales[p]) for rule in rules} for p in scales}
    plot.save(plot.sample_efficiency(curves, "environment steps", "return"), directory / "curves.png")
    _draw([p for p in scales if scales[p].valid], cells, scales, rules, results[list(groups)[-1]], directory)
    return {
        "scales": {_title(place, suites): known._asdict() for place, known in scales.items()},
        "final_returns": _plain(finals),
        "suites": {name: {part: _plain(x) for part, x in result.items()} for name, result in results.items()},
    }


def _group(
    name: str, cells: Cells, scales: Mapping[Place, Scale], rules: Sequence[str], places: Sequence[Place]
) -> dict[str, dict[str, dict[str, Interval]]]:
    """Aggregates of each rule, and probabilities that one is better than another, printed."""
    valid = [place for place in places if scales[place].valid]
    if not valid:
        print(f"{name}: no environment in which the reference is above random, so no aggregates")
        return {"aggregates": {}, "improvement": {}}
    found = {rule: _matrix(cells, scales, valid, rule) for rule in rules}
    aggregates = {rule: statistics.aggregates(x) for rule, x in found.items()}
    improvement = {
        f"{x} over {y}": {"probability of improvement": statistics.probability_of_improvement(found[x], found[y])}
        for x, y in itertools.combinations(rules, 2)
    }
    seeds = len(found[rules[0]])
    cli.show_intervals(aggregates, "rule", f"{name}: normalised return in {len(valid)} environments, {seeds} seeds")
    if improvement:
        cli.show_intervals(improvement, "", f"{name}: {seeds} seeds")
    return {"aggregates": aggregates, "improvement": improvement}


def _draw(
    valid: Sequence[Place],
    cells: Cells,
    scales: Mapping[Place, Scale],
    rules: Sequence[str],
    result: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    directory: Path,
) -> None:
    if not valid:
        return
    plot.save(plot.aggregates(result["aggregates"]), directory / "aggregates.png")
    if pairs := {pair: x for pair, row in result["improvement"].items() for x in row.values()}:
        figure = plot.intervals(pairs, "probability of improvement", reference=0.5)
        plot.save(figure, directory / "improvement.png")
    found = {rule: _matrix(cells, scales, valid, rule) for rule in rules}
    everything = np.concatenate([x.ravel() for x in found.values()])
    low, high = np.quantile(everything, [0.02, 0.98])
    thresholds = np.linspace(min(low, 0.0), max(high, 1.0), 61)
    profiles = {rule: (thresholds, *statistics.performance_profile(x, thresholds)) for rule, x in found.items()}
    plot.save(plot.profiles(profiles, "normalised return"), directory / "profiles.png")


def _matrix(cells: Cells, scales: Mapping[Place, Scale], places: Sequence[Place], rule: str) -> np.ndarray:
    """Final scores [seeds, places]."""
    return np.stack([scores(cells[place, rule], scales[place])[:, -1] for place in places], axis=1)


def _final(cells: Cells, scales: Mapping[Place, Scale], place: Place, rule: str) -> np.ndarray:
    return _counted(cells[place, rule], scales[place].random)[:, -1]


def _curve(cell: Cell, scale: Scale) -> tuple[Any, Any, Any, Any]:
    intervals = [statistics.over_runs(column) for column in _counted(cell, scale.random).T]
    return cell.env_steps, *np.array(intervals).T


def _title(place: Place, suites: Sequence[str]) -> str:
    return place[1] if len(suites) == 1 else f"{place[0]}: {place[1]}"


def _plain(table: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, dict[str, float]]]:
    return {name: {x: interval._asdict() for x, interval in row.items()} for name, row in table.items()}

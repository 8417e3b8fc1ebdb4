"""What the returns of a meta-test say: scores on one scale, and how the rules compare."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl import plot
from metarl.evaluation import statistics, tables
from metarl.evaluation.scales import Scale
from metarl.evaluation.statistics import Interval
from metarl.evaluation.tables import Cell, Cells, Place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = dict[str, dict[str, Interval]]


@dataclass(frozen=True)
class Evaluation:
    """The agents of a meta-test, and what is said of the rules that trained them.

    Aggregates, probabilities of improvement and profiles leave out the environments whose scale is not valid. They are
    those of each suite and, of several, of "all". The first two, and differences, are computed once.
    """

    rules: tuple[str, ...]  # labels, in the order of tables and figures
    cells: Cells  # of these rules, of the random policy and of each environment's reference
    scales: Mapping[Place, Scale]  # of the environments in which both ends are known

    def rows(self) -> list[dict[str, Any]]:
        """The long table: a row per agent and measurement, with its return and its score."""
        return tables.rows(self.cells, self.scales)

    def table(self) -> Table:
        """Mean final returns `{environment: {rule: interval}}` with 95 % t-intervals over seeds."""
        return {
            self._title(place): {
                rule: statistics.over_runs(self.cells[place, rule].counted(scale)[:, -1]) for rule in self.rules
            }
            for place, scale in self.scales.items()
        }

    def training(self) -> dict[str, dict[str, dict[str, Any]]]:
        """How agents were trained, `{environment: {rule: ...}}`.

        Of all but the random policy: the number of their `updates`, the `batch` of each update (environments x steps),
        and among how many `settings_tried` a sweep has found theirs.
        """

        def of(cell: Cell) -> dict[str, Any]:
            return {"updates": cell.updates[-1], "batch": cell.batch, "settings_tried": cell.settings_tried}

        return {
            self._title(place): {
                rule: of(self.cells[place, rule]) for rule in self.rules if self.cells[place, rule].batch
            }
            for place in self.scales
        }

    @cached_property
    def aggregates(self) -> dict[str, Table]:
        """Summaries of the final scores, `{suite: {rule: {statistic: interval}}}`: see `statistics.aggregates`."""
        return {
            name: {rule: statistics.aggregates(self.scores(rule, places)) for rule in self.rules} if places else {}
            for name, places in self._groups().items()
        }

    @cached_property
    def improvement(self) -> dict[str, Table]:
        """How likely one rule is better than another, `{suite: {"x over y": {"probability of improvement": ...}}}`."""
        return self._pairs("over", "probability of improvement", statistics.probability_of_improvement)

    @cached_property
    def differences(self) -> dict[str, Table]:
        """Differences of mean final scores, `{suite: {"x minus y": {"paired difference": interval}}}`.

        Agents of the same seed live on the same levels, so the 95 % t-interval is over the differences of seeds.
        """
        return self._pairs("minus", "paired difference", lambda x, y: statistics.over_runs((x - y).mean(axis=1)))

    def scores(self, rule: str, places: Sequence[Place]) -> np.ndarray:
        """Final scores [seeds, places] of the agents of a rule."""
        return np.stack([self.cells[place, rule].scores(self.scales[place])[:, -1] for place in places], axis=1)

    def show(self) -> None:
        """Prints the scales and all tables."""
        for place, scale in self.scales.items():
            left_out = "" if scale.valid else ": not above random, left out of aggregates"
            said = f"0 is random ({scale.random:.4g}), 1 is {scale.rule} ({scale.reference:.4g})"
            print(f"{self._title(place)}: {said}{left_out}")
        tables.show(self.table(), "final return", "environment")
        if any((trained := self.training()).values()):
            said = "{updates} of {batch}; {settings_tried} tried"
            shown = {place: {rule: said.format(**x) for rule, x in row.items()} for place, row in trained.items()}
            tables.show(shown, "updates, each of environments x steps; settings tried in a sweep", "environment")
        groups = self._groups()
        for name, aggregates in self.aggregates.items():
            if not aggregates:
                print(f"{name}: no environment in which the reference is above random, so no aggregates")
                continue
            tables.show(aggregates, f"{name}: normalised return, environments: {len(groups[name])}", "rule")
            if self.improvement[name]:
                tables.show(self.improvement[name], name)
                tables.show(self.differences[name], name)

    def figures(self) -> dict[str, Figure]:
        """`curves`, and of environments with a valid scale `aggregates`, `improvement` and `profiles`.

        The last three are of all suites together.
        """
        curves = {
            self._title(place): {rule: _curve(self.cells[place, rule], scale) for rule in self.rules}
            for place, scale in self.scales.items()
        }
        drawn = {"curves": plot.sample_efficiency(curves, "environment steps", "return")}
        *_, (group, places) = self._groups().items()
        if not places:
            return drawn
        drawn["aggregates"] = plot.aggregates(self.aggregates[group])
        if pairs := {pair: x for pair, row in self.improvement[group].items() for x in row.values()}:
            drawn["improvement"] = plot.intervals(pairs, "probability of improvement", reference=0.5)
        drawn["profiles"] = self._profiles(places)
        return drawn

    def summary(self) -> dict[str, Any]:
        """All numbers of `show`, JSON-able."""
        return {
            "scales": {self._title(place): scale._asdict() for place, scale in self.scales.items()},
            "final_returns": _plain(self.table()),
            "training": self.training(),
            "suites": {
                name: {
                    "aggregates": _plain(aggregates),
                    "improvement": _plain(self.improvement[name]),
                    "differences": _plain(self.differences[name]),
                }
                for name, aggregates in self.aggregates.items()
            },
        }

    def _pairs(self, word: str, title: str, compare: Callable[[np.ndarray, np.ndarray], Interval]) -> dict[str, Table]:
        """What `compare` says of the scores of each pair of rules, `{suite: {"x word y": {title: interval}}}`."""
        return {
            name: {
                f"{x} {word} {y}": {title: compare(self.scores(x, places), self.scores(y, places))}
                for x, y in itertools.combinations(self.rules if places else (), 2)
            }
            for name, places in self._groups().items()
        }

    def _profiles(self, places: Sequence[Place]) -> Figure:
        scores = {rule: self.scores(rule, places) for rule in self.rules}
        low, high = np.quantile(np.concatenate([x.ravel() for x in scores.values()]), [0.02, 0.98])
        thresholds = np.linspace(min(low, 0.0), max(high, 1.0), 61)
        profiles = {rule: (thresholds, *statistics.performance_profile(x, thresholds)) for rule, x in scores.items()}
        return plot.profiles(profiles, "normalised return")

    def _groups(self) -> dict[str, list[Place]]:
        """The environments with a valid scale, of each suite and, of several, of all."""
        groups: dict[str, list[Place]] = {suite: [] for suite in self._suites()}
        for place, scale in self.scales.items():
            groups[place[0]] += [place] if scale.valid else []
        return (
            groups if len(groups) == 1 else {**groups, "all": [place for group in groups.values() for place in group]}
        )

    def _suites(self) -> list[str]:
        return list(dict.fromkeys(suite for suite, _ in self.scales))

    def _title(self, place: Place) -> str:
        return place[1] if len(self._suites()) == 1 else f"{place[0]}: {place[1]}"


def _curve(cell: Cell, scale: Scale) -> tuple[Any, Any, Any, Any]:
    return cell.env_steps, *statistics.over_points(cell.counted(scale))


def _plain(table: Table) -> dict[str, dict[str, dict[str, float]]]:
    return {name: {x: interval._asdict() for x, interval in row.items()} for name, row in table.items()}

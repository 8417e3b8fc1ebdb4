"""Rules of finished runs side by side: over lifetimes, on other levels, or by the reports that the runs ended with.

python -m experiments.compare runs/ta_lpg-0 runs/ta_lpg-1 runs/blind-0 runs/blind-1           # over lifetimes
python -m experiments.compare runs/groove-0 runs/uniform-0 --levels gridworld/mazes CartPole-v1
python -m experiments.compare runs/a-0 runs/b-0 --cvar 0.1 0.25 0.5 1  # and on the levels that are worst for each rule
python -m experiments.compare runs/digits-0 runs/digits-1 runs/digits-2 --reports

Runs that differ only in their seed share a name, and their intervals are those over meta-training seeds. Differences
are those of the first name from the others.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

import envs
from experiments import cli, parts
from experiments.launch import CONTROL
from metarl import checks, plot
from metarl.checks import COUNT, FACTOR, SEVERAL
from metarl.evaluation import compare, tables
from metarl.evaluation.held_out import (
    SCORE,
    Measured,
    horizon_report,
    worst_report,
    write_horizon_report,
    write_worst_report,
)
from metarl.evaluation.statistics import Interval
from metarl.parallel import one_device_per_core
from metarl.run.files import write_json

IGNORED = CONTROL - {"steps"}  # options that make no other training


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Directories of finished runs."""
    levels: tuple[str, ...] = ()
    """Distributions of levels to compare on: any names that envs.make accepts (none: those of the runs)."""
    horizons: tuple[Annotated[int, COUNT], ...] = ()
    """Lifetimes in agent updates (none: 25, 100, 250, 500 and 1000 on the levels of the runs, 250 on others)."""
    reports: bool = False
    """Only sum up the reports that the runs ended with, over their seeds."""
    held_out_levels: Annotated[int, SEVERAL] = 32
    """Levels that agents are trained on, none of them seen in meta-training; where there is one level, agents per seed.
    """
    held_out_seeds: Annotated[int, COUNT] = 4
    """Agents per rule and held-out level."""
    held_out_batch: Annotated[int, COUNT] = 128
    """Agents of one seed that live side by side on each device."""
    cvar: tuple[Annotated[float, FACTOR], ...] = ()
    """Shares of the levels: the score on the worst ones for each rule is reported, too (0.1 0.25 1)."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)
        if not self.runs:
            raise ValueError("give the directory of at least one finished run")
        if self.reports:
            others = [field.name for field in dataclasses.fields(self) if field.name not in ("runs", "reports")]
            parts.refuse_inert(self, others, "with reports")
        if self.cvar and self.held_out_seeds < 2:
            raise ValueError(
                f"held_out_seeds must be at least 2 for cvar: levels are chosen by others than those that are scored, "
                f"got {self.held_out_seeds}"
            )


Groups = dict[str, list[compare.Run]]


def over_horizons(options: Options, groups: Groups, directory: Path) -> None:
    """Compares on the levels of the runs, over lifetimes."""
    runs = [run for group in groups.values() for run in group]
    name = runs[0].config["levels"]
    measured = _measured(options, groups, name, options.horizons or (25, 100, 250, 500, 1000))
    write_horizon_report(horizon_report(measured), directory, compare.trained_range(runs))
    if options.cvar:
        write_worst_report(_worst(options, name, measured), directory)


def on_other_levels(options: Options, groups: Groups, directory: Path) -> None:
    """Compares on other levels, and writes what is known after each distribution of them."""
    horizons = options.horizons or (250,)
    report: dict[str, dict[str, Interval]] = {}
    worst: dict[str, dict[str, dict[float, Interval]]] = {}
    for name in options.levels:
        measured = _measured(options, groups, name, horizons)
        for title, row in horizon_report(measured).items():
            several = len(horizons) > 1
            columns = {f"{name}, {horizon} updates" if several else name: x for horizon, x in row.items()}
            report.setdefault(title, {}).update(columns)
        rows = {title: {place: x._asdict() for place, x in row.items()} for title, row in report.items()}
        write_json(directory / "levels.json", rows)
        if options.cvar:
            worst |= _worst(options, name, measured)
        print(f"done: {name}", file=sys.stderr)
    tables.show(report, SCORE, "levels")
    places = next(iter(report.values()))
    drawn = {f"{place}: {title}": row[place] for place in places for title, row in report.items()}
    plot.save(plot.intervals(drawn, SCORE), directory / "levels.png")
    if worst:
        write_worst_report(worst, directory)


def _measured(options: Options, groups: Groups, name: str, horizons: tuple[int, ...]) -> Measured:
    return compare.measured(
        groups,
        name,
        envs.make(name),
        horizons,
        num_levels=options.held_out_levels,
        num_seeds=options.held_out_seeds,
        batch_size=options.held_out_batch,
    )


def _worst(options: Options, name: str, measured: Measured) -> dict[str, dict[str, dict[float, Interval]]]:
    """`worst_report` with a title for each horizon."""
    found = worst_report(measured, options.cvar)
    horizons = next(iter(found.values()))
    return {f"{name}, {h} updates": {title: row[h] for title, row in found.items()} for h in horizons}


def main(argv: list[str] | None = None) -> None:
    options = cli.options(Options, __doc__, argv)
    with cli.clean_exit():
        if options.reports:
            found = compare.over_seeds({run: compare.results_of(run) for run in options.runs}, IGNORED)
            tables.show({row: {"mean": x} for row, x in found.items()}, f"over {len(options.runs)} seeds")
            return
        one_device_per_core()
        runs = [compare.load(run) for run in options.runs]
        groups = compare.group(runs, IGNORED, same_levels=not options.levels)
        directory = cli.run_directory(options.directory, "compare")
        directory.mkdir(parents=True, exist_ok=True)
        (on_other_levels if options.levels else over_horizons)(options, groups, directory)
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

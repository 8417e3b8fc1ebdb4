"""Rules of finished runs side by side, on levels of other distributions than those they were meta-trained on.

python -m experiments.transfer runs/groove-0 runs/groove-1 runs/uniform-0 --levels gridworld/mazes CartPole-v1

Runs that differ only in their seed share a name, and their intervals are those over meta-training seeds.
"""

from __future__ import annotations

import dataclasses
import sys

import tyro

import envs
from experiments import cli, horizons
from experiments.report import check_held_out
from metarl import plot
from metarl.evaluation.statistics import Interval

SHARED = tuple(field for field in horizons.SHARED if field != "levels")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Directories of finished runs; differences are those of the first one's kind from the others."""
    levels: tuple[str, ...] = ("gridworld/tabular", "gridworld/large", "gridworld/mazes", "CartPole-v1", "Catch-bsuite")
    """Distributions of levels: any names of envs.names()."""
    horizon: int = 250
    """Lifetime of the agents in updates."""
    held_out_levels: int = 32
    """Levels of each distribution that agents are trained on; of one that has only one level, agents per seed."""
    held_out_seeds: int = 2
    """Agents per rule and held-out level."""
    held_out_batch: int = 128
    """Agents of one seed that live side by side on each device."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""

    def __post_init__(self) -> None:
        cli.check(self, positive=("held_out_seeds", "horizon"))
        check_held_out(self)
        for name in ("runs", "levels"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one")

    @property
    def held_out_horizons(self) -> tuple[int, ...]:
        return (self.horizon,)


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        with cli.one_line_errors():
            options = tyro.cli(Options, args=argv, description=__doc__)
        cli.one_device_per_core()
        levels = {name: envs.make(name) for name in options.levels}
        horizons.group([horizons.load(run) for run in options.runs], SHARED)  # fails before hours of work, not after
        directory = cli.run_directory(options.directory, "transfer")
        directory.mkdir(parents=True, exist_ok=True)
        report: dict[str, dict[str, Interval]] = {}
        for place, those in levels.items():
            groups = horizons.group([horizons.load(run, place) for run in options.runs], SHARED)
            for name, row in horizons.compare(options, groups, those).items():
                report.setdefault(name, {})[place] = row[options.horizon]
            # what is known so far, in case that somebody stops it
            rows = {name: {x: interval._asdict() for x, interval in row.items()} for name, row in report.items()}
            cli.write_json(directory / "transfer.json", rows)
            print(f"done: {place}", file=sys.stderr)
        cli.show_intervals(report, "levels", horizons.SCORE)
        drawn = {f"{place}: {name}": report[name][place] for place in levels for name in report}
        plot.save(plot.intervals(drawn, horizons.SCORE), directory / "transfer.png")
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

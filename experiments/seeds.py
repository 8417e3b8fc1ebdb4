"""Reports of finished runs that differ only in their seed, as one table with intervals over the seeds.

python -m experiments.seeds runs/digits-0 runs/digits-1 runs/digits-2
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import tyro

from experiments import cli
from metarl.evaluation.statistics import Interval, over_runs


@dataclasses.dataclass(frozen=True)
class Options:
    """What is summed up."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Directories of finished runs of one experiment."""

    def __post_init__(self) -> None:
        if len(set(self.runs)) < 2:
            raise ValueError(f"give the directories of at least two runs, got {self.runs}")


def over_seeds(runs: Sequence[str]) -> dict[str, Interval]:
    """For each row of the runs' reports, the mean over runs of its mean, and the 95 % t-interval over them.

    Raises FileNotFoundError for a run without results, ValueError for runs that differ in more than their seed, have
    the same one, or have no report.
    """
    results = [json.loads((Path(run) / "results.json").read_text()) for run in runs]

    def but_seed(result: dict[str, Any]) -> dict[str, Any]:
        fields = {name: x for name, x in result["config"].items() if name not in cli.CONTROL - {"steps"}}
        return {"experiment": result["experiment"], **fields}

    for run, other in zip(runs, results, strict=True):
        here, there = but_seed(results[0]), but_seed(other)
        if differ := [name for name in here if here[name] != there.get(name)]:
            raise ValueError(f"{run} and {runs[0]} differ in {', '.join(differ)}")
        if not other["report"]:
            raise ValueError(f"{run} has no report")
    seeds = [result["config"]["seed"] for result in results]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"runs must have different seeds, got {seeds}")
    reports = [result["report"] for result in results]
    rows = [name for name in reports[0] if all(name in report for report in reports)]
    return {name: over_runs(jnp.array([report[name]["mean"] for report in reports])) for name in rows}


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        with cli.one_line_errors():
            options = tyro.cli(Options, args=argv, description=__doc__)
        table = {name: interval._asdict() for name, interval in over_seeds(options.runs).items()}
        cli.show(table, f"over {len(options.runs)} seeds")


if __name__ == "__main__":
    main()

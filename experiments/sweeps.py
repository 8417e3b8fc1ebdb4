"""What `--sweep` does in every experiment: a grid of its runs, compared.

python -m experiments.lpg --sweep learning_rate=3e-4,1e-3,3e-3 policy_entropy_coef=0.01,0.05 --sweep-seeds 8
"""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import numpy as np

import metarl
from experiments import cli
from metarl import plot
from metarl.meta import Meta
from metarl.sinks import Progress
from metarl.statistics import Interval, over_runs
from metarl.sweep import Sweep
from metarl.train import mean_of_numbers

SCORES = ("fitness", "episode_return", "success")  # what members are compared by, the first that is logged


def launch(make: Callable[[Any], Meta], config: cli.Run, *, curves: Sequence[str] = (), **options: Any) -> None:
    """Trains `make(config)` by `cli.run`, which gets the options, or if `config.sweep` says so a grid of such runs."""
    if config.sweep:
        run(make, config, curves)
    else:
        cli.run(make(config), config, curves=curves, **options)


def run(make: Callable[[Any], Meta], config: cli.Run, curves: Sequence[str] = ()) -> None:
    """Trains the grid of `config`, and leaves what became of it in its directory.

    `sweep.csv` is the long table of its members' metrics, `results.json` has each configuration's score over its seeds,
    and `parallel.png`, and for two fields `grid.png`, show these. Prints the configurations, best first. What is
    finished is not done again if it resumes.

    Raises ValueError for a field or a value that the experiment does not have.
    """
    cli.start(config)
    fields = parse(config)
    directory = cli.directory_of_runs(config, f"{Path(sys.argv[0]).stem}-sweep")
    alone = dataclasses.replace(config, sweep=(), directory="", resume=False)
    if hasattr(alone, "devices"):
        alone = dataclasses.replace(alone, **dict[str, Any](devices=1))  # they are for the members
    start = time.monotonic()
    found = metarl.sweep(
        make,
        alone,
        fields,
        seeds=range(config.seed, config.seed + config.sweep_seeds),
        devices=jax.devices(),
        batch_size=config.sweep_batch or None,
        directory=directory,
        sinks=lambda name: [] if jax.process_index() else [Progress(config.steps, curves)],
        chunk=config.chunk,
        checkpoint_every=config.checkpoint_every,
        keep=config.keep,
        resume=config.resume,
        fingerprint=cli.what_is_trained(alone),
    )
    if jax.process_index():
        return cli.meet()
    metric = config.sweep_by or next((name for name in SCORES if name in found.log), "")
    rows = summary(found, metric)
    write_table(found, directory / "sweep.csv")
    results = {
        "config": dataclasses.asdict(config),
        "score": metric,
        "configurations": rows,
        "compiled": len([path for path in directory.iterdir() if path.name.isdigit()]),
        "wall_clock_seconds": round(time.monotonic() - start, 3),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": cli.hardware(),
    }
    cli.write_json(directory / "results.json", results)
    cli.show({", ".join(f"{k}={v}" for k, v in row["values"].items()): _numbers(row) for row in rows}, metric)
    draw(rows, fields, metric, directory)
    print(f"results in {directory}", file=sys.stderr)
    cli.meet()


def parse(config: cli.Run) -> dict[str, list[Any]]:
    """The fields of `config.sweep` and their values.

    Raises ValueError for what is not FIELD=VALUE,VALUE, with values that the field may have.
    """
    types = get_type_hints(type(config))
    fields: dict[str, list[Any]] = {}
    for text in config.sweep:
        name, equals, values = text.partition("=")
        name = name.replace("-", "_").strip()
        if not equals or not values or name in fields:
            raise ValueError(f"sweep must be FIELD=VALUE,VALUE,... with each field once, got {text!r}")
        fields[name] = [_value(name, types.get(name, str), x.strip()) for x in values.split(",")]
    return fields


_SWITCH = {"true": True, "false": False}


def _value(name: str, kind: Any, text: str) -> Any:
    kind = type(get_args(kind)[0]) if get_args(kind) and not isinstance(kind, type) else kind  # of a Literal
    kinds: dict[Any, Callable[[str], Any]] = {float: float, int: int, str: str, bool: _SWITCH.__getitem__}
    if kind not in kinds:
        raise ValueError(f"{name} cannot be swept from the command line: give metarl.sweep its values")
    try:
        return kinds[kind](text.lower() if kind is bool else text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} must be of type {kind.__name__}, got {text!r}") from error


def summary(found: Sweep, metric: str) -> list[dict[str, Any]]:
    """Of each configuration, best first: `values`, `scores` of its seeds, their mean and interval, who `diverged`."""
    rows, scores = [], found.scores(metric)
    for values, members in found.configurations(metric):
        numbers = scores[members][~np.isnan(scores[members])]
        nothing = Interval(mean_of_numbers(numbers), math.nan, math.nan)
        interval = over_runs(numbers) if len(numbers) > 1 else nothing
        diverged = int((found.diverged[members] > 0).sum())
        rows.append({"values": values, **interval._asdict(), "diverged": diverged, "scores": scores[members]})
    return rows


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in ("mean", "low", "high", "diverged")}


def write_table(found: Sweep, path: Path) -> None:
    """`Sweep.table` as CSV."""
    rows = list(found.table())
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: Sequence[dict[str, Any]], fields: dict[str, list[Any]], metric: str, directory: Path) -> None:
    """`parallel.png`, and of two fields `grid.png`, of rows of `summary`."""
    scores = [row["mean"] if not row["diverged"] else np.nan for row in rows]
    plot.parallel([row["values"] for row in rows], scores, directory / "parallel.png", metric)
    if len(fields) == 2:
        (down, rows_of), (across, columns) = fields.items()
        place = {(row["values"][down], row["values"][across]): x for row, x in zip(rows, scores, strict=True)}
        values = np.array([[place[y, x] for x in columns] for y in rows_of])
        plot.grid(values, rows_of, columns, directory / "grid.png", down, across, metric)

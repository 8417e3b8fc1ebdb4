"""What `--sweep` does in every experiment: a grid of its runs, compared.

python -m experiments.lpg --sweep learning_rate=3e-4,1e-3,3e-3 policy_entropy_coef=0.01,0.05 --sweep-seeds 8
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np

import metarl
from experiments import cli
from metarl import plot
from metarl.meta import Meta
from metarl.rules import Recipe, save_rule
from metarl.run.sinks import Progress
from metarl.evaluation.statistics import Interval, over_runs
from metarl.run.sweep import Sweep
from metarl.run.train import mean_of_numbers

SCORES = ("fitness", "episode_return", "success")  # what members are compared by, the first that is logged


def launch(
    make: Callable[[Any], Meta],
    config: cli.Run,
    *,
    curves: Sequence[str] = (),
    recipe: Callable[[Any], Recipe] | None = None,
    **options: Any,
) -> None:
    """Trains `make(config)` by `cli.run`, which gets the options, or if `config.sweep` says so a grid of such runs."""
    if config.sweep:
        run(make, config, curves, recipe)
    else:
        cli.run(make(config), config, curves=curves, recipe=recipe and recipe(config), **options)


def run(
    make: Callable[[Any], Meta],
    config: cli.Run,
    curves: Sequence[str] = (),
    recipe: Callable[[Any], Recipe] | None = None,
) -> None:
    """Trains the grid of `config`, and leaves what became of it in its directory.

    `sweep.csv` is the long table of its members' metrics, `results.json` has each configuration's score over its seeds,
    and `parallel.png`, and for two fields `grid.png`, show these. With a `recipe`, `rule.safetensors` is what the first
    seed of the best configuration has learned. Prints the configurations, best first. What is finished is not done
    again if it resumes.

    Raises ValueError for a field, a value or a metric that the experiment does not have.
    """
    cli.one_device_per_core()
    cli.join(config)
    fields = parse(config)
    if config.tensorboard or config.wandb:
        raise ValueError("tensorboard and wandb must be off: they are for single runs")
    alone = dataclasses.replace(config, sweep=(), directory="", resume=False, distributed=False)
    if hasattr(alone, "devices"):
        alone = dataclasses.replace(alone, **dict[str, Any](devices=1))  # they are for the members
    metric = _metric(make, alone, config.sweep_by)
    first = jax.process_index() == 0
    directory = Path(config.directory)
    if first:  # the others come later, and may find its files there
        directory = cli.directory_of_runs(config, f"{Path(sys.argv[0]).stem}-sweep")
        directory.mkdir(parents=True, exist_ok=True)
    cli.meet("directory")
    start = time.monotonic()
    found = metarl.sweep(
        make,
        alone,
        fields,
        seeds=range(config.seed, config.seed + config.sweep_seeds),
        devices=jax.devices(),
        batch_size=config.sweep_batch or None,
        directory=directory,
        sinks=lambda name: [Progress(config.steps, curves)] if first else [],
        chunk=config.chunk,
        checkpoint_every=config.checkpoint_every,
        keep=config.keep,
        resume=config.resume,
        fingerprint={**cli.what_is_trained(alone), "steps": config.steps},
    )
    if first:
        cli.write_csv(directory / "sweep.csv", found.table())
        rows = summary(found, metric)
        results = {
            "config": dataclasses.asdict(config),
            "score": metric,
            "configurations": rows,
            "wall_clock_seconds": round(time.monotonic() - start, 3),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": cli.hardware(),
        }
        cli.write_json(directory / "results.json", results)
        values, members = found.configurations(metric)[0]
        best, params = dataclasses.replace(alone, **values), found.params[members[0]]
        if recipe and jax.tree.leaves(params):
            origin = cli.origin(dataclasses.replace(best, directory=str(directory)))
            save_rule(directory / "rule.safetensors", params, recipe(best), {**origin, "sweep": config.sweep})
        cli.show({_name(row["values"]): _numbers(row) for row in rows}, f"{metric} of {config.sweep_seeds} seeds")
        draw(rows, fields, metric, directory)
        print(f"results in {directory}", file=sys.stderr)
    cli.meet("report")


def parse(config: cli.Run) -> dict[str, list[Any]]:
    """The fields of `config.sweep` and their values.

    Raises ValueError for what is not FIELD=VALUE,VALUE with a field that changes what is trained, and values that it
    may have.
    """
    types, known = get_type_hints(type(config)), cli.what_is_trained(config)
    fields: dict[str, list[Any]] = {}
    for text in config.sweep:
        name, equals, values = text.partition("=")
        name = name.replace("-", "_").strip()
        if not equals or not values or name in fields:
            raise ValueError(f"sweep must be FIELD=VALUE,VALUE,... with each field once, got {text!r}")
        if name not in known:
            alike = difflib.get_close_matches(name, known) or sorted(known)
            raise ValueError(f"{name!r} is no field that can be swept; did you mean {alike}?")
        fields[name] = [_value(name, types[name], x.strip()) for x in values.split(",")]
    return fields


_SWITCH = {"true": True, "false": False}


def _value(name: str, kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"{name} must be one of {get_args(kind)}, got {text!r}")
        return text
    kinds: dict[Any, Callable[[str], Any]] = {float: float, int: int, str: str, bool: _SWITCH.__getitem__}
    if kind not in kinds:
        raise ValueError(f"{name} cannot be swept from the command line: give metarl.sweep its values")
    try:
        return kinds[kind](text.lower() if kind is bool else text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} must be of type {kind.__name__}, got {text!r}") from error


def _metric(make: Callable[[Any], Meta], config: cli.Run, wanted: str) -> str:
    """What members are compared by. Raises ValueError for what is not logged."""
    meta = make(config)
    logged = jax.eval_shape(lambda key: meta.step(meta.init(key), key)[1], jax.random.key(0))
    metric = wanted or next((name for name in SCORES if name in logged), "")
    if metric not in logged:
        raise ValueError(f"sweep_by must be a metric that is logged, got {metric!r}; there are {sorted(logged)}")
    return metric


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


def _name(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={x}" for name, x in values.items())


def draw(rows: Sequence[dict[str, Any]], fields: dict[str, list[Any]], metric: str, directory: Path) -> None:
    """`parallel.png`, and of two fields `grid.png`, of rows of `summary`: means over the seeds that did not diverge."""
    scores = [row["mean"] for row in rows]
    if not np.isfinite(scores).any():
        print(f"no member has a finite {metric}: nothing to draw", file=sys.stderr)
        return
    plot.save(plot.parallel([row["values"] for row in rows], scores, metric), directory / "parallel.png")
    if len(fields) == 2:
        (down, rows_of), (across, columns) = fields.items()
        place = {(row["values"][down], row["values"][across]): x for row, x in zip(rows, scores, strict=True)}
        values = np.array([[place[y, x] for x in columns] for y in rows_of])
        plot.save(plot.grid(values, rows_of, columns, down, across, metric), directory / "grid.png")

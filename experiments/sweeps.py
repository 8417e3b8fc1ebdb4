"""What `--sweep` does in every experiment: a grid of its runs, compared.

python -m experiments.lpg --sweep learning_rate=3e-4,1e-3,3e-3 policy_entropy_coef=0.01,0.05 --sweep-seeds 8
"""

from __future__ import annotations

import difflib
import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import jax
import numpy as np

import metarl
from experiments import cli, launch
from experiments.launch import Experiment
from experiments.parts import Run, Sweep
from metarl import checks, parallel, plot
from metarl.checks import SEED
from metarl.evaluation import tables
from metarl.evaluation.statistics import Interval, over_runs
from metarl.rules import save_rule
from metarl.run.files import circumstances, write_csv, write_json
from metarl.run.options import flatten, hints, replace
from metarl.run.sinks import ProgressDisplay
from metarl.run.sweep import Sweep as Found
from metarl.run.train import mean_of_numbers

MOST_MEMBERS = 10_000
SCORES = ("fitness", "episode_return", "success")  # what members are compared by, the first that is logged
_SWITCH = {"true": True, "false": False}


def run_sweep(experiment: Experiment, config: Any) -> None:
    """Trains the grid of `config`, and leaves what became of it in its directory.

    `sweep.csv` is the long table of its members' metrics, `results.json` has each configuration's score over its seeds,
    and `parallel.png`, and for two fields `grid.png`, show these. With a recipe, `rule.safetensors` is what the first
    seed that did not diverge has learned in the best configuration. Prints the configurations, best first. A resumed
    sweep goes on with what is not finished.

    Raises ValueError for a field, a value or a metric that the experiment does not have.
    """
    options: Run = config.run
    fields, experiment = parse(config), experiment.prepared(config)
    if options.tensorboard or options.wandb:
        raise ValueError("tensorboard and wandb must be off: they are for single runs")
    alone = _member(config)
    metric = _metric(experiment, alone, config.sweep.sweep_by)
    first, start = jax.process_index() == 0, time.monotonic()
    training = launch.training_options(options)
    # the other processes come later, and may find files of the first in the directory
    place = (
        cli.directory_of_runs(options, f"{experiment.name}-sweep") if first else nullcontext(Path(options.directory))
    )
    with place as directory:
        parallel.meet("directory")
        found = metarl.sweep(
            experiment.make,
            alone,
            fields,
            seeds=range(training.pop("seed"), options.seed + config.sweep.sweep_seeds),
            placement=parallel.Placement(parallel.all_devices(), config.sweep.sweep_batch or parallel.sweep_batch()),
            directory=directory,
            sinks=lambda name: [ProgressDisplay(options.steps, experiment.curves)] if first else [],
            fingerprint={**launch.what_is_trained(alone), "steps": options.steps},
            **training,
        )
        if first:
            _finish(experiment, config, found, metric, directory, time.monotonic() - start)
        parallel.meet("report")


def parse(config: Any) -> dict[str, list[Any]]:
    """The fields of the sweep of `config` and their values.

    Raises ValueError for what is not FIELD=VALUE,VALUE with a field that changes what is trained and different values
    that it may have, for a combination that the configuration refuses, and for more than `MOST_MEMBERS`.
    """
    types, known = hints(config), launch.what_is_trained(config)
    fields: dict[str, list[Any]] = {}
    for name, text in zip(config.sweep.swept, config.sweep.sweep, strict=True):
        _, equals, values = text.partition("=")
        if not equals or not values or name in fields:
            raise ValueError(f"sweep must be FIELD=VALUE,VALUE,... with each field once, got {text!r}")
        if name not in known:
            alike = difflib.get_close_matches(name, known) or sorted(known)
            raise ValueError(f"{name!r} is no field that can be swept; did you mean {alike}?")
        fields[name] = [_value(name, types[name], x.strip()) for x in values.split(",")]
        if len(set(fields[name])) < len(fields[name]):
            raise ValueError(f"sweep must have different values of {name}, got {values}")
    members = math.prod(map(len, fields.values())) * config.sweep.sweep_seeds
    if members > MOST_MEMBERS:
        raise ValueError(f"sweep must have at most {MOST_MEMBERS} members, got {members}")
    checks.within(int, SEED, **{"seed + sweep_seeds - 1": config.run.seed + config.sweep.sweep_seeds - 1})
    for values in itertools.product(*fields.values()):
        replace(config, **dict(zip(fields, values, strict=True)))
    return fields


def summary(found: Found, metric: str) -> list[dict[str, Any]]:
    """Of each configuration, best first: `values`, `scores` of its seeds, their mean and interval, and two counts.

    `scored` seeds are in the mean; `diverged` ones, and those that logged no number, are not.
    """
    rows, scores = [], found.scores(metric)
    for values, members in found.configurations(metric):
        numbers = scores[members][~np.isnan(scores[members])]
        nothing = Interval(mean_of_numbers(numbers), math.nan, math.nan)
        interval = over_runs(numbers) if len(numbers) > 1 else nothing
        counts = {"scored": len(numbers), "diverged": int((found.diverged[members] > 0).sum())}
        rows.append({"values": values, **interval._asdict(), **counts, "scores": scores[members]})
    return rows


def draw(rows: Sequence[dict[str, Any]], fields: Mapping[str, list[Any]], metric: str, directory: Path) -> None:
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


def _member(config: Any) -> Any:
    """The configuration of one run of the grid: the members share the devices, so each has one."""
    alone = replace(config, **flatten(Sweep()), directory="", resume=False, resume_from=0, distributed=False)
    return replace(alone, devices=1) if "devices" in flatten(alone) else alone


def _finish(experiment: Experiment, config: Any, found: Found, metric: str, directory: Path, seconds: float) -> None:
    write_csv(directory / "sweep.csv", found.table())
    rows = summary(found, metric)
    results = {
        "config": flatten(config),
        "score": metric,
        "configurations": rows,
        "wall_clock_seconds": round(seconds, 3),
        **circumstances(),
    }
    write_json(directory / "results.json", results)
    _save_best(experiment, config, found, metric, directory)
    shown = {_name(row["values"]): {x: row[x] for x in ("mean", "low", "high", "scored", "diverged")} for row in rows}
    tables.show(shown, f"{metric} of {config.sweep.sweep_seeds} seeds")
    draw(rows, parse(config), metric, directory)
    print(f"results in {directory}", file=sys.stderr)


def _save_best(experiment: Experiment, config: Any, found: Found, metric: str, directory: Path) -> None:
    """Saves the rule of the first member of the best configuration that did not diverge, if it is one."""
    values, members = found.configurations(metric)[0]
    sound = [i for i in members if not found.diverged[i]]
    if not sound:
        print("no rule is saved: all members of the best configuration diverged", file=sys.stderr)
    elif experiment.recipe and jax.tree.leaves(found.params[sound[0]]):
        best = replace(_member(config), **values, seed=found.members[sound[0]]["seed"], directory=str(directory))
        about = {**launch.origin(experiment, best), "sweep": config.sweep.sweep}
        save_rule(directory / "rule.safetensors", found.params[sound[0]], experiment.recipe(best), about)


def _value(name: str, kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {text!r}")
        return text
    kinds: dict[Any, Callable[[str], Any]] = {float: float, int: int, str: str, bool: _SWITCH.__getitem__}
    if kind not in kinds:
        raise ValueError(f"{name} cannot be swept from the command line: give metarl.sweep its values")
    try:
        return kinds[kind](text.lower() if kind is bool else text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} must be of type {kind.__name__}, got {text!r}") from error


def _metric(experiment: Experiment, config: Any, wanted: str) -> str:
    """What members are compared by. Raises ValueError for what is not logged."""
    meta = experiment.make(config)
    logged = jax.eval_shape(lambda key: meta.step(meta.init(key), key)[1], jax.random.key(0))
    metric = wanted or next((name for name in SCORES if name in logged), "")
    if metric not in logged:
        raise ValueError(f"sweep_by must be a metric that is logged, got {metric!r}; there are {sorted(logged)}")
    return metric


def _name(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={x}" for name, x in values.items())

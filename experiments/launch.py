"""Carrying out an experiment: a run with its files and its report, or a sweep of such runs.

EXPERIMENT = launch.Experiment("lpg", make, recipe=recipe, report=report, curves=("episode_return",))

if __name__ == "__main__":
    launch.main(EXPERIMENT, Config, PRESETS)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import cli
from experiments.parts import Run, Sweep
from metarl import parallel, plot
from metarl.evaluation import tables
from metarl.meta import Meta
from metarl.pretrained import save_params
from metarl.rules import Recipe, save_rule
from metarl.run import checkpoint
from metarl.run.checkpoint import Log
from metarl.run.files import circumstances, write_json
from metarl.run.options import flatten, replace
from metarl.run.sinks import CSV, ProgressDisplay, Sink, TensorBoard, WandB
from metarl.run.train import claimed, train

Report = Mapping[str, Mapping[str, float]]  # a row for each name, with at least its mean and interval: mean, low, high

# How a run is carried out: resuming may change it.
CONTROL = {*flatten(Run()), *flatten(Sweep()), "batch_size", "devices", "score_batch"}


class Experiment(NamedTuple):
    """What there is to train, and what is said of it afterwards. A configuration has at least a part `run`."""

    name: str
    make: Callable[[Any], Meta]  # of a configuration
    curves: Sequence[str] = ()  # metrics that are displayed and plotted, those that there are (none: all)
    recipe: Callable[[Any], Recipe] | None = None  # of the learned rule: `metarl.load_rule` reads it
    report: Callable[[Any, Any, Log, Path], Report] | None = None  # (config, state, log, directory) -> table
    score: str = "normalised return on held-out levels"  # what the numbers of the report are
    shards: bool = False  # whether the work is sharded over devices by default
    # (config) -> further arguments of `make`: what takes long to find and is the same for all members of a sweep
    prepare: Callable[[Any], Mapping[str, Any]] | None = None

    def prepared(self, config: Any) -> Experiment:
        """This experiment with the further arguments of `make` in place."""
        if self.prepare is None:
            return self
        return self._replace(make=partial(self.make, **self.prepare(config)), prepare=None)


def main(
    experiment: Experiment, config: type[Any], presets: Mapping[str, Any], argv: Sequence[str] | None = None
) -> None:
    """The command line of an experiment; `config` has the parts `run` and, for sweeps, `sweep`."""
    options = cli.parse(config, presets, argv)
    with cli.clean_exit():
        refuse_ignored(options, argv)
        sweeps = hasattr(options, "sweep") and options.sweep.sweep
        if experiment.shards or sweeps or flatten(options).get("devices", 1) != 1:
            parallel.one_device_per_core()
        if options.run.distributed:
            if not (experiment.shards or sweeps or "devices" in flatten(options)):
                raise ValueError(f"distributed must be off: {experiment.name} does not shard its work over devices")
            parallel.join()
        if sweeps:
            from experiments.sweeps import run_sweep

            run_sweep(experiment, options)
        else:
            run(experiment, options)


def refuse_ignored(config: Any, argv: Sequence[str] | None) -> None:
    """Raises ValueError for options of a report that there will not be, and for those that a sweep sets itself."""
    flat = flatten(config)
    of_report = [name for name in flat if name.startswith("held_out") and name != "held_out_seeds"]
    if flat.get("held_out_seeds") == 0:
        cli.refuse_given(argv, of_report, "without held_out_seeds")
    elif flat.get("sweep"):
        cli.refuse_given(argv, ["held_out_seeds", *of_report], "in a sweep, which has no report on held-out levels")
    if flat.get("sweep") == ():
        cli.refuse_given(argv, ["sweep"], "without FIELD=VALUE,VALUE,...")
    elif "sweep" in flat:
        cli.refuse_given(argv, ["devices", *config.sweep.swept], "in this sweep, which sets it for every member")


def run(experiment: Experiment, config: Any) -> tuple[Any, Log, Report]:
    """Trains as `config` says, leaves the files of the run beside its checkpoints, and reports.

    The files are `metrics.csv`, `curves.png`, `rule.safetensors` with the meta-parameters, `results.json`, and
    `report.png`. Whoever stops the report finds all else in place, and resuming the finished run repeats it. Of several
    processes, the first writes and reports while the others wait.

    Raises ValueError if the run is distributed over several processes that have not joined, BlockingIOError if another
    process is using the directory, and as `metarl.train` does.
    """
    options: Run = config.run
    if options.distributed and not jax.distributed.is_initialized():
        raise ValueError(f"distributed must be off: {experiment.name} does not shard its work over devices")
    meta, start = experiment.prepared(config).make(config), time.monotonic()
    jax.eval_shape(meta.init, jax.random.key(0))  # an experiment that cannot be traced leaves no files
    directory = cli.run_directory(options.directory, experiment.name, options.seed)
    first = jax.process_index() == 0
    with claimed(directory, options.resume, cli.LOCK):
        if not options.resume:
            _refuse_results(directory)
        state, log = train(
            meta,
            **training_options(options),
            directory=directory,
            sinks=_sinks(experiment, config, directory) if first else [],
            fingerprint=what_is_trained(config),
        )
        state = jax.device_get(state)  # from all devices of the training to the one of the report
        table: Report = _finish(experiment, config, state, log, directory, time.monotonic() - start) if first else {}
        parallel.meet("report")
    return state, log, table


def _refuse_results(directory: Path) -> None:
    """Raises FileExistsError if there are results that a new run would lose: of a sweep, or without checkpoints."""
    found = [*directory.glob("results.json"), *directory.glob("rule.safetensors"), *directory.glob("*/checkpoints")]
    if found:
        raise FileExistsError(f"{directory} has the results of another run ({found[0].name}): give another directory")


def placed(config: Any, directory: Path) -> Any:
    """`config` for one of several runs of an experiment: it has the files in `directory`, and resumes if it was begun.

    It continues from the checkpoint of `resume_from` if there is one, else from its newest.
    """
    saved = checkpoint.steps(directory)
    resume_from = config.run.resume_from if config.run.resume_from in saved else 0
    return replace(config, directory=str(directory), resume=bool(saved), resume_from=resume_from)


def training_options(options: Run) -> dict[str, Any]:
    """What a run and a sweep of runs tell `metarl.train` alike."""
    names = ("seed", "steps", "chunk", "checkpoint_every", "keep", "resume")
    return {**{name: getattr(options, name) for name in names}, "resume_from": options.resume_from or None}


def what_is_trained(config: Any) -> dict[str, Any]:
    """The options that a resumed run must agree on: not how it is carried out, and not what is reported of it."""
    return {name: x for name, x in flatten(config).items() if name not in CONTROL and not name.startswith("held_out")}


def origin(experiment: Experiment, config: Any) -> dict[str, Any]:
    """Which experiment, with which options: of results and of cards."""
    return {"experiment": experiment.name, "config": flatten(config)}


def card(results: Mapping[str, Any], log: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is said of a rule with its parameters: of `results.json`, and the curve of a log (name -> [steps])."""
    every = max(len(next(iter(log.values()))) // 20, 1)
    return {
        **{name: results[name] for name in ("experiment", "config", "hardware", "date")},
        "seed": results["config"]["seed"],
        "evaluation": results["report"],
        "curve": {x: log[x][::every].round(4).tolist() for x in ("fitness", "episode_return") if x in log},
    }


def _sinks(experiment: Experiment, config: Any, directory: Path) -> list[Sink]:
    options: Run = config.run
    sinks: list[Sink] = [CSV(directory / "metrics.csv"), ProgressDisplay(options.steps, experiment.curves)]
    if options.tensorboard:
        sinks.append(TensorBoard(directory / "tensorboard"))
    if options.wandb:
        sinks.append(WandB(project="metarl", name=directory.name, config=flatten(config)))
    return sinks


def _finish(experiment: Experiment, config: Any, state: Any, log: Log, directory: Path, seconds: float) -> Report:
    """Writes and draws what a finished run leaves, with its report."""
    results: dict[str, Any] = {
        **origin(experiment, config),
        "final_metrics": {name: float(np.mean(values[-1])) for name, values in log.items()},
        "report": {},
        "wall_clock_seconds": round(seconds, 3),  # of training, since the start or the resume
        **circumstances(),
    }
    curves = {name: x.reshape(len(x), -1).mean(1) for name, x in log.items()}
    _save(experiment, config, state, results, curves, directory)
    keys = [name for name in experiment.curves if name in log] or None
    plot.save(plot.learning_curves(log, keys), directory / "curves.png")
    if experiment.report:
        rows = experiment.report(config, state, log, directory)
        results["report"] = {name: {x: float(value) for x, value in row.items()} for name, row in rows.items()}
        _save(experiment, config, state, results, curves, directory)
    if table := results["report"]:
        tables.show(table, experiment.score)
        drawn = {name: (row["mean"], row["low"], row["high"]) for name, row in table.items()}
        plot.save(plot.intervals(drawn, experiment.score), directory / "report.png")
    print(f"results in {directory}", file=sys.stderr)
    return results["report"]


def _save(
    experiment: Experiment, config: Any, state: Any, results: Mapping[str, Any], curves: Log, directory: Path
) -> None:
    write_json(directory / "results.json", results)
    params = getattr(state, "params", ())
    if jax.tree.leaves(params):
        write = partial(save_rule, recipe=experiment.recipe(config)) if experiment.recipe else save_params
        write(directory / "rule.safetensors", params, metadata=card(results, curves))

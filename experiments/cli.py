"""What every experiment's command line shares: options, a training run with its files, and clean failures.

An experiment is a frozen dataclass that extends `Run`, presets of it, and a function from it to a `Meta`:

    if __name__ == "__main__":
        with cli.clean_exit():
            config = cli.parse(Config, PRESETS)
            sweeps.launch(make, config)
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import inspect
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jax
import numpy as np

from metarl import plot
from metarl.run.checkpoint import Log
from metarl.meta import Meta, MetaState
from metarl.pretrained import save_params
from metarl.rules import Recipe, save_rule
from metarl.run.sinks import CSV, Progress, Sink, TensorBoard, WandB
from metarl.evaluation.statistics import Interval
from metarl.run.train import Interrupted, NonFiniteLoss, check_directory, train

Config = TypeVar("Config", bound="Run")
Report = Mapping[str, Mapping[str, float]]  # a row for each name, with at least its mean and interval: mean, low, high


@dataclasses.dataclass(frozen=True)
class Run:
    """How a run is carried out: the options that every experiment has."""

    directory: str = ""
    """Where the run's files go (default: a new folder under runs/)."""
    seed: int = 0
    """Seed of everything random in the run."""
    steps: int = 100
    """Meta-steps in all, those before a resume included."""
    chunk: int = 10
    """Meta-steps between two looks at metrics and signals."""
    checkpoint_every: int = 100
    """Meta-steps between checkpoints."""
    keep: int = 3
    """How many checkpoints stay on disk."""
    resume: bool = False
    """Go on from the newest checkpoint in the directory."""
    distributed: bool = False
    """This is one of several processes that share the run, its directory and the work of all their devices. They find
    each other by their cluster (Slurm, Open MPI, Kubernetes, TPU), or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID."""
    tensorboard: bool = False
    """Also log to TensorBoard (needs the extra `tensorboard`)."""
    wandb: bool = False
    """Also log to Weights & Biases (needs the extra `wandb`)."""
    sweep: tuple[str, ...] = ()
    """Instead of one run a grid of them, of FIELD=VALUE,VALUE,... for each field: members that differ in numbers which
    are arrays in the program, or in their seed, go side by side in one."""
    sweep_seeds: int = 1
    """Seeds of every member of the grid, from `seed` on."""
    sweep_by: str = ""
    """The metric by which the grid's members are compared, the more the better (default: fitness or episode_return;
    beware that the fitness of evolution is that of perturbed rules, which a greater sigma lowers)."""
    sweep_batch: int = 0
    """Members that go side by side at a time on each device (0: one on CPUs, all on accelerators)."""

    def __post_init__(self) -> None:
        for name in ("steps", "chunk", "checkpoint_every", "keep", "sweep_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.sweep_batch < 0:
            raise ValueError(f"sweep_batch must not be negative, got {self.sweep_batch}")
        if self.resume and not self.directory:
            raise ValueError("resume needs the directory of the run to go on with")
        if self.distributed and not self.directory:
            raise ValueError("distributed needs a directory that all processes can reach")


# How a run is carried out: resuming may change it.
CONTROL = {field.name for field in dataclasses.fields(Run)} | {"batch_size", "devices", "score_batch"}


def parse(config: type[Config], presets: Mapping[str, Config], argv: Sequence[str] | None = None) -> Config:
    """The configuration that the command line asks for: a preset (default "quick"), overridden by the other options.

    Options are flat and documented by the strings under the fields of `config`. Prints one line and exits with
    code 2 if an option is unknown, has a value of the wrong type, or is refused by `config.__post_init__`.
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    names = Annotated[Literal[tuple(presets)], tyro.conf.arg(help="Where the defaults of the other options come from.")]  # type: ignore[valid-type]

    def choose(preset: str = "quick") -> str:
        return preset

    choose.__annotations__["preset"] = names
    with one_line_errors():
        preset, _ = tyro.cli(choose, args=arguments, return_unknown_args=True, add_help=False)

        def build(config: Config = presets[preset], preset: str = preset) -> Config:
            return config

        build.__annotations__ = {"config": Annotated[config, tyro.conf.arg(name="")], "preset": names}
        return tyro.cli(build, args=arguments, description=config.__doc__)


def run(
    meta: Meta,
    config: Run,
    *,
    curves: Sequence[str] | None = None,
    report: Callable[[MetaState, Log, Path], Report] | None = None,
    score: str = "normalised return on held-out levels",
    recipe: Recipe | None = None,
) -> tuple[MetaState, Log]:
    """Trains `meta` as `config` says and leaves its files beside the checkpoints.

    `metrics.csv` and `curves.png` (`curves` picks those of the metrics that are displayed and plotted),
    `rule.safetensors` with the meta-parameters (with a `recipe`, one that `metarl.load_rule` reads), and
    `results.json`. Then `report(state, log, directory)` is called; its table, if any, is printed, drawn in `report.png`
    and added to `results.json`, and `score` says what its numbers are. Whoever stops the report finds all else in
    place, and resuming the finished run repeats it. Of several processes, the first writes and reports while the others
    wait.

    Raises ValueError if `config.distributed` asks for several processes without `join`.
    """
    if config.distributed and not jax.distributed.is_initialized():
        name = origin(config)["experiment"]
        raise ValueError(f"distributed must be off: {name} does not deal out its work to devices")
    first = jax.process_index() == 0
    jax.eval_shape(meta.init, jax.random.key(0))  # what cannot be fails before there are files
    directory = run_directory(config.directory, Path(sys.argv[0]).stem or "run", config.seed)
    check_directory(directory, config.resume)
    sinks: list[Sink] = [CSV(directory / "metrics.csv"), Progress(config.steps, curves or ())] if first else []
    if config.tensorboard and first:
        sinks.append(TensorBoard(directory / "tensorboard"))
    if config.wandb and first:
        sinks.append(WandB(project="metarl", name=directory.name, config=dataclasses.asdict(config)))
    start = time.monotonic()
    state, log = train(
        meta,
        seed=config.seed,
        steps=config.steps,
        directory=directory,
        chunk=config.chunk,
        checkpoint_every=config.checkpoint_every,
        keep=config.keep,
        resume=config.resume,
        sinks=sinks,
        fingerprint=what_is_trained(config),
    )
    state = jax.device_get(state)  # from all devices of the training to the one of the report
    if not first:
        meet("report")
        return state, log
    results = {
        **origin(config),
        "final_metrics": {name: float(np.mean(values[-1])) for name, values in log.items()},
        "report": {},
        "wall_clock_seconds": round(time.monotonic() - start, 3),  # of training, since the start or the resume
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
    }

    def save() -> None:
        write_json(directory / "results.json", results)
        if jax.tree.leaves(state.params):
            about = card(results, {name: x.reshape(len(x), -1).mean(1) for name, x in log.items()})
            write = partial(save_rule, recipe=recipe) if recipe else save_params
            write(directory / "rule.safetensors", state.params, metadata=about)

    save()
    figure = plot.learning_curves(log, curves and [name for name in curves if name in log])
    plot.save(figure, directory / "curves.png")
    if report:
        results["report"] = table = report(state, log, directory)
        save()
        if table:
            show(table, score)
            rows = {name: (row["mean"], row["low"], row["high"]) for name, row in table.items()}
            plot.save(plot.intervals(rows, score), directory / "report.png")
    print(f"results in {directory}", file=sys.stderr)
    meet("report")
    return state, log


def origin(config: Run) -> dict[str, Any]:
    """Which experiment, with which options."""
    return {"experiment": Path(inspect.getfile(type(config))).stem, "config": dataclasses.asdict(config)}


def card(results: Mapping[str, Any], log: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is said of a rule with its parameters: of `results.json`, and the curve of a log (name -> [steps])."""
    every = max(len(next(iter(log.values()))) // 20, 1)
    return {
        "experiment": results["experiment"],
        "config": results["config"],
        "seed": results["config"]["seed"],
        "hardware": results["hardware"],
        "date": results["date"],
        "evaluation": results["report"],
        "curve": {x: log[x][::every].round(4).tolist() for x in ("fitness", "episode_return") if x in log},
    }


def join(config: Run) -> None:
    """Lets a distributed run find its other processes, for which it waits: call it before anything is computed.

    Raises ValueError if there is no telling where they are.
    """
    if not config.distributed or jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # signals are for `train`
    try:
        count, this = (
            int(x) if (x := os.environ.get(f"JAX_{name}")) else None for name in ("NUM_PROCESSES", "PROCESS_ID")
        )
        # one that fails does not wait for the others, which end with it; where nothing fails they meet
        jax.distributed.initialize(num_processes=count, process_id=this, shutdown_timeout_seconds=10)
    except ValueError as error:
        raise ValueError(
            "distributed finds no cluster (Slurm, Open MPI, Kubernetes, TPU) here: set JAX_COORDINATOR_ADDRESS to "
            f"HOST:PORT of the first process, JAX_NUM_PROCESSES, and JAX_PROCESS_ID, from 0 ({error})"
        ) from None


def meet(where: str) -> None:
    """Waits for the other processes of the run: the first may take a week for its report."""
    from orbax.checkpoint.multihost import get_barrier_sync_fn

    get_barrier_sync_fn()(key=where, timeout_ms=7 * 24 * 3600 * 1000)


def run_directory(directory: str, name: str, seed: int | None = None) -> Path:
    """Where files go: `directory`, or if it is empty a new one under runs/, called after `name`, time and seed."""
    named = f"{name}-{datetime.now():%Y%m%d-%H%M%S}" + ("" if seed is None else f"-seed{seed}")
    return Path(directory or Path("runs") / named)


def directory_of_runs(config: Any, name: str) -> Path:
    """Where an experiment of several runs puts them.

    Raises FileExistsError if there are files and it does not resume.
    """
    directory = run_directory(config.directory, name, config.seed)
    if directory.exists() and any(directory.iterdir()) and not config.resume:
        raise FileExistsError(f"{directory} is not empty: give resume to go on with it, or another directory")
    return directory


def one_device_per_core() -> None:
    """Lets JAX see each CPU core as a device, for what is dealt out to devices: small products fill one core only.

    Call it before anything is computed: later, or where XLA_FLAGS or JAX_NUM_CPU_DEVICES say otherwise, it changes
    nothing.
    """
    # on a machine that is busy, one core may be long behind the other: XLA would take that for a deadlock
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds=3600"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {patience}".strip()
    if "xla_force_host_platform_device_count" in os.environ["XLA_FLAGS"] or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", cores)


def devices_dividing(count: int, num_devices: int = 0) -> list[jax.Device] | None:
    """The devices that `count` things are dealt out to: `num_devices`, or as many as divide it (0).

    None stands for the default one. Raises ValueError if there are fewer than `num_devices`.
    """
    there = jax.local_devices()
    num = num_devices or next(n for n in range(len(there), 0, -1) if count % n == 0)
    if num > len(there):
        raise ValueError(f"devices must be at most the {len(there)} that there are, got {num}")
    return there[:num] if num > 1 else None


def training_devices(count: int, num_devices: int = 0) -> list[jax.Device] | None:
    """`devices_dividing` for what all processes of a run compute together: all devices of all of them, if several.

    Raises ValueError if those do not divide `count`.
    """
    if jax.process_count() == 1 or num_devices == 1:
        return devices_dividing(count, num_devices)
    there = jax.devices()
    if num_devices not in (0, jax.local_device_count()):
        raise ValueError(f"devices must be all {jax.local_device_count()} of each process, or 0, got {num_devices}")
    if count % len(there):
        raise ValueError(
            f"{count} (batches of) lifetimes or pairs cannot be dealt out evenly to the {len(there)} devices of "
            f"{jax.process_count()} processes"
        )
    return there


def check(config: Any, *, positive: Sequence[str] = (), not_negative: Sequence[str] = ()) -> None:
    """Raises ValueError for the first of these fields that is not a finite number in its range."""
    for name in positive:
        if not 0 < getattr(config, name) < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {getattr(config, name)}")
    for name in not_negative:
        if not 0 <= getattr(config, name) < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, got {getattr(config, name)}")


def what_is_trained(config: Run) -> dict[str, Any]:
    """The fields that a resumed run must agree on: not how it is carried out, and not what is reported of it."""
    fields = dataclasses.asdict(config)
    return {name: fields[name] for name in fields if name not in CONTROL and not name.startswith("held_out")}


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """JSON, in place at once; what is not finite becomes null."""
    text = json.dumps(results, default=lambda x: x.tolist())
    plain = json.loads(text, parse_constant=lambda _: None)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(plain, indent=2) + "\n")
    os.replace(unfinished, path)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A table, in place at once; numbers that are not whole have six significant digits."""
    rows = list(rows)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _digits(x) for name, x in row.items()} for row in rows)
    os.replace(unfinished, path)


def _digits(x: Any) -> Any:
    if not isinstance(x, float):
        return x
    return f"{x:.0f}" if x.is_integer() else f"{x:.6g}"


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Ends the program with one line instead of a traceback where the message says it all.

    Exit codes: 130 after SIGINT, 143 after SIGTERM, 3 for a loss that is not finite, 2 for a ValueError, OSError or
    ImportError. `python -X dev -m experiments.NAME` shows the traceback of the last three kinds.
    """
    try:
        yield
    except Interrupted as error:
        _fail(error, 128 + error.signum)
    except KeyboardInterrupt:
        _fail(KeyboardInterrupt("interrupted"), 130)
    except NonFiniteLoss as error:
        _fail(error, 3)
    except (ValueError, OSError, ImportError) as error:
        if sys.flags.dev_mode:
            raise
        _fail(error, 2)


def show_intervals(report: Mapping[str, Mapping[Any, Interval]], corner: str, score: str) -> None:
    """Prints a table of intervals, a row per name; `corner` says what the columns are, `score` what the numbers."""
    from rich.console import Console
    from rich.table import Table

    columns = list(next(iter(report.values())))
    shown = Table(title=f"{score} with 95 % intervals")
    shown.add_column(corner, overflow="fold")  # where it is narrow, names are told apart by their ends
    for column in columns:
        shown.add_column(str(column))
    for name, row in report.items():
        shown.add_row(name, *(f"{row[x].mean:.2f} [{row[x].low:.2f}, {row[x].high:.2f}]" for x in columns))
    # brackets are no markup here, and a file has no 80 columns
    Console(markup=False, width=None if sys.stdout.isatty() else 160).print(shown)


def show(table: Report, score: str) -> None:
    """Prints a table with a row per name."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("", *next(iter(table.values())), title=f"{score} with 95 % intervals")
    for name, row in table.items():
        shown.add_row(name, *(f"{value:.3f}" for value in row.values()))
    Console().print(shown)


def _fail(error: BaseException, code: int) -> None:
    print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    raise SystemExit(code) from None


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns tyro's boxed error messages, and ValueErrors of a configuration, into one line each."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except ValueError as error:
        _fail(error, 2)
    except SystemExit as error:
        if error.code != 0:
            lines = [line.strip("│ ") for line in printed.getvalue().splitlines()]
            message = [line for line in lines if not line.startswith(("╭", "╰"))]
            rule = next((i for i, line in enumerate(message) if line.startswith("─")), len(message))
            _fail(ValueError(" ".join(message[:rule]) + " (see --help)"), 2)
        raise
    sys.stderr.write(printed.getvalue())


def hardware() -> dict[str, Any]:
    """What this process computes on."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cpu_cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def versions() -> dict[str, str]:
    """Of Python and of what results depend on."""
    found = {"python": platform.python_version()}
    for name in ("metarl-jax", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found

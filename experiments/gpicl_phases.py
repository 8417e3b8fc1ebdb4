"""When does a network learn to learn in context? GPICL over numbers of tasks, networks and sizes of their memory.

python -m experiments.gpicl_phases --directory runs/phases                  # a transformer on 1 and 2^14 tasks
python -m experiments.gpicl_phases --preset small --directory runs/phases   # all
python -m experiments.gpicl_phases --directory runs/phases --resume         # goes on where it stopped

Two findings of Kirsch et al. 2022 (arXiv 2212.04458) are looked for: with few tasks networks memorise them, and from
some number of tasks on they learn to learn; and how well they do depends on the size of their memory, not on how many
parameters they have. Every network is meta-trained on each number of tasks by `experiments.gpicl`, from several seeds.
What it gains within a sequence of an unseen task (accuracy at the last position minus that at the first) is the result.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.projections import projections
from experiments import cli, gpicl, launch, parts
from metarl import checks, plot
from metarl.checks import SEVERAL, WIDTH, Bound
from metarl.evaluation import tables
from metarl.evaluation.statistics import Interval, over_runs
from metarl.inner.in_context import Tokens, reader
from metarl.parallel import Placement
from metarl.run.files import circumstances, write_json
from metarl.run.options import flatten, replace
from metarl.run.sinks import ProgressDisplay
from metarl.run.sweep import side_by_side
from metarl.run.train import train
from metarl.types import Array, MetaParams

EXPONENT = Bound(0, 30)
SCORE = "accuracy gained within a sequence"


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is compared."""

    powers: tuple[Annotated[int, EXPONENT], ...] = (0, 2, 4, 6, 8, 10, 12, 14)
    """Numbers of tasks, as powers of 2."""
    transformers: tuple[Annotated[int, WIDTH], ...] = (64,)
    """Widths of transformers."""
    lstms: tuple[Annotated[int, WIDTH], ...] = (64, 256)
    """Widths of LSTMs."""
    tokens: Tokens = "pairs"
    """What they read, as in experiments.gpicl."""
    num_seeds: Annotated[int, SEVERAL] = 2
    """Networks of each kind and number of tasks."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if not self.powers:
            raise ValueError("powers must have at least one value")
        if not self.transformers and not self.lstms:
            raise ValueError("transformers and lstms must have at least one width together")


@dataclasses.dataclass(frozen=True)
class Config:
    """Learners in context of several kinds, meta-trained on several numbers of tasks."""

    grid: Grid = Grid()
    run: parts.Run = parts.Run(steps=2_000, chunk=200, checkpoint_every=1_000)
    data: gpicl.Tasks = gpicl.Tasks()
    optimizer: parts.ClippedAdam = gpicl.PRESETS["quick"].optimizer

    def __post_init__(self) -> None:
        parts.refuse_inert(self.data, ("tasks",), "here: give powers")
        for learner in self.learners.values():
            learner.make(self.data.length)
        if self.run.distributed:
            raise ValueError("distributed must be off: start the runs of this experiment in one process")
        if self.run.tensorboard or self.run.wandb:
            raise ValueError("tensorboard and wandb must be off: they are for single runs")

    @property
    def learners(self) -> dict[str, gpicl.Learner]:
        """The networks by their names."""
        widths: dict[gpicl.NetworkName, tuple[int, ...]] = {
            "transformer": self.grid.transformers,
            "lstm": self.grid.lstms,
        }
        return {
            f"{network}-{width}": gpicl.Learner(network, self.grid.tokens, width)
            for network, several in widths.items()
            for width in several
        }

    def training(self, learner: gpicl.Learner) -> gpicl.Config:
        return gpicl.Config(run=self.run, data=self.data, learner=learner, optimizer=self.optimizer)


PRESETS = {
    "quick": replace(Config(), powers=(0, 14), lstms=(), steps=1_000),
    "small": Config(),
}


class Gains(NamedTuple):
    """What networks of one kind gain. Arrays are [powers, seeds]."""

    unseen: np.ndarray  # on unseen tasks
    seen: np.ndarray  # on seen tasks, with the examples of the meta-training
    memory: int  # how many numbers it remembers
    parameters: int


def measure(config: Config, learner: gpicl.Learner, directory: Path) -> Gains:
    """Meta-trains the networks of one kind, all in one program, and measures what they gain."""
    training, data, (powers, seeds) = config.training(learner), config.data, (config.grid.powers, config.grid.num_seeds)
    counts = jnp.repeat(2 ** jnp.array(powers), seeds)
    one_by_one = Placement(batch_size=1)  # as `metarl.sweep` does on CPUs
    options = launch.training_options(launch.placed(config, directory).run)
    state, _ = train(
        side_by_side(lambda count: gpicl.make(training, count), counts, one_by_one),
        **options,
        directory=directory,
        sinks=[ProgressDisplay(config.run.steps, gpicl.EXPERIMENT.curves)],
        fingerprint=launch.what_is_trained(config),
    )

    def gain(x: tuple[MetaParams, Array]) -> list[Array]:
        params, count = x
        found = [gpicl.correct(training, params, *kind)[0].mean(0) for kind in ((0, True), (count, False))]
        return [accuracy[-1] - accuracy[0] for accuracy in found]

    gains = jax.jit(lambda x: jax.lax.map(gain, x))((state.params, counts))
    kind = reader(projections(data.data, 0, data.length), learner.make(data.length), learner.tokens)
    shapes = jax.eval_shape(kind.init, jax.random.key(0))
    memory, parameters = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (kind.memory, shapes))
    unseen, seen = (np.asarray(x, float).reshape(-1, seeds) for x in gains)
    return Gains(unseen, seen, memory, parameters)


def report(config: Config, found: Mapping[str, Gains], directory: Path) -> dict[str, Any]:
    """Prints and draws what was found, and returns it, JSON-able. Intervals are over seeds."""
    counts = [2**power for power in config.grid.powers]
    rows: dict[str, dict[int, Interval]] = {}
    for name, gains in found.items():
        for which in ("unseen", "seen"):
            values = getattr(gains, which)
            rows[f"{name}, {which} tasks"] = {n: over_runs(x) for n, x in zip(counts, values, strict=True)}
    tables.show({name: {f"{n} tasks": x for n, x in row.items()} for name, row in rows.items()}, SCORE)
    unseen = {name: rows[f"{name}, unseen tasks"] for name in found}
    most = max(counts)
    sizes = {
        name: {"memory": gains.memory, "parameters": gains.parameters, "from": transition(unseen[name])}
        for name, gains in found.items()
    }
    columns = {"memory": "numbers in the memory", "parameters": "parameters", "from": "tasks of the transition"}
    shown = {name: {columns[x]: str(n) for x, n in row.items()} for name, row in sizes.items()}
    tables.show({name: {**row, f"{most} tasks": unseen[name][most]} for name, row in shown.items()}, SCORE)
    _draw(rows, "tasks in the meta-training", directory / "phases.png")
    for what in ("memory", "parameters"):
        by_kind: dict[str, dict[int, Interval]] = {}
        for name, row in sizes.items():
            by_kind.setdefault(name.partition("-")[0], {})[row[what]] = unseen[name][most]
        _draw(by_kind, columns[what], directory / f"{what}.png")
    return {
        "gains": {name: gains._asdict() for name, gains in found.items()},
        "intervals": {name: {n: x._asdict() for n, x in row.items()} for name, row in rows.items()},
        "transitions": {name: row["from"] for name, row in sizes.items()},
    }


def transition(gains: Mapping[int, Interval]) -> int:
    """The number of tasks from which on more than half of the greatest gain is reached; 0 if there is none."""
    half = 0.5 * max(gain.mean for gain in gains.values())
    return min((n for n in gains if all(gains[m].mean > half for m in gains if m >= n)), default=0)


def _draw(rows: Mapping[str, Mapping[int, Interval]], label: str, path: Path) -> None:
    figure = plot.over_horizons(rows, SCORE)
    for axis in figure.axes:
        axis.set_xlabel(label)
    plot.save(figure, path)


def study(config: Config) -> None:
    """Meta-trains and measures all networks, and reports; goes on where it stopped if it resumes."""
    with cli.directory_of_runs(config.run, "gpicl_phases") as directory:
        found = {name: measure(config, learner, directory / name) for name, learner in config.learners.items()}
        results = report(config, found, directory)
        write_json(directory / "results.json", {"config": flatten(config), **results, **circumstances()})
        print(f"results in {directory}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit():
        study(config)


if __name__ == "__main__":
    main()

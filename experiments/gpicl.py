"""GPICL: a network that learns to learn in context, on random projections of digits or of clusters.

python -m experiments.gpicl                                       # minutes on a laptop CPU
python -m experiments.gpicl --tasks 16                            # too few tasks to learn to learn
python -m experiments.gpicl --preset digits --network lstm --width 256
python -m experiments.gpicl --preset paper                        # its tokens; hours
python -m experiments.gpicl_phases                                # over numbers of tasks and sizes of the memory

The network reads examples of a task one after the other, and predicts the class of each (Kirsch et al. 2022, arXiv
2212.04458). With few tasks it memorises them; with many it learns to learn, and then it does so on tasks that it has
never seen. The report has the accuracy at each position of a sequence.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import metarl
from envs.projections import Data, projections
from experiments import launch, parts
from metarl import checks, curricula, estimators, plot
from metarl.checks import COUNT, COUNT_OR_ZERO, SEVERAL, WIDTH
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import Interval, over_runs
from metarl.inner.in_context import Tokens, in_context_inner_loop, reader, sequence_levels
from metarl.meta import Meta
from metarl.rl.networks import NetworkFactory
from metarl.rules import build_part
from metarl.run.checkpoint import Log
from metarl.run.files import write_csv
from metarl.run.options import replace
from metarl.types import Array, Key, MetaParams

NetworkName = Literal["transformer", "lstm", "gru"]


@dataclasses.dataclass(frozen=True)
class Tasks:
    """What is read."""

    data: Data = "clusters"
    """Whose random projections the tasks are: 8 x 8 digits, or 10 normal clusters in 16 dimensions."""
    tasks: Annotated[int, COUNT_OR_ZERO] = 0
    """How many tasks there are (0: a new one for every sequence)."""
    length: Annotated[int, SEVERAL] = 50
    """Examples in a sequence."""
    batch: Annotated[int, COUNT] = 16
    """Sequences in a meta-step, each of a task of its own."""
    held_out_tasks: Annotated[int, SEVERAL] = 1000
    """Tasks that the report tests on, with a sequence each."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Learner:
    """What reads."""

    network: NetworkName = "transformer"
    """The network."""
    tokens: Tokens = "pairs"
    """What it reads: pairs of input and label, with the input of the next pair as a question; or each input with the
    label of the one before (shifted), as in the paper, which takes much longer to learn."""
    width: Annotated[int, WIDTH] = 64
    """Its width; of an LSTM or a GRU, half of its memory or all of it."""
    layers: Annotated[int, COUNT] = 2
    """Layers of the transformer."""
    heads: Annotated[int, COUNT] = 4
    """Heads of the transformer in each layer."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.network != "transformer":
            parts.refuse_inert(self, ("layers", "heads"), f"with network {self.network}")
        self.make(2)

    def make(self, length: int) -> NetworkFactory:
        """The network for sequences of `length` examples, all of which the transformer sees."""
        if self.network == "transformer":
            sizes = {"window": length, "layers": self.layers, "width": self.width, "heads": self.heads}
        else:
            sizes = {"size": self.width}
        return build_part("network", {"name": self.network, **sizes})


@dataclasses.dataclass(frozen=True)
class Config:
    """A learner in context, meta-trained on random projections."""

    run: parts.Run = parts.Run(steps=3_000, chunk=200, checkpoint_every=1_000)
    sweep: parts.Sweep = parts.Sweep()
    data: Tasks = Tasks()
    learner: Learner = Learner()
    optimizer: parts.ClippedAdam = parts.ClippedAdam(learning_rate_warm_up=100)


PRESETS = {
    "quick": Config(),
    "digits": replace(Config(), data="digits", steps=10_000),
    "paper": replace(Config(), data="digits", tokens="shifted", steps=100_000, checkpoint_every=10_000, batch=64),
}


def make(config: Config, tasks: Array | int | None = None) -> Meta:
    """The meta-training of `config`, on as many `tasks` as it says if they are None."""
    data = config.data
    sequences = projections(data.data, data.tasks if tasks is None else tasks, data.length)
    inner = in_context_inner_loop(sequences, config.learner.make(data.length), tokens=config.learner.tokens)
    optimizer, curriculum = config.optimizer.make(config.run.steps), curricula.uniform(sequence_levels(sequences))
    return metarl.compose(inner, estimators.backprop(1), optimizer, curriculum, data.batch)


def correct(config: Config, params: MetaParams, tasks: Array | int, held_out: bool) -> tuple[Array, Array]:
    """Whether each prediction for held-out sequences is right: of the learner, and of the nearest neighbour before it.

    The sequences have `tasks` tasks (0: unseen ones) and `held_out` examples, or those of the meta-training. Arrays
    [held_out_tasks, length] bool.
    """
    data = config.data
    sequences = projections(data.data, tasks, data.length, held_out)
    learner = reader(sequences, config.learner.make(data.length), config.learner.tokens)

    def one(key: Key) -> tuple[Array, Array]:
        task_key, read_key = jax.random.split(key)
        inputs, labels = sequences.read(sequences.sample(task_key), read_key)
        logits = learner.predict(params, inputs, labels)
        return logits.argmax(-1) == labels, nearest(inputs, labels) == labels

    return jax.lax.map(one, jax.random.split(jax.random.key(HELD_OUT), data.held_out_tasks), batch_size=50)


def nearest(inputs: Array, labels: Array) -> Array:
    """The label [T] of the nearest of the earlier inputs to each of `inputs` [T, n]; -1 for the first."""
    distances = jnp.square(inputs[:, None] - inputs).sum(-1)
    earlier = jnp.tri(len(inputs), k=-1, dtype=bool)
    found = labels[jnp.where(earlier, distances, jnp.inf).argmin(1)]
    return jnp.where(earlier.any(1), found, -1)


def report(config: Config, state: Any, log: Log, directory: Path) -> launch.Report:
    """How much better the predictions at the last position of a sequence are than at the first; intervals over tasks.

    `positions.csv` and `positions.png` have the accuracy at every position: on unseen tasks, beside that of the nearest
    neighbour, and on seen tasks if their number is finite, with new examples and with those of the meta-training.
    """
    kinds = {"unseen tasks": (0, True)}
    if config.data.tasks:
        kinds |= {"seen tasks": (config.data.tasks, True), "seen tasks and examples": (config.data.tasks, False)}
    found: dict[str, np.ndarray] = {}
    for name, kind in kinds.items():
        learned, neighbour = jax.jit(lambda params, kind=kind: correct(config, params, *kind))(state.params)
        found[name] = np.asarray(learned, float)
        if name == "unseen tasks":
            found["nearest neighbour"] = np.asarray(neighbour, float)
    accuracy = {name: [over_runs(x) for x in right.T] for name, right in found.items()}
    draw(accuracy, directory)
    rows = {}
    for name, right in found.items():
        rows[f"{name}, last minus first"] = over_runs(right[:, -1] - right[:, 0])
        rows[f"{name}, first position"], rows[f"{name}, last position"] = accuracy[name][0], accuracy[name][-1]
    return {name: row._asdict() for name, row in rows.items()}


def draw(accuracy: dict[str, list[Interval]], directory: Path) -> None:
    """Writes the accuracy at each position as a table and as a figure."""
    table = [
        {"name": name, "position": i, **x._asdict()} for name, row in accuracy.items() for i, x in enumerate(row, 1)
    ]
    write_csv(directory / "positions.csv", table)
    bands = {name: (np.arange(1, len(row) + 1), *np.transpose(row)) for name, row in accuracy.items()}
    plot.save(plot.sample_efficiency({"accuracy": bands}, "position in the sequence"), directory / "positions.png")


EXPERIMENT = launch.Experiment(
    "gpicl",
    make,
    curves=("meta_loss", "accuracy", "last_accuracy"),
    report=report,
    score="accuracy",
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

"""Sinks of metrics: files, displays and services. A sink is any object with `write(step, metrics)` and `close()`.

`train` calls `write` once per meta-step, in order, with one number per metric. A resumed run starts after its last
checkpoint, so a sink may get the same meta-step twice. A sink that also has `begin(log)` gets the rows before that.
"""

from __future__ import annotations

import contextlib
import csv
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

import numpy as np

from metarl.checks import needed
from metarl.run.files import naming, replaced


class Sink(Protocol):
    """Receives each meta-step's metrics; meta-steps count from 1."""

    def begin(self, log: Mapping[str, np.ndarray]) -> None:
        """Takes the curves so far {name: [meta-steps]} when a run starts (none) or resumes. May be left out."""
        return

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics {name: number} of one meta-step."""
        ...

    def close(self) -> None:
        """Called once, at the end of the run, also if it failed."""
        ...


class CSV(Sink):
    """One row per meta-step in the file `path`, flushed at once. A resumed run makes it anew from its log.

    Without `begin`, the rows of earlier meta-steps in the file stay.
    Raises OSError, which names the file, if writing fails.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: TextIO | None = None
        self._names: list[str] = []

    def begin(self, log: Mapping[str, np.ndarray]) -> None:
        if not log:  # a new run
            self.path.unlink(missing_ok=True)
            return
        curves = {"step": range(1, len(next(iter(log.values()))) + 1), **{name: x.tolist() for name, x in log.items()}}
        self._open(curves, (dict(zip(curves, row, strict=True)) for row in zip(*curves.values(), strict=True)))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._file is None or not metrics.keys() <= {*self._names}:
            names, rows = self._read(math.inf if self._file else step)
            self._open({"step": 0, **dict.fromkeys(names), **metrics}, rows)
        try:
            with naming(self.path):
                csv.DictWriter(cast(TextIO, self._file), self._names).writerow({"step": step, **metrics})
        except OSError:
            with contextlib.suppress(OSError):  # it would try to write the row again
                self.close()
            raise

    def _read(self, end: float) -> tuple[Iterable[str], list[dict[str, str]]]:
        """The names of the columns in the file, and its whole rows of the meta-steps before `end`."""
        if not self.path.exists():
            return (), []
        with self.path.open(newline="", errors="replace") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row and None not in row.values()]
        rows = [row for row in rows if row.get("step", "").isdecimal() and int(row["step"]) < end]
        return (reader.fieldnames or ()) if rows else (), rows

    def _open(self, names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Makes the file, with columns for `names` and these rows, and leaves it open for the next ones."""
        self.close()
        self._names = list(names)
        with replaced(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._names)
            writer.writeheader()
            writer.writerows(rows)
        self._file = self.path.open("a", newline="", buffering=1)  # 1: flush every line

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with naming(self.path):
                file.close()


class ProgressDisplay(Sink):
    """A live display of the meta-step, the speed, the time left, and curves of the metrics `keys` (default: 4 of them).

    If the output is not a terminal, it prints a plain line every `every` seconds.
    """

    def __init__(self, steps: int, keys: Iterable[str] = (), every: float = 5.0, console: Any = None):
        from rich.console import Console

        self.steps, self.keys, self.every = steps, tuple(keys), every
        self.console = console or Console(stderr=True)
        self._live: Any = None
        self._curves: dict[str, list[float]] = {}
        self._marks: deque[tuple[float, int]] = deque(maxlen=100)  # (seconds, meta-step) of the last chunks
        self._shown = -float("inf")
        self._step = 0

    def begin(self, log: Mapping[str, np.ndarray]) -> None:
        self._curves = {name: log[name].tolist() for name in self._chosen(log)}

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self._marks and now - self._marks[-1][0] < 0.05:  # the rows of a chunk come at once: keep the last
            self._marks[-1] = (self._marks[-1][0], step)
        else:
            self._marks.append((now, step))
        self._step = step
        for name in self._chosen(metrics):
            self._curves.setdefault(name, []).append(metrics[name])
        if now - self._shown >= (0.25 if self.console.is_terminal else self.every):
            self._show()

    def _chosen(self, names: Iterable[str]) -> list[str]:
        return [key for key in self.keys if key in names] or list(names)[:4]

    def close(self) -> None:
        if self._marks:
            self._show()
        if self._live is not None:
            self._live.stop()

    def _show(self) -> None:
        self._shown = time.monotonic()
        head = self._head()
        if not self.console.is_terminal:
            curves = "  ".join(f"{name} {curve[-1]:.4g}" for name, curve in self._curves.items())
            self.console.print(f"{head}  {curves}", highlight=False, soft_wrap=True)
            return
        from rich.live import Live
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, curve in self._curves.items():
            table.add_row(name, f"{curve[-1]:.4g}", f"[cyan]{sparkline(curve)}[/]")
        whole = Table.grid()
        whole.add_row(f"[bold]{head}[/]")
        whole.add_row(table)
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        self._live.update(whole, refresh=True)

    def _head(self) -> str:
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        head = f"meta-step {self._step}/{self.steps}"
        if last == first or end == start:
            return head
        speed = (last - first) / (end - start)
        left = int(max(self.steps - self._step, 0) / speed)
        return f"{head}  {speed:.3g} steps/s  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def sparkline(values: Iterable[float], width: int = 32) -> str:
    """The curve as at most `width` block characters, each for the mean of an equal part; blank where not finite."""
    means = [np.mean(part) for part in np.array_split(np.asarray(list(values), float), width) if part.size]
    finite = [x for x in means if np.isfinite(x)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = 7.0 / (high - low) if high > low else 0.0
    return "".join("▁▂▃▄▅▆▇█"[round((x - low) * scale)] if np.isfinite(x) else " " for x in means)


class TensorBoard(Sink):
    """TensorBoard event files in `directory`. Raises ImportError naming the extra to install."""

    def __init__(self, directory: str | Path):
        self._writer = needed("tensorboardX", "tensorboard").SummaryWriter(str(directory))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB(Sink):
    """A Weights & Biases run; `options` go to `wandb.init`. Raises ImportError naming the extra to install."""

    def __init__(self, **options: Any):
        self._run = needed("wandb", "wandb").init(**options)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()

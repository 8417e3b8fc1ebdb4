"""The only host loop: compiled chunks of meta-steps, with logs, checkpoints, resume and interruption between them."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl.meta import COUNTED, WATCHED, Meta
from metarl.parallel import agreed, replicated
from metarl.run import checkpoint
from metarl.run.checkpoint import Log
from metarl.run.sinks import Sink
from metarl.types import Array, Key, Metrics, PyTree


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM stopped a run after meta-step `step`, which was saved if the run has a directory."""

    def __init__(self, step: int, signum: int, directory: str | Path | None):
        saved = f"saved in {directory}, resume to go on" if directory else "nothing saved (the run has no directory)"
        super().__init__(f"{signal.Signals(signum).name} after meta-step {step}: {saved}")
        self.step, self.signum = step, signum


class NonFiniteLoss(FloatingPointError):
    """A loss, or what it taught, is NaN or infinite.

    `step` is the first such meta-step (for meta-parameters the last of the chunk), `lifetimes` holds the indices of the
    lifetimes whose loss it is (empty for the meta-loss and meta-parameters).
    """

    def __init__(self, name: str, step: int, lifetimes: list[Any], last_good: str):
        where = f" in lifetimes {lifetimes}" if lifetimes else ""
        super().__init__(f"{name} is not finite in meta-step {step}{where}; last good checkpoint: {last_good}")
        self.step, self.lifetimes = step, lifetimes


def train(
    meta: Meta,
    *,
    seed: int = 0,
    steps: int,
    directory: str | Path | None = None,
    chunk: int = 10,
    checkpoint_every: int = 100,
    keep: int = 3,
    resume: bool = False,
    sinks: Sequence[Sink] = (),
    fingerprint: Mapping[str, Any] | None = None,
    stop_at_nonfinite: bool = True,
) -> tuple[Any, Log]:
    """Trains for `steps` meta-steps in all and returns the state and the log (metric name -> [steps, ...]).

    `meta` is any pair `(init(key) -> state, step(state, key) -> (state, metrics))` of pure functions, with a state of
    arrays: a run of `compose`, a plain agent, a sweep.

    Meta-steps are counted from 1. Step n's key depends on `seed` and n alone, so a resumed run equals an
    uninterrupted one bit for bit, whatever `chunk` is, and its log holds the earlier steps too.

    What a run has cost so far is in every row of the log: `agent_updates` and `env_steps` of all agents together, where
    `meta` counts them (with those that a meta-gradient is measured on; the episodes of `fitness`, and what a score of
    levels costs, such as the lives of antagonists, come on top), and `seconds` of compilation and computation until the
    chunk had ended (with those before a resume, and without those lost in between).

    Several processes (`jax.distributed`) that all call this with the same arguments are one run, on all their devices
    and with one directory that all of them can reach; what an estimator shards over `jax.devices()` is shared, all
    else each of them does for itself. The first saves, and a signal to any of them stops all after the same chunk.

    Args:
        seed: of the initial state and of every meta-step.
        directory: where checkpoints and the log go; None saves nothing.
        chunk: meta-steps per call of the one compiled function; the host sees metrics and signals in between.
        checkpoint_every: meta-steps between checkpoints; the last meta-step is always saved.
        keep: how many checkpoints stay on disk.
        resume: go on from the newest checkpoint in `directory`; returns at once if it has reached `steps`.
        sinks: each gets every meta-step's metrics, averaged to one number; closed in any case. Of several processes,
            give them to one.
        fingerprint: JSON-able configuration; a resumed run must have the same one (and the same seed).
        stop_at_nonfinite: raise NonFiniteLoss; if not, the run goes on, and sinks get means of what is no NaN.

    Raises:
        ValueError: an argument is out of range, or (CheckpointError) the checkpoint is unusable.
        FileExistsError, FileNotFoundError: `directory` holds a run without `resume`, or none with it.
        NonFiniteLoss: a metric `lifetime_loss` or `meta_loss`, or an entry of the state's field `params`, if it has
            these, is NaN or infinite; that state is not saved.
        Interrupted: SIGINT or SIGTERM came; the chunk was finished and saved first. A second signal kills at once
            (while XLA compiles, only when it has compiled).
    """
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        for name, value in dict(steps=steps, chunk=chunk, checkpoint_every=checkpoint_every, keep=keep).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        check_directory(directory, resume)
        fingerprint = {**(fingerprint or {}), "seed": seed}
        start = time.monotonic()

        init_key, key = jax.random.split(jax.random.key(seed))
        template = jax.eval_shape(meta.init, init_key)
        done, segments, state = 0, list[Log](), None
        if resume:
            done, state, log = checkpoint.restore(str(directory), template, fingerprint)
            if done >= steps:
                return state, log
            segments = [log]
        caught = stack.enter_context(_signals())
        everywhere = replicated()
        run = _compile(meta.step, template, key, chunk, everywhere)
        state = jax.jit(meta.init)(init_key) if state is None else state
        if everywhere:
            state = jax.jit(lambda state: state, out_shardings=everywhere)(state)

        average = np.mean if stop_at_nonfinite else mean_of_numbers
        unsaved: list[Log] = []
        while done < steps:
            count = min(chunk, steps - done, checkpoint_every - done % checkpoint_every)
            state, metrics = run(state, np.int32(done), np.int32(count))
            rows = _fetch(metrics, count)
            for name in [name for name in COUNTED if name in rows]:
                rows[name] = _before(segments, name) + np.cumsum(rows[name], axis=0, dtype=np.float64)
            rows["seconds"] = np.full(count, _before(segments, "seconds") + time.monotonic() - start)
            start = time.monotonic()
            segments.append(rows)
            unsaved.append(rows)
            for i in range(count):
                for sink in sinks:
                    sink.write(done + i + 1, {name: float(average(x[i])) for name, x in rows.items()})
            done += count
            if stop_at_nonfinite:
                _check_finite(rows, getattr(state, "params", ()), done, directory)
            stop = agreed(caught)  # a signal that comes from here on waits for the next chunk
            if directory and (stop or done == steps or done % checkpoint_every == 0):
                checkpoint.save(directory, done, state, checkpoint.concatenate(unsaved), fingerprint, keep)
                unsaved = []
            if stop:
                raise Interrupted(done, stop[0], directory)
        return state, checkpoint.concatenate(segments)


def _compile(step: Callable[..., tuple[Any, Metrics]], template: Any, key: Key, chunk: int, everywhere: Any) -> Any:
    """Compiles `(state, done, count) -> (state, metrics [chunk, ...])`: `count` <= chunk meta-steps after step `done`.

    The trip count is an argument, so one compilation serves every chunk of a run and a short last one.
    """
    step = jax.jit(step)  # traced once for the shape of its metrics and for the loop

    def run(state: Any, done: Array, count: Array) -> tuple[Any, Metrics]:
        def body(i: Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
            state, rows = carry
            state, metrics = step(state, jax.random.fold_in(key, done + i))
            return state, {name: row.at[i].set(metrics[name]) for name, row in rows.items()}

        shapes = jax.eval_shape(step, state, key)[1]
        rows = {name: jnp.zeros((chunk, *x.shape), x.dtype) for name, x in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (state, rows))

    number = jax.ShapeDtypeStruct((), jnp.int32)
    strong = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), template)
    return jax.jit(run, donate_argnums=0, out_shardings=everywhere).lower(strong, number, number).compile()


def _fetch(metrics: Metrics, count: int) -> Log:
    """The first `count` rows on the host. Sleeps until they are ready, because only Python code can see a signal."""
    start = time.monotonic()
    pending: list[Any] = list(metrics.values())
    while not all(x.is_ready() for x in pending):
        time.sleep(min(0.05, 1e-5 + 0.02 * (time.monotonic() - start)))
    rows = {name: np.asarray(x)[:count] for name, x in metrics.items()}
    return {name: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x for name, x in rows.items()}


def mean_of_numbers(x: np.ndarray) -> float:
    """The mean of what is no NaN; NaN if there is nothing else."""
    numbers = np.asarray(x)[~np.isnan(x)]
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return float(numbers.mean()) if numbers.size else math.nan


def _before(segments: list[Log], name: str) -> Any:
    return segments[-1][name][-1] if segments and name in segments[-1] else 0


def _check_finite(rows: Log, params: PyTree, done: int, directory: str | Path | None) -> None:
    """Checks the metrics of the last chunk, which ended with meta-step `done`, and the meta-parameters after it."""
    saved = checkpoint.steps(directory) if directory else []
    last_good = f"meta-step {saved[-1]} in {directory}" if saved else "none"
    bad = {name: np.argwhere(~np.isfinite(rows[name])) for name in WATCHED if name in rows}  # [n, (row, lifetime)]
    bad = {name: indices for name, indices in bad.items() if len(indices)}
    if bad:
        name = min(bad, key=lambda name: bad[name][0][0])
        row = int(bad[name][0][0])
        indices = [index[1:] for index in bad[name].tolist() if index[0] == row and len(index) > 1]
        lifetimes = [index[0] if len(index) == 1 else tuple(index) for index in indices]
        raise NonFiniteLoss(name, done - len(rows[name]) + row + 1, lifetimes, last_good)
    for path, x in jax.tree_util.tree_leaves_with_path(params):  # a finite loss can have a gradient that is not
        if jnp.issubdtype(x.dtype, jnp.inexact) and not np.isfinite(np.asarray(x)).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise NonFiniteLoss(f"meta-parameter {name}", done, [], last_good)


def check_directory(directory: str | Path | None, resume: bool) -> None:
    """Raises what `train` raises for a directory that it cannot start or resume a run in; makes it if it is new."""
    if directory is None:
        if resume:
            raise ValueError("resume needs the directory of the run to go on with")
        return
    saved = checkpoint.steps(directory)
    if resume and not saved:
        raise FileNotFoundError(f"nothing to resume: no checkpoint in {directory}")
    if saved and not resume:
        raise FileExistsError(
            f"{directory} holds a run of {saved[-1]} meta-steps: give resume to go on with it, or another directory"
        )
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise OSError(error.errno, f"cannot write to the run's directory ({error.strerror})", str(directory)) from error


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM in a list (main thread only); a second one ends the process."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def catch(signum: int, frame: Any) -> None:
        caught.append(signum)
        for each in previous:
            signal.signal(each, signal.SIG_DFL)
        os.write(2, b"\nstopping after this chunk of meta-steps (again to stop at once)\n")

    previous = {signum: signal.signal(signum, catch) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

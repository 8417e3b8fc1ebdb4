"""The only host loop: compiled chunks of meta-steps. Between chunks it logs, saves, and handles signals."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl import checks, interface
from metarl.checks import COUNT, SEED
from metarl.meta import COUNTED, WATCHED, Meta
from metarl.parallel import agreed, replicated
from metarl.run import checkpoint
from metarl.run.checkpoint import Log
from metarl.run.files import locked
from metarl.run.sinks import Sink
from metarl.types import Array, Key, Metrics, PyTree


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM stopped a run after meta-step `step`. The state was saved if the run has a directory."""

    def __init__(self, step: int, signum: int, directory: str | Path | None):
        saved = f"saved in {directory}, resume to continue" if directory else "nothing saved (the run has no directory)"
        super().__init__(f"{signal.Signals(signum).name} after meta-step {step}: {saved}")
        self.step, self.signum = step, signum


class NonFiniteLoss(FloatingPointError):
    """A metric of `metarl.meta.WATCHED` (losses, the norm of the meta-gradient) or a meta-parameter is NaN or infinite.

    `step` is the first such meta-step (for meta-parameters the last one of the chunk). `lifetimes` are the indices of
    the lifetimes with such a number (empty for metrics of the whole meta-step and for meta-parameters).
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
    resume_from: int | None = None,
    sinks: Sequence[Sink] = (),
    fingerprint: Mapping[str, Any] | None = None,
    stop_at_nonfinite: bool = True,
) -> tuple[Any, Log]:
    """Trains for `steps` meta-steps in total. Returns the state and the log (metric name -> [steps, ...]).

    `meta` is any pair `(init(key) -> state, step(state, key) -> (state, metrics))` of pure functions whose state is
    arrays: a run of `compose`, a plain agent, a sweep.

    Meta-steps are counted from 1. The key of step n depends only on `seed` and n. So a resumed run equals an
    uninterrupted one bit for bit, for every `chunk`, and its log includes the earlier steps.

    Every row of the log has the cost of the run so far. `agent_updates` and `env_steps`, if `meta` counts them, are
    sums over all agents. They include rollouts for the meta-loss, but not the episodes of `fitness`, nor the cost of
    scoring levels, such as the training of antagonists. `seconds` is the time of compilation and computation until the
    end of the chunk; it includes the time before a resume, but not computation that was lost.

    Several processes (`jax.distributed`) that call this with the same arguments are one run, with one directory that
    all of them can reach. Estimators may shard over all `jax.devices()`; every process does everything else itself.
    The first process saves. A signal to any of them stops all after the same chunk.

    Args:
        seed: of the initial state and of every meta-step.
        directory: the directory of checkpoints and log; None: nothing is saved.
        chunk: meta-steps per call of the compiled function. Logs and signals are handled between calls.
        checkpoint_every: meta-steps between checkpoints; the last meta-step is always saved.
        keep: the number of newest checkpoints that stay on disk.
        resume: continue from the newest checkpoint in `directory`; returns at once if that is of meta-step `steps`.
        resume_from: continue from the checkpoint of this meta-step instead, for example because newer ones are damaged.
            They are removed when this run saves its first checkpoint.
        sinks: they get the metrics of every meta-step, averaged to one number each, and are always closed. If there
            are several processes, give sinks to one of them.
        fingerprint: JSON-able configuration; a resumed run must have the same one (and the same seed).
        stop_at_nonfinite: raise NonFiniteLoss. If False, the run continues, and sinks get means without NaN.

    Raises:
        ValueError: an argument is out of range, the checkpoint is past `steps`, or (CheckpointError) it is unusable.
        FileExistsError, FileNotFoundError: `directory` holds a run without `resume`, or none with it.
        BlockingIOError: another run is using `directory`.
        OSError: something cannot be written. The message has the meta-step and the last good checkpoint. Or `directory`
            was removed while the run went on: it does not save into one that may be another run's.
        NonFiniteLoss: a metric of `metarl.meta.WATCHED`, or an entry of the state's field `params`, is NaN or
            infinite. That state is not saved.
        Interrupted: SIGINT or SIGTERM came. The present chunk was finished and saved first. A second signal ends the
            process at once (during a compilation, after it).
    """
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        counts = {"steps": steps, "chunk": chunk, "checkpoint_every": checkpoint_every, "keep": keep}
        checks.within(int, COUNT, **counts)
        checks.within(int, SEED, seed=seed)
        resume = resume or resume_from is not None
        if resume and not directory:
            raise ValueError("resume needs the directory of the run to continue")
        if directory:
            check_lock = stack.enter_context(claimed(directory, resume, ".train.lock"))
        fingerprint = {**(fingerprint or {}), "seed": seed}
        start = time.monotonic()

        init_key, key = jax.random.split(jax.random.key(seed))
        template = jax.eval_shape(meta.init, init_key)
        done, segments, state = 0, list[Log](), None
        if resume:
            newest = checkpoint.steps(str(directory))[-1]
            if newest > steps:  # also with `resume_from`: the results of the longer run would be lost
                raise ValueError(f"steps must be at least {newest}, the meta-step of the checkpoint, got {steps}")
            done, state, log = checkpoint.restore(str(directory), template, fingerprint, resume_from)
            segments = [log]
        average = np.mean if stop_at_nonfinite else mean_of_numbers
        for begin in [sink.begin for sink in sinks if hasattr(sink, "begin")]:
            begin(_averages(segments[0] if segments else {}, average))
        if done == steps:
            return state, segments[0]
        caught = stack.enter_context(_signals())
        everywhere = replicated()
        run = _compile(meta.step, template, key, chunk, everywhere)
        state = jax.jit(meta.init)(init_key) if state is None else state
        if everywhere:
            state = jax.jit(lambda state: state, out_shardings=everywhere)(state)

        unsaved: list[Log] = []
        while done < steps:
            count = min(chunk, steps - done, checkpoint_every - done % checkpoint_every)
            state, metrics = run(state, np.int32(done), np.int32(count))
            rows = _with_costs(_fetch(metrics, count), segments, count, start)
            start = time.monotonic()
            segments.append(rows)
            unsaved.append(rows)
            done += count
            with _saying(done, directory):
                averages = _averages(rows, average)
                for i in range(count):
                    for sink in sinks:
                        sink.write(done - count + i + 1, {name: float(x[i]) for name, x in averages.items()})
            if stop_at_nonfinite:
                _check_finite(rows, getattr(state, "params", ()), done, directory)
            stop = agreed(caught)  # a later signal waits for the next chunk
            if directory and (stop or done == steps or done % checkpoint_every == 0):
                check_lock()
                with _saying(done, directory):
                    checkpoint.save(directory, done, state, checkpoint.concatenate(unsaved), fingerprint, keep)
                unsaved = []
            if stop:
                raise Interrupted(done, stop[0], directory)
        return state, checkpoint.concatenate(segments)


def _compile(step: Callable[..., tuple[Any, Metrics]], template: Any, key: Key, chunk: int, everywhere: Any) -> Any:
    """Compiles `(state, done, count) -> (state, metrics [chunk, ...])`: `count` <= chunk meta-steps after step `done`.

    `count` is an argument, so the same compiled program also computes a shorter last chunk.
    """
    what = interface.title("Meta.step", step)
    step = jax.jit(step)  # so that it is traced once, not again for the shapes of its metrics

    def run(state: Any, done: Array, count: Array) -> tuple[Any, Metrics]:
        def body(i: Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
            state, rows = carry
            state, metrics = step(state, jax.random.fold_in(key, done + i))
            return state, {name: row.at[i].set(metrics[name]) for name, row in rows.items()}

        following, shapes = interface.values(what, jax.eval_shape(step, state, key), ("state", "metrics"))
        interface.same(f"the state that {what}", following, state)
        interface.metrics(f"the metrics that {what}", shapes)
        rows = {name: jnp.zeros((chunk, *x.shape), x.dtype) for name, x in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (state, rows))

    number = jax.ShapeDtypeStruct((), jnp.int32)
    strong = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), template)
    return jax.jit(run, donate_argnums=0, out_shardings=everywhere).lower(strong, number, number).compile()


def _fetch(metrics: Metrics, count: int) -> Log:
    """The first `count` rows on the host. Sleeps until they are ready: Python handles signals only in Python code."""
    start = time.monotonic()
    pending: list[Any] = list(metrics.values())
    while not all(x.is_ready() for x in pending):
        time.sleep(min(0.05, 1e-5 + 0.02 * (time.monotonic() - start)))
    rows = {name: np.asarray(x)[:count] for name, x in metrics.items()}
    return {name: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x for name, x in rows.items()}


def _averages(log: Log, average: Callable[[np.ndarray], Any]) -> Log:
    """Each row of the log as one number: {name: [meta-steps]}."""
    return {
        name: x.astype(float) if x.ndim == 1 else np.array([float(average(row)) for row in x])
        for name, x in log.items()
    }


def mean_of_numbers(x: np.ndarray) -> float:
    """The mean without NaN; NaN if there is no number."""
    numbers = np.asarray(x)[~np.isnan(x)]
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return float(numbers.mean()) if numbers.size else math.nan


def _with_costs(rows: Log, segments: list[Log], count: int, start: float) -> Log:
    """The `count` rows of a chunk with cumulative costs, which continue those of the earlier `segments`."""

    def before(name: str) -> Any:
        rows = segments[-1].get(name, ()) if segments else ()
        return next((x for x in rows[::-1] if np.isfinite(x).all()), 0)  # NaN where the log was mended

    sums = {name: np.cumsum(rows[name], axis=0, dtype=np.float64) for name in COUNTED if name in rows}
    seconds = np.full(count, before("seconds") + time.monotonic() - start)
    return {**rows, **{name: before(name) + x for name, x in sums.items()}, "seconds": seconds}


def _check_finite(rows: Log, params: PyTree, done: int, directory: str | Path | None) -> None:
    """Checks the metrics of the last chunk, which ended with meta-step `done`, and the meta-parameters after it."""
    bad = {name: np.argwhere(~np.isfinite(rows[name])) for name in WATCHED if name in rows}  # [n, (row, lifetime)]
    bad = {name: indices for name, indices in bad.items() if len(indices)}
    if bad:
        name = min(bad, key=lambda name: bad[name][0][0])
        row = int(bad[name][0][0])
        indices = [index[1:] for index in bad[name].tolist() if index[0] == row and len(index) > 1]
        lifetimes = [index[0] if len(index) == 1 else tuple(index) for index in indices]
        raise NonFiniteLoss(name, done - len(rows[name]) + row + 1, lifetimes, _last_good(directory, done))
    for path, x in jax.tree_util.tree_leaves_with_path(params):  # a finite loss can have a gradient that is not finite
        if jnp.issubdtype(x.dtype, jnp.inexact) and not np.isfinite(np.asarray(x)).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise NonFiniteLoss(f"meta-parameter {name}", done, [], _last_good(directory, done))


@contextlib.contextmanager
def _saying(done: int, directory: str | Path | None) -> Iterator[None]:
    """Adds to an OSError of the block what has become of the run."""
    try:
        yield
    except OSError as error:
        where = f"(after meta-step {done}; last good checkpoint: {_last_good(directory, done)})"
        if error.errno is None:
            raise OSError(f"{error} {where}") from error
        raise OSError(error.errno, f"{error.strerror} {where}", error.filename) from error


def _last_good(directory: str | Path | None, done: int) -> str:
    """The newest checkpoint up to meta-step `done`: later ones are those that this run did not resume from."""
    saved = [step for step in (checkpoint.steps(directory) if directory else []) if step <= done]
    return f"meta-step {saved[-1]} in {directory}" if saved else "none"


@contextlib.contextmanager
def claimed(directory: str | Path, resume: bool, lock: str) -> Iterator[Callable[[], None]]:
    """Makes the directory of a run, if needed, and holds its lock file `lock` during the block.

    Yields a function that raises OSError if the lock was lost, as `metarl.run.files.locked` does.
    Raises as `train` does if a run cannot start or resume there.
    """
    _check_directory(directory, resume)
    _make_directory(directory)
    with locked(Path(directory) / lock) as check_lock:
        _check_directory(directory, resume)  # a run may have ended here since
        yield check_lock


def _make_directory(directory: str | Path) -> None:
    """Raises OSError if the directory cannot be made, or nothing can be written there."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise OSError(error.errno, f"cannot write to the run's directory ({error.strerror})", str(directory)) from error


def _check_directory(directory: str | Path, resume: bool) -> None:
    """Raises as `train` does for a bad name, for nothing to resume, and for a run that would be overwritten."""
    name = str(Path(directory).absolute())
    if any(unicodedata.category(x) in ("Cc", "Cs") for x in name):
        raise ValueError(f"the run's directory must have a name in UTF-8 without line breaks, got {name!a}")
    saved = checkpoint.steps(directory)
    if resume and not saved:
        raise FileNotFoundError(f"nothing to resume: no checkpoint in {directory}")
    if saved and not resume:
        raise FileExistsError(
            f"{directory} holds a run of {saved[-1]} meta-steps: resume it, or give another directory"
        )


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

    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        for each in previous:
            signal.signal(each, catch)
        yield caught
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

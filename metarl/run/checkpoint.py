"""Checkpoints of a run: its state, its log, and the configuration that made them.

In the run's directory, `checkpoints/<meta-step>.npz` has the state, and `log/<meta-step>.npz` the metrics since the
checkpoint before. Each file is there as a whole or not at all. The log of a checkpoint is the chain of segments that
ends at its meta-step: each has as many rows as there are meta-steps since the end of the one before.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl.run import old_checkpoints
from metarl.run.files import naming, replaced
from metarl.types import PyTree

Log = dict[str, np.ndarray]  # metric name -> [meta-steps, ...]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: it is damaged, of another program, or of another configuration."""


class _Damaged(CheckpointError):
    """A file of a checkpoint or its log is missing, or is not what was written."""


def steps(directory: str | Path) -> list[int]:
    """The meta-steps of the complete checkpoints in a run's directory, oldest first."""
    names = [path.name.removesuffix(".npz") for path in (Path(directory) / "checkpoints").glob("*")]
    return sorted({int(name) for name in names if name.isdecimal() and name == str(int(name))})


def save(directory: str | Path, step: int, state: PyTree, log: Log, fingerprint: Mapping[str, Any], keep: int) -> None:
    """Saves `state` as meta-step `step`, and `log`, the metrics since the last checkpoint ([meta-steps, ...]).

    Keeps the `keep` newest checkpoints up to this one, and the log up to this one. Those of later meta-steps are of the
    time before the run resumed from an earlier one: they are removed, after this one is safe. Of several processes, the
    first saves.
    Raises OSError, which names the file, if writing fails.
    """
    if jax.process_index() > 0:
        return
    directory = Path(directory)
    _save_log(directory / "log", step, log)
    names, leaves = _flatten(_raw(state))
    arrays = [np.asarray(x) for x in leaves]
    about = {
        "format": "metarl-2",
        "fingerprint": _jsonable(fingerprint),
        "leaves": _describe(names, arrays),
        "digest": _digest(arrays),
    }
    said = np.frombuffer(json.dumps(about).encode(), np.uint8)
    _write(directory / "checkpoints" / f"{step}.npz", {"about": said, **{f"{i:05d}": x for i, x in enumerate(arrays)}})
    there = steps(directory)
    kept = [x for x in there if x <= step][-keep:]
    for other in reversed(there):
        if other not in kept:
            path = _path(directory, other)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _forget(directory / "log", step - _length(log), step)


def restore(
    directory: str | Path, template: PyTree, fingerprint: Mapping[str, Any] | None = None, step: int | None = None
) -> tuple[int, PyTree, Log]:
    """Meta-step, state and log from the start, of the checkpoint of meta-step `step` (None: the newest).

    A report of damage says which other checkpoint is intact. `template` is `jax.eval_shape(meta.init, key)`; the state
    has its tree, shapes and dtypes.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it, or its log, is damaged or not from metarl, its arrays are not those of the template, or it
            was made with another `fingerprint` (None: any is accepted).
        OSError, MemoryError: the system cannot read it: nothing is said of its content.
    """
    available = steps(directory)
    if not available or step not in (None, *available):
        which = "checkpoint to restore" if step is None else f"checkpoint of meta-step {step}"
        raise FileNotFoundError(f"no {which} in {directory}; available: {available or 'none'}")
    step = available[-1] if step is None else step
    try:
        return step, *_load(Path(directory), step, template, fingerprint)
    except _Damaged as error:
        others = (x for x in reversed(available) if x != step)
        intact = next((x for x in others if _intact(Path(directory), x, template, fingerprint)), None)
        hint = "no other checkpoint there is intact"
        if intact is not None:
            hint = f"that of meta-step {intact} is intact: resume_from={intact} (--resume-from {intact})"
        raise CheckpointError(f"{error}; {hint}") from error


def _intact(directory: Path, step: int, template: PyTree, fingerprint: Mapping[str, Any] | None) -> bool:
    try:
        _load(directory, step, template, fingerprint)
    except (CheckpointError, OSError):
        return False
    return True


def _of_system(error: Exception) -> bool:
    """Whether reading failed for the system's reasons, such as rights or memory, which say nothing of the content.

    A file that is missing is damage, and so is one that sends its reader to a place that no file has.
    """
    system = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EINVAL)
    return system or isinstance(error, MemoryError)


def _load(directory: Path, step: int, template: PyTree, fingerprint: Mapping[str, Any] | None) -> tuple[PyTree, Log]:
    """State and log of the checkpoint of meta-step `step`."""
    path = _path(directory, step)
    try:
        with naming(path):
            about, arrays = _read(path, template, fingerprint)
    except CheckpointError:
        raise
    except Exception as error:  # numpy, zipfile, json and orbax raise different errors for broken files
        if _of_system(error):
            raise
        raise _Damaged(f"{path} is not a readable metarl checkpoint ({type(error).__name__})") from error
    if _digest(arrays) != about["digest"]:
        raise _Damaged(f"{path} is damaged (its contents do not match its digest)")
    return _unflatten(template, arrays), _load_log(directory / "log", step)


def _read(
    path: Path, template: PyTree, fingerprint: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The description of the checkpoint at `path`, and its arrays, after checks against template and fingerprint."""
    names, leaves = _flatten(jax.eval_shape(_raw, template))
    with old_checkpoints.opened(path) if path.is_dir() else np.load(path) as file:
        about = json.loads(file["about"].tobytes())
        # checked first, because another configuration is the usual reason for other arrays
        if fingerprint is not None and (details := _differences(about["fingerprint"], _jsonable(fingerprint))):
            raise CheckpointError(f"{path} was made under another configuration: {details}")
        if details := _differences(about["leaves"], _describe(names, leaves)):
            raise CheckpointError(f"{path} holds other arrays than this program: {details}")
        # numpy reads what it does not know, such as bfloat16, as bytes
        return about, [file[f"{i:05d}"].view(x.dtype) for i, x in enumerate(leaves)]


def _path(directory: Path, step: int) -> Path:
    """Where the checkpoint of meta-step `step` is: a file, or a folder of an earlier version."""
    file, folder = (directory / "checkpoints" / name for name in (f"{step}.npz", str(step)))
    return folder if folder.is_dir() and not file.exists() else file


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    whole = io.BytesIO()  # first in memory, because zipfile does not clean up after a full disk
    np.savez(whole, **arrays)  # type: ignore[arg-type]
    with replaced(path) as unfinished:
        unfinished.write_bytes(whole.getbuffer())


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Each field that differs, with both values; empty if none does."""

    def show(fields: dict[str, Any], name: str) -> str:
        return repr(fields[name]) if name in fields else "absent"

    names = [n for n in {**there, **here} if n not in there or n not in here or there[n] != here[n]]
    return "; ".join(f"{name}: {show(there, name)} there, {show(here, name)} here" for name in names)


def _raw(state: PyTree) -> PyTree:
    """The tree with typed PRNG keys replaced by their integers, because files cannot hold keys."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)


def _flatten(state: PyTree) -> tuple[list[str], list[Any]]:
    """Names and values of all leaves."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths], [x for _, x in paths]


def _unflatten(template: PyTree, arrays: list[np.ndarray]) -> PyTree:
    def leaf(like: Any, array: np.ndarray) -> jax.Array:
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(jnp.empty(0, like.dtype)))
        return jnp.asarray(array)

    leaves, tree = jax.tree.flatten(template)
    return jax.tree.unflatten(tree, [leaf(like, array) for like, array in zip(leaves, arrays, strict=True)])


def _describe(names: list[str], leaves: list[Any]) -> dict[str, str]:
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in zip(names, leaves, strict=True)}


def _digest(arrays: list[np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _jsonable(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(fingerprint), default=str))


def mend_log(directory: str | Path) -> None:
    """Fills what is missing or unreadable in the log of a run with NaN, so that the run can be resumed.

    For a run that has lost a file of its log: nothing in its checkpoints depends on the log.
    Raises FileNotFoundError if there is no checkpoint, OSError if the system cannot read a file that is there.
    """
    available, log = steps(directory), Path(directory) / "log"
    if not available:
        raise FileNotFoundError(f"no checkpoint in {directory}")
    step = available[-1]
    while step:
        try:
            step -= _length(_segment(log, step))
        except _Damaged:
            before = max((end for end in _ends(log) if end < step), default=0)
            _save_log(log, step, {"seconds": np.full(step - before, np.nan)})
            step = before


def concatenate(segments: Sequence[Log]) -> Log:
    """Concatenates logs of successive meta-steps along their first axis; NaN where one of them has no such metric."""
    likes = {name: x for segment in segments for name, x in segment.items()}
    return {
        name: np.concatenate([x.get(name, np.full((_length(x), *like.shape[1:]), np.nan)) for x in segments])
        for name, like in likes.items()
    }


def _save_log(directory: Path, step: int, log: Log) -> None:
    _write(directory / f"{step:09d}.npz", log)


def _forget(directory: Path, first: int, last: int) -> None:
    """Removes segments that are not of the log whose last segment is of the meta-steps after `first` up to `last`."""
    for end in _ends(directory):
        if end > first and end != last:
            (directory / f"{end:09d}.npz").unlink()


def _load_log(directory: Path, step: int) -> Log:
    """The log of the checkpoint of meta-step `step`."""
    segments: list[Log] = []
    while step:
        segments.append(_segment(directory, step))
        step -= _length(segments[-1])
    return concatenate(segments[::-1])


def _segment(directory: Path, step: int) -> Log:
    """The segment of the log that ends with meta-step `step`."""
    path = directory / f"{step:09d}.npz"
    way_out = "metarl.run.checkpoint.mend_log(RUN DIRECTORY) fills the gap with NaN"
    try:
        with naming(path), np.load(path) as file:
            segment = {name: np.atleast_1d(file[name]) for name in file.files}
    except Exception as error:  # numpy, zipfile and zlib raise different errors for broken files
        if _of_system(error):
            raise
        fault = "is missing" if isinstance(error, FileNotFoundError) else "is not a readable metarl log"
        raise _Damaged(f"{path} {fault} ({type(error).__name__}); {way_out}") from error
    if len({len(x) for x in segment.values()}) != 1 or not 0 < _length(segment) <= step:
        raise _Damaged(f"{path} is damaged (it does not have the rows of a log); {way_out}")
    return segment


def _ends(directory: Path) -> list[int]:
    """The last meta-steps of the segments there."""
    return sorted(int(path.stem) for path in directory.glob("*.npz") if path.stem.isdigit())


def _length(log: Log) -> int:
    return len(next(iter(log.values()), ()))

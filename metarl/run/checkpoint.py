"""Checkpoints of a run: its state, its log, and the configuration that made them.

In the run's directory, orbax writes `checkpoints/<meta-step>/` (under a temporary name that is then changed, so an
interrupted write is never read), and `log/<meta-step>.npz` holds the metrics since the checkpoint before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl.parallel import one_per_process
from metarl.run.files import replaced
from metarl.types import PyTree

Log = dict[str, np.ndarray]  # metric name -> [meta-steps, ...]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: it is damaged, of another program, or of another configuration."""


def steps(directory: str | Path) -> list[int]:
    """The meta-steps of the complete checkpoints in a run's directory, oldest first."""
    return sorted(int(path.name) for path in (Path(directory) / "checkpoints").glob("*") if path.name.isdigit())


def save(directory: str | Path, step: int, state: PyTree, log: Log, fingerprint: Mapping[str, Any], keep: int) -> None:
    """Saves `state` as meta-step `step`, and `log`, the metrics since the last checkpoint ([meta-steps, ...]).

    Keeps the `keep` newest checkpoints, and the whole log. Raises OSError if writing fails.
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    if jax.process_index() == 0:
        _save_log(directory / "log", step, log)
    names, leaves = _flatten(_raw(state))
    arrays = [np.asarray(x) for x in leaves]
    about = {
        "format": "metarl-1",
        "fingerprint": _jsonable(fingerprint),
        "leaves": _describe(names, leaves),
        "digest": _digest(arrays),
    }
    # orbax refuses empty arrays; `restore` makes them from its template
    filled = {f"{i:05d}": x for i, x in enumerate(leaves) if x.size}
    with _manager(directory, keep) as manager:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(filled), about=ocp.args.JsonSave(about)))


def restore(
    directory: str | Path, template: PyTree, fingerprint: Mapping[str, Any] | None = None, step: int | None = None
) -> tuple[int, PyTree, Log]:
    """Meta-step, state and log from the start, of the checkpoint of meta-step `step` (None: the newest).

    `template` is `jax.eval_shape(meta.init, key)`; the state has its tree, shapes and dtypes.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it is damaged or not from metarl, its arrays are not those of the template, or it was made
            with another `fingerprint` (None: any is accepted).
    """
    available = steps(directory)
    if not available or step not in (None, *available):
        raise FileNotFoundError(f"no checkpoint to restore in {directory}; available: {available or 'none'}")
    step = available[-1] if step is None else step
    path = Path(directory).absolute() / "checkpoints" / str(step)
    others = [other for other in available if other != step]
    hint = f"other checkpoints there: {others or 'none'} (delete {step} to resume from an earlier one)"
    try:
        about, arrays = _read(path, template, fingerprint)
    except CheckpointError:
        raise
    except Exception as error:  # orbax, tensorstore and json raise different errors for broken files
        raise CheckpointError(f"{path} is not a readable metarl checkpoint ({type(error).__name__}); {hint}") from error
    if _digest(arrays) != about["digest"]:
        raise CheckpointError(f"{path} is damaged (its contents do not match its digest); {hint}")
    return step, _unflatten(template, arrays), _load_log(Path(directory) / "log", step)


def _read(
    path: Path, template: PyTree, fingerprint: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The description of the checkpoint at `path`, and its arrays, after checks against template and fingerprint."""
    import orbax.checkpoint as ocp

    names, leaves = _flatten(jax.eval_shape(_raw, template))
    with _manager(path.parent.parent, keep=None) as manager:
        about = manager.restore(int(path.name), args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        # checked first, because another configuration is the usual reason for other arrays
        if fingerprint is not None and (details := _differences(about["fingerprint"], _jsonable(fingerprint))):
            raise CheckpointError(f"{path} was made under another configuration: {details}")
        if details := _differences(about["leaves"], _describe(names, leaves)):
            raise CheckpointError(f"{path} holds other arrays than this program: {details}")
        here = one_per_process()
        shapes = {
            f"{i:05d}": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for i, x in enumerate(leaves) if x.size
        }
        filled = manager.restore(int(path.name), args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))).state
    return about, [np.asarray(filled.get(f"{i:05d}", np.zeros(x.shape, x.dtype))) for i, x in enumerate(leaves)]


def _manager(directory: Path, keep: int | None) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=keep is not None,  # only when writing: a reader must not disturb a run that is saving
    )
    return ocp.CheckpointManager(directory / "checkpoints", options=options, item_names=("state", "about"))


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


def _save_log(directory: Path, step: int, log: Log) -> None:
    first = step - len(next(iter(log.values()), ()))
    for path in directory.glob("*.npz"):  # segments of a killed run, after the checkpoint from which this one resumed
        if path.stem.isdigit() and int(path.stem) > first:
            path.unlink()
    with replaced(directory / f"{step:09d}.npz") as unfinished, unfinished.open("wb") as file:
        np.savez(file, **log)  # type: ignore[arg-type]


def _load_log(directory: Path, step: int) -> Log:
    segments = []
    for path in sorted(directory.glob("*.npz")):
        if path.stem.isdigit() and int(path.stem) <= step:
            try:
                with np.load(path) as file:
                    segments.append({name: file[name] for name in file.files})
            except Exception as error:
                raise CheckpointError(f"{path} is not a readable metarl log ({type(error).__name__})") from error
    return concatenate(segments)


def concatenate(segments: list[Log]) -> Log:
    """Concatenates logs of successive meta-steps along their first axis."""
    names = segments[0] if segments else ()
    return {name: np.concatenate([segment[name] for segment in segments]) for name in names}

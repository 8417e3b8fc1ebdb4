"""Reads the checkpoints of earlier versions of metarl, which are folders written by orbax."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from metarl.parallel import one_per_process


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The checkpoint in the folder `path`, as `numpy.load` gives one of this version: "about", "00000", "00001", ..."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        enable_async_checkpointing=False, cleanup_tmp_directories=False, create=False
    )
    with ocp.CheckpointManager(path.absolute().parent, options=options, item_names=("state", "about")) as manager:
        about = manager.restore(int(path.name), args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        shapes = [_shape(x) for x in about["leaves"].values()]
        # orbax does not hold empty arrays
        wanted = {f"{i:05d}": x for i, x in enumerate(shapes) if x.size}
        state = manager.restore(int(path.name), args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))).state
    arrays = {f"{i:05d}": np.zeros(x.shape, x.dtype) for i, x in enumerate(shapes)}
    said = np.frombuffer(json.dumps(about).encode(), np.uint8)
    yield {**arrays, **{name: np.asarray(x) for name, x in state.items()}, "about": said}


def _shape(described: str) -> jax.ShapeDtypeStruct:
    """What is described as in "float32[4, 2]"."""
    dtype, _, shape = described.partition("[")
    return jax.ShapeDtypeStruct(json.loads("[" + shape), jax.numpy.dtype(dtype), sharding=one_per_process())

"""Learned parameters in files: safetensors with a JSON header that describes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metarl.run.files import replaced
from metarl.types import Params


def save_params(path: str | Path, params: Params, metadata: Mapping[str, Any]) -> None:
    """Writes nested dicts of arrays to one `.safetensors` file, with names joined by "/".

    `metadata` is any JSON-able mapping, such as a configuration and scores. metarl's version and a hash of the contents
    are added to it. Empty tuples (parts that are not learned) are left out. Raises ValueError if `params` are not
    nested dicts of arrays, or if a name is empty or contains "/".
    """
    from safetensors.numpy import save

    from metarl import __version__

    flat = dict(_flatten(params))
    header = json.dumps({**metadata, "metarl_version": __version__, "content_hash": content_hash(flat)})
    with replaced(Path(path)) as unfinished:
        unfinished.write_bytes(save(flat, {"metarl": header, "metarl_hash": _hash_of_text(header)}))


def load_params(path: str | Path) -> tuple[Params, dict[str, Any]]:
    """Reads a file of `save_params`: nested dicts of numpy arrays, and the metadata.

    Raises FileNotFoundError if there is no such file, ValueError if it is damaged or not from metarl.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no parameters at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if "metarl" not in said:
        raise ValueError(f"{path} was not written by metarl.pretrained: it has no 'metarl' metadata")
    if said.get("metarl_hash", "") not in ("", _hash_of_text(said["metarl"])):  # old files have none
        raise ValueError(f"{path} is damaged: its metadata do not match their hash")
    try:
        metadata = json.loads(said["metarl"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its metadata are no JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged: its metadata must be a JSON object, got {type(metadata).__name__}")
    if metadata.get("content_hash") != content_hash(flat):
        raise ValueError(f"{path} is damaged: its contents do not match its content hash")
    inside = {name[:i] for name in flat for i, letter in enumerate(name) if letter == "/"}
    if both := inside & flat.keys():
        raise ValueError(f"{path} is damaged: {sorted(both)[0]!r} is an array, and has arrays in it")
    params: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, last = name.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return params, metadata


@contextlib.contextmanager
def reading(where: str, way_out: str = "") -> Iterator[None]:
    """For code that takes what a file says at its word: any error of the block becomes a ValueError that says `where`.

    `way_out` is added at its end. A file may say anything, and parts that it describes may raise any error.
    """
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{where}: {kind}{' '.join(str(error).split())}{way_out}") from error


def tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with tuples in the place of lists: undoes JSON, which turns tuples into lists."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in options.items()}


def _flatten(params: Params, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    if isinstance(params, tuple) and not params:
        return []  # a part that is not learned
    if not isinstance(params, Mapping):
        raise ValueError(f"params must be nested dicts of arrays, got {type(params).__name__} at {prefix!r}")
    items: list[tuple[str, np.ndarray]] = []
    for name, value in params.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"names must be non-empty strings without '/', got {name!r}")
        if hasattr(value, "dtype"):
            items.append((prefix + name, np.asarray(value, order="C")))
        else:
            items += _flatten(value, f"{prefix}{name}/")
    return items


def _hash_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(flat: Mapping[str, np.ndarray]) -> str:
    """A hash of the names, shapes, dtypes and values of `flat`."""
    digest = hashlib.sha256()
    for name in sorted(flat):
        digest.update(f"{name}:{flat[name].dtype}{flat[name].shape}".encode())
        digest.update(flat[name].tobytes())
    return digest.hexdigest()

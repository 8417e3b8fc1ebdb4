"""Small result files of runs, each replaced atomically, and facts about where they were made."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path to write to. It replaces `path` when the block ends, and is removed if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON, replacing `path` atomically. Numbers that are not finite become null."""
    text = json.dumps(content, default=lambda x: x.tolist())
    plain = json.loads(text, parse_constant=lambda _: None)
    with replaced(path) as unfinished:
        unfinished.write_text(json.dumps(plain, indent=2) + "\n")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a CSV table, replacing `path` atomically. Floats have six significant digits, whole ones all digits."""
    rows = list(rows)
    with replaced(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _digits(x) for name, x in row.items()} for row in rows)


def circumstances() -> dict[str, Any]:
    """When and where a result was made: `date`, `hardware` and `versions`."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "hardware": hardware(), "versions": versions()}


def hardware() -> dict[str, Any]:
    """The devices of this process, and its machine."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cpu_cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("metarl-jax", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _digits(x: Any) -> Any:
    if not isinstance(x, float):
        return x
    return f"{x:.0f}" if x.is_integer() else f"{x:.6g}"

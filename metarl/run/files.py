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

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path` during the block. The kernel releases it when the process ends, also if it is killed.

    The file is removed at the end of the block; one that a killed process has left locks nothing.
    Of the processes of one distributed run, the first alone takes the lock. Nothing is locked where the system has no
    such locks: on Windows, and on some network file systems.
    Raises BlockingIOError if the lock is held, by another process or by this one.
    """
    with contextlib.ExitStack() as stack:
        if fcntl is not None and jax.process_index() == 0:
            file = stack.enter_context(path.open("a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    raise BlockingIOError  # it was removed, by who held it, after it was opened here
            except BlockingIOError:
                file.seek(0)
                raise BlockingIOError(f"{path.parent} is in use by another process ({file.read()})") from None
            except OSError:  # a file system without locks
                pass
            else:
                stack.callback(path.unlink, missing_ok=True)
                file.truncate(0)
                file.write(f"pid {os.getpid()} on {platform.node()}")
                file.flush()
        yield


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError of the block that names no file, such as that of a full disk, the name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path of a file to write. It replaces `path` when the block ends, and is removed if the block fails.

    Raises OSError, which names `path`, if writing fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with naming(path):
            yield unfinished
            with unfinished.open("r+b") as file:
                os.fsync(file.fileno())  # else a machine that loses power may leave an empty file
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

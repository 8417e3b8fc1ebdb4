"""Small result files of runs, each replaced atomically, and facts about where they were made."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import jax

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of a file system without locks


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Holds the lock file `path` during the block. The kernel releases it when the process ends, also if it is killed.

    Yields a function that raises OSError if the file is no longer there: its directory was removed, and the one of that
    name may be another process's.

    The file is removed at the end of the block; one that a killed process has left locks nothing.
    Of the processes of one distributed run, the first alone takes the lock. Nothing is locked where the system has no
    such locks: on Windows, and on some network file systems.
    Raises BlockingIOError if the lock is held, by another process or by this one.
    """
    if fcntl is None or jax.process_index() > 0:
        yield lambda: None
        return
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, path):
                raise BlockingIOError  # it was removed, by who held it, after it was opened here
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(f"{path.parent} is in use by another process ({file.read()})") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield lambda: None
            return
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {platform.node()}")
        file.flush()

        def check() -> None:
            if not _is_at(file, path):
                raise OSError(f"{path} was removed, so {path.parent} may be another run's: nothing was saved there")

        try:
            yield check
        finally:
            if _is_at(file, path):
                path.unlink(missing_ok=True)


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether the open `file` still has the name `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


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

"""Small files of runs: in place at once, and readable by anything."""

import contextlib
import csv
import errno
import json
import math
import os
import shutil

import numpy as np
import pytest

from metarl.run import files
from metarl.run.files import circumstances, locked, replaced, write_csv, write_json


def test_json_holds_arrays_as_lists_and_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": np.arange(3), "b": math.nan, "c": [1.5, math.inf], "d": {"e": np.float32(0.5)}})
    assert json.loads(path.read_text()) == {"a": [0, 1, 2], "b": None, "c": [1.5, None], "d": {"e": 0.5}}
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(AttributeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    path = tmp_path / "lock"
    with locked(path), pytest.raises(BlockingIOError, match=f"in use by another process .pid {os.getpid()} on "):
        with locked(path):
            raise AssertionError
    with locked(path):
        ...


def test_who_lost_the_lock_with_the_directory_leaves_that_of_another_alone(tmp_path):
    path = tmp_path / "run" / "lock"
    path.parent.mkdir()
    with locked(path) as check:
        check()
        shutil.rmtree(path.parent)
        with pytest.raises(OSError, match="was removed"):
            check()
        path.parent.mkdir()
        other = contextlib.ExitStack()
        check_other = other.enter_context(locked(path))
        with pytest.raises(OSError, match="was removed"):
            check()
    check_other()
    with pytest.raises(BlockingIOError), locked(path):
        ...
    other.close()
    assert not path.exists()


def test_a_lock_file_that_goes_while_it_is_taken_counts_as_in_use(tmp_path, monkeypatch):
    path, fstat = tmp_path / "lock", os.fstat
    monkeypatch.setattr(files.os, "fstat", lambda file: path.unlink(missing_ok=True) or fstat(file))
    with pytest.raises(BlockingIOError, match="is in use"), locked(path):
        ...


def test_other_failures_of_locks_are_said(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files.fcntl, "flock", fails)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path / "lock"):
        ...


def test_a_lock_file_that_a_killed_process_left_locks_nothing(tmp_path):
    path = tmp_path / "lock"
    path.write_text("pid 1 on another")
    with locked(path) as check:
        check()
        assert path.read_text().startswith(f"pid {os.getpid()} on ")
    assert not path.exists()


@pytest.mark.parametrize("why", ["system", "file system"])
def test_where_there_are_no_locks_nothing_is_locked(tmp_path, monkeypatch, why):
    def fails(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    if why == "system":
        monkeypatch.setattr(files, "fcntl", None)
    else:
        monkeypatch.setattr(files.fcntl, "flock", fails)
    with locked(tmp_path / "lock"), locked(tmp_path / "lock"):
        ...


def test_a_failed_write_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*x.json'"), replaced(tmp_path / "x.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_tables_have_six_significant_digits_and_whole_numbers_whole(tmp_path):
    path = tmp_path / "x.csv"
    write_csv(path, ({"name": "a, b", "x": x, "n": 3} for x in (1 / 3, 2e7, 1e-9, math.nan)))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["x"] for row in rows] == ["0.333333", "20000000", "1e-09", "nan"]
    assert rows[0]["name"] == "a, b" and rows[0]["n"] == "3"
    assert list(tmp_path.iterdir()) == [path]


def test_results_say_when_and_on_what_they_were_made():
    found = circumstances()
    assert set(found) == {"date", "hardware", "versions"}
    assert found["date"].endswith("+00:00") and found["hardware"]["devices"] >= 1
    assert {"python", "jax", "numpy", "optax"} <= set(found["versions"])

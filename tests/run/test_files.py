"""Small files of runs: in place at once, and readable by anything."""

import csv
import json
import math

import numpy as np
import pytest

from metarl.run.files import circumstances, write_csv, write_json


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

"""The table of metrics without a run: no row is lost."""

import csv

import numpy as np
import pytest

from metarl.run.sinks import CSV


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def test_a_metric_that_appears_later_loses_no_row(path):
    table = CSV(path)
    table.begin({"a": np.array([0.1])})
    table.write(2, {"a": 0.2})
    table.write(3, {"a": 0.3})
    table.write(4, {"a": 0.4, "b": 5.0})
    table.write(5, {"a": 0.5})
    table.close()
    assert rows(path) == [["step", "a", "b"], *([str(i), f"0.{i}", "5.0" if i == 4 else ""] for i in range(1, 6))]


@pytest.mark.parametrize("new", [{}, {"b": 1.0}])
def test_without_begin_the_rows_of_earlier_steps_stay(path, new):
    for start in (1, 3):  # the second one goes back by a meta-step
        table = CSV(path)
        for step in (start, start + 1, start + 2):
            table.write(step, {"a": 0.5, **(new if start == 3 else {})})
        table.close()
    header, *found = rows(path)
    assert header == ["step", "a", *new] and [row[0] for row in found] == ["1", "2", "3", "4", "5"]
    assert all(row[1] == "0.5" for row in found)


def test_a_row_that_is_cut_does_not_stay(path):
    path.write_bytes(b"step,a,b\n1,2.0,3.0\n2,2.0")
    table = CSV(path)
    table.write(3, {"a": 1.0, "b": 1.0})
    table.close()
    assert rows(path) == [["step", "a", "b"], ["1", "2.0", "3.0"], ["3", "1.0", "1.0"]]


def test_a_new_run_takes_no_rows_from_the_file(path):
    path.write_text("step,a\n1,2.0\n")
    table = CSV(path)
    table.begin({})
    table.write(2, {"a": 1.0})
    table.close()
    assert rows(path) == [["step", "a"], ["2", "1.0"]]

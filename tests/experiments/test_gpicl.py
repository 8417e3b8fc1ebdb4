"""GPICL: runs with their reports, the reference, and whether it learns to learn."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest
from commands import PNG, one_line, words

from experiments import gpicl, gpicl_phases
from metarl.evaluation.statistics import Interval

TINY = {"width": 4, "length": 3, "batch": 2, "held_out_tasks": 4, "steps": 2}


def test_a_run_reports_accuracies_on_seen_and_unseen_tasks(tmp_path):
    gpicl.main(words(**TINY, network="lstm", tasks=2, directory=tmp_path / "run"))
    directory = tmp_path / "run"
    report = json.loads((directory / "results.json").read_text())["report"]
    names = ("unseen tasks", "nearest neighbour", "seen tasks", "seen tasks and examples")
    whats = ("last minus first", "first position", "last position")
    assert set(report) == {f"{name}, {what}" for name in names for what in whats}
    for name in names:
        gain = report[f"{name}, last position"]["mean"] - report[f"{name}, first position"]["mean"]
        assert report[f"{name}, last minus first"]["mean"] == pytest.approx(gain)
    assert report["nearest neighbour, first position"]["mean"] == 0.0
    rows = list(csv.DictReader((directory / "positions.csv").open()))
    assert [row["position"] for row in rows] == ["1", "2", "3"] * 4
    assert all((directory / name).read_bytes().startswith(PNG) for name in ("positions.png", "curves.png"))


def test_the_nearest_neighbour_is_among_the_earlier_inputs():
    inputs = jnp.array([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0], [0.9, 0.0], [8.0, 0.0]])
    assert gpicl.nearest(inputs, jnp.array([5, 6, 7, 8, 9])).tolist() == [-1, 5, 5, 7, 6]


@pytest.mark.slow  # two programs and what they are measured by
def test_phases_are_drawn_over_tasks_and_memories(tmp_path, capsys):
    sizes = {"powers": (0, 3), "transformers": 8, "lstms": 4, "length": 3, "batch": 2, "held_out_tasks": 4, "steps": 2}
    gpicl_phases.main(words(**sizes, directory=tmp_path / "study"))
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    gains = results["gains"]
    assert set(gains) == {"transformer-8", "lstm-4"} == set(results["transitions"])
    assert np.shape(gains["lstm-4"]["unseen"]) == (2, 2) and gains["lstm-4"]["memory"] == 2 * 4
    assert gains["transformer-8"]["memory"] == 2 * 2 * 2 * 8 + 1  # keys and values, layers, positions, width; a count
    assert set(results["intervals"]["lstm-4, seen tasks"]) == {"1", "8"}
    for name in ("phases.png", "memory.png", "parameters.png"):
        assert (tmp_path / "study" / name).read_bytes().startswith(PNG)
    capsys.readouterr()
    gpicl_phases.main(words(**sizes, directory=tmp_path / "study") + ["--resume"])
    assert json.loads((tmp_path / "study" / "results.json").read_text())["gains"] == gains


def test_the_transition_is_where_half_of_the_greatest_gain_is_kept():
    def at(**means):
        return gpicl_phases.transition({int(n[1:]): Interval(x, x, x) for n, x in means.items()})

    assert at(n1=0.0, n4=0.6, n16=0.2, n64=0.7, n256=0.8) == 64
    assert at(n1=0.5, n4=0.5) == 1
    assert at(n1=0.5, n4=0.0) == 0


@pytest.mark.parametrize(
    ("main", "options", "says"),
    [
        (gpicl.main, {"network": "lstm", "layers": 3}, "layers has no effect with network lstm: leave it at 2, got 3"),
        (gpicl.main, {"width": 12}, "width must be a multiple of 2 * heads, got width=12 and heads=4"),
        (gpicl.main, {"length": 1}, "length must be at least 2, got 1"),
        (gpicl_phases.main, {"tasks": 3}, "tasks has no effect here: give powers: leave it at 0, got 3"),
        (gpicl_phases.main, {"transformers": 12}, "width must be a multiple of 2 * heads, got width=12"),
        (gpicl_phases.main, {"powers": 31}, "powers[0] must be at most 30, got 31"),
    ],
)
def test_bad_input_is_one_clear_line(main, options, says, capsys):
    assert says in one_line(capsys, lambda: main(words(**options)))


def learned(tmp_path, **options):
    """The report of a short run of the quick preset."""
    gpicl.main(words(**options, held_out_tasks=500, directory=tmp_path / "run"))
    return json.loads((tmp_path / "run" / "results.json").read_text())["report"]


@pytest.mark.slow
def test_with_many_tasks_it_learns_to_learn_those_that_it_has_never_seen(tmp_path):
    report = learned(tmp_path, steps=600)
    assert report["unseen tasks, last minus first"]["low"] > 0.1
    assert report["unseen tasks, first position"]["mean"] < 0.2  # there is nothing to be known of a new task


@pytest.mark.slow
def test_a_single_task_is_memorised(tmp_path):
    report = learned(tmp_path, steps=150, tasks=1, length=10)
    assert report["seen tasks, first position"]["mean"] > 0.7
    assert report["unseen tasks, last position"]["mean"] < 0.25

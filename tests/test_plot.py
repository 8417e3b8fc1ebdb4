"""Figures of evaluations and sweeps: that they are drawn, and what is refused."""

import numpy as np
import pytest

from metarl import plot

PNG = b"\x89PNG"
X = np.linspace(0.0, 20_000.0, 5)
CURVE = (X, X / 2e4, X / 2e4 - 0.1, X / 2e4 + 0.1)
NAN = float("nan")
ROW = {"iqm": (0.5, 0.4, 0.6), "optimality_gap": (0.5, 0.4, 0.7)}
MEMBERS = [{"rate": rate, "optimizer": name} for rate in (1e-3, 1e-2) for name in ("adam", "sgd")]


def size(path):
    data = path.read_bytes()
    assert data.startswith(PNG)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.filterwarnings("error")
def test_evaluations_are_drawn(tmp_path):
    plot.aggregates({"a": ROW, "b": ROW}, tmp_path / "aggregates.png")
    plot.profiles({"a": CURVE, "b": CURVE}, tmp_path / "profiles.png", "return")
    plot.intervals({"a vs b": (0.7, 0.6, 0.8)}, tmp_path / "improvement.png", "probability", reference=0.5)
    for name in ("aggregates", "profiles", "improvement"):
        size(tmp_path / f"{name}.png")


@pytest.mark.filterwarnings("error")
def test_tasks_are_at_most_four_side_by_side(tmp_path):
    sizes = []
    for tasks in (4, 5):
        panels = {f"task {i}": {"a": CURVE} for i in range(tasks)}
        plot.sample_efficiency(panels, tmp_path / "tasks.png", "steps", "return")
        sizes.append(size(tmp_path / "tasks.png"))
    assert sizes[1] == (sizes[0][0], 2 * sizes[0][1])


@pytest.mark.filterwarnings("error")
def test_sweeps_are_drawn_with_the_best_outlined_and_the_diverged_grey(tmp_path):
    import matplotlib.image

    orange = np.array([0xD9, 0x82, 0x2B]) / 255

    def outline(values):
        """Where the outline's centre is, from the lower left corner, in shares of the picture."""
        plot.grid(values, [1e-3, 1e-2], ["adam", "sgd", "lion"], tmp_path / "grid.png", "rate", "optimizer")
        image = matplotlib.image.imread(tmp_path / "grid.png")[..., :3]
        rows, columns = np.nonzero(np.abs(image - orange).max(-1) < 0.01)
        return columns.mean() / image.shape[1], 1 - rows.mean() / image.shape[0]

    left, low = outline([[3.0, 2.0, NAN], [1.0, 2.0, np.inf]])
    right, high = outline([[1.0, NAN, 2.0], [1.0, NAN, 3.0]])
    assert left < 0.4 < 0.5 < right and low < 0.5 < high
    outline(np.zeros((2, 3)))
    plot.parallel(MEMBERS, [0.5, 0.7, NAN, 0.1], tmp_path / "parallel.png", "IQM")
    plot.parallel(MEMBERS[:1], [0.5], tmp_path / "one.png")
    size(tmp_path / "parallel.png")


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda path: plot.aggregates({}, path), "no results to draw: no names"),
        (lambda path: plot.aggregates({"a": ROW, "b": {}}, path), r"no results to draw: \['b'\]"),
        (lambda path: plot.aggregates({"a": ROW, "b": {"iqm": (0, 0, 0)}}, path), "b: need the statistics .* got"),
        (lambda path: plot.aggregates({"a": {"iqm": (1.0, 0.0, 0.5)}}, path), "a, iqm: the mean 1.0 is outside"),
        (lambda path: plot.profiles({}, path), "no profiles to draw"),
        (lambda path: plot.profiles({"a": (X, X, X, X[1:])}, path), r"a: need \(x, mean, low, high\), all \[n\]"),
        (lambda path: plot.sample_efficiency({}, path), "no lines to draw: no panels"),
        (lambda path: plot.sample_efficiency({"task": {"a": CURVE}, "empty": {}}, path), r"no lines.*\['empty'\]"),
        (lambda path: plot.sample_efficiency({"task": {"a": (X, X)}}, path), r"task, a: need \(x, mean, low, high\)"),
        (lambda path: plot.grid([[1.0, 2.0]], [1], [1], path), r"need values of shape \(1, 1\).* got \(1, 2\)"),
        (lambda path: plot.grid([[NAN]], [1], [1], path), "no cell of the grid is finite"),
        (lambda path: plot.parallel([], [], path), "no members to draw"),
        (
            lambda path: plot.parallel([{"a": 1}, {"b": 1}], [1, 2], path),
            r"need the hyperparameters \['a'\], got \['b'\]",
        ),
        (lambda path: plot.parallel(MEMBERS, [1.0], path), r"need 4 scores .* got shape \(1,\)"),
        (lambda path: plot.parallel(MEMBERS, [NAN] * 4, path), "need 4 scores of which one is finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        draw(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())

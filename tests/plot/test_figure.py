"""What all figures share: panels, files, display in notebooks; and that plots have no global state."""

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from metarl import plot

ROOT = Path(__file__).parents[2]
INTERVALS = {"a": (0.5, 0.4, 0.6)}


@pytest.mark.parametrize(
    ("suffix", "starts"), [("png", b"\x89PNG\r\n"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")]
)
def test_save_writes_by_suffix_into_a_new_folder(suffix, starts, tmp_path):
    path = tmp_path / "new" / f"figure.{suffix}"
    plot.save(plot.intervals(INTERVALS), path)
    assert path.read_bytes().startswith(starts)
    assert list(path.parent.iterdir()) == [path]


def test_a_saved_picture_has_150_dots_per_inch(tmp_path):
    figure, _ = plot.panels(1, size=(2.0, 1.0))
    plot.save(figure, str(tmp_path / "x.png"))
    assert matplotlib.image.imread(tmp_path / "x.png").shape == (150, 300, 4)


@pytest.mark.parametrize("name", ["x.jpg", "x"])
def test_other_suffixes_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: the suffix must be one of png, pdf, svg"):
        plot.save(plot.intervals(INTERVALS), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_stays_when_the_new_one_fails(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    figure, (axis,) = plot.panels(1)
    axis.set_title("$\\nothing$")  # not in mathtext: fails while it is drawn
    with pytest.raises(ValueError, match="nothing"):
        plot.save(figure, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_panels_are_in_rows_and_leave_no_empty_ones():
    figure, axes = plot.panels(5, columns=3, size=(2.0, 1.0), beside=1.0)
    assert tuple(figure.get_size_inches()) == (7.0, 2.0) and len(axes) == len(figure.axes) == 5
    assert plot.panels(2, axes=axes[:2]) == (figure, axes[:2])
    with pytest.raises(ValueError, match="need 2 axes, got 5"):
        plot.panels(2, axes=axes)
    with pytest.raises(ValueError, match="got 0 panels and 4 columns"):
        plot.panels(0)


def test_axes_of_pyplot_and_of_parts_of_figures_can_be_drawn_on():
    figure, axis = plt.subplots()
    assert plot.intervals(INTERVALS, axis=axis) is figure
    plt.close(figure)
    whole = Figure()
    parts = whole.subfigures(1, 2)
    assert plot.intervals(INTERVALS, axis=parts[1].subplots()) is whole
    assert plot.grid([[1.0]], [1], [1], axis=parts[0].subplots()) is whole


def test_two_calls_share_no_state():
    first = plot.intervals(INTERVALS)
    before = first._repr_png_()
    second = plot.intervals({"b": (1.0, 0.0, 2.0)})
    assert first is not second and first.axes[0] is not second.axes[0]
    assert first._repr_png_() == before != second._repr_png_()
    assert not plt.get_fignums()


def test_notebooks_display_a_returned_figure():
    figure = plot.intervals(INTERVALS)
    assert isinstance(figure, Figure) and figure._repr_png_().startswith(b"\x89PNG\r\n")


def test_matplotlib_is_imported_when_something_is_drawn():
    said = """
import sys, metarl.plot
before = "matplotlib" in sys.modules
metarl.plot.panels(1)
print(before, "matplotlib.pyplot" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]

"""Heat maps: what is in them, and what is refused."""

import numpy as np
import pytest

from metarl import plot

X, Y = np.linspace(-1, 1, 5), np.linspace(0, 3, 4)


@pytest.mark.filterwarnings("error")
def test_surfaces_share_one_scale_on_which_zero_is_white():
    several = {"signs": X * Y[:, None], "positive": 1 + X**2 * Y[:, None], "negative": -1 - X**2 * Y[:, None]}
    figure = plot.surfaces(several, X, Y, "x", "y", "value")
    *maps, bar = figure.axes
    assert [axis.get_title(loc="left") for axis in maps] == list(several)
    assert {axis.collections[0].get_clim() for axis in maps} == {(-4.0, 4.0)}
    assert [len(axis.collections) > 1 for axis in maps] == [True, False, False]  # the line where values leave zero
    assert (maps[2].get_xlabel(), maps[0].get_ylabel(), bar.get_ylabel()) == ("x", "y", "value")
    mesh = maps[0].collections[0]
    np.testing.assert_array_equal(mesh.cmap(mesh.norm(0.0)), 1.0)
    figure.canvas.draw()


def test_the_line_can_be_left_out():
    (axis, _) = plot.surfaces({"signs": X * Y[:, None]}, X, Y, line=False).axes
    assert len(axis.collections) == 1


def test_a_surface_of_zeros_is_drawn_on_given_axes():
    figure, axes = plot.panels(1)
    assert plot.surfaces({"": np.zeros((4, 5))}, X, Y, axes=axes) is figure
    mesh = axes[0].collections[0]
    np.testing.assert_array_equal(mesh.cmap(mesh.norm(mesh.get_array())), 1.0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "no surfaces to draw"),
        ({"fine": np.ones((2, 3)), "wide": np.ones((3, 2))}, r"wide: need values of shape \(2, 3\), got \(3, 2\)"),
        ({"fine": np.ones((2, 3)), "bad": np.array([[0, np.nan, 1], [np.inf, 0, 1]])}, "bad: 2 values are not finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        plot.surfaces(values, np.arange(3), np.arange(2))

"""Pictures and animations: what is in them, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from metarl import plot

PICTURE = np.zeros((4, 4, 3), np.uint8)


def test_pictures_have_their_names_and_at_most_some_columns():
    figure = plot.pictures({f"level {i}": PICTURE + i for i in range(3)}, columns=2)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["level 0", "level 1", "level 2"]
    assert tuple(figure.get_size_inches()) == pytest.approx((4.8, 5.8))
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), PICTURE + 2)
    figure, axes = plot.panels(2)
    assert plot.pictures({"a": PICTURE, "b": PICTURE}, axes=axes) is figure


def test_an_animation_repeats_and_replaces_the_last(tmp_path):
    path = tmp_path / "new" / "x.gif"
    plot.save_animation([PICTURE], path)
    plot.save_animation([PICTURE + x for x in (0, 128, 255)], path, frames_per_second=5.0)
    with Image.open(path) as film:
        assert film.n_frames == 3 and film.info["duration"] == 200 and film.info["loop"] == 0
    assert list(path.parent.iterdir()) == [path]


def test_nothing_and_frames_of_two_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got 0 pictures"):
        plot.pictures({})
    with pytest.raises(ValueError, match="got 1 pictures and 0 columns"):
        plot.pictures({"a": PICTURE}, columns=0)
    with pytest.raises(ValueError, match="got none"):
        plot.save_animation([], tmp_path / "x.gif")
    with pytest.raises(ValueError, match="frames of one shape"):
        plot.save_animation([PICTURE, np.zeros((4, 5, 3))], tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())

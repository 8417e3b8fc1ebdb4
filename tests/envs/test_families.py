"""Families of gridworlds: those of tests are of other layouts, and all goals can be reached."""

import jax
import numpy as np
import pytest
import scipy.ndimage

from envs import gridworld
from envs.gridworld.families import FAMILIES, KINDS, KNOWN, NEW, SIDE

SPLITS = ("ml1", "ml10", "ml45")
TESTS = tuple(f"ml_{layout}" for layout in NEW)


def turned(layout):
    """The layout in all directions, as bytes."""
    return {np.rot90(x, k).tobytes() for x in (layout, layout.T) for k in range(4)}


@pytest.mark.parametrize("name", NEW)
def test_a_new_layout_is_none_that_is_known_in_any_direction(name):
    assert not any(turned(NEW[name]) & turned(layout) for layout in KNOWN.values())


def test_every_free_cell_can_be_reached():
    for name, layout in {**KNOWN, **NEW}.items():
        assert layout.shape == (SIDE, SIDE) and scipy.ndimage.label(~layout)[1] == 1, name


def test_splits_are_as_large_as_their_names_say():
    sizes = {name: {(family.walls.tobytes(), family.kind) for family in FAMILIES[name]} for name in SPLITS}
    assert [len(sizes[name]) for name in SPLITS] == [1, 10, 45] and sizes["ml1"] | sizes["ml10"] <= sizes["ml45"]
    tests = [family for name in TESTS for family in FAMILIES[name]]
    assert len(tests) == 5 and {family.kind for family in tests} == set(KINDS.values())


def test_levels_of_tests_and_of_training_are_of_one_environment_and_different_layouts():
    every = {name: gridworld.distribution(name) for name in (*SPLITS, *TESTS)}
    assert len({levels.environment for levels in every.values()}) == 1
    drawn = jax.jit(jax.vmap(every["ml45"].sample))(jax.random.split(jax.random.key(0), 1000)).problem
    layouts = {x.tobytes() for x in np.asarray(drawn.free)}
    assert layouts == {(~layout).tobytes() for layout in KNOWN.values()}
    places = np.stack([drawn.start, *drawn.objects.T], 1)
    assert np.take_along_axis(np.asarray(drawn.free), places, 1).all()
    assert all(len(set(cells)) == 3 for cells in places.tolist())
    families = zip(np.asarray(drawn.free), np.asarray(drawn.reward), np.asarray(drawn.respawn), strict=True)
    assert len({tuple(x.tobytes() for x in family) for family in families}) == 45

    new = every[TESTS[1]].sample(jax.random.key(0)).problem
    assert np.asarray(new.free).tobytes() == (~NEW["diamond"]).tobytes()
    values = jax.jit(jax.vmap(every["ml45"].optimal_return))(jax.tree.map(lambda x: x[:200], drawn))
    assert (values > 0).all()  # a goal can be reached in time, whatever lies in the way

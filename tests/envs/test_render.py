"""Pictures of gridworlds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import gridworld


def test_a_picture_shows_walls_objects_start_and_agent():
    env = gridworld.Gridworld(max_side=3, max_objects=3, max_types=3)
    params = env.default_params._replace(
        free=jnp.ones(9, bool).at[4].set(False),
        num_objects=jnp.int32(2),
        objects=jnp.array([8, 2, 5], jnp.int32),  # the last does not exist
        reward=jnp.array([1.0, -1.0, 1.0]),
        terminate=jnp.array([1.0, 0.0, 1.0]),
    )
    render = gridworld.render
    picture = render(env, params, pixels=16)
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
    centre = picture[8::16, 8::16].astype(int)
    blue, wall, floor, red, green = (31, 111, 180), (62, 68, 76), (247, 247, 244), (194, 69, 93), (47, 158, 119)
    expected = [[blue, floor, red], [floor, wall, floor], [floor, floor, wall]]  # the good object ends the episode
    np.testing.assert_array_equal(centre, expected)
    np.testing.assert_array_equal(picture[2 * 16 + 3, 2 * 16 + 8], green)  # around its dark core

    _, state = env.reset(jax.random.key(0), params)
    moved = state._replace(cell=jnp.int32(6), present=state.present.at[0].set(False))
    later = render(env, params, moved, pixels=16)
    np.testing.assert_array_equal(later[2 * 16 + 8, 8], blue)
    np.testing.assert_array_equal(later[8, 8], floor)  # within the ring of the start
    np.testing.assert_array_equal(later[2 * 16 + 8, 2 * 16 + 8], floor)  # within the outline of what is absent
    np.testing.assert_array_equal(later[2 * 16 + 2, 2 * 16 + 8], green)
    with pytest.raises(ValueError, match="pixels must be at least 8, got 7"):
        render(env, params, pixels=7)


def test_objects_that_move_are_where_the_episode_has_them():
    levels = envs.make("gridworld/rand_sparse")
    level = levels.sample(jax.random.key(0))
    _, state = levels.env.reset(jax.random.key(1), level.problem)
    picture = gridworld.render(levels.env, level.problem, state, pixels=16)
    for cell in state.objects:
        row, column = divmod(int(cell), 7)
        tile = picture[row * 16 + 3, column * 16 + 8]
        assert tuple(tile) in {(47, 158, 119), (194, 69, 93)}
    bare = gridworld.render(levels.env, level.problem, pixels=16).reshape(-1, 3)
    assert not {(47, 158, 119), (194, 69, 93)} & {tuple(x) for x in bare}

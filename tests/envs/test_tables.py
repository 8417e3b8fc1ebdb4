"""The processes of reward design, against how the papers describe them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import tables
from metarl.rl.environment import check_environment


def problem(levels):
    return levels.sample(jax.random.key(0)).problem


def test_the_chain():
    found = problem(tables.chain(15, 20, distractor=0.01))
    assert found.transition.shape == (37, 2, 37) and found.start == 20 and found.max_steps == 30
    likely = np.asarray(found.transition)
    assert likely[20, 1, 21] == pytest.approx(0.975) and likely[20, 1, 19] == pytest.approx(0.025)
    assert likely[0, 0, 36] == pytest.approx(0.975)  # the left end
    assert likely[35, 1, 35] == pytest.approx(0.975)  # the goal, 15 steps from the start, is not terminal
    assert (likely[36, :, 36] == 1).all()
    assert {tuple(x) for x in np.argwhere(np.asarray(found.reward))} == {(35, 1), (5, 0)}
    assert found.reward[35, 1] == 1 and found.reward[5, 0] == pytest.approx(0.01)


def cell(x, y):
    return 7 * y + x


@pytest.mark.parametrize(
    ("x", "y", "action", "x2", "y2"),
    [
        (1, 1, 0, 1, 2),  # up
        (0, 2, 0, 0, 2),  # a wall
        (1, 2, 0, 1, 3),  # a door
        (5, 3, 2, 5, 2),  # another one, down
        (2, 2, 3, 2, 2),
        (2, 1, 3, 3, 1),
        (3, 5, 1, 2, 5),
        (6, 6, 3, 6, 6),
        (6, 6, 2, 6, 5),
        (0, 3, 1, 0, 3),  # the border
    ],
)
def test_the_rooms(x, y, action, x2, y2):
    likely = np.asarray(problem(tables.four_rooms()).transition)
    assert likely[cell(x, y), action, cell(x2, y2)] >= 0.95
    assert likely[cell(x, y)].sum() == pytest.approx(4.0)


def test_the_ends_of_the_rooms():
    found = problem(tables.four_rooms(distractor=0.01))
    likely = np.asarray(found.transition)
    assert likely[0, 1, 49] == likely[0, 2, 49] == pytest.approx(0.975) and found.start == cell(1, 1)
    assert {tuple(x) for x in np.argwhere(np.asarray(found.reward))} == {(cell(6, 6), 3), (1, 0)}


def test_the_line_with_a_key():
    found = problem(tables.line_key(10, random_move=0.0))
    target = np.asarray(found.transition).argmax(-1)
    assert found.start == 5 and target.shape == (21, 3)
    assert target[5].tolist() == [4, 6, 5] and target[1].tolist() == [0, 2, 11] and target[0, 0] == 20
    assert target[9, 1] == 9  # without the key the end is no goal
    assert target[19, 1] == 20 and found.reward[19, 1] == 1 and found.reward.sum() == 1
    steps = 4 + 1 + 8 + 1  # to the key, pick, to the end, out
    best = tables.line_key(10, 0.0, max_steps=steps).optimal_return
    assert best(found._replace(max_steps=jnp.int32(steps))) == 1
    assert best(found._replace(max_steps=jnp.int32(steps - 1))) == 0


@pytest.mark.parametrize("name", ["table/chain", "table/four_rooms", "table/line_key"])
def test_they_are_environments(name):
    levels = envs.make(name)
    check_environment(levels.env, problem(levels), steps=70)
    assert float(levels.optimal_return(problem(levels))) > 0.5


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="left must be at least 15, got 14"):
        tables.chain(15, 14)
    with pytest.raises(ValueError, match="length must be at least 3"):
        tables.line_key(2)
    with pytest.raises(ValueError, match="random_move must be at most 1"):
        tables.four_rooms(random_move=1.5)

"""The queue of past selves."""

import jax
import jax.numpy as jnp
import numpy as np

from metarl.populations.past_selves import draw, push
from metarl.tree import copies


def test_the_newest_comes_first_and_the_oldest_leaves():
    queue = copies({"x": jnp.zeros(2)}, 3)
    np.testing.assert_array_equal(queue["x"], np.zeros((3, 2)))
    for i in (1, 2, 3, 4):
        queue = push(queue, {"x": jnp.full(2, float(i))})
    np.testing.assert_array_equal(queue["x"][:, 0], [4, 3, 2])


def test_partners_are_within_reach():
    queue = jnp.arange(5)
    for reach in (1, 3, 5):
        assert set(draw(jax.random.key(0), queue, reach, 100).tolist()) == set(range(reach))

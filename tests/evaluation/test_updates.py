"""What optimizers do, as surfaces and curves: those of SGD with momentum and of a schedule are known."""

import jax.numpy as jnp
import numpy as np
import optax

from metarl import optimizers
from metarl.evaluation import updates

SCHEDULE = optimizers.schedule(0.1, 0.0, None, knots=2, direction="sgd")
RISING = {"learning_rate": jnp.log(jnp.array([1.0, 3.0]))}


def test_the_update_of_sgd_is_its_gradient_whatever_the_past():
    axis, moves = updates.surface(optax.with_extra_args_support(optax.sgd(0.1)))
    assert axis.shape == (updates.POINTS,) and (axis[0], axis[-1]) == (-1.0, 1.0)
    np.testing.assert_allclose(moves, jnp.broadcast_to(-0.1 * axis, moves.shape), rtol=1e-5, atol=1e-7)


def test_momentum_is_that_of_equal_gradients_before():
    axis, moves = updates.surface(optax.with_extra_args_support(optax.sgd(0.1, momentum=0.5)))
    expected = -0.1 * (axis[None] + (1 - 0.5**20) * axis[:, None])  # the past weighs (1 - b^20) / (1 - b) b
    np.testing.assert_allclose(moves, expected, rtol=1e-4, atol=1e-6)


def test_sizes_follow_the_share_of_the_training():
    shares, sizes = updates.sizes_over_progress(SCHEDULE.transform(RISING))
    np.testing.assert_allclose(sizes / sizes[0], 1.0 + 2.0 * shares, rtol=1e-4)
    growing = optax.with_extra_args_support(optax.sgd(lambda count: 0.1 * count))  # knows the time by itself
    _, sizes = updates.sizes_over_progress(growing, updates=4)
    np.testing.assert_allclose(sizes / sizes[1], [0.0, 1.0, 2.0, 3.0], rtol=1e-5)


def test_sizes_do_not_depend_on_dormancy_if_the_optimizer_does_not_see_it():
    dormancy, sizes = updates.sizes_over_dormancy(SCHEDULE.transform(RISING), points=5)
    np.testing.assert_allclose(dormancy, np.linspace(0.0, 3.0, 5), rtol=1e-6)
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-6)


def test_a_learned_optimizer_is_drawn_beside_adam():
    update, sizes = updates.draw_update(SCHEDULE, RISING), updates.draw_sizes(SCHEDULE, RISING)
    titles = {axis.get_title("left") for axis in update.axes}
    assert {"learned", "Adam at 0.001"} <= titles
    panels = [axis for axis in sizes.axes if axis.get_title("left")]
    assert ["progress" in x.get_title("left") or "share of the training" in x.get_title("left") for x in panels] == [
        True,
        False,
    ]
    assert all(len(axis.lines) == 2 for axis in panels)

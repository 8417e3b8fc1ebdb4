"""A learned rate for each parameter, and gradients without derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metarl import networks, optimizers
from metarl.types import Box


def test_an_update_is_each_rate_times_its_gradient():
    learned = optimizers.meta_sgd({"a": {"w": (2,)}, "b": ()}, 0.1)
    rates = learned.init(jax.random.key(0))
    np.testing.assert_allclose(rates["a"]["w"], [0.1, 0.1], rtol=1e-6)
    rates = {"a": {"w": jnp.array([0.5, -1.0])}, "b": jnp.float32(2.0)}
    gradient = {"a": {"w": jnp.array([3.0, 4.0])}, "b": jnp.float32(0.5)}
    transform = learned.transform(rates)
    moves, _ = transform.update(gradient, transform.init(gradient))
    np.testing.assert_allclose(moves["a"]["w"], [-1.5, 4.0])
    np.testing.assert_allclose(moves["b"], -1.0)


def test_shapes_are_those_of_a_network_and_may_come_from_json():
    network = networks.mlp((3,))(Box(0.0, 1.0, (2,)), {"policy": 4})
    shapes = optimizers.shapes_of(network.init)
    assert shapes["policy"]["Dense_0"]["kernel"] == (2, 3)
    lists = jax.tree.map(list, shapes, is_leaf=lambda x: isinstance(x, tuple))
    one, other = (optimizers.meta_sgd(x).init(jax.random.key(0)) for x in (shapes, lists))
    assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, other) == shapes


def test_other_parameters_and_rates_are_refused():
    learned = optimizers.meta_sgd({"w": (2,)})
    with pytest.raises(
        ValueError, match=r"the tree of learned rates does not fit the parameters: it has \(2,\) at \['w'\]"
    ):
        learned.transform(learned.init(jax.random.key(0))).init({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="learning_rate must be above 0, got 0.0"):
        optimizers.meta_sgd({"w": (2,)}, 0.0)


def test_first_order_passes_gradients_but_no_derivative():
    optimizer = optax.chain(optimizers.first_order(), optax.sgd(0.5))

    def moved(x):
        return optimizer.update(x**2, optimizer.init(x))[0]

    value, slope = jax.jvp(moved, (jnp.float32(3.0),), (jnp.float32(1.0),))
    assert value == -4.5 and slope == 0.0

"""Operations on pytrees: what is computed only where it is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.tree import where_needed


@pytest.fixture
def counted():
    """`where_needed` of a function that doubles, and how often that was computed."""
    calls = []

    def double(x):
        jax.debug.callback(lambda: calls.append(1))
        return {"x": 2 * x}

    return where_needed(double), calls


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_batch_is_computed_if_one_of_it_needs_it(counted, shape):
    chosen, calls = counted
    function = lambda needed, x: chosen(needed, (x,), {"x": x})["x"]  # noqa: E731
    for _ in shape:
        function = jax.vmap(function)
    x, nobody = jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape), jnp.zeros(shape, bool)
    np.testing.assert_array_equal(jax.jit(function)(nobody, x), x)
    jax.effects_barrier()
    assert not calls
    one = nobody.at[(0,) * len(shape)].set(True)
    np.testing.assert_array_equal(jax.jit(function)(one, x), jnp.where(one, 2 * x, x))
    jax.effects_barrier()
    assert calls


def test_arguments_may_be_shared_by_the_batch(counted):
    found = jax.vmap(lambda needed, x: counted[0](needed, (5.0,), {"x": x})["x"])(jnp.array([True, False]), jnp.ones(2))
    assert found.tolist() == [10.0, 1.0]

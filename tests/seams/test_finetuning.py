"""What every weight controller and every credit of fine-tuning does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import batch, corrupted
from seams.parts import CONTROLLERS, CREDITS, assert_arrays_only, shapes

from metarl.finetune import Signals
from metarl.types import Progress


def signals(step):
    """Of the steps [...] of a training of ten."""
    x = step.astype(jnp.float32)
    return Signals(Progress(step, jnp.full_like(step, 10)), 1.0 + x / 5, x / 10, 2.0 - x / 10, step)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_controller_keeps_its_state_compiles_once_and_vmaps(name):
    controller, traces = CONTROLLERS[name](), []

    @jax.jit
    def step(state, step):
        traces.append(1)
        meta, seen = controller.init_meta(), signals(step)
        return *controller.update(meta, state, seen), controller.weights(meta, state, seen)

    state = controller.init()
    assert_arrays_only(state)
    after, weights = [], []
    for i in range(5):
        state, objective, found = step(state, jnp.int32(i))
        assert shapes(state) == shapes(controller.init())
        assert (objective.shape, objective.dtype) == ((), jnp.float32) and jnp.isfinite(objective)
        assert all(x.shape == () and x.dtype == jnp.float32 and x >= 0.0 for x in found)
        after.append(state)
        weights.append(found)
    assert len(traces) == 1
    before = jax.tree.map(lambda *x: jnp.stack(x), controller.init(), *after[:-1])
    together = jax.vmap(step)(before, jnp.arange(5))
    for i in range(5):
        alone, row = (after[i], weights[i]), jax.tree.map(lambda x: x[i], (together[0], together[2]))  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, alone, row)


@pytest.mark.parametrize("name", CREDITS)
def test_credit_vmaps_and_ends_with_the_answer(name):
    credit = CREDITS[name]()
    many = jax.tree.map(lambda *x: jnp.stack(x), batch(), batch(reward=2.0 * batch().reward))
    together = jax.jit(jax.vmap(credit))(many)
    assert together.shape == many.mask.shape and together.dtype == jnp.float32
    for i in range(2):
        alone = jax.jit(credit)(jax.tree.map(lambda x: x[i], many))  # noqa: B023
        np.testing.assert_allclose(together[i], alone, atol=1e-6)
        assert (alone[~batch().mask] == 0.0).all() and (alone != 0.0).any()
    np.testing.assert_allclose(jax.jit(credit)(corrupted(batch())), together[0], atol=1e-6)

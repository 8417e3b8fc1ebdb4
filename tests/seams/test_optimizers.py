"""What every optimizer of agents does, learned or not."""

import jax
import jax.numpy as jnp
import optax
import pytest
from seams.parts import OPTIMIZERS, assert_arrays_only, assert_close, assert_equal, assert_reached, perturbed, shapes

from metarl.optimizers.learned import as_learned
from metarl.types import Progress

PARAMS = {"policy": {"kernel": jnp.array([[0.5, -1.0], [2.0, 0.1]]), "bias": jnp.array([0.3, 0.1])}, "y": jnp.ones(3)}
PROGRESS = Progress(jnp.int32(30), jnp.int32(120))


def gradients(key):
    return perturbed(jax.tree.map(lambda x: jax.random.normal(jax.random.fold_in(key, x.size), x.shape), PARAMS))


@pytest.fixture(scope="module", params=OPTIMIZERS)
def optimizer(request):
    return as_learned(OPTIMIZERS[request.param]())


def walk(optimizer, meta_params, key, steps=3):
    """Parameters and the optimizer's state after some steps, and the state before."""
    transform = optimizer.transform(meta_params)
    start = transform.init(PARAMS)

    def step(carry, key):
        params, state = carry
        updates, state = transform.update(gradients(key), state, params, progress=PROGRESS, key=key)
        return (optax.apply_updates(params, updates), state), updates

    (params, state), updates = jax.lax.scan(step, (PARAMS, start), jax.random.split(key, steps))
    return params, start, state, updates


def test_updates_and_state_keep_their_trees_and_dtypes(optimizer):
    meta_params = perturbed(optimizer.init(jax.random.key(0)))
    params, start, state, updates = jax.jit(lambda key: walk(optimizer, meta_params, key))(jax.random.key(1))
    assert shapes(params) == shapes(PARAMS) == shapes(jax.tree.map(lambda x: x[0], updates))
    assert shapes(state) == shapes(start)
    assert_arrays_only((meta_params, state))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, PARAMS)
    assert all(jax.tree.leaves(moved)) and all(jnp.isfinite(x).all() for x in jax.tree.leaves(params))


def test_agents_vmap_and_repeat_with_their_keys(optimizer):
    meta_params = perturbed(optimizer.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(2), 2)
    one = jax.jit(lambda key: walk(optimizer, meta_params, key)[0])
    together = jax.jit(jax.vmap(lambda key: walk(optimizer, meta_params, key)[0]))(keys)
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), one(keys[i]))
    assert_equal(one(keys[0]), one(keys[0]))


def test_the_meta_gradient_reaches_what_is_learned_and_is_finite_at_zero_gradients(optimizer):
    def after(meta_params, scale):
        transform = optimizer.transform(meta_params)
        params, state = PARAMS, transform.init(PARAMS)
        for seed in range(2):
            gradient = jax.tree.map(lambda x: scale * x, gradients(jax.random.key(seed)))  # noqa: B023
            updates, state = transform.update(gradient, state, params, progress=PROGRESS, key=jax.random.key(seed))
            params = optax.apply_updates(params, updates)
        return sum((x**2).sum() for x in jax.tree.leaves(params))

    meta_params = perturbed(optimizer.init(jax.random.key(0)))
    slopes = jax.jit(jax.grad(after, (0, 1)))
    assert_reached(slopes(meta_params, 1.0)[0])
    for leaf in jax.tree.leaves(slopes(meta_params, 0.0)):
        assert jnp.isfinite(leaf).all()

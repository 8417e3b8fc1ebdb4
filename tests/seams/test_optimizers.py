"""What every optimizer of agents does, learned or not."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from seams.parts import OPTIMIZERS, assert_arrays_only, assert_equal, assert_reached, at, perturbed, shapes

from metarl.optimizers.learned import LearnedOptimizer, as_learned
from metarl.types import Progress

PARAMS = {"policy": {"kernel": jnp.array([[0.5, -1.0], [2.0, 0.1]]), "bias": jnp.array([0.3, 0.1])}, "y": jnp.ones(3)}
PROGRESS = Progress(jnp.int32(30), jnp.int32(120))


KEYS = jax.random.split(jax.random.key(1), (2, 3))  # of two agents that make three steps


@jax.jit
@jax.vmap
@jax.vmap
def gradients(key):
    return perturbed(jax.tree.map(lambda x: jax.random.normal(jax.random.fold_in(key, x.size), x.shape), PARAMS))


GRADIENTS = gradients(KEYS)


class Walked(NamedTuple):
    """An optimizer, perturbed meta-parameters of it, and its compiled `walk` for two agents."""

    optimizer: LearnedOptimizer
    meta_params: Any
    walk: Callable  # (gradients, keys), each [2, 3] -> what `walk` returns


@pytest.fixture(scope="module", params=OPTIMIZERS)
def walked(request):
    optimizer = as_learned(OPTIMIZERS[request.param]())
    meta_params = jax.jit(lambda key: perturbed(optimizer.init(key)))(jax.random.key(0))
    together = jax.jit(jax.vmap(partial(walk, optimizer), (None, 0, 0)))
    return Walked(optimizer, meta_params, partial(together, meta_params))


def walk(optimizer, meta_params, gradients, keys):
    """Parameters and the optimizer's state after a step for each key, and the state before."""
    transform = optimizer.transform(meta_params)
    start = transform.init(PARAMS)

    def step(carry, now):
        params, state = carry
        gradient, key = now
        updates, state = transform.update(gradient, state, params, progress=PROGRESS, key=key)
        return (optax.apply_updates(params, updates), state), updates

    (params, state), updates = jax.lax.scan(step, (PARAMS, start), (gradients, keys))
    return params, start, state, updates


def test_updates_and_state_keep_their_trees_and_dtypes(walked):
    params, start, state, updates = at(walked.walk(GRADIENTS, KEYS), 0)
    assert shapes(params) == shapes(PARAMS) == shapes(at(updates, 0))
    assert shapes(state) == shapes(start)
    assert_arrays_only((walked.meta_params, state))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, PARAMS)
    assert all(jax.tree.leaves(moved)) and all(jnp.isfinite(x).all() for x in jax.tree.leaves(params))


def test_agents_do_not_touch_each_other_and_repeat_with_their_keys(walked):
    """Each makes the steps that it makes beside one of its kind."""
    together = walked.walk(GRADIENTS, KEYS)
    assert_equal(together, walked.walk(GRADIENTS, KEYS))
    for i in range(2):
        assert_equal(at(together, i), at(walked.walk(*at((GRADIENTS, KEYS), jnp.array([i, i]))), i))


def test_the_meta_gradient_reaches_what_is_learned_and_is_finite_at_zero_gradients(walked):
    def after(meta_params, scale):
        there = jax.tree.map(lambda x: scale * x[0], GRADIENTS)
        params = walk(walked.optimizer, meta_params, there, KEYS[0])[0]
        return sum((x**2).sum() for x in jax.tree.leaves(params))

    slopes = jax.jit(jax.grad(after, (0, 1)))
    assert_reached(slopes(walked.meta_params, 1.0)[0])
    for leaf in jax.tree.leaves(slopes(walked.meta_params, 0.0)):
        assert jnp.isfinite(leaf).all()

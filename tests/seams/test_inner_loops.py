"""What every inner loop does, whatever it learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from seams.parts import (
    INNER_LOOPS,
    LIFETIMES,
    assert_arrays_only,
    assert_close,
    assert_equal,
    assert_reached,
    at,
    perturbed,
    saved,
    shapes,
)

import metarl
from metarl.meta import advance, done


class Lived(NamedTuple):
    """Three lifetimes of one inner loop, newborn and two updates old, and its compiled `advance`."""

    inner: metarl.InnerLoop
    meta_params: Any
    newborn: Any
    middle: Any
    older: Any
    keys: jax.Array
    advance: Callable  # (lifetimes, keys) -> Update
    traces: list  # one entry for each time that it was traced


@pytest.fixture(scope="module", params=INNER_LOOPS)
def lived(request):
    (inner, levels), traces = INNER_LOOPS[request.param](), []

    @jax.jit
    def birth(keys):
        return perturbed(inner.init_meta(jax.random.key(2))), jax.vmap(inner.init)(keys, jax.vmap(levels.sample)(keys))

    @jax.jit
    def step(meta_params, lifetimes, keys):
        traces.append(1)
        return jax.vmap(lambda lifetime, key: advance(inner, meta_params, lifetime, key))(lifetimes, keys)

    keys = jax.random.split(jax.random.key(1), LIFETIMES)
    meta_params, newborn = birth(keys)
    middle = step(meta_params, newborn, keys).lifetime
    older = step(meta_params, middle, jax.random.split(keys[0], LIFETIMES)).lifetime
    return Lived(inner, meta_params, newborn, middle, older, keys, lambda *args: step(meta_params, *args), traces)


def test_a_lifetime_keeps_its_tree_shapes_and_dtypes(lived):
    update = lived.advance(lived.newborn, lived.keys)
    assert shapes(lived.newborn) == shapes(update.lifetime) == shapes(lived.older)
    assert (update.objective.shape, update.objective.dtype) == ((LIFETIMES,), jnp.float32)
    assert all(metric.shape == (LIFETIMES,) for metric in update.metrics.values())


def test_state_is_arrays(lived):
    assert_arrays_only((lived.meta_params, lived.newborn, lived.older))


def test_a_step_is_traced_once_and_adds_one_to_the_age(lived):
    assert len(lived.traces) == 1
    assert lived.older.step.tolist() == [2] * LIFETIMES


def test_learners_change_and_stay_finite(lived):
    def learner(lifetime):
        return [x for x in jax.tree.leaves(lifetime) if jnp.issubdtype(x.dtype, jnp.inexact)]

    for leaf in learner(lived.older._replace(level=())):
        assert jnp.isfinite(leaf).all()
    if learner(lived.older._replace(level=())):  # one in context remembers nothing
        moved = [bool((a != b).any()) for a, b in zip(learner(lived.newborn), learner(lived.older), strict=True)]
        assert any(moved)


def test_lifetimes_do_not_touch_each_other(lived):
    """Each makes the step that it makes among others of its kind."""
    together = lived.advance(lived.older, lived.keys)
    for i in range(LIFETIMES):
        alike = at((lived.older, lived.keys), jnp.full(LIFETIMES, i))
        assert_equal(at(together, i), at(lived.advance(*alike), i))


def test_the_same_keys_give_the_same_life_also_after_it_was_saved(lived):
    again = lived.advance(saved(lived.newborn), lived.keys).lifetime
    assert_equal(again, lived.middle)
    assert_equal(lived.advance(saved(again), jax.random.split(lived.keys[0], LIFETIMES)).lifetime, lived.older)
    assert len(lived.traces) == 1


def test_a_lifetime_at_its_horizon_is_frozen_and_costs_nothing(lived):
    ended = lived.older._replace(level=lived.older.level._replace(horizon=lived.older.step.at[1].add(1)))
    after = lived.advance(ended, lived.keys)
    assert done(ended).tolist() == [True, False, True]
    for i in (0, 2):
        assert_equal(at(after.lifetime, i), at(ended, i))
        assert after.objective[i] == 0.0
    assert after.lifetime.step.tolist() == [2, 3, 2]
    assert after.metrics["agent_updates"].tolist() == [0, 1, 0]
    if "env_steps" in after.metrics:
        assert (after.metrics["env_steps"] > 0).tolist() == [False, True, False]
    assert len(lived.traces) == 1


def test_fitness_is_finite_and_depends_on_nothing_but_its_arguments(lived):
    fitness = jax.jit(jax.vmap(lived.inner.fitness, (None, None, 0)))
    keys = jax.random.split(jax.random.key(4), 4)
    values = fitness(lived.meta_params, at(lived.older, 0), keys)
    assert (values.shape, values.dtype) == ((4,), jnp.float32) and jnp.isfinite(values).all()
    assert_equal(values, fitness(lived.meta_params, at(lived.older, 0), keys))


def test_the_meta_gradient_reaches_every_meta_parameter_and_not_the_critic(lived):
    """Through two updates and the loss after them."""
    measure = lived.inner.loss
    if measure is None or not jax.tree.leaves(lived.meta_params):
        pytest.skip("there is nothing to differentiate")

    def total(meta_params, critics):
        def update(lifetime, key):
            lifetime, objective, _ = advance(lived.inner, meta_params, lifetime, key)
            return lifetime, objective

        def life(lifetime, key):
            lifetime, objectives = jax.lax.scan(update, lifetime, jax.random.split(key, 2))
            measured = measure(meta_params, lifetime, key)
            assert shapes(measured.lifetime) == shapes(lifetime)
            assert (measured.objective.shape, measured.objective.dtype) == ((), jnp.float32)
            return objectives.sum() + measured.objective

        lifetimes = lived.middle
        if jax.tree.leaves(critics):
            lifetimes = lifetimes._replace(critic=lifetimes.critic._replace(params=critics))
        return jax.vmap(life)(lifetimes, lived.keys).sum()

    critics = getattr(getattr(lived.middle, "critic", ()), "params", ())
    gradient, of_critics = jax.jit(jax.grad(total, (0, 1)))(lived.meta_params, critics)
    assert_reached(gradient)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_critics))


def test_a_step_that_is_not_compiled_is_the_same():
    """Of a loop that is quick enough."""
    inner, levels = INNER_LOOPS["supervised"]()
    key = jax.random.key(0)
    meta_params = perturbed(inner.init_meta(key))
    lifetime = inner.init(key, levels.sample(key))
    compiled = jax.jit(inner.step)(meta_params, lifetime, key)
    with jax.disable_jit():
        assert_close(inner.step(meta_params, lifetime, key), compiled)

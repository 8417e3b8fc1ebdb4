"""What every curriculum does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratic
from seams.parts import CURRICULA, assert_arrays_only, assert_equal, saved, shapes

import metarl
from metarl.tree import select

INNER, LEVELS = quadratic.quadratic(), quadratic.levels(4, spread=1.0)


ALL, SOME = jnp.ones(4, bool), jnp.array([True, False, True, False])


@pytest.fixture(scope="module", params=CURRICULA)
def run(request):
    """(state before anything is lived on, levels and state and metrics after two of four lifetimes ended, traces)."""
    curriculum, traces = CURRICULA[request.param](LEVELS), []

    @jax.jit
    def turn(state, levels, needed, key):
        traces.append(1)
        given, state = curriculum.sample(key, state, needed)
        levels = select(needed, given, levels)
        lifetimes = jax.vmap(INNER.init)(jax.random.split(key, 4), levels)
        return levels, *curriculum.update(INNER, INNER.init_meta(key), state, lifetimes, SOME, key)

    start = jax.jit(lambda key: curriculum.init(key, 4))(jax.random.key(0))
    nothing = jax.tree.map(jnp.zeros_like, jax.vmap(LEVELS.sample)(jax.random.split(jax.random.key(0), 4)))
    return start, nothing, turn, traces


def test_a_curriculum_keeps_its_state_and_is_compiled_once(run):
    state, nothing, turn, traces = run
    levels, after, metrics = turn(state, nothing, ALL, jax.random.key(1))
    turn(after, levels, SOME, jax.random.key(2))
    assert len(traces) == 1
    assert_arrays_only((state, after))
    assert shapes(state) == shapes(after)
    assert shapes(levels) == shapes(nothing)
    assert all(x.shape == () for x in metrics.values())


def test_levels_that_are_lived_on_side_by_side_differ(run):
    state, levels, turn, _ = run
    for seed in range(4):
        levels, state, _ = turn(state, levels, ALL if seed == 0 else SOME, jax.random.key(seed))
        assert len(np.unique(levels.problem[1][:, 0])) == 4


def test_the_same_key_gives_the_same_levels_also_after_the_state_was_saved(run):
    state, nothing, turn, _ = run
    levels, state, _ = turn(state, nothing, ALL, jax.random.key(1))
    again = turn(state, levels, SOME, jax.random.key(2))
    assert_equal(again, turn(saved(state), saved(levels), SOME, jax.random.key(2)))
    other = turn(state, levels, SOME, jax.random.key(3))
    assert (again[0].problem[1][0] != other[0].problem[1][0]).any()


@pytest.mark.parametrize("name", CURRICULA)
def test_a_run_goes_with_every_curriculum(name):
    """Lifetimes of all ages end and are replaced: every metric is there in every step, of one shape."""
    meta = metarl.compose(INNER, metarl.estimators.es(2), optax.sgd(0.01), CURRICULA[name](LEVELS), 4)
    state = jax.eval_shape(meta.init, jax.random.key(0))
    after, metrics = jax.eval_shape(meta.step, state, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"lifetimes_ended", "level_horizon", "meta_loss"} <= set(metrics)

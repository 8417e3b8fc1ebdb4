"""What every curriculum does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratic
from seams.parts import CURRICULA, assert_arrays_only, assert_equal, saved, shapes

import metarl

INNER, LEVELS = quadratic.quadratic(), quadratic.levels(4, spread=1.0)


@pytest.fixture(scope="module", params=CURRICULA)
def run(request):
    """One turn of a curriculum: levels are given out, and two of four lifetimes on them end."""
    curriculum, needed, traces = CURRICULA[request.param](LEVELS), jnp.ones(4, bool), []

    @jax.jit
    def turn(state, key):
        traces.append(1)
        levels, state = curriculum.sample(key, state, needed)
        lifetimes = jax.vmap(INNER.init)(jax.random.split(key, 4), levels)
        ended = jnp.array([True, False, True, False])
        return levels, *curriculum.update(INNER, INNER.init_meta(key), state, lifetimes, ended, key)

    return jax.jit(lambda key: curriculum.init(key, 4))(jax.random.key(0)), turn, traces


def test_a_curriculum_keeps_its_state_and_is_compiled_once(run):
    state, turn, traces = run
    levels, after, metrics = turn(state, jax.random.key(1))
    turn(after, jax.random.key(2))
    assert len(traces) == 1
    assert_arrays_only((state, after))
    assert shapes(state) == shapes(after)
    assert all(x.shape == () for x in metrics.values())
    assert jax.tree.map(jnp.shape, levels) == jax.tree.map(lambda x: (4, *x.shape), LEVELS.sample(jax.random.key(0)))


def test_levels_that_are_given_out_together_differ(run):
    state, turn, _ = run
    for seed in range(3):
        levels, state, _ = turn(state, jax.random.key(seed))
        assert len(np.unique(levels.problem[1][:, 0])) == 4


def test_the_same_key_gives_the_same_levels_also_after_the_state_was_saved(run):
    state, turn, _ = run
    _, state, _ = turn(state, jax.random.key(1))
    assert_equal(turn(state, jax.random.key(2)), turn(saved(state), jax.random.key(2)))
    levels, other = (turn(state, jax.random.key(seed))[0].problem[1] for seed in (2, 3))
    assert (levels != other).any()


@pytest.mark.parametrize("name", CURRICULA)
def test_a_run_goes_with_every_curriculum(name):
    """Lifetimes of all ages end and are replaced: every metric is there in every step, of one shape."""
    meta = metarl.compose(INNER, metarl.estimators.es(2), optax.sgd(0.01), CURRICULA[name](LEVELS), 4)
    state = jax.eval_shape(meta.init, jax.random.key(0))
    after, metrics = jax.eval_shape(meta.step, state, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"lifetimes_ended", "level_horizon", "meta_loss"} <= set(metrics)

"""Weights of sources: REINFORCE, what is drawn, and rewards that are worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratic

import metarl
from envs import tasks
from metarl import curricula
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.types import Level, Levels

INNER = quadratic.quadratic()
SOURCES = [quadratic.levels(4, h=(i, i)) for i in (1.0, 2.0, 3.0)]  # the curvature says which source it was
SOME = jnp.array([True, False, True, True])


def curvature(inner, meta_params, lifetime, key):
    return lifetime.level.problem[0][0]


def lifetimes_on(levels):
    return jax.vmap(INNER.init)(jax.random.split(jax.random.key(0), len(levels.horizon)), levels)


def test_an_update_is_reinforce():
    """On the lifetimes that ended: the mean of (reward - baseline) times the gradient of the log-probability."""
    curriculum = curricula.weighted(SOURCES, curvature, optax.sgd(0.5), decay=0.75)
    state = curriculum.init(jax.random.key(0), 4)._replace(
        logits=jnp.array([0.3, -0.2, 0.0]), baseline=jnp.float32(1.5)
    )
    levels, state = curriculum.sample(jax.random.key(2), state, jnp.ones(4, bool))
    rewards, weights = np.asarray(levels.problem[0][:, 0]), np.asarray(jax.nn.softmax(state.logits))
    np.testing.assert_array_equal(state.source, rewards - 1)
    assert len(set(rewards.tolist())) > 1
    after, metrics = curriculum.update(INNER, {}, state, lifetimes_on(levels), SOME, jax.random.key(3))
    ended = np.flatnonzero(SOME)
    slope = np.mean([(rewards[i] - 1.5) * (np.eye(3)[state.source[i]] - weights) for i in ended], axis=0)
    np.testing.assert_allclose(after.logits, state.logits + 0.5 * slope, rtol=1e-5)
    np.testing.assert_allclose(after.baseline, 0.75 * 1.5 + 0.25 * rewards[ended].mean(), rtol=1e-6)
    np.testing.assert_allclose([metrics[f"weight_{i}"] for i in range(3)], jax.nn.softmax(after.logits), rtol=1e-6)
    none, _ = curriculum.update(INNER, {}, state, lifetimes_on(levels), ~SOME & SOME, jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, none, state)


def test_only_needed_levels_change_their_source():
    curriculum = curricula.weighted(SOURCES, curvature)
    state = curriculum.init(jax.random.key(0), 4)._replace(source=jnp.full(4, 7, jnp.int32))
    _, after = curriculum.sample(jax.random.key(1), state, SOME)
    assert (after.source == 7).tolist() == (~SOME).tolist()


def test_the_best_source_is_found_and_drawn():
    meta = metarl.compose(INNER, metarl.estimators.es(4), optax.sgd(0.0), curricula.weighted(SOURCES, curvature), 16)
    state, log = metarl.train(meta, steps=200, chunk=200)
    assert log["weight_2"][-1] > 0.9 > 0.4 > log["weight_2"][0]
    assert (state.curriculum.source == 2).mean() > 0.7


def test_pooled_levels_are_of_every_distribution_alike():
    levels = jax.vmap(curricula.pooled(SOURCES).sample)(jax.random.split(jax.random.key(0), 3000))
    counts = np.unique(levels.problem[0][:, 0], return_counts=True)[1]
    np.testing.assert_allclose(counts / 3000, 1 / 3, atol=0.04)


# --- rewards ------------------------------------------------------------------------------------------------

RATE, STEPS = 0.5, 3
TASK = tasks.quadratic(dim=3, condition=(4.0, 4.0))
LEARNED = supervised_inner_loop(TASK, optax.sgd(RATE), initial="learned")
ONE = TASK.sample(jax.random.key(9))
TARGET = Levels(lambda key: Level(ONE, jnp.int32(50)))  # always the same problem, with a longer life


@pytest.fixture
def lived():
    """A lifetime that has moved, and the meta-parameters."""
    meta_params, key = LEARNED.init_meta(jax.random.key(0)), jax.random.key(1)
    lifetime, _ = metarl.train_agent(LEARNED, meta_params, task_levels(TASK, 2).sample(key), key, 2)
    return meta_params, lifetime


def test_the_improvement_is_that_of_learners_of_the_target(lived):
    meta_params, lifetime = lived
    reward = curricula.improvement(TARGET, STEPS, share=0.2)
    start, shrink = meta_params["initial"]["x"], (1 - RATE * ONE.curvature) ** STEPS
    losses = [
        TASK.test({"x": ONE.minimum + shrink * (x - ONE.minimum)}, ONE)
        for x in (start, start + 0.2 * lifetime.params["x"])
    ]
    np.testing.assert_allclose(
        reward(LEARNED, meta_params, lifetime, jax.random.key(2)), losses[0] - losses[1], rtol=1e-4
    )
    assert abs(losses[0] - losses[1]) > 1e-3


def test_the_similarity_is_the_cosine_of_what_both_have_moved(lived):
    meta_params, lifetime = lived
    found = curricula.similarity(TARGET, STEPS)(LEARNED, meta_params, lifetime, jax.random.key(2))
    moved = (1 - (1 - RATE * ONE.curvature) ** STEPS) * (ONE.minimum - meta_params["initial"]["x"])
    one, other = np.asarray(lifetime.params["x"]), np.asarray(moved)
    np.testing.assert_allclose(found, one @ other / np.linalg.norm(one) / np.linalg.norm(other), rtol=1e-4)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: curricula.weighted([], curvature), "at least one distribution of levels, got none"),
        (lambda: curricula.pooled([TARGET, SOURCES[0]]), r"levels\[1\].sample returned"),
        (lambda: curricula.weighted([INNER], curvature), "levels must be a Levels, got an InnerLoop"),
        (lambda: curricula.weighted(SOURCES, curvature, decay=2.0), "decay must be at most 1, got 2.0"),
        (lambda: curricula.improvement(TARGET, 0), "steps must be at least 1, got 0"),
        (lambda: curricula.improvement(None, 1), "levels must be a Levels, got None"),
        *(
            (
                lambda make=make: make(TARGET, 1)(INNER, {}, None, jax.random.key(0)),
                'give the inner loop initial="learned"',
            )
            for make in (curricula.improvement, curricula.similarity)
        ),
    ],
)
def test_what_cannot_be_is_refused(act, says):
    with pytest.raises(ValueError, match=says):
        act()

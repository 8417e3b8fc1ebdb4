"""Complexities worked out by hand, and the projection on classes of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.active.problems import best_arm, project, twenty_questions

PROBLEMS = {"best_arm": best_arm(), "twenty_questions": twenty_questions(12, 6, 20)}


def test_the_complexity_of_arms_is_the_sum_of_inverse_squared_gaps():
    problem = best_arm(3)
    assert float(problem.complexity(jnp.array([0.0, 0.5, -0.5]))) == pytest.approx(1 / 0.5**2 + 1 / 1.0**2)
    assert problem.right(jnp.array([0.0, 0.5, -0.5])) == 1


def test_the_complexity_of_questions_is_that_of_the_closest_hypothesis():
    """(1, 1) is right; (1, -1) differs in the question with reliability 0.5, (-1, 1) and (-1, -1) are easier."""
    problem, theta = twenty_questions(4, 2), jnp.array([1.0, 0.5])
    np.testing.assert_array_equal(problem.codes, [[-1, -1], [1, -1], [-1, 1], [1, 1]])
    assert problem.right(theta) == 3
    assert float(problem.complexity(theta)) == pytest.approx(2 * 1 / 0.5**2)


@pytest.mark.parametrize("name", PROBLEMS)
def test_all_candidates_may_be_right(name):
    problem = PROBLEMS[name]
    assert len({tuple(code) for code in np.asarray(problem.codes)}) == len(problem.codes)
    theta = jax.jit(jax.vmap(problem.sample))(jax.random.split(jax.random.key(0), 500))
    assert np.abs(theta).max() <= 1.0
    assert len(set(jax.jit(jax.vmap(problem.right))(theta).tolist())) == len(problem.codes)


@pytest.mark.parametrize(
    ("problem", "theta", "radius", "wanted"),
    [
        (best_arm(2), [0.1, 0.0], 4.0, [0.5, 0.0]),  # 1 / gap^2 = 4
        (best_arm(2), [0.9, 0.0], 4.0, [0.9, 0.0]),  # is in the class
        (best_arm(2), [0.9, -3.0], 4.0, [0.9, -1.0]),  # was not in the box
        (best_arm(2), [0.3, 0.3], 1.0, [1.3, 0.3]),  # a tie, whose complexity is infinite
        (twenty_questions(4, 2), [1.0, 0.5], 2.0, [1.5, 1.0]),  # 2 / gap^2 = 2
    ],
)
def test_the_projection_by_hand(problem, theta, radius, wanted):
    np.testing.assert_allclose(project(problem, jnp.array(theta), radius), wanted, atol=1e-5)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_projection_is_in_the_class_and_leaves_its_members_alone(name):
    problem = PROBLEMS[name]
    theta = 2.0 * jax.random.normal(jax.random.key(0), (64, problem.codes.shape[1]))
    radius = jnp.exp(jax.random.uniform(jax.random.key(1), (64,), minval=0.0, maxval=5.0))
    projection = jax.jit(jax.vmap(partial(project, problem)))
    projected = projection(theta, radius)
    complexity = jax.jit(jax.vmap(problem.complexity))(projected)
    assert (complexity <= radius).all()
    right = jax.jit(jax.vmap(problem.right))
    np.testing.assert_array_equal(right(projected), right(jnp.clip(theta, -1.0, 1.0)))
    # no further than needed: what was moved is on the border
    moved = (projected != jnp.clip(theta, -1.0, 1.0)).any(1)
    assert 5 < moved.sum() < 64
    np.testing.assert_allclose(complexity[moved], radius[moved], rtol=1e-3)
    inside = jnp.abs(projected).max(1) <= 1.0
    again = projection(projected, radius)
    np.testing.assert_array_equal(again[inside], projected[inside])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: best_arm(1), "arms must be at least 2, got 1"),
        (lambda: best_arm(2, 0), "budget must be at least 1, got 0"),
        (lambda: twenty_questions(33, 5), "questions must be at least 6 to tell 33 hypotheses apart, got 5"),
        (lambda: twenty_questions(1), "hypotheses must be at least 2, got 1"),
    ],
)
def test_bad_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()

"""The search for a maximum: observations and rewards by hand, draws of functions, and logarithmic sparsity."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl
from envs import bayesian_optimisation
from envs.bayesian_optimisation import BayesianOptimisation, Problem, simple_regret

ENV = BayesianOptimisation(dimensions=1, candidates=3, evaluations=2, least_regret=1e-3)
PROBLEM = Problem(jnp.array([[0.5, -1.0, 2.0]]))
RESET, STEP = jax.jit(ENV.reset), jax.jit(ENV.step)
FLAG, VALUE, BEST, TIME = range(4)


def searched(actions):
    """The first observation, and what `step` returned after each of `actions`."""
    obs, state = RESET(jax.random.key(0), PROBLEM)
    found = []
    for action in actions:
        result = STEP(jax.random.key(1), state, jnp.int32(action), PROBLEM)
        found.append(result)
        state = result[1]
    return obs, found


def test_an_episode_by_hand():
    first, ((obs, state, reward, terminated, truncated, info), last) = searched([1, 0])
    # the whole, two evaluations, three candidates
    np.testing.assert_array_equal(first[:, FLAG], [1, 0, 0, 1, 1, 1])
    assert not first[:, VALUE:TIME].any() and not first[1:3].any()
    np.testing.assert_array_equal(obs[:, FLAG], [1, 1, 0, 1, 0, 1])  # the middle one is known
    np.testing.assert_array_equal(obs[:, VALUE], [0, -1, 0, 0, -1, 0])
    np.testing.assert_array_equal(obs[:, BEST], [-1, -1, 0, -1, -1, -1])
    np.testing.assert_array_equal(obs[:, TIME], [0.5, 0.5, 0, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(obs[1, 4:], obs[4, 4:])  # the evaluation is where the candidate is
    np.testing.assert_allclose(obs[3:, 4], np.sin(np.pi * np.array([0, 0.5, 1])), atol=1e-6)
    np.testing.assert_allclose(obs[3:, 8], np.cos(np.pi * np.array([0, 0.5, 1])), atol=1e-6)
    np.testing.assert_array_equal(info["labels"], PROBLEM.values[0])
    assert float(reward) == pytest.approx(-np.log10(3.0) / 2) and not terminated and not truncated
    # the second evaluation is the last: nothing follows, and a new episode begins
    obs, state, reward, terminated, truncated, info = last
    assert float(reward) == pytest.approx(-np.log10(1.5) / 2) and terminated and not truncated
    np.testing.assert_array_equal(obs, first)
    np.testing.assert_array_equal(info["final_observation"][:, FLAG], [1, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(info["final_observation"][1:3, VALUE], [-1, 0.5])
    np.testing.assert_array_equal(info["labels"], PROBLEM.values[0])
    assert state.time == 0


def test_the_best_return_is_that_of_the_maximum_at_once():
    _, steps = searched([2, 2])
    assert sum(float(step[2]) for step in steps) == pytest.approx(3.0)
    assert float(bayesian_optimisation.optimal_return(ENV, PROBLEM)) == pytest.approx(3.0)
    known = {m: bayesian_optimisation.distribution(functions=m).optimal_return is not None for m in (1, 2)}
    assert known == {1: True, 2: False}


def test_regret_after_each_evaluation():
    found = simple_regret(jnp.array([0.5, -1.0, 2.0, 1.0]), jnp.array([1, 0, 1, 3, 2]))
    np.testing.assert_array_equal(found, [3.0, 1.5, 1.5, 1.0, 0.0])


def test_random_search_improves_as_often_as_the_harmonic_number():
    """The logarithmic sparsity of the reward (section 3 of the paper): sum of 1/t over T evaluations, exactly."""
    orders = jnp.array(list(itertools.permutations(range(6))))
    regrets = jax.vmap(simple_regret, (None, 0))(jnp.array([0.3, -1.0, 2.0, 0.4, 5.0, 0.1]), orders)
    for count in (1, 3, 6):  # the first evaluation always improves
        improvements = 1 + (np.diff(regrets[:, :count]) < 0).sum(1)
        assert improvements.mean() == pytest.approx(sum(1 / t for t in range(1, count + 1)), rel=1e-6)


def test_the_interface_in_two_dimensions():
    levels = bayesian_optimisation.distribution(2, candidates=16, evaluations=3, functions=2)
    metarl.check_environment(levels.env, levels.sample(jax.random.key(0)).problem, steps=10)


def test_an_episode_is_about_any_function_of_the_level():
    env = BayesianOptimisation(candidates=3, evaluations=2, functions=2)
    problem = Problem(jnp.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]))
    states = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 64), problem)[1]
    first = (states.values[:, 0] == 0.0).mean()
    assert 0.3 < first < 0.7 and set(states.values[:, 0].tolist()) == {0.0, 3.0}


def test_functions_are_draws_of_the_process():
    """Neighbours correlate as the kernel of the only length scale says, in both dimensions."""
    levels = bayesian_optimisation.distribution(
        2, candidates=9, evaluations=3, functions=4000, shortest=0.5, longest=0.5
    )
    values = np.asarray(jax.jit(levels.sample)(jax.random.key(0)).problem.values)
    points = np.asarray(levels.env.points)
    np.testing.assert_array_equal(points[:4], [[0, 0], [0, 0.5], [0, 1], [0.5, 0]])
    distance = np.square(points[:, None] - points).sum(-1)
    np.testing.assert_allclose(np.cov(values.T), np.exp(-0.5 * distance / 0.5**2), atol=0.08)
    assert np.abs(values.mean(0)).max() < 0.08


def test_the_smoothest_functions_are_finite():
    levels = bayesian_optimisation.distribution(candidates=64, functions=64, shortest=10.0, longest=10.0)
    assert np.isfinite(levels.sample(jax.random.key(0)).problem.values).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dimensions": 0}, "dimensions must be at least 1, got 0"),
        ({"candidates": 1}, "candidates must be at least 2, got 1"),
        ({"dimensions": 2, "candidates": 60}, "candidates must be a number to the power of dimensions = 2, got 60"),
        ({"candidates": 8, "evaluations": 9}, "evaluations must be at most candidates = 8, got 9"),
        ({"functions": 0}, "functions must be at least 1, got 0"),
        ({"shortest": 0.6}, "shortest must be at most longest = 0.5, got 0.6"),
        ({"shortest": 0.0}, "shortest must be above 0, got 0.0"),
        ({"least_regret": 0.0}, "least_regret must be above 0, got 0.0"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
    ],
)
def test_bad_input(options, says):
    with pytest.raises(ValueError, match=says):
        bayesian_optimisation.distribution(**options)

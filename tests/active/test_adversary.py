"""The score function against the pathwise gradient, and what an adversary finds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.active.adversary import advantage, ascent_direction, episodes, worst_case
from metarl.active.policies import play
from metarl.active.problems import best_arm, project

KEY = jax.random.key(0)
PROBLEM = best_arm(3, budget=4)


def by_means(history):
    """Pulls arms at random, whatever the answers were, and prefers large means."""
    return jnp.zeros(3), history.sums / jnp.maximum(history.counts, 1.0)


def test_the_advantage_leaves_each_loss_out_of_its_baseline():
    np.testing.assert_allclose(advantage(jnp.array([[1.0, 2.0, 6.0]])), [[-3.0, -1.5, 4.5]])


def test_the_ascent_follows_the_gradient_of_the_expected_loss():
    """Queries do not depend on answers here, so the loss is differentiable in the instance."""
    theta, plays = jnp.array([[0.6, 0.0, -0.5], [0.1, 0.3, 0.0]]), partial(play, PROBLEM, by_means)
    exact = jax.grad(lambda theta: episodes(plays, KEY, theta, 20_000).loss.mean(1).sum())(theta)
    estimate = ascent_direction(theta, episodes(plays, jax.random.key(1), theta, 20_000))
    np.testing.assert_allclose(estimate, exact, atol=0.012)
    assert np.abs(exact).max() > 0.05


@pytest.mark.slow
def test_the_worst_case_is_in_the_class_and_worse_than_most():
    plays, radius = partial(play, PROBLEM, by_means), jnp.float32(16.0)
    worst, loss = worst_case(PROBLEM, plays, KEY, radius, starts=8, steps=40, count=16, learning_rate=0.1)
    assert float(PROBLEM.complexity(worst)) <= 16.0
    others = jax.vmap(lambda key: project(PROBLEM, PROBLEM.sample(key), radius))(jax.random.split(KEY, 64))
    losses = episodes(plays, KEY, others, 128).loss.mean(1)
    assert float(loss) > float(losses.mean()) + 0.05
    again = episodes(plays, jax.random.key(5), worst[None], 4096).loss.mean()
    assert float(loss) == pytest.approx(float(again), abs=0.02)

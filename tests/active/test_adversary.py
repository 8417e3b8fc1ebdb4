"""The score function against the pathwise gradient, and what an adversary finds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.active.adversary import advantage, ascend, ascent_direction, episodes, worst_case
from metarl.active.policies import play
from metarl.active.problems import best_arm

KEY = jax.random.key(0)
PROBLEM = best_arm(3, budget=4)


def by_means(history):
    """Pulls arms at random, whatever the answers were, and prefers large means."""
    return jnp.zeros(3), history.sums / jnp.maximum(history.counts, 1.0)


def always(candidate):
    return lambda history: (jnp.zeros(3), jnp.where(jnp.arange(3) == candidate, 0.0, -jnp.inf))


FIND = jax.jit(
    lambda key, steps: worst_case(
        PROBLEM, partial(play, PROBLEM, by_means), key, 4.0, starts=8, steps=steps, count=16, learning_rate=0.1
    ),
    static_argnums=1,
)


def test_the_advantage_leaves_each_loss_out_of_its_baseline():
    np.testing.assert_allclose(advantage(jnp.array([[1.0, 2.0, 6.0]])), [[-3.0, -1.5, 4.5]])


def test_the_ascent_follows_the_gradient_of_the_expected_loss():
    """Queries do not depend on answers here, so the loss is differentiable in the instance."""
    theta, plays = jnp.array([[0.6, 0.0, -0.5], [0.1, 0.3, 0.0]]), partial(play, PROBLEM, by_means)
    exact = jax.grad(lambda theta: episodes(plays, KEY, theta, 20_000).loss.mean(1).sum())(theta)
    estimate = ascent_direction(theta, episodes(plays, jax.random.key(1), theta, 20_000))
    np.testing.assert_allclose(estimate, exact, atol=0.012)
    assert np.abs(exact).max() > 0.05


def test_an_ascent_stays_in_its_class():
    theta, radius, sgd = jnp.array([[0.9, -0.1, 0.0]]), jnp.array([4.0]), optax.sgd(2.0)
    played = episodes(partial(play, PROBLEM, by_means), KEY, theta, 256)
    moved, _ = ascend(PROBLEM, sgd, theta, sgd.init(theta), played, radius)
    assert float(PROBLEM.complexity(moved[0])) <= 4.0 and float(jnp.abs(moved - theta).max()) > 0.01


def test_the_worst_case_is_in_the_class_and_worse_than_where_the_adversary_began():
    worst, loss = FIND(KEY, 40)
    _, early = FIND(KEY, 1)
    assert float(PROBLEM.complexity(worst)) <= 4.0
    assert float(loss) > float(early) + 0.01


def test_the_worst_case_of_who_always_says_the_same():
    plays = partial(play, PROBLEM, always(1))
    worst, loss = worst_case(PROBLEM, plays, KEY, jnp.float32(9.0), starts=8, steps=1, count=2, learning_rate=0.1)
    assert float(loss) == 1.0 and int(PROBLEM.right(worst)) != 1

"""How policies play, and what the classical ones do, by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.active.policies import History, information_gain, learned, play, pulls_by_round, successive_halving
from metarl.active.problems import best_arm, twenty_questions

KEY = jax.random.key(0)


def test_a_policy_gets_the_answers_to_its_queries():
    problem, theta = best_arm(3, budget=7), jnp.array([0.0, 50.0, 20.0])
    only_the_last = jnp.array([-jnp.inf, -jnp.inf, 0.0]), jnp.zeros(3)
    episode = play(problem, lambda history: only_the_last, KEY, theta)
    np.testing.assert_array_equal(episode.history.counts, [0, 0, 7])
    noise = episode.history.sums - episode.history.counts * theta
    np.testing.assert_array_equal(noise[:2], 0.0)
    assert 0.0 < abs(float(noise[2])) < 4 * 7**0.5
    assert float(episode.log_prob) == 0.0
    assert float(episode.loss) == pytest.approx(2 / 3)  # it names any of three


def test_the_log_probability_is_that_of_all_queries():
    problem = best_arm(2, budget=3)
    logits = jnp.log(jnp.array([0.25, 0.75]))
    episode = play(problem, lambda history: (logits, history.sums), KEY, jnp.array([0.5, 0.0]))
    assert float(episode.log_prob) == pytest.approx(float(episode.history.counts @ logits), rel=1e-5)


def test_a_learned_policy_does_not_depend_on_the_order_of_arms():
    problem = best_arm(3)
    init, policy = learned(problem, 4)
    decide, order = policy(init(KEY)), jnp.array([2, 0, 1])
    history = History(jnp.array([3.0, 0.0, 2.0]), jnp.array([0.5, 0.0, -1.0]))
    plain = decide(history)
    for logits, others in zip(plain, decide(History(*(x[order] for x in history))), strict=True):
        np.testing.assert_allclose(logits[order], others, atol=1e-6)
    assert len(np.unique(np.asarray(plain[0]).round(6))) == 3


def test_successive_halving_by_hand():
    assert pulls_by_round(5, 20) == [(5, 1), (3, 2), (2, 3)]
    assert pulls_by_round(8, 24) == [(8, 1), (4, 2), (2, 4)]
    problem, theta = best_arm(5, 20), jnp.array([300.0, 0.0, 400.0, 100.0, 200.0])
    episode = successive_halving(problem, KEY, theta)
    np.testing.assert_array_equal(episode.history.counts, [6, 1, 6, 1, 3])
    noise = episode.history.sums - episode.history.counts * theta
    assert (0.0 < np.abs(noise)).all() and (np.abs(noise) < 12.0).all()
    assert float(episode.loss) == 0.0


def test_successive_halving_errs_as_often_as_it_should():
    """Two arms with ten pulls each: the difference of means has variance 2 / 10."""
    problem, gap = best_arm(2, 20), 0.5
    play = partial(successive_halving, problem)
    episodes = jax.vmap(play, (0, None))(jax.random.split(KEY, 4000), jnp.array([gap, 0.0]))
    wanted = jax.scipy.stats.norm.cdf(-gap / 0.2**0.5)
    assert float(episodes.loss.mean()) == pytest.approx(float(wanted), abs=4 * (0.13 * 0.87 / 4000) ** 0.5)


def test_information_gain_asks_what_is_open():
    problem = twenty_questions(4, 2)
    decide = information_gain(problem)
    ask, name = decide(History(jnp.array([3.0, 1.0]), jnp.array([3.0, 0.2])))  # the first question is settled
    assert (int(ask.argmax()), int(name.argmax())) == (1, 3)
    ask, name = decide(History(jnp.array([1.0, 3.0]), jnp.array([-0.2, 3.0])))
    assert (int(ask.argmax()), int(name.argmax())) == (0, 2)
    assert np.isneginf(ask).sum() == 1 and np.isneginf(name).sum() == 3

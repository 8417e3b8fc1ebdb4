"""Learners of bandits: the arms that they pull, by hand and by chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import bandit
from metarl.strategies import bandit_strategies, bandits, play
from metarl.strategies.strategy import Transition

ONCE = (1, 1.0), (1, 0.0), (1, 1.0)  # arms and rewards


def after(strategy, *pulls):
    """The memory after these pulls of (arm, reward)."""
    memory = strategy.init(jax.random.key(0))
    for arm, reward in pulls:
        none = jnp.int32(0)
        memory = strategy.learn(memory, Transition(none, jnp.int32(arm), jnp.float32(reward), none, jnp.array(True)))
    return memory


def actions(strategy, memory, count=2000):
    """Arms [count] that are pulled with different keys."""
    keys = jax.random.split(jax.random.key(1), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: strategy.act(key, jnp.int32(0), memory)[0]))(keys))


def share(strategy, memory, arm):
    return (actions(strategy, memory) == arm).mean()


def test_beliefs_are_counts_with_one_of_each():
    beliefs = after(bandits.greedy(3), *ONCE)
    np.testing.assert_array_equal(beliefs.paid, [1, 3, 1])
    np.testing.assert_array_equal(beliefs.failed, [1, 2, 1])
    np.testing.assert_allclose(beliefs.mean, [0.5, 0.6, 0.5])
    assert beliefs.time == 3


def test_greedy_and_epsilon_greedy():
    greedy = bandits.greedy(2)
    assert share(greedy, after(greedy, (0, 0.0)), 1) == 1 and share(greedy, after(greedy, (0, 1.0)), 0) == 1
    for epsilon in (0.0, 0.4, 1.0):
        found = share(bandits.epsilon_greedy(2, epsilon), after(greedy, (0, 0.0)), 1)
        assert found == pytest.approx(1 - epsilon / 2, abs=0.04 * (epsilon > 0))


def test_ucb1_by_hand():
    """0.75 + c sqrt(2 log(3) / 4) against 0.5 + c sqrt(2 log(3) / 2): they are equal at c = 0.815."""
    memory = after(bandits.ucb1(2), (0, 1.0), (0, 1.0))
    assert share(bandits.ucb1(2, 0.80), memory, 0) == 1 and share(bandits.ucb1(2, 0.83), memory, 1) == 1


def test_ucb1_pulls_every_arm_once_where_it_explores_much():
    env = bandit.Bandit(4)
    steps = play(env, bandits.ucb1(4, 20.0), env.default_params, jax.random.key(0), 4)
    assert sorted(steps.action.tolist()) == [0, 1, 2, 3]


def test_thompsons_rule_pulls_an_arm_as_often_as_it_is_best():
    """P(x > y) of x ~ Beta(2, 1), y ~ Beta(1, 1) is 2/3: also of the highest of n draws each, not of n votes."""
    memory = after(bandits.thompson(2), (0, 1.0))
    assert share(bandits.thompson(2), memory, 0) == pytest.approx(2 / 3, abs=0.04)
    assert share(bandits.optimistic_thompson(2, 7), memory, 0) == pytest.approx(2 / 3, abs=0.04)
    three = share(bandits.voting_thompson(2, 3), memory, 0)
    assert three == pytest.approx((2 / 3) ** 3 + 3 * (2 / 3) ** 2 / 3, abs=0.04)
    one = [actions(x, memory) for x in (bandits.voting_thompson(2, 1), bandits.optimistic_thompson(2, 1))]
    np.testing.assert_array_equal(*one)


def test_gittins_by_hand():
    """Of two arms and two pulls: a new arm after a failure, the same one after a success; the last pull is greedy."""
    strategy = bandits.gittins(2, 2)
    assert share(strategy, after(strategy, (0, 0.0)), 1) == 1 and share(strategy, after(strategy, (0, 1.0)), 0) == 1
    # with two pulls left, 5/9 of a new arm is below the mean 3/5 of one that paid 5 times in 8; with thirty it is not
    known = [(0, 1.0)] * 5 + [(0, 0.0)] * 3
    for pulls, arm in ((10, 0), (38, 1)):
        assert share(bandits.gittins(2, pulls), after(strategy, *known), arm) == 1


def test_learning_beats_the_random_policy():
    levels, strategies = bandit.distribution(num_arms=4, max_steps=40), bandit_strategies(4, 40)
    keys = jax.random.split(jax.random.key(3), 200)

    def mean(strategy, keys):
        def total(key):
            return play(levels.env, strategy, levels.sample(key).problem, key, 40).reward.sum()

        return jax.vmap(total)(keys).mean()

    run = jax.jit(mean, static_argnums=0)
    drawn, learned = (float(run(strategies[name], keys)) for name in ("random", "thompson"))
    assert drawn == pytest.approx(20, abs=2) and drawn + 4 < learned


def test_constants_are_vmapped():
    env, scales = bandit.Bandit(3), jnp.array([0.0, 20.0])
    of = jax.vmap(lambda scale: play(env, bandits.ucb1(3, scale), env.default_params, jax.random.key(0), 3).action)
    greedy, curious = of(scales).tolist()
    assert sorted(curious) == [0, 1, 2] and greedy != curious


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: bandits.greedy(0), "num_arms must be at least 1, got 0"),
        (lambda: bandits.gittins(2, 0), "pulls must be at least 1, got 0"),
        (lambda: bandits.voting_thompson(2, 0), "samples must be at least 1, got 0"),
        (lambda: bandits.ucb1(2, -1.0), "scale must be at least 0, got -1.0"),
        (lambda: bandits.epsilon_greedy(2, 1.5), "epsilon must be at most 1, got 1.5"),
        (lambda: bandit_strategies(2, 0), "pulls must be at least 1, got 0"),
    ],
)
def test_bad_numbers(make, says):
    with pytest.raises(ValueError, match=says):
        make()

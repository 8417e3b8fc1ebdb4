"""Learners of decision processes: beliefs and plans by hand, and by brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import mdp
from metarl.strategies import mdp_strategies, mdps, play, random
from metarl.strategies.mdps import Process
from metarl.strategies.strategy import Transition
from metarl.types import Discrete

SMALL = Process(num_states=3, num_actions=2, episode_length=4)
LEVELS = mdp.distribution(3, 2, 4, reward_noise=1.0)
KEY = jax.random.key(0)


def after(strategy, *steps):
    """The memory after these (state, action, reward, next state)."""
    memory = strategy.init(KEY)
    for state, action, reward, following in steps:
        obs, action, next_obs = (jnp.int32(x) for x in (state, action, following))
        memory = strategy.learn(memory, Transition(obs, action, jnp.float32(reward), next_obs, jnp.array(False)))
    return memory


def plan(strategy, memory, key=KEY):
    """The plan [T, S] that a strategy makes at the start of an episode."""
    return np.asarray(strategy.act(key, jnp.int32(0), memory._replace(time=jnp.int32(0)))[1].plan)


def test_beliefs_by_hand():
    """Prior N(1, 1): after a reward of 3 N(2, 1/2), after 3 and 0 N(4/3, 1/3); without noise a reward is known."""
    strategy = mdps.greedy(SMALL)
    beliefs = after(strategy, (1, 0, 3.0, 2)).beliefs
    assert beliefs.reward[1, 0] == pytest.approx(2) and beliefs.variance[1, 0] == pytest.approx(1 / 2)
    beliefs = after(strategy, (1, 0, 3.0, 2), (1, 0, 0.0, 0)).beliefs
    assert beliefs.reward[1, 0] == pytest.approx(4 / 3) and beliefs.variance[1, 0] == pytest.approx(1 / 3)
    np.testing.assert_allclose(beliefs.transition[1, 0], np.array([2, 1, 2]) / 5)
    np.testing.assert_array_equal(beliefs.visits, [[0, 0], [2, 0], [0, 0]])
    assert (beliefs.reward[0] == 1).all() and (beliefs.variance[0] == 1).all()
    quiet = after(mdps.greedy(SMALL._replace(reward_noise=0.0)), *[(1, 0, 3.0, 2)] * 2).beliefs
    assert quiet.reward[1, 0] == pytest.approx(3) and quiet.variance[1, 0] == pytest.approx(0, abs=1e-6)


def test_value_iteration_is_the_best_of_all_policies():
    keys = jax.random.split(KEY)
    reward = np.array(jax.random.normal(keys[0], (2, 2)))
    transition = np.array(jax.random.dirichlet(keys[1], jnp.ones(2), (2, 2)))
    values, found = mdps.value_iteration(lambda values: reward + transition @ values, 2, 3)
    assert found.shape == (3, 2)

    def value(policy):
        """[S] of a policy [T, S]."""
        later = np.zeros(2)
        for actions in reversed(policy):
            later = np.array([reward[s, a] + transition[s, a] @ later for s, a in enumerate(actions)])
        return later

    policies = list(itertools.product(itertools.product(range(2), repeat=2), repeat=3))
    best = np.max([value(policy) for policy in policies], 0)
    np.testing.assert_allclose(values, best, rtol=1e-5)
    np.testing.assert_allclose(value(np.asarray(found)), best, rtol=1e-5)


def test_the_best_expectation_by_hand():
    """Half of the radius goes to the best state, and is taken from the worst."""
    values = jnp.array([0.0, 1.0, 2.0])
    for radius, wanted in ((0.0, 1.1), (0.4, 0.5 + 2 * 0.5), (0.8, 0.3 + 2 * 0.7), (3.0, 2.0)):
        found = mdps.best_expectation(jnp.array([[0.2, 0.5, 0.3]]), jnp.array([radius]), values)
        np.testing.assert_allclose(found, [wanted], rtol=1e-5)


def test_plans_of_optimists_and_of_the_greedy():
    """After the first action in state 0 paid 2, 2: a bonus, or a wide belief, prefers the second, which is new."""
    memory = after(mdps.greedy(SMALL), *[(0, 0, 2.0, 0)] * 2)
    learners = {
        "greedy": mdps.greedy(SMALL),
        "beb 0": mdps.beb(SMALL, 0.0),
        "beb 2": mdps.beb(SMALL, 2.0),  # 5/3 + 2/3 against 1 + 2
        "ucrl2 0": mdps.ucrl2(SMALL, 0.0),
        "ucrl2 1": mdps.ucrl2(SMALL, 1.0),
    }
    last = {name: plan(strategy, memory)[-1, 0] for name, strategy in learners.items()}
    assert last == {"greedy": 0, "beb 0": 0, "beb 2": 1, "ucrl2 0": 0, "ucrl2 1": 1}
    np.testing.assert_array_equal(plan(mdps.ucrl2(SMALL, 0.0), memory), plan(mdps.greedy(SMALL), memory))


def test_posterior_samples_by_chance():
    """At the last step x ~ N(5/3, 1/3) against y ~ N(1, 1): x is above y with probability Phi(2/3 / sqrt(4/3))."""
    memory = after(mdps.greedy(SMALL), *[(0, 0, 2.0, 0)] * 2)
    keys = jax.random.split(KEY, 2000)

    def second(strategy):
        """How often the second action is planned."""
        return jax.vmap(lambda key: strategy.act(key, jnp.int32(0), memory)[1].plan[-1, 0])(keys).mean()

    memory = memory._replace(time=jnp.int32(0))
    assert second(mdps.psrl(SMALL)) == pytest.approx(1 - 0.718, abs=0.04)
    assert second(mdps.opsrl(SMALL, 20)) > 0.45  # the highest of 20 draws each favours what is less known


def test_plans_are_made_once_per_episode_also_under_vmap():
    strategy = mdps.psrl(SMALL)
    memory = strategy.init(KEY)
    first, second = (strategy.act(key, jnp.int32(0), memory)[1].plan for key in jax.random.split(KEY))
    assert (first != second).any()
    for time in (1, 3):
        later = strategy.act(KEY, jnp.int32(0), memory._replace(time=jnp.int32(time), plan=first))[1]
        np.testing.assert_array_equal(later.plan, first)
    assert after(strategy, *[(0, 0, 1.0, 0)] * 4).time == 0
    keys = jax.random.split(KEY, 2)
    run = jax.vmap(lambda key: play(LEVELS.env, strategy, LEVELS.sample(key).problem, key, 8).reward)
    assert " cond[" in str(jax.make_jaxpr(run)(keys))  # else plans would be made, and thrown away, at each step


def test_learning_beats_the_random_policy():
    keys = jax.random.split(KEY, 100)

    def total(strategy, key):
        return play(LEVELS.env, strategy, LEVELS.sample(key).problem, key, 60).reward.sum()

    run = jax.jit(lambda strategy, keys: jax.vmap(lambda key: total(strategy, key))(keys).mean(), static_argnums=0)
    drawn, learned = (float(run(x, keys)) for x in (random(Discrete(2)), mdps.beb(SMALL, 0.5)))
    assert drawn == pytest.approx(60, abs=12) and drawn + 20 < learned


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: mdps.greedy(Process(0)), "num_states must be at least 1, got 0"),
        (lambda: mdps.psrl(Process(episode_length=0)), "episode_length must be at least 1, got 0"),
        (lambda: mdps.beb(Process(reward_noise=-1.0)), "reward_noise must be at least 0, got -1.0"),
        (lambda: mdps.opsrl(SMALL, 0), "samples must be at least 1, got 0"),
        (lambda: mdps.ucrl2(SMALL, delta=0.0), "delta must be above 0, got 0.0"),
        (lambda: mdp_strategies(SMALL, 0), "episodes must be at least 1, got 0"),
    ],
)
def test_bad_numbers(make, says):
    with pytest.raises(ValueError, match=says):
        make()

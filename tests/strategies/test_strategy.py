"""Playing a task: true successors, memory over episodes, the same noise for all strategies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import bandit, mdp
from metarl.strategies import Strategy, Transition, play, random, returns
from metarl.types import Discrete

RING = mdp.MDP(3, 2)  # action 1 moves on and is paid on arrival at the start; action 0 stays
EPISODE = RING.default_params._replace(max_steps=jnp.int32(4))
# acts by the number of steps that it has learned from, over all episodes
MOVER = Strategy(
    init=lambda key: jnp.int32(0),
    act=lambda key, obs, memory: (jnp.where(memory < 5, 1, 0), memory),
    learn=lambda memory, step: memory + 1,
)


def test_play_gives_true_successors_and_keeps_the_memory_over_episodes():
    steps = jax.jit(lambda key: play(RING, MOVER, EPISODE, key, 10))(jax.random.key(0))
    np.testing.assert_array_equal(steps.action, [1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(steps.obs, [0, 1, 2, 0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(steps.next_obs, [1, 2, 0, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(steps.done, [0, 0, 0, 1, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(steps.reward, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(returns(steps, 3), [1, 0, np.nan])  # the third did not end
    np.testing.assert_array_equal(returns(steps, 1), [1])


def test_returns_of_episodes_of_different_lengths():
    done = jnp.array([True, False, False, True, False])
    steps = Transition((), (), jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]), (), done)
    np.testing.assert_array_equal(returns(steps, 3), [1, 14, np.nan])


def test_the_noise_of_the_environment_does_not_depend_on_the_strategy():
    """Two strategies that draw differently, but act alike, meet the same rewards; problems and keys are vmapped."""
    env, keys = bandit.Bandit(2), jax.random.split(jax.random.key(1), 3)
    problems = bandit.BanditParams(jnp.full((3, 2), 0.5), jnp.ones(3), jnp.full(3, 7))
    forgetful = Strategy(
        init=lambda key: jax.random.normal(key),
        act=lambda key, obs, memory: (jnp.int32(0), jax.random.normal(key)),
        learn=lambda memory, step: memory,
    )
    constant = MOVER._replace(act=lambda key, obs, memory: (jnp.int32(0), memory))
    one, other, drawn = (
        jax.vmap(lambda problem, key, strategy=strategy: play(env, strategy, problem, key, 40))(problems, keys)
        for strategy in (forgetful, constant, random(Discrete(2)))
    )
    np.testing.assert_array_equal(one.reward, other.reward)
    np.testing.assert_array_equal(one.reward, drawn.reward)  # arms of equal means
    assert 0.2 < float(one.reward.mean()) < 0.8 and 0.2 < float(drawn.action.mean()) < 0.8


def test_bad_counts_and_a_memory_that_changes():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        play(RING, MOVER, EPISODE, jax.random.key(0), 0)
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        returns(Transition((), (), jnp.zeros(1), (), jnp.ones(1, bool)), 0)
    grows = MOVER._replace(learn=lambda memory, step: (memory, step.reward))
    with pytest.raises(ValueError, match="the memory that Strategy.learn .* returned .* wanted int32"):
        play(RING, grows, EPISODE, jax.random.key(0), 2)

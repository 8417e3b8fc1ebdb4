"""Rewards that are NaN, infinite or huge: a run stops and says where, or leaves members out and counts them."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl
from metarl import curricula, estimators, networks, optimizers
from metarl.rl.rollout import unroll
from metarl.run.train import NonFiniteLoss, _check_finite
from metarl.types import Discrete

LIFETIMES = 3


@dataclass(frozen=True)
class Bandit:
    """Episodes of two steps with an action whose reward is the level, and one whose reward is half of it."""

    default_params = jnp.float32(1.0)

    def reset(self, key, params):
        return jnp.int32(0), jnp.int32(0)

    def step(self, key, state, action, params):
        ended = state == 1
        info = {"final_observation": jnp.int32(0)}
        reward = jnp.where(action == 1, params, 0.5 * params)
        return jnp.int32(0), jnp.where(ended, 0, 1), reward, ended, jnp.zeros((), bool), info

    def action_space(self, params):
        return Discrete(2)

    def observation_space(self, params):
        return Discrete(1)


def learned():
    """A policy gradient whose direction is learned: from 0, the members of a pair learn opposite policies."""

    def loss(meta_params, params, model, rollout, targets, progress):
        log_prob = model.policy.distribution(unroll(model, params, rollout)[0]["policy"]).log_prob(rollout.action)
        better = (rollout.action == 1) + 0.0 * rollout.reward  # NaN where the reward is not finite
        return -(meta_params.sum() * better * log_prob).mean(), {}

    return metarl.Objective(lambda key: jnp.zeros(2), {}, lambda *args: ((), jnp.zeros(()), ()), loss)


def agents(critic=None):
    return metarl.rl_inner_loop(
        Bandit(),
        networks.tabular,
        learned(),
        optax.sgd(10.0),
        metarl.Experience(4, 4),
        critic=critic,
        num_eval_episodes=4,
        max_episode_steps=4,
    )


def strategy(solution):
    import evosax.algorithms

    return evosax.algorithms.SNES(population_size=4, solution=solution)


ESTIMATORS = {
    "backprop": lambda: estimators.backprop(2),
    "es": lambda: estimators.es(4, sigma=2.0),
    "es none": lambda: estimators.es(4, sigma=2.0, shaping="none"),
    "pes": lambda: estimators.pes(4, sigma=2.0),
    "ask_tell": lambda: estimators.ask_tell(strategy, 2),
}


@functools.cache
def started(name):
    """A compiled meta-step, and the state at the start."""
    critic = metarl.Critic(optimizers.adam(0.1)) if name == "backprop" else None
    curriculum = curricula.uniform(metarl.constant_levels(Bandit(), 6))
    meta = metarl.compose(agents(critic), ESTIMATORS[name](), optax.sgd(1.0), curriculum, LIFETIMES)
    return jax.jit(meta.step), jax.jit(meta.init)(jax.random.key(0))


def stepped(name, *rewards):
    """State before and after a meta-step on levels with these rewards, metrics, and why the run stops."""
    step, before = started(name)
    level = before.lifetimes.level._replace(problem=jnp.array(rewards, jnp.float32))
    after, metrics = step(before._replace(lifetimes=before.lifetimes._replace(level=level)), jax.random.key(1))
    try:
        _check_finite({name: np.asarray(x)[None] for name, x in metrics.items()}, after.params, 1, None)
    except NonFiniteLoss as error:
        return before, after, metrics, str(error)
    return before, after, metrics, ""


def assert_moved(before, after, moved=True):
    pairs = zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True)
    assert any(bool((x != y).any()) for x, y in pairs) == moved
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(after.params))


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_run_stops_if_no_reward_is_finite(name, reward):
    before, after, metrics, why = stepped(name, *[reward] * LIFETIMES)
    if name == "backprop":
        assert why.startswith("lifetime_loss is not finite in meta-step 1 in lifetimes [0, 1, 2]")
    else:
        assert why.startswith("meta_loss is not finite in meta-step 1;")
        assert metrics["nonfinite_members"] == (4 if name == "ask_tell" else 2 * LIFETIMES)
    if name.startswith(("es", "pes")):
        assert_moved(before, after, moved=False)


@pytest.mark.parametrize("reward", [np.nan, np.inf])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_lifetime_without_finite_rewards_is_named_or_left_out(name, reward):
    before, after, metrics, why = stepped(name, 1.0, reward, 1.0)
    if name == "backprop":
        assert why.startswith("lifetime_loss is not finite in meta-step 1 in lifetimes [1]")
    elif name == "ask_tell":  # every member has every lifetime
        assert why.startswith("meta_loss is not finite in meta-step 1;")
    else:
        assert not why and metrics["nonfinite_members"] == 2
        assert_moved(before, after)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_gradient_that_overflows_stops_a_run(name):
    """Ranks do not overflow. Everything else would be divided by infinity, and so stand still."""
    before, after, _, why = stepped(name, *[1e30] * LIFETIMES)
    if name == "backprop":
        assert why.startswith("critic_loss is not finite in meta-step 1;")
    elif name in ("es none", "pes"):
        assert why.startswith("meta_gradient_norm is not finite in meta-step 1;")
    else:
        assert not why
        assert_moved(before, after)


def test_an_agent_shows_that_its_rewards_are_not_finite():
    inner, level, key = agents(), metarl.Level(jnp.float32(jnp.nan), jnp.int32(2)), jax.random.key(0)
    meta_params = {"objective": jnp.ones(2)}
    agent, metrics = jax.jit(lambda: metarl.train_agent(inner, meta_params, level, key, 2))()
    assert jnp.isnan(metrics["reward"]).all() and jnp.isnan(agent.params["policy"]).any()
    assert jnp.isnan(inner.fitness(meta_params, agent, key))


def test_levels_without_a_finite_score_do_not_stay_in_the_buffer():
    """Nor do they keep others from being replayed."""
    rewards = jnp.array([1.0, jnp.nan, jnp.inf])

    def sample(key):
        return metarl.Level(rewards[jax.random.randint(key, (), 0, 3)], jnp.int32(2))

    def score(inner, meta_params, lifetime, key):
        return inner.fitness(meta_params, lifetime, key)

    curriculum = curricula.replay(
        metarl.Levels(sample, Bandit()), 4, score=curricula.scores.of_ended(score), probability=0.5
    )
    meta = metarl.compose(agents(), estimators.es(4, sigma=2.0), optax.sgd(0.0), curriculum, LIFETIMES)
    state = jax.jit(meta.init)(jax.random.key(0))
    state, log = jax.jit(lambda x: jax.lax.scan(meta.step, x, jax.random.split(jax.random.key(1), 12)))(state)
    buffer = state.curriculum.buffer
    scored = buffer.filled & ~jnp.isnan(buffer.score)
    assert scored.any() and (buffer.levels.problem[scored] == 1.0).all()
    assert (log["buffer_levels"] <= 4).all() and (log["replayed_share"] > 0.0).any()
    assert jnp.isfinite(buffer.score[scored]).all()

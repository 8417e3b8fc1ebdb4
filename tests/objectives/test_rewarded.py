"""Objectives with another reward: the same one, shaped ones, and learned ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from seams.parts import MDP, assert_close, assert_equal

import metarl
from envs import bandit, mdp
from metarl.curricula import uniform
from metarl.estimators import backprop
from metarl.estimators.backprop import truncation
from metarl.objectives import a2c, lpg, ppo, with_reward
from metarl.rewards import Reward, extrinsic, learned, potential
from metarl.rl.networks import gru, mlp, tabular
from metarl.rl.rollout import model, reset, rollout
from metarl.types import Box, Progress

DISCOUNT, LAMBDA = 0.9, 0.8
PROGRESS = Progress(jnp.int32(1), jnp.int32(6))


def collected(objective, key):
    """A rollout of 12 steps in 3 environments, in which episodes end in both ways, and its agent."""
    agent = model(MDP.env, tabular, dict(objective.outputs))
    params = jax.tree.map(lambda x: jax.random.normal(key, x.shape), agent.network.init(key))
    problem = MDP.sample(key).problem
    _, data = rollout(MDP.env, agent, params, reset(MDP.env, agent, problem, key, 3), problem, key, 12)
    assert data.terminated.any() and data.truncated.any() and not data.done.all()
    return agent, params, data


@pytest.mark.parametrize("objective", [ppo(), lpg(bins=3, hidden=8)], ids=["ppo", "lpg"])
def test_the_environments_reward_changes_nothing(objective):
    """Bit for bit, over epochs of shuffled minibatches and for lifetimes side by side."""

    def live(objective, rule_of):
        experience = metarl.Experience(4, 4, epochs=2, minibatches=2)
        inner = metarl.rl_inner_loop(MDP.env, tabular, objective, optax.sgd(0.5), experience)
        rule = rule_of(inner.init_meta(jax.random.key(1)))
        keys = jax.random.split(jax.random.key(0), 2)
        return jax.vmap(lambda key: metarl.train_agent(inner, rule, MDP.sample(key), key, 3))(keys)

    same = with_reward(objective, extrinsic())
    wrapped = jax.jit(lambda: live(same, lambda rule: rule))()
    assert_equal(jax.jit(lambda: live(objective, lambda rule: rule))(), wrapped)


def test_advantages_under_a_potential_are_those_of_a_value_that_is_higher_by_it():
    """So the policy gradient is the same: V with shaping stands for V + potential without."""
    own = a2c(DISCOUNT, LAMBDA)
    heights = jnp.array([0.5, -2.0, 3.0, 1.0])
    shaped = with_reward(own, potential(lambda obs: heights[obs], DISCOUNT))
    agent, params, data = collected(own, jax.random.key(3))
    higher = {**params, "value": params["value"] + heights[:, None]}
    plain, *_ = own.targets((), (), higher, agent, data, PROGRESS)
    rule = shaped.init(jax.random.key(0))
    found, *_ = shaped.targets(rule, (), params, agent, data, PROGRESS)
    np.testing.assert_allclose(found.advantage, plain.advantage, atol=1e-5)
    assert not np.allclose(found.advantage, own.targets((), (), params, agent, data, PROGRESS)[0].advantage, atol=0.1)


def test_a_potential_by_hand():
    reward = potential(lambda obs: 10.0 * obs, 0.5)
    transition = {"obs": jnp.array([1, 2, 3]), "next_obs": jnp.array([2, 3, 0]), "reward": jnp.array([0.5, 0.0, 1.0])}
    data = collected(a2c(), jax.random.key(3))[2]._replace(**transition, terminated=jnp.array([False, True, False]))
    assert_close(reward.apply((), data), jnp.array([0.5 + 10 - 10, -20.0, 1.0 - 30]))


def test_a_table_adds_its_entry_of_the_state_and_action():
    reward = learned(MDP.env, tabular, scale=2.0)
    params = reward.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {"reward": (4, 3, 1)} and not params["reward"].any()
    table = jnp.arange(12.0).reshape(4, 3)
    data = collected(a2c(), jax.random.key(3))[2]
    found = reward.apply({"reward": table[..., None]}, data)
    assert_close(found, data.reward + 2 * (3 * data.obs + data.action))


def test_the_meta_gradient_of_a_reward_is_that_of_finite_differences():
    """Of the loss after two updates on given rollouts, which do not depend on the reward."""
    reward = learned(MDP.env, mlp((3,)))
    objective = with_reward(a2c(entropy_coef=0.0), reward)
    agent, params, data = collected(objective, jax.random.key(3))
    rule = objective.init(jax.random.key(4))
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(5), x.shape), rule["reward"])

    @jax.jit
    def loss(size):
        moved = {**rule, "reward": jax.tree.map(lambda x, d: x + size * d, rule["reward"], direction)}
        now = params
        for _ in range(2):
            targets, *_ = objective.targets(moved, (), now, agent, data, PROGRESS)
            gradient = jax.grad(lambda p: objective.loss(moved, p, agent, data, targets, PROGRESS)[0])(now)  # noqa: B023
            now = jax.tree.map(lambda x, g: x - 0.5 * g, now, gradient)
        outputs = jax.vmap(jax.vmap(lambda obs: jax.nn.log_softmax(now["policy"][obs])))(data.obs)
        return -(jnp.take_along_axis(outputs, data.action[..., None], -1)[..., 0] * data.reward).mean()

    step = 1e-2
    by_difference = (loss(step) - loss(-step)) / (2 * step)
    assert abs(by_difference) > 1e-3
    assert float(jax.jit(jax.grad(loss))(0.0)) == pytest.approx(float(by_difference), rel=1e-2)


def lirpg(levels, updates):
    """Agents whose learned reward is a table, and what their life is like."""
    return metarl.rl_inner_loop(
        levels.env,
        tabular,
        with_reward(a2c(entropy_coef=0.0), learned(levels.env, tabular)),
        optax.sgd(1.0),
        metarl.Experience(4, 10),
        critic=metarl.Critic(optax.sgd(0.5)),
        num_eval_episodes=32,
        max_episode_steps=10,
    )


def test_the_meta_gradient_reaches_a_reward_through_an_agents_life():
    inner, key = lirpg(MDP, 3), jax.random.key(0)
    rule, newborn = inner.init_meta(key), inner.init(key, MDP.sample(key))

    @jax.jit
    @jax.grad
    def gradient(rule):
        return truncation(inner, 2, False, rule, newborn, key)[0]

    assert jnp.abs(gradient(rule)["objective"]["reward"]["reward"]).max() > 1e-4


@pytest.mark.slow
def test_backprop_learns_a_reward_from_which_agents_learn_faster():
    """LIRPG: on a ring of five states whose reward is five steps away, in 12 updates."""
    env = mdp.MDP(5, 2)
    levels = metarl.constant_levels(env, 12)
    inner = lirpg(levels, 12)
    meta = metarl.compose(inner, backprop(4), optax.adam(0.05), uniform(levels), 16)

    @jax.jit
    def fitness(rule, key):
        """Mean return of 64 agents at the end of their lives."""

        def one(key):
            lifetime, _ = metarl.train_agent(inner, rule, levels.sample(key), key, 12)
            return inner.fitness(rule, lifetime, key)

        return jax.vmap(one)(jax.random.split(key, 64)).mean()

    @jax.jit
    def train(key):
        return jax.lax.scan(meta.step, meta.init(key), jax.random.split(key, 80))[0].params

    rule = train(jax.random.key(0))
    born = jax.tree.map(jnp.zeros_like, rule)
    key = jax.random.key(1)
    without, with_it = float(fitness(born, key)), float(fitness(rule, key))
    assert with_it > without + 0.3, (without, with_it)
    onwards = rule["objective"]["reward"]["reward"][:, 1, 0] - rule["objective"]["reward"]["reward"][:, 0, 0]
    assert (onwards > 0).sum() >= 4  # of 5 states: it rewards to move on, where the environment does in one alone


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="objective must be a Objective|objective must be an Objective"):
        with_reward(a2c, extrinsic())
    with pytest.raises(ValueError, match=r"reward must be a Reward.*call extrinsic\(\.\.\.\)"):
        with_reward(a2c(), extrinsic)
    with pytest.raises(ValueError, match="no memory"):
        learned(MDP.env, gru(4))
    with pytest.raises(ValueError, match="scale must be at least 0"):
        learned(MDP.env, tabular, scale=-1.0)
    with pytest.raises(ValueError, match="discount must be at most 1"):
        potential(lambda obs: obs, 1.5)

    class Continuous(bandit.Bandit):
        def action_space(self, params=None):
            return Box(-1.0, 1.0, (1,))

    with pytest.raises(ValueError, match="a learned reward needs discrete actions"):
        learned(Continuous(), tabular)
    summed = with_reward(a2c(), Reward(lambda key: (), lambda meta_params, rollout: rollout.reward.sum()))
    inner = metarl.rl_inner_loop(MDP.env, tabular, summed, optax.sgd(0.5), metarl.Experience(2, 2))
    with pytest.raises(ValueError, match=r"the reward that Reward.apply .* returned float32\[\], wanted"):
        metarl.train_agent(
            inner, inner.init_meta(jax.random.key(0)), MDP.sample(jax.random.key(0)), jax.random.key(0), 1
        )

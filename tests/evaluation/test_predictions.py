"""Whether a rule uses its prediction, and which values the prediction encodes, against rules that are made by hand."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl
from envs import mdp
from metarl.evaluation.measure import final_returns, live
from metarl.evaluation.predictions import Visits, encoding, frozen, live_and_visit, r_squared, states
from metarl.objectives import a2c
from metarl.optimizers import LearnedOptimizer, per_output
from metarl.rl.networks import tabular
from metarl.rl.objective import Objective
from metarl.rl.returns import gae
from metarl.rl.rollout import unroll
from metarl.rules import Learner

DISCOUNTS = (0.0, 0.5, 0.9, 0.99)
RANGE = jnp.array([-10.0, 10.0])  # what the two bins of a prediction stand for


class Critic(NamedTuple):
    """Meta-parameters of `categorical_critic`."""

    discount: float = 0.9
    uses_y: float = 1.0  # 1 if advantages are those of the value, 0 if they are rewards


def categorical_critic(gae_lambda=0.0):
    """TD(lambda) whose value is a distribution y over two bins, and a policy gradient with or without that value."""

    def targets(critic, memory, params, model, data, progress):
        value, next_value = (jax.nn.softmax(x["y"]) @ RANGE for x in unroll(model, params, data))
        error = gae(data, value, next_value, critic.discount, gae_lambda)
        y = jnp.stack([RANGE[1] - value - error, value + error - RANGE[0]], axis=-1) / (RANGE[1] - RANGE[0])
        advantage = critic.uses_y * error + (1.0 - critic.uses_y) * data.reward
        return {"y": y, "advantage": advantage}, jnp.zeros(()), memory

    def loss(_, params, model, data, targets, progress):
        outputs, _ = unroll(model, params, data)
        log_prob = model.policy.distribution(outputs["policy"]).log_prob(data.action)
        fit = (targets["y"] * jax.nn.log_softmax(outputs["y"])).sum(-1)
        return -(targets["advantage"] * log_prob + 20.0 * fit).mean(), {}

    return Objective(lambda key: Critic(jnp.zeros(()), jnp.zeros(())), {"y": 2}, targets, loss)


def critic(*args, **options):
    return jax.tree.map(jnp.float32, Critic(*args, **options))


def learner(objective, optimizer=None, envs=8):
    optimizer = optimizer or per_output(policy=optax.adam(0.1), y=optax.adam(0.03))
    return Learner(tabular, objective, optimizer, metarl.Experience(envs, 10))


def around(rewards, num_actions=1, max_steps=40):
    """A ring of states: the last action moves on. An episode is cut off in the middle of it."""
    env = mdp.MDP(len(rewards), num_actions)
    pays = jnp.zeros((len(rewards), num_actions)).at[:, -1].set(jnp.array(rewards))
    return env, env.default_params._replace(reward=pays, max_steps=jnp.int32(max_steps))


def levels_of(problem, horizon, count=1):
    return jax.tree.map(lambda x: jnp.stack([x] * count), metarl.Level(problem, jnp.int32(horizon)))


def seeing(rule, env, num_envs=4, num_steps=100, **options):
    """A compiled function (meta-parameters of the objective, levels) -> the visits of the first agent."""
    visit = jax.jit(partial(live_and_visit, rule, env, num_envs=num_envs, num_steps=num_steps, **options))

    def see(params, levels):
        keys = jax.random.split(jax.random.key(0), len(levels.horizon))
        return jax.tree.map(lambda x: np.asarray(x[0]), visit({"objective": params}, levels, keys))

    return see


def chain(obs, next_obs, reward, terminated):
    return Visits(np.array(obs), np.array(next_obs), np.array(reward), np.array(terminated), np.eye(9)[obs])


# --- the values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [False, True])
def test_values_of_a_chain_are_the_hand_worked_ones(vectors):
    """0 -> 5 -> 2 -> end, with rewards 1, 2, and 4 or 8; one episode is cut off at 5, as if it went on there."""
    visits = chain([0, 5, 2, 0, 5, 2, 0], [5, 2, 3, 5, 2, 3, 5], [1.0, 2, 4, 1, 2, 8, 1], [0, 0, 1, 0, 0, 1, 0])
    if vectors:
        visits = visits._replace(obs=np.eye(9)[visits.obs], next_obs=np.eye(9)[visits.next_obs])
    found = states(visits, (0.0, 0.5))
    names = found.prediction.argmax(1)  # the prediction is the name of the state
    assert sorted(names) == [0, 2, 5]
    expected = {0: (3 / 7, 1, 1 + 0.5 * 5), 5: (2 / 7, 2, 2 + 0.5 * 6), 2: (2 / 7, 6, 6)}
    for i, name in enumerate(names):
        np.testing.assert_allclose([found.share[i], *found.values[:, i]], expected[name])


def test_an_observation_without_a_step_is_worth_the_mean():
    """V(0) = 1 + 0.5 (V(0) + V(1)) / 2, and V(1) = 3."""
    found = states(chain([0, 1], [7, 2], [1.0, 3.0], [0, 1]), (0.5,))
    np.testing.assert_allclose(found.values, [[7 / 3, 3.0]])


@pytest.mark.parametrize("discounts", [(), (0.5, 1.0), (-0.1,)])
def test_discounts_are_checked(discounts):
    with pytest.raises(ValueError, match="discount"):
        states(chain([0], [0], [1.0], [1]), discounts)


def test_values_are_those_of_the_policy_in_a_random_process():
    """Of a newborn's uniform policy; episodes of 10 steps are cut off, and terminate with a probability of 0.1."""
    levels = mdp.distribution(num_states=4, num_actions=2, terminate=0.1)
    level = jax.tree.map(lambda x: x[None], levels.sample(jax.random.key(1))._replace(horizon=jnp.int32(0)))
    see = seeing(learner(categorical_critic()), levels.env, num_envs=64, num_steps=400)
    found = states(see(critic(), level), DISCOUNTS)
    moves, reward = level.problem.transition[0].mean(1), level.problem.reward[0].mean(1)
    for discount, values in zip(DISCOUNTS, found.values, strict=True):
        exact = np.linalg.solve(np.eye(4) - 0.9 * discount * moves, reward)
        np.testing.assert_allclose(values, exact, rtol=0.03, atol=0.05)
    assert found.share.sum() == pytest.approx(1.0)


# --- the regression -------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=(2, 60))
SHARE = np.full(60, 1 / 60)


def test_r_squared_is_one_for_what_is_linear_and_zero_for_what_is_random():
    assert r_squared(3.0 - VALUES[:1].T, VALUES, SHARE).tolist() == pytest.approx([1.0, 0.0], abs=1e-3)
    noise = RANDOM.normal(size=(60, 20))  # explains a third of the variance where it is fitted
    assert (r_squared(noise, VALUES, SHARE) == 0.0).all()
    assert (r_squared(np.ones((60, 2)), VALUES, SHARE) == 0.0).all()


def test_r_squared_of_half_of_the_variance():
    many = RANDOM.normal(size=(2, 4000))
    found = r_squared(many[:1].T, many.sum(0)[None], np.full(4000, 1 / 4000))
    assert found == pytest.approx(0.5, abs=0.05)


def test_states_weigh_as_much_as_they_are_visited():
    share = np.where(np.arange(60) < 30, SHARE, 1e-9)
    x = np.where(np.arange(60) < 30, VALUES[0], 100.0)[:, None]
    assert r_squared(x, VALUES[:1], share)[0] > 0.99 > 0.5 > r_squared(x, VALUES[:1], SHARE)[0]


def test_r_squared_is_not_known_of_constant_values_and_of_agents_that_diverged():
    assert np.isnan(r_squared(VALUES.T, np.ones((1, 60)), SHARE)).all()
    assert np.isnan(r_squared(np.full((60, 2), np.nan), VALUES, SHARE)).all()


def test_r_squared_is_not_known_of_fewer_states_than_coefficients():
    """As of an agent that stays in two states, whatever others it has met."""
    share = np.where(np.arange(60) < 2, 1 / 2, 1e-9)
    assert np.isnan(r_squared(VALUES.T, VALUES, share)).all()
    assert not np.isnan(r_squared(VALUES.T, VALUES, np.where(np.arange(60) < 4, 1 / 4, 1e-9))).any()


# --- what y encodes -------------------------------------------------------------------------------------------


def test_a_prediction_that_is_a_value_encodes_it_under_its_own_discount():
    env, problem = around([0.0, 2, 0, 0, 0, 0, 0, -3, 0, 1, 0, 0, 4, 0, 0, 0, 0])
    see, levels = seeing(learner(categorical_critic(0.95)), env), levels_of(problem, 500)
    for own in (0.5, 0.9):
        found = encoding(see(critic(own), levels), DISCOUNTS)
        others = [x for x, discount in zip(found.prediction, DISCOUNTS, strict=True) if discount != own]
        assert found.prediction[DISCOUNTS.index(own)] > 0.99 and max(others) < 0.97, (own, found)
        assert (found.permuted < 0.3).all(), (own, found)


def test_a_value_is_a_prediction_of_one_number():
    env, problem = around([0.0, 1.0, 0.0])
    rule = learner(a2c(discount=0.5), optax.adam(0.1))
    visits = seeing(rule, env, output="value", num_steps=9)((), levels_of(problem, 200))
    exact = np.linalg.solve(np.eye(3) - 0.5 * np.roll(np.eye(3), 1, 1), [0.0, 1.0, 0.0])
    assert visits.prediction.shape == (36, 1)
    np.testing.assert_allclose(visits.prediction[:, 0], exact[visits.obs], atol=0.01)


# --- whether y is used ----------------------------------------------------------------------------------------


def test_only_the_prediction_is_frozen():
    env, problem = around([1.0, 0.0, 0.0], num_actions=2)
    level, key = metarl.Level(problem, jnp.int32(5)), jax.random.key(0)
    learned = LearnedOptimizer(
        lambda key: jnp.ones(()), lambda rate: optax.with_extra_args_support(optax.scale(-0.1 * rate))
    )
    for optimizer, params in ((None, ()), (learned, jnp.ones(()))):
        inner = frozen(learner(categorical_critic(), optimizer)).inner_loop(env)
        agent = jax.jit(partial(live, inner))({"objective": critic(), "optimizer": params}, level, key)
        assert (agent.params["y"] == 0.0).all() and (agent.params["policy"] != 0.0).any() and agent.step == 5


def test_freezing_y_matters_if_it_is_used_and_changes_no_bit_if_not():
    """Only the last of five states pays at once, so that without values one would not learn to go there."""
    env, problem = around([0.0, 0.0, 0.0, 0.0, 1.0], num_actions=5, max_steps=20)
    rule, levels, key = learner(categorical_critic()), levels_of(problem, 150), jax.random.key(0)
    free, still = (
        jax.jit(partial(final_returns, x.inner_loop(env, num_eval_episodes=8), num_seeds=4, levels=levels, key=key))
        for x in (rule, frozen(rule))
    )
    used, ignored = ({"objective": critic(uses_y=x)} for x in (1.0, 0.0))
    assert free(used).mean() > still(used).mean() + 1.0
    np.testing.assert_array_equal(free(ignored), still(ignored))


def test_agents_without_the_output_are_refused():
    with pytest.raises(ValueError, match="no output 'y': theirs are value"):
        frozen(learner(a2c()))
    with pytest.raises(ValueError, match="an optimizer only"):
        frozen(Learner(None, None, optax.sgd(1.0), None))

"""LPG distilled: summaries against hand-worked numbers, and fits of rules that are small or known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
from metarl.distil import symbolic, targets
from metarl.inner.rl import Experience
from metarl.objectives import lpg
from metarl.objectives.lpg import LPGInputs, embedding, summaries
from metarl.rl.networks import tabular
from metarl.rules import Learner

BINS, DISCOUNT = 4, 0.9
RULE = lpg(bins=BINS, hidden=8, discount=DISCOUNT, start="actor_critic", gae_lambda=0.9)


@pytest.fixture(scope="module")
def params():
    return jax.jit(RULE.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def data(params):
    """What an actor-critic as LPG says in two lives of six rollouts, every second of which counts."""
    levels = envs.make("mdp/random")
    lives = jax.vmap(levels.sample)(jax.random.split(jax.random.key(1), 2))
    learner = Learner(tabular, RULE, optax.sgd(1.0), Experience(8, 10))
    return params, targets.rollouts(learner, params, levels.environment, lives, jax.random.key(2), 6, 2, DISCOUNT)


def test_summaries_are_the_hand_worked_ones(params):
    """Three steps of two environments; the first environment's episode ends, terminated, at the second step."""
    y = jax.nn.softmax(jax.random.normal(jax.random.key(1), (2, 3, 2, BINS)))
    no = jnp.zeros((3, 2), bool)
    ended = no.at[1, 0].set(True)
    reward = jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    inputs = LPGInputs(reward, ended, ended, jnp.full((3, 2), 0.3), *y, jnp.zeros((3, 2, 1)))
    found = jax.jit(summaries)(params, inputs, 0.5)
    assert set(found) == {"r", "d", "p", "v", "w", "g", "c"}
    np.testing.assert_allclose(found["g"], [[1.0, 20.0], [0.0, 20.0], [0.0, 0.0]])
    v, w = (jax.jit(embedding)(params, x) for x in y)
    np.testing.assert_allclose(found["v"], v)
    assert found["w"][1, 0] == 0.0 and found["d"].tolist() == [[0, 0], [1, 0], [0, 0]]
    change = w - v
    np.testing.assert_allclose(found["c"][0, 1], 0.5 * change[1, 1] + 0.25 * change[2, 1], rtol=1e-5)
    np.testing.assert_allclose(found["c"][0, 0], -0.5 * v[1, 0], rtol=1e-5)
    aged = inputs._replace(context=jnp.broadcast_to(jnp.array([0.9, 0.25, 1.0]), (3, 2, 3)))
    assert (jax.jit(summaries)(params, aged, 0.5)["n"] == 0.25).all()


def test_rollouts_are_what_the_rule_saw(data):
    params, found = data
    assert found.inputs.reward.shape == (6, 10, 8) and found.inputs.y.shape == (6, 10, 8, BINS)
    np.testing.assert_allclose(found.inputs.y[0], 0.25, atol=1e-6)  # a newborn's, which the last of a life is not
    assert np.abs(found.inputs.y[2] - 0.25).max() > 1e-3
    assert (found.inputs.context == DISCOUNT).all()
    alone = jax.jit(targets.without_memory)(params, found.inputs)
    np.testing.assert_allclose(alone[:, -1], found.targets.pi_hat[:, -1], rtol=1e-4, atol=1e-5)  # nothing follows
    assert symbolic.explained(alone, found.targets.pi_hat) < 0.9


def test_the_formula_of_an_actor_critic_is_found(data):
    """Its advantage is r + discount w - v, and what follows by 0.81, which the summaries have by 0.9."""
    params, found = data
    (alone, whole) = (
        symbolic.shortest(targets.fit_formula(params, found, 400, alone=alone, evaluations=20_000))
        for alone in (True, False)
    )
    assert whole.r2 > 0.9 > alone.r2 > 0.2
    known, wanted = targets.summed_up(params, found.inputs), np.asarray(found.targets.pi_hat).ravel()
    assert symbolic.score(whole.text, known, wanted) > 0.85
    assert not {"g", "c"} & set(alone.text.replace("(", " ").split())


def test_a_smaller_network_fits_a_wider_one(data):
    params, found = data
    network = targets.fit_network(params, found, hidden=6, steps=400, batch=4)
    agreement = targets.agreement(targets.said(network, found.inputs), found.targets)
    assert agreement["pi_hat"] > 0.9 and agreement["y_hat"] > 0.9
    assert targets.agreement(found.targets, found.targets) == {"pi_hat": 1.0, "y_hat": 1.0}


def test_agents_of_a_formula_follow_it(params):
    """pi_hat by the formula, the prediction's targets by the network."""
    levels = envs.make("mdp/random", 2)
    by_formula = lpg(bins=BINS, hidden=8, discount=DISCOUNT, pi_hat="2 * r + 0.5")
    learner = Learner(tabular, by_formula, optax.sgd(1.0), Experience(2, 4))
    inner = learner.inner_loop(levels.environment)
    agent = jax.jit(lambda key: inner.init(key, levels.sample(key)))(jax.random.key(1))
    update = jax.jit(inner.step)({"objective": params}, agent, jax.random.key(3))
    assert update.metrics["pi_hat"] == pytest.approx(2 * float(update.metrics["reward"]) + 0.5, rel=1e-5)
    with pytest.raises(ValueError, match="r, d, p, v, w, g, c, .* got 'n'"):
        lpg(pi_hat="n")

"""The histogram loss: by hand, as a part of every actor-critic, and that labels reach no policy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from envs import bayesian_optimisation, mdp
from metarl.inner.rl import Experience, rl_inner_loop
from metarl.objectives import a2c, dpo, histogram, lpo, ppo
from metarl.rl.networks import tabular
from metarl.rl.neural_process import neural_process
from metarl.rl.rollout import Rollout, model, reset, rollout

LEVELS = bayesian_optimisation.distribution(candidates=4, steps=2, functions=2)
NETWORK = neural_process(width=4, layers=1)
AUXILIARY = histogram(bars=4, low=-2.0, high=2.0, coef=0.5)


def labelled(labels):
    return Rollout(*[None] * len(Rollout._fields))._replace(labels=labels)


def test_the_histogram_loss_by_hand():
    """One step of one environment, three actions; bars are [-2, -1), [-1, 0), [0, 1), [1, 2]."""
    probability = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]])
    logits = jnp.log(probability)[None, None] + 3.0
    labels = jnp.array([0.5, 1.0, -9.0])[None, None]
    loss, metrics = AUXILIARY.loss({"bars": logits}, labelled(labels))
    wanted = -np.mean(np.log([0.3, 0.25, 0.7]))
    assert float(metrics["histogram_loss"]) == pytest.approx(wanted, rel=1e-5)
    assert float(loss) == pytest.approx(0.5 * wanted, rel=1e-5)


@pytest.fixture(scope="module")
def played():
    env, agent = LEVELS.environment, model(LEVELS.environment, NETWORK, {"value": 1, **AUXILIARY.outputs})
    params = agent.network.init(jax.random.key(0))
    problem = LEVELS.sample(jax.random.key(1)).problem
    actors = reset(env, agent, problem, jax.random.key(2), 3)
    return agent, params, rollout(env, agent, params, actors, problem, jax.random.key(3), 2)[1]


@pytest.mark.parametrize("make", [a2c, ppo, dpo, lpo])
def test_actor_critics_add_the_loss(make, played):
    agent, params, data = played
    assert data.labels.shape == (2, 3, 4)
    without, objective = make(), make(auxiliary=AUXILIARY)
    assert dict(objective.outputs) == {"value": 1, **AUXILIARY.outputs}
    rule = without.init(jax.random.key(0))
    targets = without.targets(rule, (), params, agent, data, None)[0]
    plain, _ = without.loss(rule, params, agent, data, targets, None)
    both, metrics = objective.loss(rule, params, agent, data, targets, None)
    assert float(metrics["histogram_loss"]) > 0.5
    assert float(both - plain) == pytest.approx(0.5 * float(metrics["histogram_loss"]), rel=1e-3)


def test_labels_change_the_histogram_and_nothing_else(played):
    """The gradient of the plain loss is the same whatever the labels are; that of the histogram is not."""
    agent, params, data = played
    other = data._replace(labels=-data.labels)

    def gradient(objective, data):
        targets = objective.targets((), (), params, agent, data, None)[0]
        return jax.grad(lambda params: objective.loss((), params, agent, data, targets, None)[0])(params)

    for objective, is_same in ((ppo(), True), (ppo(auxiliary=AUXILIARY), False)):
        pairs = zip(
            jax.tree.leaves(gradient(objective, data)), jax.tree.leaves(gradient(objective, other)), strict=True
        )
        assert all(np.array_equal(x, y) for x, y in pairs) == is_same


def test_a_policy_does_not_see_what_it_has_not_evaluated(played):
    """Other values where nothing was evaluated leave all observations as they are."""
    env, state = LEVELS.environment, None
    values = jnp.array([0.1, -0.4, 0.3, 1.2])
    seen = []
    for hidden in (0.0, 5.0):
        problem = bayesian_optimisation.Problem(jnp.stack([values.at[2:].add(hidden)] * 2))
        _, state = env.reset(jax.random.key(0), problem)
        obs, *_, info = env.step(jax.random.key(0), state, jnp.int32(1), problem)
        final = env.step(jax.random.key(0), env.step(jax.random.key(0), state, jnp.int32(1), problem)[1], 0, problem)
        seen.append((obs, info["final_observation"], final[-1]["final_observation"]))
    for x, y in zip(*seen, strict=True):
        np.testing.assert_array_equal(x, y)


def test_bad_input():
    with pytest.raises(ValueError, match="low must be below high = 1.0, got 1.0"):
        histogram(low=1.0, high=1.0)
    with pytest.raises(ValueError, match="bars must be at least 2, got 1"):
        histogram(bars=1)
    with pytest.raises(ValueError, match="auxiliary must be a Auxiliary|auxiliary must be an Auxiliary|Auxiliary"):
        ppo(auxiliary=histogram)
    levels = mdp.distribution(num_states=2, num_actions=2)
    inner = rl_inner_loop(levels.environment, tabular, ppo(auxiliary=histogram()), optax.sgd(0.1), Experience(2, 2))
    agent = inner.init(jax.random.key(0), levels.sample(jax.random.key(0)))
    with pytest.raises(ValueError, match="whose info has 'labels', a number for each of its 2 actions"):
        inner.step(inner.init_meta(jax.random.key(0)), agent, jax.random.key(0))

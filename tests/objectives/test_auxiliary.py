"""The histogram loss: by hand, as a part of every actor-critic, and that labels reach no policy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import bayesian_optimisation
from metarl.objectives import a2c, dpo, histogram, lpo, ppo
from metarl.rl.neural_process import neural_process
from metarl.rl.rollout import Rollout, model, reset, rollout

LEVELS = bayesian_optimisation.distribution(candidates=4, evaluations=2, functions=2)
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
    """What the plain and the whole loss are, with gradients, for a rollout with its labels and with others."""
    env, agent = LEVELS.environment, model(LEVELS.environment, NETWORK, {"value": 1, **AUXILIARY.outputs})

    @jax.jit
    def play(key):
        params = agent.network.init(key)
        problem = LEVELS.sample(key).problem
        data = rollout(env, agent, params, reset(env, agent, problem, key, 3), problem, key, 2)[1]

        def learn(auxiliary, labels):
            objective = ppo(auxiliary=auxiliary)
            seen = data._replace(labels=labels)
            targets = objective.targets((), (), params, agent, seen, None)[0]
            return jax.value_and_grad(objective.loss, 1, has_aux=True)((), params, agent, seen, targets, None)

        both = jnp.stack([data.labels, -data.labels])
        return data, [jax.vmap(partial(learn, auxiliary))(both) for auxiliary in (None, AUXILIARY)]

    data, found = play(jax.random.key(0))
    return data, [jax.tree.map(lambda x, i=i: x[i], pair) for pair in found for i in range(2)]


def test_actor_critics_add_the_loss(played):
    data, (((plain, _), _), _, ((both, metrics), _), _) = played
    assert data.labels.shape == (2, 3, 4) and float(metrics["histogram_loss"]) > 0.5
    assert float(both - plain) == pytest.approx(0.5 * float(metrics["histogram_loss"]), rel=1e-3)


@pytest.mark.parametrize("make", [a2c, ppo, dpo, lpo])
def test_every_actor_critic_asks_for_the_outputs(make):
    assert dict(make(auxiliary=AUXILIARY).outputs) == {"value": 1, **AUXILIARY.outputs}
    assert dict(make().outputs) == {"value": 1}


def test_labels_change_the_histogram_and_nothing_else(played):
    """The gradient of the plain loss is the same whatever the labels are; that of the histogram is not."""
    _, ((_, plain), (_, plain_of_others), (_, both), (_, both_of_others)) = played

    def are_equal(one, other):
        return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))

    assert are_equal(plain, plain_of_others) and not are_equal(both, both_of_others)


def test_a_policy_does_not_see_what_it_has_not_evaluated():
    """Other values where nothing was evaluated leave all observations as they are."""
    env = LEVELS.environment
    values = jnp.array([0.1, -0.4, 0.3, 1.2])
    seen = []
    for hidden in (0.0, 5.0):
        problem = bayesian_optimisation.Problem(jnp.stack([values.at[2:].add(hidden)] * 2))
        _, state = env.reset(jax.random.key(0), problem)
        obs, state, *_ = env.step(jax.random.key(0), state, jnp.int32(1), problem)
        last = env.step(jax.random.key(0), state, jnp.int32(0), problem)
        seen.append((obs, last[-1]["final_observation"]))
    for x, y in zip(*seen, strict=True):
        np.testing.assert_array_equal(x, y)


def test_bad_input():
    with pytest.raises(ValueError, match="low must be below high = 1.0, got 1.0"):
        histogram(low=1.0, high=1.0)
    with pytest.raises(ValueError, match="bars must be at least 2, got 1"):
        histogram(bars=1)
    with pytest.raises(ValueError, match=r"auxiliary must be .*Auxiliary.*call histogram\(...\)"):
        ppo(auxiliary=histogram)
    for labels in ((), jnp.zeros((1, 1, 3))):
        with pytest.raises(ValueError, match="whose info has 'labels', a number for each of its 2 actions"):
            AUXILIARY.loss({"bars": jnp.zeros((1, 1, 2, 4))}, labelled(labels))

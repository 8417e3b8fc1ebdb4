"""The actor-critic from which a learned policy gradient may start, against advantages computed as actor-critics do."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl
from envs import mdp
from metarl.estimators import backprop
from metarl.objectives import lpg
from metarl.objectives.hand_made import UNITS
from metarl.optimizers import adam, per_output
from metarl.rl.returns import gae
from metarl.rl.rollout import model, reset, rollout, unroll

BINS, LARGEST, DISCOUNT, LAMBDA = 9, 2.0, 0.9, 0.8
VALUES = np.linspace(-LARGEST, LARGEST, BINS)
LEVELS = mdp.distribution(num_states=4, num_actions=3, max_steps=5, horizon=8)
OPTIONS = {"bins": BINS, "discount": DISCOUNT, "gae_lambda": LAMBDA, "largest_value": LARGEST, "start": "actor_critic"}
T, E = 12, 3


@pytest.fixture(scope="module")
def played():
    """A rollout of an agent of random parameters: (agent, params, data), with advantages of which tanh is linear."""
    agent, level = model(LEVELS.env, metarl.networks.tabular, {"y": BINS}), LEVELS.sample(jax.random.key(0))
    params = agent.network.init(jax.random.key(1))
    for seed, name in enumerate(("y", "policy"), 5):
        params[name] = 2.0 * jax.random.normal(jax.random.key(seed), params[name].shape)
    actors = reset(LEVELS.env, agent, level.problem, jax.random.key(3), E)
    _, data = rollout(LEVELS.env, agent, params, actors, level.problem, jax.random.key(4), T)
    assert data.terminated.any() or data.done.any()
    return agent, params, data._replace(reward=0.2 * data.reward)


def check_targets(played, objective, meta_params, discount, gae_lambda, blame, caution, limit):
    """That the rule's targets, after 3 of 8 updates, are those of an actor-critic with these numbers."""
    agent, params, data = played
    targets, *_ = objective.targets(meta_params, (), params, agent, data, metarl.Progress(jnp.int32(3), jnp.int32(8)))
    outputs, next_outputs = unroll(agent, params, data)
    value, next_value = (jax.nn.softmax(x["y"]) @ VALUES for x in (outputs, next_outputs))
    advantage = gae(data, value, next_value, jnp.float32(discount), jnp.float32(gae_lambda))
    assert jnp.abs(advantage).max() > 0.3
    prob = jnp.exp(agent.policy.distribution(outputs["policy"]).log_prob(data.action))
    cost = caution * jnp.maximum(prob - limit, 0.0)
    wanted = jnp.where(advantage < 0, blame, 1.0) * advantage - cost
    np.testing.assert_allclose(targets.pi_hat, wanted, rtol=0.05, atol=0.01)
    returns = np.asarray(advantage + value)[..., None]
    normal = jax.nn.softmax(-((VALUES - returns) ** 2) / (2 * (VALUES[1] - VALUES[0]) ** 2))
    np.testing.assert_allclose(jnp.exp(targets.log_y_hat), normal, atol=0.03)


@pytest.mark.parametrize("caution", [0.0, 0.4], ids=["bold", "cautious"])
@pytest.mark.parametrize("temporal", [False, True], ids=["blind", "temporal"])
@pytest.mark.parametrize("learned", ["weights", "coordinates"])
def test_targets_are_the_advantages_and_returns_of_an_actor_critic(played, temporal, caution, learned):
    objective = lpg(hidden=UNITS, temporal=temporal, caution=caution, learned=learned, **OPTIONS)
    born = objective.init(jax.random.key(2))
    limit = 3 / 8 if temporal else 0.0
    check_targets(played, objective, born, DISCOUNT, LAMBDA, 1.0, caution, limit)


@pytest.mark.parametrize("temporal", [False, True], ids=["blind", "temporal"])
def test_coordinates_move_the_numbers_of_the_actor_critic(played, temporal):
    objective = lpg(hidden=UNITS, temporal=temporal, caution=0.1, learned="coordinates", **OPTIONS)
    weights = jnp.array([0.2, -0.4, 0.3] if temporal else [0.2])
    moved = {"discount": -0.5, "gae_lambda": 0.7, "blame": -0.4, "caution": 0.3, "limit": weights}
    odds = lambda share, unit: 1 / (1 + (1 - share) / share * np.exp(-unit))  # noqa: E731
    limit = 0.2 + (1 - 0.4) * 3 / 8 + 0.3 * (np.log10(8) - 2) if temporal else 0.2
    numbers = odds(DISCOUNT, -0.5), odds(LAMBDA, 0.7), np.exp(-0.4)
    check_targets(played, objective, jax.tree.map(jnp.float32, moved), *numbers, 0.4, limit)


def test_other_units_stay_as_they_are_born_and_can_learn():
    """Nothing listens to them at first, but the meta-gradient reaches what would."""
    started, born = (lpg(hidden=8, **{**OPTIONS, "start": start}).init(jax.random.key(0)) for start in _STARTS)
    others = jnp.concatenate([jnp.arange(UNITS, 8) + gate * 8 for gate in range(3)])
    for name in ("input_kernel", "input_bias", "recurrent_kernel"):
        chex.assert_trees_all_equal(started[name][..., others], born[name][..., others])
    chex.assert_trees_all_equal(started["embed_hidden"]["kernel"][:, 1:], born["embed_hidden"]["kernel"][:, 1:])
    assert (started["pi_hat"]["kernel"][UNITS:] == 0).all() and (started["embed"]["kernel"][1:] == 0).all()
    assert (started["y_hat"]["kernel"][UNITS:] == 0).all()
    inner = metarl.rl_inner_loop(
        LEVELS.env,
        metarl.networks.tabular,
        lpg(hidden=8, **OPTIONS),
        per_output(policy=adam(0.1), y=optax.sgd(40.0)),
        metarl.Experience(E, T),
        critic=metarl.Critic(optax.adam(0.1)),
    )
    meta = metarl.compose(inner, backprop(2), optax.sgd(1.0), metarl.curricula.uniform(LEVELS), 2)
    before = jax.jit(meta.init)(jax.random.key(0))
    after, _ = jax.jit(meta.step)(before, jax.random.key(1))
    moved = jax.tree.map(lambda x, y: x != y, before.params["objective"], after.params["objective"])
    assert moved["pi_hat"]["kernel"][UNITS:].any() and moved["y_hat"]["kernel"][UNITS:].any()
    assert moved["input_kernel"][..., :UNITS].any() and moved["embed"]["kernel"][1:].any()


_STARTS = ("actor_critic", "scratch")


def test_agents_that_it_trains_find_the_best_actions():
    """Of random MDPs whose best policy earns about twice as much as a random one."""
    inner = metarl.rl_inner_loop(
        LEVELS.env,
        metarl.networks.tabular,
        lpg(hidden=5, **OPTIONS),
        per_output(policy=adam(0.1), y=optax.sgd(40.0)),
        metarl.Experience(8, 20),
    )
    meta_params = inner.init_meta(jax.random.key(0))

    @jax.jit
    @jax.vmap
    def returns(key):
        level_key, key = jax.random.split(key)
        level = LEVELS.sample(level_key)._replace(horizon=jnp.int32(100))
        agent, _ = metarl.train_agent(inner, meta_params, level, key, 100)
        newborn, _ = metarl.train_agent(inner, meta_params, level, key, 0)
        return [inner.fitness(meta_params, x, key) for x in (newborn, agent)] + [LEVELS.optimal_return(level.problem)]

    random, learned, best = np.mean(returns(jax.random.split(jax.random.key(1), 16)), axis=1)
    assert learned - random > 0.9 * (best - random)


def test_what_it_needs():
    with pytest.raises(ValueError, match="hidden, to start from an actor-critic, must be at least 5, got 4"):
        lpg(hidden=4, **OPTIONS)
    with pytest.raises(ValueError, match="start actor_critic needs a discount, got None"):
        lpg(**{**OPTIONS, "discount": None})
    with pytest.raises(ValueError, match="hidden, to learn coordinates, must be one of 5, got 8"):
        lpg(hidden=8, learned="coordinates", **OPTIONS)
    with pytest.raises(ValueError, match="start, to learn coordinates, must be one of actor_critic, got 'scratch'"):
        lpg(hidden=5, learned="coordinates")
    with pytest.raises(ValueError, match="gae_lambda must be below 1, got 1"):
        lpg(hidden=5, learned="coordinates", **{**OPTIONS, "gae_lambda": 1})
    with pytest.raises(ValueError, match="gate_bias, to learn coordinates, must be one of 0"):
        lpg(hidden=5, learned="coordinates", gate_bias=2.0, **OPTIONS)
    with pytest.raises(ValueError, match="pi_hat, to learn coordinates, must be one of None, got 'r'"):
        lpg(hidden=5, learned="coordinates", pi_hat="r", **OPTIONS)

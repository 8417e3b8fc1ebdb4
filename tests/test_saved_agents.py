"""Agents as files: they play as they did in memory, in environments of their spaces and in no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
import metarl
from metarl import rules
from metarl.rl.rollout import evaluate, model
from metarl.saved_agents import Memory

NETWORKS = {
    "tabular": ("mdp/random", {"name": "tabular"}),
    "gru": ("Catch-bsuite", {"name": "gru", "size": 4}),
    "continuous": ("Pendulum-v1", {"name": "mlp", "sizes": [4]}),
}
OUTPUTS = {"value": 1}


@pytest.fixture(scope="module", params=NETWORKS)
def saved(request, tmp_path_factory):
    """The environment, the model and the parameters of an agent in memory, and the one that is loaded."""
    name, network = NETWORKS[request.param]
    env = envs.make(name).environment
    path = tmp_path_factory.mktemp("agents") / "agent.safetensors"
    made = model(env, rules.build_part("network", network), OUTPUTS)
    params = jax.tree.map(
        lambda x: x + np.random.default_rng(1).normal(0.0, 0.1, x.shape).astype(x.dtype),
        jax.jit(made.network.init)(jax.random.key(0)),
    )
    metarl.save_agent(path, params, env, network, OUTPUTS, {"note": "mine"})
    return env, made, params, metarl.load_agent(path)


def test_a_saved_agent_plays_as_the_one_in_memory(saved):
    env, made, params, agent = saved
    key = jax.random.key(2)
    ours = jax.jit(lambda key: agent.play(env, key, num_episodes=3, max_steps=20))(key)
    theirs = jax.jit(lambda key: evaluate(env, made, params, env.default_params, key, 3, 20))(key)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert agent.card["note"] == "mine" and ours.length.max() > 1


def test_its_actions_are_those_of_its_policy_with_its_memory(saved):
    env, made, params, agent = saved
    keys = jax.random.split(jax.random.key(3), 4)
    obs = jax.jit(jax.vmap(lambda key: env.reset(key, env.default_params)[0]))(keys[:2])

    @jax.jit
    def by_hand(first, carry, obs, key):
        outputs, carry = made.network.apply(params, obs, first, carry)
        return made.policy.clip(made.policy.distribution(outputs["policy"]).sample(seed=key)), carry

    act, memory, carry = jax.jit(agent.act), agent.memory, made.network.carry
    for first, key, x in ((True, keys[2], obs[0]), (False, keys[3], obs[1]), (True, keys[3], obs[1])):
        if first:
            memory = Memory(memory.carry, jnp.bool_(True))  # an episode has ended
        action, memory = act(key, x, memory)
        expected, carry = by_hand(jnp.bool_(first), carry, x, key)
        np.testing.assert_array_equal(action, expected)
        jax.tree.map(np.testing.assert_array_equal, memory.carry, carry)
        assert not memory.first


def test_an_environment_of_other_spaces_is_refused(saved):
    env, _, _, agent = saved
    other = envs.make("CartPole-v1").environment
    with pytest.raises(ValueError, match=r"the agent is of observation space \{.*, but the environment has"):
        agent.play(other, jax.random.key(0))


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda d: metarl.load_agent(d / "x"), FileNotFoundError, "no agent at"),
        (
            lambda d: metarl.load_agent(rules._SHIPPED / "lpg-gridworld.safetensors"),
            ValueError,
            "metarl.load_rule reads",
        ),
        (
            lambda d: metarl.save_agent(d / "x", {"policy": jnp.ones((2, 2))}, MDP, {"name": "tabular"}, OUTPUTS),
            ValueError,
            "the parameters are not those of this network",
        ),
        (lambda d: metarl.save_agent(d / "x", {}, MDP, {"name": "cnn"}, OUTPUTS), ValueError, "got 'cnn'"),
    ],
)
def test_what_is_no_agent_is_refused(act, error, says, tmp_path):
    with pytest.raises(error, match=says):
        act(tmp_path)


MDP = envs.make("mdp/random").environment

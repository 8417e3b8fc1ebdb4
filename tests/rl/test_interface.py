"""A user's own environment: what departs from the interface is said before anything compiles."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import metarl
from metarl.types import Box, Discrete


class State(NamedTuple):
    time: jax.Array


class Walk:
    """Moves on a line; `wrong` replaces one part of what `step` returns."""

    default_params = ()

    def __init__(self, **wrong):
        self.wrong = wrong

    def reset(self, key, params):
        return jnp.zeros(2), State(jnp.int32(0))

    def step(self, key, state, action, params):
        parts = dict(
            obs=jnp.ones(2),
            state=State(state.time + 1),
            reward=jnp.float32(action),
            terminated=state.time > 3,
            truncated=jnp.zeros((), bool),
            info={"final_observation": jnp.ones(2)},
        )
        return tuple(x for x in {**parts, **self.wrong}.values() if x is not None)

    def action_space(self, params):
        return Discrete(2)

    def observation_space(self, params):
        return Box(-1.0, 1.0, self.wrong.get("space", (2,)))


def build(env, network=None, optimizer=None):
    network = network or metarl.networks.mlp((4,))
    objective, optimizer = metarl.objectives.a2c(), optimizer or optax.adam(1e-2)
    return metarl.rl_inner_loop(env, network, objective, optimizer, metarl.Experience(2, 3))


def test_an_unregistered_environment_of_the_right_shape_trains():
    levels = metarl.constant_levels(Walk(), horizon=5)
    inner = build(levels.env)
    level, key = levels.sample(jax.random.key(0)), jax.random.key(1)
    agent, metrics = jax.jit(lambda: metarl.train_agent(inner, inner.init_meta(key), level, key, 6))()
    assert int(agent.step) == 5 and jnp.isfinite(metrics["policy_loss"]).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(truncated=None), "got 5 values"),
        (dict(info={}), "final_observation"),
        (dict(info={"final_observation": jnp.ones(3)}), r"final_observation'\] must be float32\[2\], got float32\[3\]"),
        (dict(reward=jnp.ones(1)), r"reward shape must be \(\), got \(1,\)"),
        (dict(obs=jnp.ones(2, jnp.int32)), r"step's observation must be float32\[2\], got int32\[2\]"),
        (dict(state=State(jnp.float32(0))), "step's state must be .*int32"),
    ],
)
def test_a_step_that_departs_from_the_interface_is_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        build(Walk(**wrong))


def test_an_observation_unlike_its_space_is_named():
    env = Walk()
    env.observation_space = lambda params: Box(-1.0, 1.0, (3,))
    with pytest.raises(ValueError, match=r"observation shape must be \(3,\), got \(2,\)"):
        build(env)


def test_networks_and_optimizers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="Discrete observation space"):
        build(Walk(), network=metarl.networks.tabular)
    with pytest.raises(ValueError, match=r"does not fit observations of shape \(2,\)"):
        build(Walk(), network=metarl.networks.minatar_conv())
    with pytest.raises(ValueError, match="does not fit a network of outputs"):
        build(Walk(), optimizer=metarl.optimizers.per_output(policy=optax.sgd(1.0)))

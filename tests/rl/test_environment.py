"""A user's own environment, network and optimizer: what departs from the interface is said before anything compiles."""

from typing import NamedTuple
from urllib.error import URLError

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
import metarl
from metarl.rl.environment import check_environment, trace_environment
from metarl.types import Box, Discrete


class State(NamedTuple):
    time: jax.Array


class Walk:
    """Walks on a line for 4 steps; `wrong` replaces parts of what `step` returns (None: leaves it out)."""

    default_params = ()

    def __init__(self, **wrong):
        self.wrong = wrong

    def reset(self, key, params):
        return jnp.zeros(2), State(jnp.int32(0))

    def step(self, key, state, action, params):
        time = state.time + 1
        ended = time > 3
        parts = dict(
            obs=jnp.where(ended, 0.0, jnp.full(2, time / 4)),
            state=State(jnp.where(ended, 0, time)),
            reward=jnp.float32(action),
            terminated=ended,
            truncated=jnp.zeros((), bool),
            info={"final_observation": jnp.full(2, time / 4)},
        )
        return tuple(x for x in {**parts, **self.wrong}.values() if x is not None)

    def action_space(self, params):
        return Discrete(2)

    def observation_space(self, params):
        return Box(-1.0, 1.0, (2,))


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


def with_method(name, value):
    env = Walk()
    setattr(env, name, value)
    return env


def without(name):
    return type("Walk", (), {key: x for key, x in vars(Walk).items() if key != name})()


def of_numbers():
    """Its observations should be those of a Discrete space, but are floats."""
    env = with_method("observation_space", lambda params: Discrete(4))
    env.reset = lambda key, params: (jnp.zeros(()), State(jnp.int32(0)))
    return env


def impossible(key, params):
    raise RuntimeError("no such level\n(in line 7)")


FLAGS = "returned {}, wanted bool[]"
FAULTS = {
    "a class": (lambda: Walk, "env must be an environment, got the class Walk: give Walk(...)"),
    "levels": (lambda: envs.make("mdp/random"), "env must be an environment, but Levels has no default_params, reset"),
    "no reset": (lambda: without("reset"), "env must be an environment, but Walk has no reset"),
    "no params": (lambda: without("default_params"), "env must be an environment, but Walk has no default_params"),
    "no spaces": (lambda: without("action_space"), "env must be an environment, but Walk has no action_space"),
    "no action space": (
        lambda: with_method("action_space", lambda params: None),
        "action space must be Discrete or a one-dimensional Box, got None",
    ),
    "actions of two axes": (
        lambda: with_method("action_space", lambda params: Box(0.0, 1.0, (2, 2))),
        "action space must be Discrete or a one-dimensional Box, got Box(low=0.0, high=1.0, shape=(2, 2)",
    ),
    "no observation space": (
        lambda: with_method("observation_space", lambda params: None),
        "Walk.observation_space returned None, wanted a Discrete or a Box",
    ),
    "another space": (
        lambda: with_method("observation_space", lambda params: Box(-1.0, 1.0, (3,))),
        "the observation that Walk.reset returned float32[2], wanted ",
    ),
    "floats in a discrete space": (of_numbers, "the observation that Walk.reset returned float32[], wanted int[]"),
    "reset raises": (
        lambda: with_method("reset", impossible),
        "Walk.reset cannot be traced: RuntimeError: no such level",
    ),
    "reset None": (
        lambda: with_method("reset", lambda key, params: None),
        "Walk.reset returned None, wanted (obs, state)",
    ),
    "reset gym": (
        lambda: with_method("reset", lambda key, params: (jnp.zeros(2), State(0), {})),
        "Walk.reset returned 3 values, wanted 2: (obs, state)",
    ),
    "reset observation only": (
        lambda: with_method("reset", lambda key, params: jnp.zeros(2)),
        "Walk.reset returned float32[2], wanted (obs, state)",
    ),
    "five values": (
        lambda: Walk(truncated=None),
        "Walk.step returned 5 values, wanted 6: (obs, state, reward, terminated, truncated, info)",
    ),
    "step None": (
        lambda: with_method("step", lambda *args: None),
        "Walk.step returned None, wanted (obs, state, reward, terminated, truncated, info)",
    ),
    "no final observation": (
        lambda: Walk(info={}),
        "Walk.step returned the info {}, wanted a dict with 'final_observation'",
    ),
    "another final observation": (
        lambda: Walk(info={"final_observation": jnp.ones(3)}),
        "the info['final_observation'] that Walk.step returned float32[3], wanted float32[2]",
    ),
    "another observation": (
        lambda: Walk(obs=jnp.ones(2, jnp.int32)),
        "the observation that Walk.step returned int32[2], wanted float32[2]",
    ),
    "another state": (
        lambda: Walk(state=State(jnp.float32(0))),
        "the state that Walk.step returned float32[] at .time, wanted int32[]",
    ),
    "another tree": (
        lambda: Walk(state=(jnp.int32(0),)),
        "the state that Walk.step returned (int32[],), wanted State(",
    ),
    "reward vector": (lambda: Walk(reward=jnp.ones(1)), "the reward that Walk.step returned float32[1], wanted "),
    "reward complex": (lambda: Walk(reward=jnp.ones((), complex)), "the reward that Walk.step returned complex64[], "),
    "terminated 0.5": (lambda: Walk(terminated=0.5), "the terminated that Walk.step returned float32[], wanted bool"),
    "truncated [1]": (lambda: Walk(truncated=jnp.ones(1, bool)), "the truncated that Walk.step returned bool[1], "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_departs_from_the_interface_is_named(fault):
    make, says = FAULTS[fault]
    for use in (build, check_environment):
        with pytest.raises(ValueError) as error:
            use(make())
        assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_integer_flags_and_rewards_are_taken():
    trace_environment(Walk(reward=jnp.int32(1), terminated=jnp.int32(0)))


# --- what shows in use only ---------------------------------------------------------------------------------


class Untidy(Walk):
    """Its episodes go on after their end."""

    def step(self, key, state, action, params):
        time = state.time + 1
        obs = jnp.full(2, jnp.minimum(time / 8, 1.0))
        ended = time > 3
        return obs, State(time), jnp.float32(0), ended, jnp.zeros((), bool), {"final_observation": obs}


class Moody(Walk):
    """Draws its rewards outside of JAX."""

    def step(self, key, state, action, params):
        obs, state, _, *rest = super().step(key, state, action, params)
        return obs, state, jnp.float32(np.random.random()), *rest


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (
            Walk(obs=jnp.full(2, 3.0)),
            "Walk.step returned an observation with an entry 3.0, wanted one from -1.0",
        ),
        (Walk(obs=jnp.full(2, jnp.nan)), "Walk.step returned an observation with an entry nan, wanted one from"),
        (
            Walk(info={"final_observation": jnp.full(2, -2.0)}),
            "Walk.step's info['final_observation'] returned an observation with an entry -2.0",
        ),
        (Walk(reward=jnp.float32(jnp.nan)), "Walk.step returned the reward nan, wanted a finite number"),
        (Walk(reward=jnp.float32(jnp.inf)), "Walk.step returned the reward inf, wanted a finite number"),
        (Untidy(), "Untidy.step returned the last observation of an episode that ended"),
        (Moody(), "Moody gave different results for the same keys"),
    ],
)
def test_what_a_trace_does_not_show_is_found_in_use(env, says):
    trace_environment(env)
    with pytest.raises(ValueError) as error:
        check_environment(env, steps=8)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_environments_that_are_right_pass():
    check_environment(Walk(), steps=8)
    check_environment(Walk(), (), steps=1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        check_environment(Walk(), steps=0)


# gymnax 1.0.1 declares narrower spaces than these environments have
OUTSIDE = ("MemoryChain-bsuite", "MetaMaze-misc", "GaussianBandit-misc")


@pytest.mark.slow
@pytest.mark.parametrize("name", envs.names())
def test_every_environment_passes(name):
    try:
        levels = envs.make(name)
        level = levels.sample(jax.random.key(0))
    except URLError as error:
        pytest.skip(f"downloads its data: {error}")
    if name in OUTSIDE:
        trace_environment(levels.environment, level.problem)
        with pytest.raises(ValueError, match="as its space says"):
            check_environment(levels.environment, level.problem)
    else:
        check_environment(levels.environment, level.problem)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in envs.names() if "/" not in name])
def test_environments_of_gymnax_pass_as_they_are(name):
    import gymnax

    try:
        env, params = gymnax.make(name)
    except URLError as error:
        pytest.skip(f"downloads its data: {error}")
    trace_environment(env, params)


# --- networks and optimizers --------------------------------------------------------------------------------


def network(**wrong):
    """A factory of networks; `wrong` replaces parts of the network, given the one that is right."""

    def factory(space, outputs):
        right = metarl.networks.mlp((4,))(space, outputs)
        return right._replace(**{name: make(right) for name, make in wrong.items()})

    return factory


def outputs(change):
    return lambda right: lambda *args: (change(right.apply(*args)[0]), right.apply(*args)[1])


def test_networks_and_optimizers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="Discrete observation space"):
        build(Walk(), network=metarl.networks.tabular)
    with pytest.raises(ValueError, match=r"does not fit observations of shape \(2,\)"):
        build(Walk(), network=metarl.networks.minatar_conv())
    with pytest.raises(ValueError, match="does not fit a network of outputs"):
        build(Walk(), optimizer=metarl.optimizers.per_output(policy=optax.sgd(1.0)))


APPLY = "Network.apply (outputs.<lambda>.<lambda>) returned"


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (7, "network must be a function, got 7"),
        (metarl.networks.mlp, "network must be a function (observation space, {output: size}) -> Network, got mlp: "),
        (
            metarl.networks.minatar_conv,
            "what the network minatar_conv returns must be a Network, got the function",
        ),
        (lambda space, outputs: None, "what the network <lambda> returns must be a Network, got None"),
        (
            network(apply=outputs(lambda x: {"policy": x["policy"]})),
            f"{APPLY} {{policy: float32[2]}}, wanted",
        ),
        (network(apply=outputs(lambda x: x["policy"])), f"{APPLY} float32[2], wanted the outputs ['policy', 'value']"),
        (
            network(apply=outputs(lambda x: {**x, "value": x["value"][0]})),
            f"the output 'value' that {APPLY} float32[], wanted float[1]",
        ),
        (
            network(apply=outputs(lambda x: {**x, "policy": x["value"]})),
            f"the output 'policy' that {APPLY} float32[1], wanted float[2]",
        ),
        (
            network(apply=lambda right: lambda *args: right.apply(*args)[0]),
            "Network.apply (<lambda>.<lambda>) returned {policy: float32[2], value: float32[1]}, wanted (outputs",
        ),
        (
            network(apply=lambda right: lambda *args: (right.apply(*args)[0], jnp.zeros(3))),
            "the carry that Network.apply (<lambda>.<lambda>) returned float32[3], wanted ()",
        ),
        (
            network(unroll=lambda right: lambda params, obs, first, next_obs, carry: (obs, carry)),
            "Network.unroll (<lambda>.<lambda>) returned 2 values, wanted 3: (outputs, next_outputs, carry)",
        ),
        (
            network(
                unroll=lambda right: lambda p, obs, first, *more: (*[right.apply(p, obs[0], first, ())[0]] * 2, ())
            ),
            "the outputs that Network.unroll (<lambda>.<lambda>) returned float32[2] at ['policy'], wanted float32[2,",
        ),
    ],
)
def test_networks_of_the_wrong_kind_are_named(network, says):
    with pytest.raises(ValueError) as error:
        build(Walk(), network=network)
    assert str(error.value).startswith(says)

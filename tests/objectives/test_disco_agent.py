"""A whole DiscoRL agent against the reference: 20 updates on fixed rollouts, and the meta-gradient through three."""

from functools import partial

import golden_disco as golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_disco import assert_near, needed

from metarl.objectives import disco
from metarl.objectives.disco import AgentTargets, DiscoMemory, disco_losses, disco_targets, entropy, outputs_of
from metarl.objectives.disco_values import Steps, taken
from metarl.pretrained.disco import load_disco
from metarl.rl.networks import action_model, policy_head
from metarl.rl.rollout import Model, Rollout
from metarl.rules import build_part
from metarl.types import Box, Discrete, Progress

ACTIONS, HIDDEN, RATE = 3, 16, 5e-3
SIZES = {"policy": ACTIONS, "y": 600, "z": (ACTIONS, 600), "next_policy": (ACTIONS, ACTIONS), "q": (ACTIONS, 601)}
MODEL = Model(action_model((32, 32), HIDDEN)(Box(0.0, 1.0, (25,)), SIZES), policy_head(Discrete(ACTIONS)))
OBJECTIVE = disco()
OPTIMIZER = build_part("optimizer", {"name": "adam", "learning_rate": RATE, "max_update": 1.0})
PROGRESS = Progress(jnp.int32(0), jnp.int32(1))
LAYERS = {
    "torso_0": "mlp/~_embedding_pass/torso/~/linear_0",
    "torso_1": "mlp/~_embedding_pass/torso/~/linear_1",
    "policy": "mlp/~_head_pass/torso_head/~/linear_0",
    "y": "mlp/~_head_pass/torso_head_1/~/linear_0",
    "root": "mlp/linear",
    "z_hidden": "mlp/mlp/~/linear_0",
    "z": "mlp/mlp/~/linear_1",
    "next_policy_hidden": "mlp/mlp_1/~/linear_0",
    "next_policy": "mlp/mlp_1/~/linear_1",
    "q_hidden": "mlp/mlp_2/~/linear_0",
    "q": "mlp/mlp_2/~/linear_1",
}


@pytest.fixture(scope="module")
def agent():
    return golden.arrays("golden_agent.npz")


@pytest.fixture(scope="module")
def weights():
    return jax.tree.map(jnp.asarray, load_disco(golden.WEIGHTS)[0]["objective"])


def params_of(found):
    """The reference's parameters as those of our network."""
    layers = {ours: {"kernel": found[f"{x}/w"], "bias": found[f"{x}/b"]} for ours, x in LAYERS.items()}
    by_action, by_state = jnp.split(found["mlp/action_cond/linear/w"], [ACTIONS])
    lstm = {"kernel": by_state, "bias": found["mlp/action_cond/linear/b"]}
    return {**layers, "lstm_action": by_action, "lstm": lstm}


def rollout_of(found):
    ended = found["discounts"][1:] == 0.0
    nothing = jnp.zeros_like(ended)
    return Rollout(
        obs=found["obs"][:-1],
        action=found["actions"][:-1],
        log_prob=0.0 * nothing,
        reward=found["rewards"][1:],
        terminated=ended,
        truncated=nothing,
        boundary=nothing,
        next_obs=found["obs"][1:],
        first=nothing,
        episode_return=0.0 * nothing,
        carry=(),
    )


def targets_of(weights, memory, params, found):
    """`OBJECTIVE.targets` for a rollout that another policy collected."""
    data = rollout_of(found)
    steps = Steps(found["behaviour_logits"][:-1], data.action, data.reward, data.terminated, data.done)
    networks = [x for params in (params, memory.target_params) for x in outputs_of(MODEL, params, data)]
    learned, values, state = disco_targets(weights, memory.rule, steps, *networks)
    target_params = optax.incremental_update(params, memory.target_params, 0.1)
    return AgentTargets(learned, networks[1].policy, values.returns), 0.0, DiscoMemory(state, target_params)


@partial(jax.jit, static_argnames="mask")
def update(weights, learner, found, mask):
    """One update of `learner` (parameters, optimizer state, memory), and what it minimised and added.

    The agents that learn from every step (without `mask`) did not collect the rollouts themselves.
    """
    params, opt_state, memory = learner
    data, weight = rollout_of(found), found["discounts"][:-1]
    if mask:
        targets, added, memory = OBJECTIVE.targets(weights, memory, params, MODEL, data, PROGRESS)
    else:
        targets, added, memory = targets_of(weights, memory, params, found)

    def loss(params):
        if not mask:
            return OBJECTIVE.loss(weights, params, MODEL, data, targets, PROGRESS)
        # the reference leaves out steps whose observation came with the end of an episode
        terms = disco_losses(outputs_of(MODEL, params, data)[0], targets, data.action, data.terminated)
        plain = {f"{name}_loss": x.mean() for name, x in terms._asdict().items()}
        return (weight * (sum(terms[:-1]) + 0.2 * terms.q)).sum() / (weight.sum() + 1e-8), plain

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = OPTIMIZER.update(gradient, opt_state)
    return (optax.apply_updates(params, updates), opt_state, memory), (value, metrics, added)


def lived(agent, weights, mask):
    """The learner after each of the 20 updates, with what it minimised."""
    params = params_of(agent("params", 0))
    learner = params, OPTIMIZER.init(params), OBJECTIVE.init_memory(params)
    for i in range(20):
        learner, (value, metrics, _) = update(weights, learner, agent("rollout", i), mask)
        yield learner, value, metrics


@needed
def test_the_network_is_the_references(agent):
    outputs = jax.vmap(jax.vmap(lambda obs: MODEL.network.apply(params_of(agent("params", 0)), obs, False, ())[0]))
    found, wanted = outputs(agent("rollout", 0)["obs"][:2]), agent("forward", 0)
    for name, theirs in {**golden.OUTPUTS, "policy": "logits"}.items():
        assert_near(found[name], wanted[theirs], 5e-5, name)


@needed
def test_twenty_updates_are_the_references(agent, weights):
    logs = {"policy_loss": "pi_loss", "next_policy_loss": "aux_kl_loss", "q_loss": "q_loss"}
    for i, (learner, value, metrics) in enumerate(lived(agent, weights, True)):
        params, opt_state, memory = learner
        log = agent("step", i, "log")
        assert_near(value, log["total_loss"], 5e-5, f"loss {i}")
        for ours, theirs in logs.items():
            assert_near(metrics[ours], log[theirs], 5e-4, f"{ours} {i}")
        jax.tree.map(partial(assert_near, tolerance=5e-4), memory.rule, golden.state(agent("step", i, "state")))
        if there := agent("params", i + 1):
            jax.tree.map(partial(np.testing.assert_allclose, atol=2e-4, rtol=0), params, params_of(there))
    finals = {"target": memory.target_params, "mu": opt_state[0].mu, "nu": opt_state[0].nu}
    for name, found in finals.items():
        jax.tree.map(partial(assert_near, tolerance=2e-3), found, params_of(agent(name, 20)))


@needed
def test_twenty_updates_without_dead_steps_are_the_references(agent, weights):
    """The objective as it is, which learns from every step."""
    losses = agent("nomask", "total_loss")
    for i, ((params, _, _), value, _) in enumerate(lived(agent, weights, False)):
        assert_near(value, losses[str(i)], 5e-5, f"loss {i}")
        if there := agent("nomask", "params", i + 1):
            jax.tree.map(partial(np.testing.assert_allclose, atol=2e-4, rtol=0), params, params_of(there))


@needed
@pytest.mark.parametrize(
    ("objective", "mask"),
    [
        ("regularised", True),
        pytest.param("pg", True, marks=pytest.mark.slow),
        pytest.param("pg", False, marks=pytest.mark.slow),
    ],
)
def test_the_meta_gradient_is_the_references(agent, weights, objective, mask):
    """Through three updates, by the policy gradient of the fourth rollout; regularised as meta-training is, too."""
    params, target, mu, nu = (
        params_of(agent(*x)) for x in (("params", 5), ("at5", "target"), ("at5", "mu"), ("at5", "nu"))
    )
    opt_state = (optax.ScaleByAdamState(jnp.int32(5), mu, nu), *OPTIMIZER.init(params)[1:])
    memory = DiscoMemory(golden.state(agent("step", 4, "state")), target)
    judge = agent("rollout", 8)

    def meta_loss(weights):
        learner, added = (params, opt_state, memory), []
        for i in (5, 6, 7):
            learner, (_, _, more) = update(weights, learner, agent("rollout", i), mask)
            added.append(more)
        outputs = jax.vmap(jax.vmap(lambda obs: MODEL.network.apply(learner[0], obs, False, ())[0]))(judge["obs"])
        now = {name: x[:-1] for name, x in outputs.items()}
        log_prob = taken(jax.nn.log_softmax(now["policy"]), judge["actions"][:-1])
        value = -(agent("meta")["advantage"] * log_prob).mean()
        if objective == "pg":
            return value
        # the reference also counts the prediction of the last state
        last = entropy(outputs["y"]).mean() - entropy(now["y"]).mean()
        regulariser = OBJECTIVE.regulariser(weights, learner[0], MODEL, rollout_of(judge))
        return value + regulariser - 1e-3 * last + sum(added) / 3

    value, gradient = jax.jit(jax.value_and_grad(meta_loss))(weights)
    wanted = agent("meta", "mask" if mask else "nomask", objective)
    assert_near(value, wanted["loss"], 5e-4)
    for name, found in golden.by_name(gradient).items():
        if wanted[f"norm/{name}"] > 1e-6:  # others are 0 in truth, and hold noise
            assert_near(jnp.linalg.norm(found.ravel()), wanted[f"norm/{name}"], 2e-3, name)
            assert_near(golden.sampled(found), wanted[f"sample/{name}"], 5e-3, name, jnp.abs(found).max())

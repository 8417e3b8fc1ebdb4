"""DiscoRL's rule against the reference (fixtures of three consecutive updates, without agent networks), and alone."""

import bullseye
import golden_disco as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_disco import assert_near, needed
from seams.parts import MDP, assert_close, perturbed

import metarl
from metarl import networks, optimizers
from metarl.evaluation.surfaces import disco_surface
from metarl.objectives import disco
from metarl.objectives.disco import AgentTargets, DiscoState, disco_losses, disco_targets
from metarl.objectives.disco_network import DiscoTargets, LifetimeState, embedded, meta_network, newborn, seen_of
from metarl.objectives.disco_values import (
    Moments,
    Outputs,
    Steps,
    expected_value,
    no_moments,
    normalised,
    retrace,
    shrunk,
    taken,
    unshrunk,
    updated,
    value_loss,
)
from metarl.pretrained.disco import load_disco

ALL_COSTS = {"policy": 1.0, "y": 1.0, "z": 1.0, "next_policy": 1.0, "q": 0.2}
NOW, AFTER = slice(None, -1), slice(1, None)
UPDATES = [(case, update) for case in ("a4", "a3") for update in range(3)]
TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def rule():
    return golden.arrays("golden_rule.npz")


@pytest.fixture(scope="module")
def weights():
    return jax.tree.map(jnp.asarray, load_disco(golden.WEIGHTS)[0]["objective"])


def steps_of(found):
    ended = found["discounts"][1:] == 0.0
    return Steps(found["behaviour_logits"][NOW], found["actions"][NOW], found["rewards"], ended, ended)


def all_outputs(agent, target):
    """What both networks say of obs and of next_obs."""
    return [golden.outputs_of(x, rows) for x in (agent, target) for rows in (NOW, AFTER)]


@jax.jit
def followed(weights, state, inputs, agent, target):
    return disco_targets(weights, state, steps_of(inputs), *all_outputs(agent, target))


@pytest.fixture(scope="module")
def outputs(rule, weights):
    """(case, update) -> what our rule says."""
    found = {}
    for at in UPDATES:
        inputs = (rule(*at, "in"), rule(*at, "in", "agent"), rule(*at, "in", "target"))
        found[at] = followed(weights, golden.state(rule(*at, "before")), *inputs)
    return found


@needed
@pytest.mark.parametrize("at", UPDATES)
def test_targets_and_values_are_the_references(rule, outputs, at):
    targets, values, _ = outputs[at]
    out, mid = rule(*at, "out"), rule(*at, "mid")
    wanted = {
        "pi_hat": targets.policy,
        "y_hat": targets.y,
        "z_hat": targets.z,
        "adv": values.advantage,
        "q_target": values.returns,
    }
    for name, found in wanted.items():
        assert_near(found, out[name], TOLERANCE, name)
    assert_near(values.action_advantage, out["qv_adv"][NOW], TOLERANCE, "qv_adv")
    assert_near(values.value, mid["value"][NOW], TOLERANCE, "value")
    assert_near(values.next_value, mid["value"][AFTER], TOLERANCE, "next value")
    assert_near(values.target_action_value, mid["target_q_value"][NOW], TOLERANCE, "target_q_value")


@needed
@pytest.mark.parametrize("at", UPDATES)
def test_the_state_of_the_lifetime_is_the_references(rule, outputs, at):
    _, values, state = outputs[at]
    before, after, out = (rule(*at, part) for part in ("before", "after", "out"))
    assert_near(state.lifetime.hidden, after["rnn_hidden"], TOLERANCE, "hidden")
    assert_near(state.lifetime.cell, after["rnn_cell"], TOLERANCE, "cell")
    # the reference also has the moments of td, for a log
    td = rule(*at, "out")["q_td"]
    q = taken(rule(*at, "mid")["q_value"][NOW], rule(*at, "in")["actions"][NOW])
    assert_near(values.returns - q, td, TOLERANCE)
    td = updated(Moments(*(before[f"td_{x}"] for x in ("moment1", "moment2", "decay_product"))), td)
    for name, moments in {"adv": state.advantage, "td": td}.items():
        for ours, theirs in zip(moments, ("moment1", "moment2", "decay_product"), strict=True):
            assert_near(ours, after[f"{name}_{theirs}"], TOLERANCE, f"{name} {theirs}")
    assert_near(normalised(state.advantage, values.advantage), out["normalized_adv"], TOLERANCE)
    assert_near(normalised(state.advantage, values.action_advantage), out["normalized_qv_adv"][NOW], TOLERANCE)


@needed
@pytest.mark.parametrize("at", UPDATES)
def test_features_are_the_references(rule, weights, outputs, at):
    """Of both copies of the feature network."""
    _, values, state = outputs[at]
    inputs = rule(*at, "in")
    agent, after, target, target_after = all_outputs(rule(*at, "in", "agent"), rule(*at, "in", "target"))
    seen = seen_of(steps_of(inputs), values, state.advantage, agent, after, target, target_after)
    mid = rule(*at, "mid")
    for copy, name in ((weights, "rule"), (weights["lifetime"], "meta_rnn")):
        features, actions = embedded(copy, seen)
        assert_near(features, mid[f"{name}_features"], TOLERANCE, name)
        assert_near(actions, mid[f"{name}_action_embedding"], TOLERANCE, name)


def losses_of(rule, at, agent):
    """The terms of the agent's loss under the reference's targets."""
    inputs, out = rule(*at, "in"), rule(*at, "out")
    targets = AgentTargets(
        DiscoTargets(out["pi_hat"], out["y_hat"], out["z_hat"]),
        rule(*at, "in", "agent")["logits"][AFTER],
        out["q_target"],
    )
    steps = steps_of(inputs)
    return disco_losses(golden.outputs_of(agent, NOW), targets, steps.action, steps.terminated)


def total(terms):
    return sum(ALL_COSTS[name] * x for name, x in terms._asdict().items())


@needed
@pytest.mark.parametrize("at", UPDATES)
def test_the_loss_and_its_gradient_are_the_references(rule, at):
    agent, wanted, weight = rule(*at, "in", "agent"), rule(*at, "loss"), rule(*at, "in")["discounts"][NOW]
    terms = losses_of(rule, at, agent)
    theirs = {"policy": "pi", "y": "y", "z": "z", "next_policy": "aux_pi", "q": "q"}
    for name, found in terms._asdict().items():
        assert_near(found, wanted[theirs[name]], TOLERANCE, name)
    assert_near(total(terms), wanted["total_per_step"], TOLERANCE)
    assert_near(total(terms).mean(), wanted["total_mean"], TOLERANCE)

    def mean(agent):
        return total(losses_of(rule, at, agent)).mean()

    def masked(agent):  # the reference does not learn from a step whose observation came with the end of an episode
        return (weight * total(losses_of(rule, at, agent))).sum() / (weight.sum() + 1e-8)

    assert_near(masked(agent), wanted["total_masked_mean"], TOLERANCE)
    gradient, wanted = jax.grad(mean)(agent), rule(*at, "grad_mean")
    for name in wanted:
        assert_near(gradient[name], wanted[name], 1e-3 if name == "q" else TOLERANCE, name)
    gradient, wanted = jax.grad(masked)(agent), rule(*at, "grad_masked_mean")
    for name in wanted:
        assert_near(gradient[name], wanted[name], TOLERANCE, name)


@needed
def test_the_meta_gradient_goes_where_the_references_goes(rule, weights):
    """Through predictions and the state of the lifetime; exactly nowhere else."""
    at, cotangent = ("a3", 2), rule("a3", 2, "vjp", "cotangent")
    inputs, before = rule(*at, "in"), rule(*at, "before")

    def weighed(weights, hidden, cell, rewards, agent, target):
        state = golden.state({**before, "rnn_hidden": hidden, "rnn_cell": cell})
        steps = steps_of({**inputs, "rewards": rewards})
        targets, _, after = disco_targets(weights, state, steps, *all_outputs(agent, target))
        found = {
            "pi_hat": targets.policy,
            "y_hat": targets.y,
            "z_hat": targets.z,
            "rnn_hidden": after.lifetime.hidden,
            "rnn_cell": after.lifetime.cell,
        }
        return sum((cotangent[name] * x).sum() for name, x in found.items())

    args = (before["rnn_hidden"], before["rnn_cell"], inputs["rewards"], rule(*at, "in", "agent"))
    args = (weights, *args, rule(*at, "in", "target"))
    value, gradients = jax.jit(jax.value_and_grad(weighed, argnums=range(6)))(*args)
    wanted = rule(*at, "vjp")
    assert_near(value, wanted["value"], TOLERANCE)
    by_name = golden.by_name(gradients[0])
    assert by_name.keys() == {x.removeprefix("weights_norm/") for x in wanted if x.startswith("weights_norm/")}
    for name, found in by_name.items():
        assert_near(jnp.linalg.norm(found.ravel()), wanted[f"weights_norm/{name}"], TOLERANCE, name)
        assert_near(golden.sampled(found), wanted[f"weights_sample/{name}"], TOLERANCE, name)
    for name, found in zip(("rnn_hidden", "rnn_cell", "rewards"), gradients[1:4], strict=True):
        assert_near(found, wanted[name], TOLERANCE, name)
    for who, found in zip(("agent", "target"), gradients[4:], strict=True):
        for name, x in found.items():
            assert_near(x, wanted[f"{who}/{name}"], TOLERANCE, f"{who} {name}")
            assert (jnp.abs(x).max() > 0.0) == (name in "yz")


def test_shrinking_and_its_inverse():
    x = jnp.array([-1e6, -300.0, -1.5, -1e-4, 0.0, 1e-4, 1.0, 3.0, 1e4])
    np.testing.assert_allclose(shrunk(jnp.array([0.0, 3.0, -8.0])), [0.0, 1.003, -2.008], rtol=1e-6)
    np.testing.assert_allclose(unshrunk(shrunk(x)), x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [-2.6, -1.0, 0.0, 0.7, 3.0, 1e9])
def test_a_value_is_learned_in_two_bins(value):
    """The loss is least where the expected value is the target, and a target outside of the bins is in the last."""

    def descend(_, logits):
        return logits - 0.5 * jax.grad(value_loss)(logits, jnp.float32(value))

    logits = jax.lax.fori_loop(0, 2000, descend, jnp.zeros(7))
    wanted = jnp.clip(value, unshrunk(jnp.float32(-3.0)), unshrunk(jnp.float32(3.0)))
    np.testing.assert_allclose(expected_value(logits), wanted, atol=0.05)


def test_moving_moments_are_corrected_for_their_start():
    x = jnp.array([1.0, 3.0])
    moments = updated(no_moments(), x)
    np.testing.assert_allclose(normalised(moments, x), [-1.0, 1.0], rtol=1e-3)


def test_retrace_bootstraps_where_an_episode_is_cut_off():
    """By hand, four steps: the second is truncated, the third terminated, the last one is unfinished."""
    done = jnp.array([False, True, True, False])[:, None]
    terminated = jnp.array([False, False, True, False])[:, None]
    rows = ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0], [5.0, 6.0, 7.0, 8.0], [1.0, 0.5, 3.0, 1.0])
    reward, next_value, q, ratio = (jnp.array(x)[:, None] for x in rows)
    steps = Steps(behaviour=reward, action=reward, reward=reward, terminated=terminated, done=done)
    found = retrace(steps, next_value, q, ratio, jnp.float32(0.5), jnp.float32(0.8))[:, 0]
    second = 2.0 + 0.5 * 20.0
    first = 1.0 + 0.5 * (10.0 + 0.8 * 0.5 * (second - 6.0))
    np.testing.assert_allclose(found, [first, second, 3.0, 4.0 + 0.5 * 40.0], rtol=1e-6)


SMALL = {"predictions": 3, "hidden": 4, "lifetime_hidden": 4}


def small(network, env=MDP.env, critic=None, **options):
    objective = disco(**SMALL, largest_value=2, **options)
    return metarl.rl_inner_loop(env, network, objective, optimizers.adam(0.1), metarl.Experience(2, 3), critic=critic)


def test_a_truncated_step_is_no_end_but_the_lstm_forgets():
    """What follows it leaves no trace in targets; the step itself has a next value, and its next policy is learned."""
    sizes = {"policy": (2,), "y": (3,), "z": (2, 3), "next_policy": (2, 2), "q": (2, 5)}

    rng = np.random.default_rng(0)

    def outputs():
        return Outputs(**{name: rng.normal(size=(3, 1, *size)).astype(np.float32) for name, size in sizes.items()})

    said = [outputs() for _ in range(4)]
    weights = jax.jit(lambda key: perturbed(disco(**SMALL, largest_value=2).init(key)))(jax.random.key(1))
    state = DiscoState(LifetimeState(jnp.ones(4), jnp.ones(4)), updated(no_moments(), jnp.array([-1.0, 1.0])))

    @jax.jit
    def told(last_reward, done, terminated):
        """Targets of the first two steps, features and losses of the second."""
        rows = (x[:, None] for x in (jnp.array([0.1, 0.2, last_reward]), terminated, done))
        steps = Steps(said[0].policy, jnp.array([[0], [1], [0]]), *rows)
        targets, values, _ = disco_targets(weights, state, steps, *said)
        seen = seen_of(steps, values, state.advantage, *said)  # the same moments for all: they see every step
        wanted = AgentTargets(targets, said[1].policy, values.returns)
        losses = disco_losses(said[0], wanted, steps.action, steps.terminated)
        return meta_network(weights, state.lifetime, seen)[0].y[:2], embedded(weights, seen)[0][1, 0], losses

    no, second = jnp.zeros(3, bool), jnp.array([False, True, False])
    cut, features, losses = told(0.3, done=second, terminated=no)
    np.testing.assert_allclose(cut, told(9.0, done=second, terminated=no)[0], rtol=1e-5)
    assert jnp.abs(told(0.3, done=no, terminated=no)[0] - told(9.0, done=no, terminated=no)[0]).max() > 1e-3
    assert features[3] == 1.0 and losses.next_policy[1, 0] > 0.0
    _, features, losses = told(0.3, done=second, terminated=second)
    assert features[3] == 0.0 and losses.next_policy[1, 0] == 0.0


def test_a_fresh_rule_has_the_published_scales():
    weights = disco().init(jax.random.key(0))
    cut = 0.88  # of the deviation of a normal distribution that is cut at two deviations
    scales = {"gate": 1.0, "y_hat": 0.3, "z_hat": 0.3, "summary": 0.3, "policy_hat": 0.3, "lstm": 283**-0.5}
    for name, scale in scales.items():
        kernel = weights[name]["kernel"]
        assert abs(kernel.std() / (cut * scale) - 1.0) < (0.5 if kernel.size < 300 else 0.03), name
        assert (weights[name]["bias"] == 0.0).all()
    assert (newborn(128).hidden @ weights["gate"]["kernel"] == 0.0).all()


@needed
def test_the_published_rule_reinforces_actions_with_an_advantage(weights):
    surface = jax.jit(disco_surface)(weights)
    assert (surface.values[-1] - surface.values[0] > 0.05).mean() > 0.9


def test_the_meta_objective_keeps_the_updated_agent_random():
    """By hand: the entropies of newborn tables, whose distributions are uniform, lower it."""
    critic = metarl.Critic(optimizers.adam(0.1))

    def meta_objective(policy, predictions, key):
        options = {"policy_entropy_coef": policy, "prediction_entropy_coef": predictions}
        inner = small(networks.tabular, critic=critic, **options)
        return inner.loss(inner.init_meta(key), inner.init(key, MDP.sample(key)), key).objective

    wanted = -0.5 * np.log(MDP.env.action_space(None).n) - 0.3 * 2.0 * np.log(3.0)
    random, free = jax.jit(lambda key: [meta_objective(*x, key) for x in ((0.5, 0.3), (0.0, 0.0))])(jax.random.key(3))
    np.testing.assert_allclose(random - free, wanted, rtol=1e-4)


@pytest.mark.parametrize("network", [networks.tabular, networks.action_model((), 4)])
def test_the_target_network_follows_the_parameters_before_the_update(network):
    """It is born as a copy; then it moves by a tenth to them, and so does its derivative in them."""
    inner = small(network)

    @jax.jit
    def start():
        return inner.init_meta(jax.random.key(0)), inner.init(jax.random.key(1), MDP.sample(jax.random.key(2)))

    meta_params, lifetime = start()

    @jax.jit
    def followed(params):
        before = lifetime._replace(params=params)
        return inner.step(meta_params, before, jax.random.key(3)).lifetime.memory.target_params

    one = jax.tree.map(jnp.ones_like, lifetime.params)
    jax.tree.map(np.testing.assert_array_equal, lifetime.memory.target_params, lifetime.params)
    target, tangent = jax.jvp(followed, (jax.tree.map(lambda x: x + 1.0, lifetime.params),), (one,))
    assert_close(target, jax.tree.map(lambda x: x + 0.1, lifetime.params))
    assert_close(tangent, jax.tree.map(lambda x: 0.1 * x, one))


def test_agents_that_it_cannot_train_are_refused():
    with pytest.raises(ValueError, match="the output 'z', .* needs discrete actions, got Box"):
        small(networks.mlp((4,)), bullseye.Bullseye())
    inner = small(networks.gru(4))
    with pytest.raises(ValueError, match="disco does not support recurrent agents"):
        jax.eval_shape(
            lambda key: inner.step(inner.init_meta(key), inner.init(key, MDP.sample(key)), key), jax.random.key(0)
        )


BAD = {
    "predictions": ({"predictions": 1}, "predictions must be at least 2, got 1"),
    "largest_value": ({"largest_value": 0}, "largest_value must be at least 1, got 0"),
    "discount": ({"discount": 1.5}, "discount must be at most 1, got 1.5"),
    "target_rate": ({"target_rate": -0.1}, "target_rate must be at least 0, got -0.1"),
}


@pytest.mark.parametrize("fault", BAD)
def test_options_are_checked(fault):
    options, message = BAD[fault]
    with pytest.raises(ValueError, match=message):
        disco(**options)

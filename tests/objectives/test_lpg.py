"""The learned policy gradient against numbers worked out another way, and the defects its reference had."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl
from envs import mdp
from metarl.estimators import backprop
from metarl.meta import compose
from metarl.objectives.lpg import GRU, LPGInputs, LPGNetwork, gru_backwards_in_time, lpg
from metarl.optimizers import clip_by_global_norm, per_output
from metarl.rl.rollout import model, reset, rollout

T, E, D, H = 6, 3, 5, 4


def random_gru(key):
    keys = jax.random.split(key, 4)
    return GRU(
        jax.random.normal(keys[0], (D, 3 * H)),
        jax.random.normal(keys[1], (3 * H,)),
        jax.random.normal(keys[2], (H, 3 * H)),
        jax.random.normal(keys[3], (H,)),
    )


def random_steps(key):
    inputs_key, done_key = jax.random.split(key)
    return jax.random.normal(inputs_key, (T, E, D)), jax.random.bernoulli(done_key, 0.3, (T, E))


def by_flax_cells(gru, inputs, done):
    """The same recurrence, one flax cell at a time in a Python loop."""

    def dense(i, kernel, bias=None):
        part = {"kernel": jnp.split(kernel, 3, -1)[i]}
        return part if bias is None else part | {"bias": bias}

    names = dict(zip("rzn", jnp.split(gru.input_bias, 3), strict=True))
    params = {f"i{n}": dense(i, gru.input_kernel, names[n]) for i, n in enumerate("rzn")}
    params |= {f"h{n}": dense(i, gru.recurrent_kernel) for i, n in enumerate("rz")}
    params["hn"] = dense(2, gru.recurrent_kernel, gru.candidate_bias)
    state, states = jnp.zeros((E, H)), []
    for t in reversed(range(T)):
        state = jnp.where(done[t][:, None], 0.0, state)
        state, _ = nn.GRUCell(H).apply({"params": params}, state, inputs[t])
        states.insert(0, state)
    return jnp.stack(states)


def test_recurrence_equals_flax_cells_run_backwards_with_resets():
    gru, (inputs, done) = random_gru(jax.random.key(0)), random_steps(jax.random.key(1))
    assert done.any() and not done.all()
    np.testing.assert_allclose(gru_backwards_in_time(gru, inputs, done), by_flax_cells(gru, inputs, done), atol=1e-5)


def random_inputs(key, bins=3):
    keys = jax.random.split(key, 5)
    y = jax.nn.softmax(jax.random.normal(keys[0], (2, T, E, bins)))
    terminated = jax.random.bernoulli(keys[1], 0.2, (T, E))
    return LPGInputs(
        reward=jax.random.normal(keys[2], (T, E)),
        terminated=terminated,
        done=terminated | jax.random.bernoulli(keys[3], 0.2, (T, E)),
        prob=jax.random.uniform(keys[4], (T, E)),
        y=y[0],
        y_next=y[1],
        context=jnp.zeros((T, E, 0)),
    )


@pytest.fixture(scope="module")
def network():
    net, inputs = LPGNetwork(3, 32), random_inputs(jax.random.key(0))
    return jax.jit(net.apply), jax.jit(net.init)(jax.random.key(1), inputs), inputs


def test_no_step_sees_past_the_end_of_its_episode(network):
    apply, params, x = network
    x = x._replace(done=jnp.zeros((T, E), bool).at[2].set(True), terminated=jnp.zeros((T, E), bool))
    later = x._replace(reward=x.reward.at[3:].add(1.0))
    before, after = apply(params, x), apply(params, later)
    np.testing.assert_array_equal(before.pi_hat[:3], after.pi_hat[:3])
    assert (before.pi_hat[3:] != after.pi_hat[3:]).all()
    ends_later = x._replace(done=jnp.zeros((T, E), bool))
    assert (
        apply(params, ends_later).pi_hat[:3] != apply(params, ends_later._replace(reward=later.reward)).pi_hat[:3]
    ).all()


def test_a_terminal_step_does_not_bootstrap_and_a_truncated_one_does(network):
    apply, params, x = network
    none = jnp.zeros((T, E), bool)
    ended = none.at[2].set(True)
    other = x._replace(y_next=x.y_next[:, :, ::-1])

    def pi_hat(x, terminated):
        return apply(params, x._replace(done=ended, terminated=terminated)).pi_hat[2]

    np.testing.assert_array_equal(pi_hat(x, ended), pi_hat(other, ended))
    assert (pi_hat(x, none) != pi_hat(other, none)).all()
    assert (pi_hat(x, none) != pi_hat(x, ended)).all()


def by_age(objective, progress):
    """pi_hat of one rollout of tabular agents for each of some ages and horizons, given as (step, horizon)."""
    agent = model(LEVELS.env, metarl.networks.tabular, {"y": 3})

    @jax.jit
    def pi_hat(progress):
        problem = LEVELS.sample(jax.random.key(0)).problem
        params, meta_params = agent.network.init(jax.random.key(1)), objective.init(jax.random.key(2))
        actors = reset(LEVELS.env, agent, problem, jax.random.key(3), E)
        _, data = rollout(LEVELS.env, agent, params, actors, problem, jax.random.key(4), T)
        return jax.vmap(lambda now: objective.targets(meta_params, (), params, agent, data, now)[0].pi_hat)(progress)

    return np.asarray(pi_hat(metarl.Progress(*jnp.array(progress, jnp.int32).T)))


def test_a_temporal_rule_sees_age_and_horizon_and_a_blind_one_neither():
    young, old, longer = by_age(lpg(bins=3, hidden=8, temporal=True), [(0, 10), (8, 10), (0, 100)])
    assert (young != old).all() and (young != longer).all()
    assert np.abs(young - longer).max() < 10.0 * np.abs(young - old).max()  # neither feature drowns the other
    young, old, longer = by_age(lpg(bins=3, hidden=8), [(0, 10), (8, 10), (0, 100)])
    np.testing.assert_array_equal(young, old)
    np.testing.assert_array_equal(young, longer)


def test_a_rule_sees_the_discount_that_it_is_given():
    """Beside the age: the weights of both inputs are drawn, so each of them moves the targets."""
    few, many = (by_age(lpg(bins=3, hidden=8, temporal=True, discount=x), [(0, 10), (8, 10)]) for x in (0.5, 0.99))
    assert (few[0] != many[0]).all() and (many[0] != many[1]).all()


def test_the_update_gate_alone_begins_at_its_bias():
    params, plain = (lpg(bins=3, hidden=4, gate_bias=bias).init(jax.random.key(0)) for bias in (2.0, 0.0))
    np.testing.assert_array_equal(params["input_bias"], [0.0] * 4 + [2.0] * 4 + [0.0] * 4)
    chex.assert_trees_all_equal({**params, "input_bias": plain["input_bias"]}, plain)


def test_a_rule_with_a_gate_bias_remembers_longer_at_birth():
    """The influence of a reward on the target of 16 steps before, as a share of that on its own step."""

    def memory(gate_bias):
        rewards, no = jnp.zeros((17, 1)), jnp.zeros((17, 1), bool)
        even = jnp.full((17, 1, 3), 1 / 3)
        network = LPGNetwork(3, 64, gate_bias)
        inputs = LPGInputs(rewards, no, no, rewards + 0.5, even, even, jnp.zeros((17, 1, 0)))

        def influence(key):
            params = network.init(key, inputs)
            pi_hat = lambda rewards: network.apply(params, inputs._replace(reward=rewards)).pi_hat[:, 0]  # noqa: E731
            return jnp.abs(jax.jacobian(pi_hat)(rewards)[:, -1, 0])

        found = jax.jit(jax.vmap(influence))(jax.random.split(jax.random.key(0), 20)).mean(0)
        return found[0] / found[-1]

    assert memory(0.0) < 0.01 and memory(2.0) > 0.1


def test_the_published_size_has_about_204k_parameters():
    params = jax.eval_shape(lpg(bins=8, hidden=256).init, jax.random.key(0))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == pytest.approx(204_000, rel=0.01)


ENV = mdp.MDP(num_states=4, num_actions=3)
LEVELS = mdp.distribution(num_states=4, num_actions=3, max_steps=5, horizon=8)


def tiny(updates=3, optimizer=None, critic=None, **coefficients):
    """A meta-training run that is small enough to differentiate by hand."""
    inner = metarl.rl_inner_loop(
        LEVELS.env,
        metarl.networks.tabular,
        lpg(bins=3, hidden=8, **coefficients),
        optimizer or per_output(policy=optax.sgd(2.0), y=optax.sgd(1.0)),
        metarl.Experience(2, 4),
        critic=critic or metarl.Critic(optax.adam(0.1)),
    )
    return inner, compose(inner, backprop(updates), optax.adam(1e-3), metarl.curricula.uniform(LEVELS), 2)


def test_agent_loss_and_its_gradient_are_the_hand_worked_ones():
    """One state, two actions, one step: -pi_hat log pi + y_coef KL(y || y_hat), elementwise over steps."""
    levels = mdp.distribution(num_states=1, num_actions=2, max_steps=5, horizon=8)
    objective = lpg(bins=2, hidden=2, y_coef=0.5)
    agent = model(levels.env, metarl.networks.tabular, {"y": 2})
    params = {"policy": jnp.array([[0.0, 1.0]]), "y": jnp.array([[0.5, -0.5]])}

    @jax.jit
    def learn():
        problem = levels.sample(jax.random.key(0)).problem
        actors = reset(levels.env, agent, problem, jax.random.key(1), 3)
        _, data = rollout(levels.env, agent, params, actors, problem, jax.random.key(2), 4)
        progress = metarl.Progress(jnp.int32(0), jnp.int32(8))
        targets, *_ = objective.targets(objective.init(jax.random.key(3)), (), params, agent, data, progress)
        value_and_grad = jax.value_and_grad(objective.loss, argnums=1, has_aux=True)
        return data, targets, *value_and_grad((), params, agent, data, targets, None)

    data, targets, (loss, _), gradient = learn()
    pi = np.array([1.0, np.e]) / (1.0 + np.e)
    y = np.array([np.e, 1.0]) / (1.0 + np.e)
    pi_hat, log_y_hat, action = np.asarray(targets.pi_hat), np.asarray(targets.log_y_hat), np.asarray(data.action)
    expected = np.mean(
        [
            -pi_hat[t, e] * np.log(pi[action[t, e]]) + 0.5 * np.sum(y * (np.log(y) - log_y_hat[t, e]))
            for t in range(4)
            for e in range(3)
        ]
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    one_hot = np.eye(2)[action]
    np.testing.assert_allclose(gradient["policy"][0], -(pi_hat[..., None] * (one_hot - pi)).mean((0, 1)), atol=1e-6)


def test_meta_gradient_equals_finite_differences_in_every_leaf():
    with jax.enable_x64(True):
        clip = clip_by_global_norm(0.05)
        sgd = {name: optax.chain(clip, optax.sgd(rate)) for name, rate in {"policy": 2.0, "y": 1.0}.items()}
        inner, meta = tiny(optimizer=per_output(**sgd))
        key = jax.random.key(5)
        state = jax.jit(meta.init)(key)
        as_64 = lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
        state = jax.tree.map(as_64, state)

        def estimate(params):
            return backprop(3).estimate(inner, params, state.estimator, state.lifetimes, key)

        gradient = jax.jit(lambda params: estimate(params)[0])(state.params)
        flat, unravel = jax.flatten_util.ravel_pytree(state.params)
        assert flat.dtype == jnp.float64
        eps = 1e-5

        def loss(flat):
            return estimate(unravel(flat))[3]["meta_loss"]

        steps = eps * jnp.eye(flat.size)
        high, low = jax.jit(jax.vmap(loss))(flat + jnp.concatenate([steps, -steps])).reshape(2, -1)
        numeric = unravel((high - low) / (2 * eps))
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(numeric), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9, err_msg=jax.tree_util.keystr(path))
        assert np.abs(theirs).max() > 0, f"no gradient reaches {jax.tree_util.keystr(path)}"


def test_meta_gradient_reaches_the_prediction_targets_through_later_updates():
    """One update moves the prediction only after the policy was judged; from two on it must matter."""
    inner, meta = tiny(policy_entropy_coef=0.0, y_entropy_coef=0.0, pi_hat_coef=0.0, y_hat_coef=0.0)
    state = jax.jit(meta.init)(jax.random.key(0))
    lifetime = jax.tree.map(lambda x: x[0], state.lifetimes)

    def losses(meta_params):
        def update(lifetime, key):
            lifetime = inner.step(meta_params, lifetime, key).lifetime
            return lifetime, inner.loss(meta_params, lifetime, key).objective

        return jax.lax.scan(update, lifetime, jax.random.split(jax.random.key(1), 2))[1]

    reached = jax.tree.map(lambda x: jnp.abs(x).reshape(2, -1).max(1) > 0, jax.jit(jax.jacrev(losses))(state.params))
    assert reached["objective"]["y_hat"]["kernel"].tolist() == [False, True]
    assert reached["objective"]["pi_hat"]["kernel"].tolist() == [True, True]


def test_batches_of_lifetimes_rematerialisation_and_mixed_differentiation_change_nothing():
    inner, meta = tiny()
    state, key = jax.jit(meta.init)(jax.random.key(0)), jax.random.key(1)

    def run(**options):
        return jax.jit(lambda s: backprop(3, **options).estimate(inner, s.params, s.estimator, s.lifetimes, key))(state)

    whole = run()
    other = run(remat=True, mixed=True, placement=metarl.Placement(batch_size=1))
    assert other[3].pop("meta_gradient_variance") > 0
    assert np.isnan(whole[3].pop("meta_gradient_variance"))  # only batches tell
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, other)


def test_the_critic_learns():
    """With one action and no discounting of anything but the next reward, values are the rewards: it must find them."""
    levels = mdp.distribution(num_states=4, num_actions=1, max_steps=5, horizon=100)
    inner = metarl.rl_inner_loop(
        levels.env,
        metarl.networks.tabular,
        lpg(bins=2, hidden=2),
        optax.sgd(1.0),
        metarl.Experience(4, 4),
        critic=metarl.Critic(optax.adam(0.1), discount=0.0),
    )
    level = levels.sample(jax.random.key(1))

    @jax.jit
    def train(key):
        return metarl.train_agent(inner, inner.init_meta(jax.random.key(0)), level, key, 100)

    agent, metrics = train(jax.random.key(2))
    assert metrics["critic_loss"][-10:].mean() < 0.01 * metrics["critic_loss"][:10].mean()
    np.testing.assert_allclose(agent.critic[0]["value"][:, 0], level.problem.reward[:, 0], atol=0.1)

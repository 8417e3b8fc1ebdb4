"""Acting and returns: rollouts against a re-simulation, advantages against hand-worked numbers."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import gridworld, mdp
from metarl.rl.critic import actor_critic_targets
from metarl.rl.networks import gru, minatar_conv, mlp, tabular
from metarl.rl.returns import gae, normalise
from metarl.rl.rollout import Rollout, evaluate, model, reset, rollout, unroll
from metarl.types import Box, Discrete

T, E = 11, 5


class WalkState(NamedTuple):
    time: jax.Array
    place: jax.Array
    length: jax.Array


@dataclass(frozen=True)
class Walk:
    """Episodes of 1 to 4 steps, of which the odd ones terminate and the even ones are truncated.

    `place` moves on by the action and the reward is the level's scale times the new place, plus the time.
    """

    observation: str = "vector"
    continuous: bool = False

    @property
    def default_params(self):
        return jnp.float32(2.0)

    def action_space(self, params=None):
        return Box(-0.5, 1.0, (2,)) if self.continuous else Discrete(3)

    def observation_space(self, params=None):
        if self.observation == "index":
            return Discrete(16)
        return Box(0.0, 1.0, (2,) if self.observation == "vector" else (10, 10, 2))

    def reset(self, key, params):
        state = WalkState(jnp.int32(0), jnp.float32(0.0), jax.random.randint(key, (), 1, 5))
        return self.observe(state), state

    def step(self, key, state, action, params):
        place = state.place + (action.sum() if self.continuous else action)
        old = WalkState(state.time + 1, place, state.length)
        done, odd = old.time >= old.length, old.length % 2 == 1
        fresh_obs, fresh = self.reset(key, params)
        state = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, old)
        reward = params * place + old.time
        info = {"final_observation": self.observe(old)}
        return self.observe(state), state, reward, done & odd, done & ~odd, info

    def observe(self, state):
        time, place = state.time, jnp.clip(state.place.astype(jnp.int32), 0, 9)
        if self.observation == "index":
            return jnp.minimum(place, 3) * 4 + jnp.minimum(time, 3)
        if self.observation == "vector":
            return jnp.stack([time.astype(jnp.float32), state.place])
        return jnp.zeros((10, 10, 2)).at[place, time, 0].set(1.0).at[time, place, 1].set(1.0)


CASES = [
    ("mlp, continuous", mlp((8,)), Walk("vector", continuous=True)),
    ("conv", minatar_conv(2, 8), Walk("board")),
    ("tabular", tabular, Walk("index")),
    ("gru", gru(8), Walk("vector")),
]


class Played(NamedTuple):
    env: Walk
    agent: object
    params: object
    rollouts: tuple  # two in a row: the second starts in the middle of episodes
    actors: tuple  # before, between and after


@pytest.fixture(scope="module", params=CASES, ids=[name for name, *_ in CASES])
def played(request):
    _, network, env = request.param
    agent = model(env, network, {"value": 1})

    @jax.jit
    def play(key):
        init_key, noise_key, reset_key, first_key, second_key = jax.random.split(key, 5)
        params = agent.network.init(init_key)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(noise_key, len(leaves))
        noisy = [x + 0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        params = jax.tree.unflatten(tree, noisy)
        start = reset(env, agent, env.default_params, reset_key, E)
        middle, first = rollout(env, agent, params, start, env.default_params, first_key, T)
        end, second = rollout(env, agent, params, middle, env.default_params, second_key, T)
        return params, (first, second), (start, middle, end)

    return Played(env, agent, *play(jax.random.key(0)))


def test_log_probs_are_those_that_unroll_recomputes(played):
    recompute = jax.jit(lambda data: unroll(played.agent, played.params, data)[0]["policy"])
    for data in played.rollouts:
        log_prob = played.agent.policy.distribution(recompute(data)).log_prob(data.action)
        np.testing.assert_allclose(log_prob, data.log_prob, atol=1e-5)
        assert jnp.std(data.log_prob) > 1e-3
    assert not played.rollouts[1].first[0].all()  # some of the second rollout's episodes began in the first


def test_unroll_equals_calls_of_the_network_one_by_one(played):
    data = played.rollouts[1]
    apply = jax.jit(played.agent.network.apply)
    outputs, next_outputs = jax.jit(lambda data: unroll(played.agent, played.params, data))(data)
    for e in range(2):
        carry = jax.tree.map(lambda x, e=e: x[e], data.carry)
        for t in range(T):
            here, carry = apply(played.params, data.obs[t, e], data.first[t, e], carry)
            following, _ = apply(played.params, data.next_obs[t, e], jnp.bool_(False), carry)
            for name in here:
                np.testing.assert_allclose(outputs[name][t, e], here[name], atol=1e-5)
                np.testing.assert_allclose(next_outputs[name][t, e], following[name], atol=1e-5)


def test_rewards_and_episode_returns_are_those_of_a_resimulation(played):
    first, second = played.rollouts
    data = jax.tree.map(lambda a, b: np.concatenate([a, b]), first._replace(carry=()), second._replace(carry=()))
    assert data.terminated.any() and data.truncated.any() and not (data.terminated & data.truncated).any()
    if played.env.continuous:  # stored as drawn, and clipped for the environment only
        assert (data.action < -0.5).any() and (data.action > 1.0).any()
    for e in range(E):
        place, time, total = 0.0, 0, 0.0
        for t in range(2 * T):
            action = data.action[t, e]
            place += np.clip(action, -0.5, 1.0).sum() if played.env.continuous else action
            time += 1
            total += 2.0 * place + time
            assert data.reward[t, e] == pytest.approx(2.0 * place + time, abs=1e-4)
            assert data.first[t, e] == (time == 1)
            if data.done[t, e]:
                assert data.episode_return[t, e] == pytest.approx(total, abs=1e-4)
                place, time, total = 0.0, 0, 0.0
            else:
                assert np.isnan(data.episode_return[t, e])


def test_rollouts_carry_on_where_they_stopped(played):
    first, second = played.rollouts
    _, middle, _ = played.actors
    np.testing.assert_array_equal(second.obs[0], middle.obs)
    np.testing.assert_array_equal(second.first[0], first.done[-1])
    obs = np.concatenate([first.obs, second.obs])
    next_obs, done = np.concatenate([first.next_obs, second.next_obs]), np.concatenate([first.done, second.done])
    goes_on = ~done[:-1]
    np.testing.assert_array_equal(next_obs[:-1][goes_on], obs[1:][goes_on])
    reset_obs = played.env.reset(jax.random.key(0), None)[0]
    ended = np.asarray(obs[1:][done[:-1]])
    np.testing.assert_array_equal(ended, np.broadcast_to(reset_obs, ended.shape))
    axes = tuple(range(1, ended.ndim))
    assert (next_obs[:-1][done[:-1]] != ended).any(axes).all()  # the true successor, not the next episode's first


def steps(reward, terminated=None, truncated=None, boundary=None):
    """A rollout of one environment that advantages look at."""
    nothing = np.zeros(len(reward), bool)
    column = lambda x: jnp.asarray(x)[:, None]  # noqa: E731
    return Rollout(*[None] * len(Rollout._fields))._replace(
        reward=column(np.asarray(reward, np.float32)),
        terminated=column(nothing if terminated is None else np.asarray(terminated, bool)),
        truncated=column(nothing if truncated is None else np.asarray(truncated, bool)),
        boundary=column(nothing if boundary is None else np.asarray(boundary, bool)),
    )


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # deltas 1 + .5 - .5 = 1, 2 + .5 * 4 - 1 = 3, 3 + .5 * 2 - 1.5 = 2.5; each counts .25 for the one before
        (False, True, [1.75, 3.0, 2.5]),
        # 2 - 1 = 1: nothing follows
        (True, False, [1.25, 1.0, 2.5]),
        (True, True, [1.25, 1.0, 2.5]),
    ],
)
def test_advantages_where_an_episode_ends_are_the_hand_worked_ones(strict, terminated, truncated, expected):
    data = steps([1, 2, 3], [False, terminated, False], [False, truncated, False])
    value, next_value = jnp.array([[0.5], [1.0], [1.5]]), jnp.array([[1.0], [4.0], [2.0]])
    half = jnp.float32(0.5)
    np.testing.assert_allclose(gae(data, value, next_value, half, half)[:, 0], expected)


def test_advantages_of_an_episode_that_goes_on_are_the_hand_worked_ones(strict):
    # deltas 1 + .5 - .5 = 1, 2 + .75 - 1 = 1.75, 3 + 1 - 1.5 = 2.5
    value, next_value = jnp.array([[0.5], [1.0], [1.5]]), jnp.array([[1.0], [1.5], [2.0]])
    half = jnp.float32(0.5)
    advantage = gae(steps([1, 2, 3]), value, next_value, half, half)
    np.testing.assert_allclose(advantage[:, 0], [1.0 + 0.25 * 2.375, 1.75 + 0.25 * 2.5, 2.5])


@pytest.mark.parametrize(
    ("episode_discount", "expected"),
    [
        (None, [1.0 + 0.25 * 2.375, 1.75 + 0.25 * 2.5, 2.5]),
        # at the boundary 2 + 1.5 - 1 = 2.5, and 1 * .5 of what follows counts: 2.5 + .5 * 2.5
        (1.0, [1.0 + 0.25 * 3.75, 3.75, 2.5]),
        (0.0, [1.0 + 0.25 * 1.0, 1.0, 2.5]),
    ],
)
def test_the_end_of_an_episode_within_a_trial_has_its_own_discount(strict, episode_discount, expected):
    value, next_value = jnp.array([[0.5], [1.0], [1.5]]), jnp.array([[1.0], [1.5], [2.0]])
    half, data = jnp.float32(0.5), steps([1, 2, 3], boundary=[False, True, False])
    np.testing.assert_allclose(gae(data, value, next_value, half, half, episode_discount)[:, 0], expected)


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.9, 0.8), (1.0, 1.0), (0.5, 0.0)])
def test_advantages_equal_the_sum_over_all_later_steps(discount, gae_lambda):
    rng = np.random.default_rng(0)
    reward = rng.normal(size=30).astype(np.float32)
    terminated, truncated = rng.random((2, 30)) < 0.15
    value, fresh = rng.normal(size=(2, 30))
    done = terminated | truncated
    next_value = np.where(done, fresh, np.append(value[1:], fresh[-1]))  # V(next_obs) of a real rollout
    delta = reward + discount * np.where(terminated, 0.0, next_value) - value
    expected = np.zeros(30)
    for t in range(30):
        for later in range(t, 30):
            expected[t] += (discount * gae_lambda) ** (later - t) * delta[later]
            if done[later]:
                break
    advantage = gae(
        steps(reward, terminated, truncated),
        jnp.float32(value)[:, None],
        jnp.float32(next_value)[:, None],
        jnp.float32(discount),
        jnp.float32(gae_lambda),
    )
    assert terminated.any() and truncated.any()
    np.testing.assert_allclose(advantage[:, 0], expected, atol=1e-4)


def test_a_truncated_step_bootstraps_from_its_own_last_observation(played):
    data = played.rollouts[0]
    targets = jax.jit(lambda p: actor_critic_targets(p, played.agent, data, 0.9, 0.0))(played.params)
    outputs, next_outputs = jax.jit(lambda params: unroll(played.agent, params, data))(played.params)
    value, following = outputs["value"][..., 0], next_outputs["value"][..., 0]
    one_step = data.reward + 0.9 * np.where(data.terminated, 0.0, following) - value
    np.testing.assert_allclose(targets.advantage, one_step, atol=1e-4)
    np.testing.assert_allclose(targets.returns, targets.advantage + value, atol=1e-5)
    cut = np.asarray(data.truncated[:-1])
    assert (np.abs(following[:-1] - value[1:])[cut] > 1e-3).any()  # the reset observation would say something else


def test_targets_side_by_side_are_those_of_each_rollout(played):
    """Of networks without memory, values of true successors are computed only if one of the rollouts needs them."""
    data = played.rollouts[0]
    ended = data._replace(truncated=jnp.zeros_like(data.truncated), terminated=data.done)
    targets = jax.jit(lambda data: actor_critic_targets(played.params, played.agent, data, 0.9, 0.5))
    both = jax.jit(jax.vmap(targets))(jax.tree.map(lambda *x: jnp.stack(x), data, ended))
    for i, each in enumerate((data, ended)):
        for found, alone in zip(both, targets(each), strict=True):
            np.testing.assert_allclose(found[i], alone, atol=1e-4)


def test_normalise():
    x = normalise(jnp.arange(6.0).reshape(2, 3) * 5.0 + 3.0)
    assert x.mean() == pytest.approx(0.0, abs=1e-6) and x.std() == pytest.approx(1.0)
    assert (normalise(jnp.ones((2, 3))) == 0.0).all()


RING = mdp.MDP(num_states=4, num_actions=2)  # the last action moves on and pays 1 on arrival at the start; 10 steps


def ring_policy(agent, logit):
    params = agent.network.init(jax.random.key(0))
    return {**params, "policy": params["policy"].at[:, -1].set(logit)}


@pytest.mark.parametrize(("max_steps", "episode_return", "length"), [(100, 2.0, 10), (10, 2.0, 10), (7, 1.0, 7)])
def test_evaluation_returns_are_exact_and_say_if_they_are_cut(max_steps, episode_return, length):
    agent = model(RING, tabular, {})
    params = ring_policy(agent, 100.0)
    episodes = evaluate(RING, agent, params, RING.default_params, jax.random.key(1), 3, max_steps)
    assert episodes.episode_return.tolist() == [episode_return] * 3
    assert episodes.length.tolist() == [length] * 3
    assert episodes.finished.tolist() == [length == 10] * 3


def test_evaluation_counts_one_episode_of_each_environment():
    params = RING.default_params._replace(terminate=jnp.float32(0.3), reward=jnp.ones((4, 2)))
    agent = model(RING, tabular, {})
    play = jax.jit(lambda p, key: evaluate(RING, agent, p, params, key, 2000, 100))
    episodes = play(ring_policy(agent, 0.0), jax.random.key(0))
    assert episodes.finished.all()
    np.testing.assert_array_equal(episodes.episode_return, episodes.length)  # each step pays 1
    expected = sum(0.7**t for t in range(10))
    assert episodes.length.mean() == pytest.approx(expected, abs=4 * float(episodes.length.std()) / 2000**0.5)
    assert int(episodes.length.max()) == 10


def test_evaluation_agrees_with_dynamic_programming():
    levels = gridworld.distribution("small")
    env, params = levels.env, levels.sample(jax.random.key(3)).problem
    agent = model(env, tabular, {})
    uniform = jnp.full((env.num_states, env.num_actions), 1.0 / env.num_actions)
    exact = float(jax.jit(lambda: gridworld.policy_return(env, params, uniform))())
    play = jax.jit(lambda p, key: evaluate(env, agent, p, params, key, 4000, 1000).episode_return)
    returns = np.asarray(play(agent.network.init(jax.random.key(0)), jax.random.key(1)))
    assert returns.std() > 0.0
    assert returns.mean() == pytest.approx(exact, abs=4 * float(returns.std()) / 4000**0.5)


def test_compiled_and_uncompiled_rollouts_agree():
    agent = model(RING, tabular, {})
    params = ring_policy(agent, 0.5)

    def play(key):
        actors = reset(RING, agent, RING.default_params, key, 2)
        return rollout(RING, agent, params, actors, RING.default_params, key, 3)

    compiled = jax.jit(play)(jax.random.key(2))
    with jax.disable_jit():
        plain = play(jax.random.key(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), compiled, plain)


def test_rollouts_vmap_over_levels():
    levels = mdp.distribution(num_states=4, num_actions=2, max_steps=3)
    params = jax.vmap(levels.sample)(jax.random.split(jax.random.key(0), 3)).problem
    agent = model(levels.env, tabular, {})
    table = agent.network.init(jax.random.key(0))

    def play(problem, key):
        actors = reset(levels.env, agent, problem, key, 2)
        return rollout(levels.env, agent, table, actors, problem, key, 5)[1]

    keys = jax.random.split(jax.random.key(1), 3)
    together, alone = jax.jit(jax.vmap(play))(params, keys), jax.jit(play)
    for i in range(3):
        one = alone(jax.tree.map(lambda x, i=i: x[i], params), keys[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-6), together, one)
    assert len(np.unique(together.reward)) > 10

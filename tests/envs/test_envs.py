"""Bandits, random MDPs, the table of names and the gymnax adapter."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environments import check_environment, check_types, quick_jit

import envs
from envs import bandit, mdp
from metarl.types import Discrete, Level, constant_levels

# Spelled out, so that collecting the tests does not import gymnax; a test below keeps the list complete.
NEEDS_DOWNLOAD = "MNISTBandit-bsuite"
GYMNAX = """CartPole-v1 Pendulum-v1 Acrobot-v1 MountainCar-v0 MountainCarContinuous-v0 Asterix-MinAtar Breakout-MinAtar
Freeway-MinAtar Seaquest-MinAtar SpaceInvaders-MinAtar Catch-bsuite DeepSea-bsuite MemoryChain-bsuite
UmbrellaChain-bsuite DiscountingChain-bsuite SimpleBandit-bsuite FourRooms-misc MetaMaze-misc PointRobot-misc
BernoulliBandit-misc GaussianBandit-misc Reacher-misc Swimmer-misc Pong-misc FrozenLake-misc""".split()


# --- bandits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaussian", [False, True])
def test_bandit_rewards_have_the_arms_means_and_deviations(gaussian):
    env, n = bandit.Bandit(num_arms=3, gaussian=gaussian), 4000
    params = bandit.BanditParams(jnp.array([0.0, 0.3, 1.0]), jnp.float32(0.5), jnp.int32(4))
    state = env.reset(jax.random.key(0), params)[1]
    step = quick_jit(jax.vmap(jax.vmap(env.step, (0, None, None, None)), (0, None, 0, None)))
    keys = jax.random.split(jax.random.key(1), (3, n))
    obs, _, reward, terminated, truncated, _ = step(keys, state, jnp.arange(3), params)
    deviation = np.full(3, 0.5) if gaussian else np.array([0.0, 0.3 * 0.7, 0.0]) ** 0.5
    assert (np.abs(reward.mean(1) - params.means) <= 4 * deviation / n**0.5 + 1e-6).all()
    np.testing.assert_allclose(reward.std(1), deviation, rtol=0.05)
    assert not obs.any() and not terminated.any() and not truncated.any()


def test_bandit_episodes_are_truncated_after_max_steps():
    env = bandit.Bandit(num_arms=2)
    params = env.default_params._replace(max_steps=jnp.int32(3))

    def body(state, key):
        _, state, _, terminated, truncated, _ = env.step(key, state, jnp.int32(0), params)
        return state, (terminated, truncated)

    state = env.reset(jax.random.key(0), params)[1]
    _, (terminated, truncated) = jax.lax.scan(body, state, jax.random.split(jax.random.key(1), 7))
    assert truncated.tolist() == [False, False, True, False, False, True, False] and not terminated.any()


def test_bandit_levels():
    for kind, low, high in (("bernoulli", 0, 1), ("gaussian", -9, 9)):
        levels = bandit.distribution(kind, num_arms=4, max_steps=7, horizon=30)
        level = jax.vmap(levels.sample)(jax.random.split(jax.random.key(0), 300))
        means = np.asarray(level.problem.means)
        assert means.min() >= low and means.max() < high and abs(means.mean() - (low + high) / 2) < 0.15
        assert (level.horizon == 30).all() and level.horizon.dtype == jnp.int32
        optimal = jax.vmap(functools.partial(bandit.optimal_return, levels.env))(level.problem)
        np.testing.assert_allclose(optimal, 7 * means.max(1), rtol=1e-5)


# --- random MDPs -----------------------------------------------------------------------------------------------------


def test_mdp_steps_follow_the_transition_probabilities():
    env, n = mdp.MDP(3, 2), 4000
    params = env.default_params._replace(
        transition=jnp.array([[[0.2, 0.5, 0.3], [1, 0, 0]], [[0, 0, 1]] * 2, [[0, 1, 0]] * 2], jnp.float32),
        reward=jnp.array([[0.5, -1.0], [0, 0], [0, 0]]),
        terminate=jnp.float32(0.1),
        max_steps=jnp.int32(3),
    )
    state = mdp.MDPState(jnp.int32(0), jnp.int32(0))
    step = quick_jit(jax.vmap(env.step, (0, None, None, None)))
    keys = jax.random.split(jax.random.key(0), n)
    obs, following, reward, terminated, truncated, info = step(keys, state, jnp.int32(0), params)
    frequency = np.bincount(info["final_observation"], minlength=3) / n
    assert np.abs(frequency - [0.2, 0.5, 0.3]).max() < 4 * 0.5 / n**0.5
    assert abs(terminated.mean() - 0.1) < 4 * 0.3 / n**0.5 and not truncated.any()
    assert (reward == 0.5).all()
    # Where the episode ended there is a new one, elsewhere the observation is the successor.
    assert (obs == jnp.where(terminated, 0, info["final_observation"])).all() and (obs == following.state).all()
    assert (following.time == jnp.where(terminated, 0, 1)).all()
    late = step(keys, mdp.MDPState(jnp.int32(2), jnp.int32(1)), jnp.int32(0), params)
    assert late[4].all() and not late[0].any() and (late[5]["final_observation"] == 2).all()


def test_mdp_rewards_have_the_noise_of_the_level():
    levels, key = mdp.distribution(num_states=3, num_actions=2, reward_noise=0.5), jax.random.key(0)
    env, params = levels.env, levels.sample(key).problem
    assert params.noise == 0.5 and mdp.distribution(3, 2).sample(key).problem.noise == 0
    keys, state = jax.random.split(key, 4000), mdp.MDPState(jnp.int32(0), jnp.int32(0))
    step = quick_jit(jax.vmap(env.step, (0, None, None, None)))
    noisy, quiet = (step(keys, state, jnp.int32(1), params._replace(noise=jnp.float32(x))) for x in (0.5, 0.0))
    assert (quiet[2] == params.reward[0, 1]).all() and (noisy[0] == quiet[0]).all()
    assert abs((noisy[2] - quiet[2]).mean()) < 4 * 0.5 / 4000**0.5 and noisy[2].std() == pytest.approx(0.5, rel=0.05)
    assert abs(np.corrcoef(noisy[2], noisy[0])[0, 1]) < 4 / 4000**0.5  # noise and transitions are independent


def test_mdp_optimum_of_the_ring():
    env = mdp.MDP(4, 2)
    params = env.default_params

    def optimum(steps, terminate):
        return float(
            mdp.optimal_return(env, params._replace(max_steps=jnp.int32(steps), terminate=jnp.float32(terminate)))
        )

    assert [optimum(n, 0.0) for n in (3, 4, 8)] == [0.0, 1.0, 2.0]
    assert optimum(8, 0.1) == pytest.approx(0.9**3 + 0.9**7, rel=1e-5)


def test_mdp_optimum_is_the_best_of_all_policies():
    levels = mdp.distribution(num_states=2, num_actions=2, max_steps=2, terminate=0.25)
    params = levels.sample(jax.random.key(3)).problem
    transition, reward, start = np.asarray(params.transition), np.asarray(params.reward), int(params.start)
    returns = []
    for first, *second in itertools.product(range(2), repeat=3):
        later = np.array([reward[s, second[s]] for s in range(2)])
        returns.append(reward[start, first] + 0.75 * transition[start, first] @ later)
    assert float(mdp.optimal_return(levels.env, params)) == pytest.approx(max(returns), rel=1e-5)
    assert max(returns) - min(returns) > 0.1


def test_mdp_levels_are_distributions():
    levels = mdp.distribution(num_states=4, num_actions=3, horizon=20)
    level = quick_jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(0), 200))
    params = level.problem
    assert params.transition.shape == (200, 4, 3, 4) and (params.transition >= 0).all()
    np.testing.assert_allclose(params.transition.sum(-1), 1, rtol=1e-5)
    assert abs(params.reward.mean() - 1) < 0.1 and set(params.start.tolist()) == set(range(4))
    assert (level.horizon == 20).all()


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gridworld/small", "bandit/bernoulli", "bandit/gaussian", "mdp/random"])
def test_make_ours(name):
    levels = envs.make(name)
    own, other = quick_jit(lambda key: (levels.sample(key), envs.make(name, horizon=7).sample(key)))(jax.random.key(0))
    assert own.horizon > 7 and other.horizon == 7 and other.horizon.dtype == own.horizon.dtype == jnp.int32
    for a, b in zip(jax.tree.leaves(own.problem), jax.tree.leaves(other.problem), strict=True):
        assert (a == b).all()


def test_varied_cartpoles_vary_within_a_factor_of_two_and_are_consistent():
    import gymnax

    levels = envs.make("cartpole/varied")
    params = quick_jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(0), 500)).problem
    default = gymnax.make("CartPole-v1")[1]
    for name in ("gravity", "masspole", "length", "force_mag"):
        factors = getattr(params, name) / getattr(default, name)
        assert 0.5 <= factors.min() < 0.51 and 1.95 < factors.max() <= 2.0
        assert jnp.mean(factors < 1.0) == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(params.total_mass, default.masscart + params.masspole, rtol=1e-6)
    np.testing.assert_allclose(params.polemass_length, params.masspole * params.length, rtol=1e-6)


def test_names_are_ours_then_all_of_gymnax():
    names = envs.names()
    ours = {f"gridworld/{n}" for n in envs.gridworld.names()} | {f"tokens/{n}" for n in envs.tokens.names()}
    ours |= {
        "bandit/bernoulli",
        "bandit/five",
        "bandit/gaussian",
        "bayesian_optimisation/1d",
        "bayesian_optimisation/2d",
        "errands/three",
        "errands/six",
        "mdp/random",
        "mdp/noisy",
        "table/chain",
        "table/four_rooms",
        "table/line_key",
        "cartpole/varied",
    }
    assert len(set(names)) == len(names) and set(names) == ours | set(GYMNAX) | {NEEDS_DOWNLOAD}


@pytest.mark.parametrize(
    "name, close", [("gridworld/smal", "gridworld/small"), ("small", "gridworld/small"), ("cartpole", "CartPole-v1")]
)
def test_unknown_names_list_close_ones(name, close):
    with pytest.raises(ValueError, match=f"{name}.*{close}"):
        envs.make(name)


def test_bad_arguments():
    for call in (
        lambda: envs.make("xyzzy"),
        lambda: envs.make("gridworld/small", horizon=0),
        lambda: envs.make("CartPole-v1", horizon=0),
        lambda: bandit.distribution("poisson"),
        lambda: bandit.distribution(num_arms=0),
        lambda: bandit.distribution(max_steps=0),
        lambda: mdp.distribution(num_states=0),
        lambda: mdp.distribution(terminate=1.5),
        lambda: mdp.distribution(concentration=0.0),
        lambda: mdp.distribution(reward_noise=-1.0),
        lambda: mdp.distribution(horizon=0),
    ):
        with pytest.raises(ValueError):
            call()


def test_gymnax_is_imported_only_where_it_is_used():
    code = "import envs; envs.make('mdp/random'); envs.check(levels=('mdp/random', 'Catch-bsuite')); "
    code += "import experiments.agent, experiments.learned_optimizer; "  # with presets in environments of gymnax
    code += "import sys; print('gymnax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_names_are_checked_with_the_field_that_has_them():
    envs.check(levels="gridworld/small", more_levels=("CartPole-v1", "mdp/random"), none=())
    envs.check(("supervised/digits",), levels="supervised/digits")
    assert set(envs._OF_GYMNAX) <= set(envs.names())
    with pytest.raises(ValueError, match="unknown levels 'gridworld/smal'; did you mean gridworld/small"):
        envs.check(levels="gridworld/smal")
    with pytest.raises(ValueError, match="unknown more_levels 'supervised/digit'; did you mean supervised/digits"):
        envs.check(("supervised/digits",), more_levels=("mdp/random", "supervised/digit"))


# --- any environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GYMNAX)
def test_every_gymnax_environment_steps(name):
    levels = envs.make(name)
    assert levels.sample(jax.random.key(0)).horizon == 1000
    check_types(levels)
    if name not in ("Freeway-MinAtar", "Seaquest-MinAtar", "Asterix-MinAtar"):  # they compile for long
        check_environment(levels)


@pytest.mark.parametrize(
    "name", ["bandit/bernoulli", "bandit/gaussian", "mdp/random", "gridworld/small", "tokens/sorting"]
)
def test_ours_have_the_same_interface(name):
    levels = envs.make(name)
    check_types(levels)
    check_environment(levels)
    check_environment(constant_levels(levels.env, horizon=5))
    assert levels.env == envs.make(name).env and hash(levels.env) == hash(envs.make(name).env)
    assert levels.env.action_space().n == levels.env.action_space(levels.sample(jax.random.key(0)).problem).n


def test_gymnax_environments_of_one_name_are_one_static_argument():
    a, b = envs.make("CartPole-v1").env, envs.make("CartPole-v1", horizon=3).env
    assert a == b and hash(a) == hash(b) and a != envs.make("Acrobot-v1").env
    assert a.name == "CartPole-v1" and a.action_space().n == 2


def test_gymnax_final_observation_is_the_true_successor():
    levels = envs.make("CartPole-v1")
    params = levels.sample(jax.random.key(0)).problem.replace(max_steps_in_episode=jnp.int32(1))
    obs, state = levels.env.reset(jax.random.key(0), params)
    new, _, _, terminated, truncated, info = levels.env.step(jax.random.key(1), state, jnp.int32(0), params)
    assert bool(truncated) and not bool(terminated)
    # One step moves the cart's position by 0.02 of its velocity; the new episode starts elsewhere.
    assert info["final_observation"][0] == pytest.approx(float(obs[0] + 0.02 * obs[1]), abs=1e-6)
    assert not np.allclose(new, info["final_observation"])


class Countdown:
    """A user's own environment, registered nowhere: it pays 1 at each step and ends at 0."""

    class Params(NamedTuple):
        start: int = 3

    default_params = Params()

    def reset(self, key, params):
        return params.start, params.start

    def step(self, key, state, action, params):
        following = state - 1
        terminated = following == 0
        new = jnp.where(terminated, params.start, following)
        return new, new, jnp.float32(1), terminated, jnp.bool_(False), {"final_observation": following}

    def action_space(self, params):
        return Discrete(1)

    def observation_space(self, params):
        return Discrete(4)


def test_a_users_own_environment_needs_no_registration():
    levels = constant_levels(Countdown(), horizon=9)
    level = levels.sample(jax.random.key(0))
    assert isinstance(level, Level) and level.horizon == 9
    _, obs, reward, terminated, _, final = check_environment(levels)
    assert obs.tolist() == [[2, 1, 3]] * 2 and final.tolist() == [[2, 1, 0]] * 2
    assert terminated.tolist() == [[False, False, True]] * 2 and reward.sum() == 6

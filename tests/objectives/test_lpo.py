"""LPO and DPO: drifts against hand-worked numbers, what makes a drift a drift, and PPO as LPO's starting point."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bullseye import Bullseye

from envs import mdp
from metarl import optimizers
from metarl.inner.rl import Experience, rl_inner_loop, train_agent
from metarl.objectives import dpo, lpo, ppo
from metarl.objectives.lpo import dpo_drift, lpo_drift
from metarl.objectives.temporal import temporal_features
from metarl.rl.critic import Critic
from metarl.rl.networks import mlp, tabular
from metarl.rl.rollout import model, reset, rollout
from metarl.types import Progress, constant_levels

LEVELS = mdp.distribution(num_states=4, num_actions=3, max_steps=5, horizon=4)
MIDDLE = Progress(jnp.int32(2), jnp.int32(4))
DRIFTS = pytest.mark.parametrize(
    ("start", "temporal"), [("ppo", False), ("ppo", True), ("scratch", False), ("scratch", True)]
)


def random_rules(start, temporal, num=16, scale=3.0):
    """Meta-parameters [num] from small to wild, the zero output of LPO's start at PPO among what is perturbed."""
    keys = jax.random.split(jax.random.key(0), num)
    rules = jax.vmap(lpo(temporal=temporal, start=start, hidden=8).init)(keys)
    noise = jax.random.normal(keys[0], (num, 8, 1)) * jnp.geomspace(1e-3, 30.0, num)[:, None, None]
    return {"hidden": scale * rules["hidden"], "output": rules["output"] + noise}


# --- the numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 2.0, 0.0757657),  # 1 - 2 tanh(1/2)
        (3.0, 2.0, 2.0719448),  # 4 - 2 tanh(2)
        (0.5, 2.0, 0.0),  # -1 + 2 tanh(1/2) < 0
        (np.exp(-1.0), -1.0, 0.4413347),  # 1 - .6 tanh(1/.6)
        (np.exp(1.0), -1.0, 0.0),
        (1.0, 5.0, 0.0),
        (1.0, -5.0, 0.0),
        (2.0, 0.0, 0.0),
    ],
)
def test_the_drift_of_dpo_is_the_hand_worked_one(ratio, advantage, expected, strict):
    drift = dpo_drift(jnp.float32(np.log(ratio)), jnp.float32(advantage))
    assert (drift.shape, drift.dtype) == ((), jnp.float32)
    assert float(drift) == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 2.0, 0.6), (0.5, 2.0, 0.0), (0.5, -1.0, 0.3), (1.5, -1.0, 0.0), (1.1, 2.0, 0.0), (0.9, -2.0, 0.0)],
)
def test_the_drift_of_lpo_begins_as_that_of_ppo(ratio, advantage, expected, strict):
    meta_params = lpo(hidden=8).init(jax.random.key(0))
    drift = lpo_drift(meta_params, jnp.float32(np.log(ratio)), jnp.float32(advantage), MIDDLE)
    assert (drift.shape, drift.dtype) == ((), jnp.float32)
    assert float(drift) == pytest.approx(expected, rel=1e-5)


def test_the_learned_part_of_the_drift_is_the_hand_worked_one(strict):
    """One hidden unit that sees `l + 2 A (1 - rho)` and, at half the lifetime, `4 n/N (1 - rho)^2`."""
    hidden = jnp.zeros((16, 1)).at[0].set(1.0).at[6].set(2.0).at[11].set(4.0)
    rule = {"hidden": hidden, "output": jnp.array([[3.0]])}
    rho, advantage = 0.5, -0.4
    u = 3.0 * np.tanh(np.log(rho) + 2.0 * advantage * (1 - rho) + 4.0 * 0.5 * (1 - rho) ** 2)
    assert u == pytest.approx(3.0 * np.tanh(-0.5931472))
    arguments = jnp.float32(np.log(rho)), jnp.float32(advantage), MIDDLE
    assert float(lpo_drift(rule, *arguments, start="scratch")) == 0.0
    assert float(lpo_drift(rule, *arguments)) == 0.0  # PPO's own would be .12
    rule["output"] = -rule["output"]
    assert float(lpo_drift(rule, *arguments, start="scratch")) == pytest.approx(-u - 1e-4, rel=1e-5)
    assert float(lpo_drift(rule, *arguments)) == pytest.approx(0.12 - u - 1e-4, rel=1e-5)
    rule["output"] = jnp.array([[0.05]])  # takes away a part of PPO's
    expected = 0.12 + (0.05 * np.tanh(-0.5931472) + 1e-4)
    assert float(lpo_drift(rule, *arguments)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "horizon", "expected"),
    [(0, 10, [0.0, -1.0]), (50, 100, [0.5, 0.0]), (1000, 1000, [1.0, 1.0]), (7, 5, [1.0, np.log10(5) - 2.0])],
)
def test_temporal_features(step, horizon, expected, strict):
    features = temporal_features(Progress(jnp.int32(step), jnp.int32(horizon)))
    assert (features.shape, features.dtype) == ((2,), jnp.float32)
    np.testing.assert_allclose(features, expected, atol=1e-6)


# --- what makes a drift a drift -------------------------------------------------------------------------------

LOG_RATIOS = jnp.concatenate([jnp.linspace(-3.0, 3.0, 41), jnp.array([-1e30, -100.0, -20.5, 20.5, 100.0, 1e30])])
ADVANTAGES = jnp.array([-1e6, -3.0, -0.1, 0.0, 0.1, 3.0, 1e6])


def check_drift(drift, rules):
    """`drift(rule, log_ratio, advantage)` of one number each, for every rule of a batch. Gives [R, A, L]."""

    @jax.jit
    def grid(log_ratios, advantages):
        slope = jax.value_and_grad(drift, argnums=1)
        over = jax.vmap(jax.vmap(jax.vmap(slope, (None, 0, None)), (None, None, 0)), (0, None, None))
        return over(rules, log_ratios, advantages)

    value, slope = grid(LOG_RATIOS, ADVANTAGES)
    assert jnp.isfinite(value).all() and jnp.isfinite(slope).all()
    assert (value >= 0.0).all()
    # at ratio 1, and just beside it, where the log-probability of the acting policy lies when it is computed again
    value_at_one, slope_at_one = grid(jnp.array([0.0]), ADVANTAGES)
    assert (value_at_one == 0.0).all() and (slope_at_one == 0.0).all()
    beside, slope_beside = grid(jnp.array([-1e-7, 1e-7]), ADVANTAGES[1:-1])
    assert beside.max() < 1e-12 and jnp.abs(slope_beside).max() < 1e-6
    return value


@DRIFTS
def test_a_learned_drift_is_never_negative_and_flat_at_ratio_one(start, temporal):
    value = check_drift(lambda rule, *x: lpo_drift(rule, *x, MIDDLE, start), random_rules(start, temporal))
    usual = value[:, 1:-1, :41].mean((1, 2))
    assert len(np.unique(usual)) > 8 and (usual > 0.0).sum() > 8  # of 16


def test_the_drift_of_dpo_is_never_negative_and_flat_at_ratio_one():
    assert (check_drift(lambda rule, *x: dpo_drift(*x), jnp.zeros(1)) > 0.0).any()


@DRIFTS
def test_the_meta_gradient_of_a_drift_is_finite_everywhere(start, temporal):
    def slopes(rule):
        slope = jax.grad(lambda *x: lpo_drift(rule, *x, MIDDLE, start))
        return jax.vmap(jax.vmap(slope, (0, None)), (None, 0))(LOG_RATIOS, ADVANTAGES)

    jacobian = jax.jit(jax.vmap(jax.jacrev(slopes)))(random_rules(start, temporal))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jacobian))


def test_a_temporal_drift_is_a_blind_one_at_birth_and_changes_with_age():
    rules = random_rules("scratch", True)
    blind = {**rules, "hidden": rules["hidden"][:, :8]}

    @jax.jit
    def drifts(rules, step):
        progress = Progress(step, jnp.int32(4))
        log_ratios, advantages = LOG_RATIOS[:20], jnp.linspace(-2.0, 2.0, 20)
        return jax.vmap(lambda rule: lpo_drift(rule, log_ratios, advantages, progress, "scratch"))(rules)

    newborn, old = (drifts(rules, jnp.int32(step)) for step in (0, 4))
    np.testing.assert_allclose(newborn, drifts(blind, jnp.int32(0)), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(drifts(blind, jnp.int32(0)), drifts(blind, jnp.int32(4)))
    assert (jnp.abs(newborn - old).max(-1) > 1e-4).sum() > 8  # of 16


# --- agents ---------------------------------------------------------------------------------------------------


def live(levels, network, objective, num_updates, rollout_length):
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
    inner = rl_inner_loop(levels.env, network, objective, optimizer, Experience(6, rollout_length, 2, 2))
    level = levels.sample(jax.random.key(0))
    run = jax.jit(lambda key: train_agent(inner, inner.init_meta(key), level, key, num_updates))
    return run(jax.random.key(3))


OPTIONS = {"discount": 0.9, "gae_lambda": 0.8, "clip": 0.1, "value_coef": 0.3, "entropy_coef": 0.02}


def test_lpo_begins_as_ppo_bit_for_bit():
    """The loss, every metric and the gradient of agents that have moved, where each operation rounds by itself."""
    agent = model(LEVELS.env, tabular, {"value": 1})

    @jax.jit
    def play(key):
        params = agent.network.init(key)
        problem = LEVELS.sample(key).problem
        data = rollout(LEVELS.env, agent, params, reset(LEVELS.env, agent, problem, key, 3), problem, key, 4)[1]
        moved = jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), params)
        return moved, data, ppo(**OPTIONS).targets((), (), params, agent, data, MIDDLE)[0]

    params, data, targets = play(jax.random.key(3))

    def learn(objective):
        rule = objective.init(jax.random.key(0))
        return jax.value_and_grad(objective.loss, 1, has_aux=True)(rule, params, agent, data, targets, MIDDLE)

    by_ppo, by_lpo, unclipped = map(learn, (ppo(**OPTIONS), lpo(**OPTIONS), ppo(**OPTIONS | {"clip": 100.0})))
    jax.tree.map(np.testing.assert_array_equal, by_lpo, by_ppo)
    assert jnp.abs(by_ppo[1]["policy"] - unclipped[1]["policy"]).max() > 1e-3  # so the drift had a part in it


def test_lpo_begins_as_ppo_where_a_compiler_fuses_operations():
    objectives = ppo(**OPTIONS), lpo(**OPTIONS, temporal=True, hidden=8), ppo(**OPTIONS | {"clip": 100.0})
    levels, network = constant_levels(Bullseye(), 4), mlp((4,))
    by_ppo, by_lpo, unclipped = (live(levels, network, objective, 2, 8)[0].params for objective in objectives)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), by_lpo, by_ppo)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), by_ppo, unclipped)
    assert max(jax.tree.leaves(moved)) > 1e-2  # so the drift had a part in it


@pytest.mark.parametrize("start", ["scratch", "ppo"])
def test_the_meta_gradient_reaches_every_part_of_a_drift_from_scratch(start):
    """And none from PPO: its network is silent, in the middle of the dead zone."""
    inner = rl_inner_loop(
        LEVELS.env,
        tabular,
        lpo(start=start, temporal=True, hidden=4),
        optimizers.adam(0.3),
        Experience(4, 4, epochs=3),
        critic=Critic(optax.adam(0.1)),
    )
    level = LEVELS.sample(jax.random.key(0))

    @jax.jit
    def meta_gradient(key):
        keys = jax.random.split(key, 4)

        def loss(meta_params):
            def update(lifetime, key):
                return inner.step(meta_params, lifetime, key).lifetime, None

            # two updates: at n/N = 0 the temporal half of the inputs is zero
            lifetime, _ = jax.lax.scan(update, inner.init(keys[0], level), keys[1:3])
            return inner.loss(meta_params, lifetime, keys[3]).objective

        return jax.grad(loss)(inner.init_meta(key))["objective"]

    gradient = meta_gradient(jax.random.key(1))
    assert all(jnp.isfinite(leaf).all() for leaf in gradient.values())
    if start == "scratch":
        assert gradient["hidden"].shape == (16, 4)
        assert (gradient["hidden"] != 0.0).any(1).all()  # of every input
        assert (gradient["output"] != 0.0).all()
    else:
        assert not any(leaf.any() for leaf in gradient.values())


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        (lpo, {"start": "trpo"}, "start must be .* got 'trpo'"),
        (lpo, {"hidden": 0}, "hidden must be at least 1, got 0"),
        (dpo, {"alpha": 0.0}, "alpha must be above 0, got 0.0"),
        (dpo, {"beta": -1}, "beta must be above 0, got -1"),
        (dpo, {"beta": float("nan")}, "beta must be a number, not NaN, got nan"),
        (dpo, {"alpha": float("inf")}, "alpha must be at most 1000000000, got inf"),
    ],
)
def test_bad_options_are_named_with_their_values(objective, options, message):
    with pytest.raises(ValueError, match=message):
        objective(**options)

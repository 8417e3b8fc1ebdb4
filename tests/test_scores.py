"""Scores of levels: regret against an antagonist and against the optimum, value losses, and what they are asked for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from test_train import assert_same

import metarl
from envs import mdp
from metarl.curricula import replay, scores, uniform
from metarl.curricula.replay import REPLAYED
from metarl.networks import tabular
from metarl.objectives import a2c, lpg

LEVELS = mdp.distribution(num_states=3, num_actions=3, max_steps=4, horizon=10)
CRITIC = {"critic": metarl.Critic(optax.adam(0.1))}


def agent(rate=0.3, objective=None, **options):
    options = {"num_envs": 4, "rollout_length": 8, "num_eval_episodes": 16, "max_episode_steps": 5, **options}
    return metarl.rl_inner_loop(LEVELS.env, tabular, objective or a2c(), optax.adam(rate), **options)


LEARNS, NEVER = agent(), agent(0.0)


def lived(inner, score, count=256, stride=4, seed=0):
    """`count` lifetimes that are scored every `stride` updates till they end: the last scores, state and lifetimes."""
    keys = jax.random.split(jax.random.key(seed), 4)

    @jax.jit
    def live():
        levels = jax.vmap(LEVELS.sample)(jax.random.split(keys[0], count))
        rule = inner.init_meta(keys[1])
        lifetimes = jax.vmap(inner.init)(jax.random.split(keys[1], count), levels)

        def age(carry, key):
            lifetimes, state = carry

            def update(lifetimes, key):
                step = jax.vmap(inner.step, (None, 0, 0))(rule, lifetimes, jax.random.split(key, count))
                return step.lifetime, None

            update_key, score_key = jax.random.split(key)
            lifetimes, _ = jax.lax.scan(update, lifetimes, jax.random.split(update_key, stride))
            ended = jax.vmap(inner.done)(lifetimes)
            values, state = score.update(inner, rule, state, lifetimes, ended, score_key)
            return (lifetimes, state), values

        turns = jax.random.split(keys[3], -(-10 // stride))
        (lifetimes, state), values = jax.lax.scan(age, (lifetimes, score.init(keys[2], lifetimes)), turns)
        return values, state, lifetimes

    return live()


@pytest.fixture(scope="module")
def regrets():
    """Algorithmic regret of agents that learn as the antagonist does, and of agents that never learn."""
    return {
        name: lived(inner, scores.algorithmic_regret(LEARNS, batch_size=64))
        for name, inner in {"learns": LEARNS, "never": NEVER}.items()
    }


def standard_error(values):
    return values.std(ddof=1) / len(values) ** 0.5


def test_only_lifetimes_that_ended_have_a_regret_and_antagonists_keep_pace(regrets):
    values, antagonists, lifetimes = regrets["learns"]
    assert values.shape == (3, 256)
    assert np.isnan(values[:2]).all() and np.isfinite(values[2]).all()
    assert (antagonists.step == 10).all() and (lifetimes.step == 10).all()
    jax.tree.map(np.testing.assert_array_equal, antagonists.level, lifetimes.level)


def test_the_regret_of_an_agent_like_its_antagonist_is_zero_in_expectation(regrets):
    values = np.asarray(regrets["learns"][0][2])
    assert values.std() > 0.0 and abs(values.mean()) < 4 * standard_error(values)


def test_the_regret_of_an_agent_that_never_learns_is_positive_and_ranks_levels_as_the_optimum_does(regrets):
    values = np.asarray(regrets["never"][0][2])
    assert values.mean() > 10 * standard_error(values)
    optimum = partial(mdp.optimal_return, LEVELS.env)
    exact = np.asarray(lived(NEVER, scores.optimal_regret(optimum, batch_size=64))[0][2])
    assert (exact > 0.0).mean() > 0.95 and exact.mean() > values.mean()
    assert scipy.stats.spearmanr(values, exact).statistic > 0.7


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_lifetime_that_ended_is_scored_whatever_the_batch(batch_size):
    """By a user's own function, of that lifetime's own key."""

    def own(inner, rule, lifetime, key):
        return lifetime["number"] + rule + jax.random.uniform(key)

    lifetimes, ended = {"number": jnp.arange(5.0)}, jnp.array([True, False, True, True, False])
    key = jax.random.key(0)
    values, _ = scores.of_ended(own, batch_size).update(None, 10.0, (), lifetimes, ended, key)
    expected = 10.0 + jnp.arange(5) + jax.vmap(jax.random.uniform)(jax.random.split(key, 5))
    np.testing.assert_allclose(values, jnp.where(ended, expected, jnp.nan), rtol=1e-6)


def test_value_losses_are_those_of_the_lifetimes_own_critic():
    inner, key = agent(**CRITIC), jax.random.key(3)
    lifetimes = jax.vmap(inner.init)(jax.random.split(key, 3), jax.vmap(LEVELS.sample)(jax.random.split(key, 3)))
    data, targets = jax.vmap(inner.judge)(lifetimes, jax.random.split(key, 3))
    assert targets.advantage.shape == (3, 8, 4)
    ended = jnp.ones(3, bool)

    def values(score):
        return score.update(inner, inner.init_meta(key), score.init(key, lifetimes), lifetimes, ended, key)

    advantage = targets.advantage.reshape(3, -1)
    np.testing.assert_allclose(values(scores.positive_value_loss())[0], jnp.maximum(advantage, 0).mean(1), rtol=1e-4)
    np.testing.assert_allclose(values(scores.l1_value_loss())[0], jnp.abs(advantage).mean(1), rtol=1e-4)
    best = jnp.nanmax(data.episode_return.reshape(3, -1), 1)
    value = targets.value.reshape(3, -1).mean(1)
    found, seen = values(scores.max_monte_carlo())
    np.testing.assert_allclose(found, best - value, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen, best)
    higher, _ = scores.max_monte_carlo().update(inner, (), seen + 1.0, lifetimes, ended, key)
    np.testing.assert_allclose(higher, best + 1.0 - value, rtol=1e-4, atol=1e-5)  # the best of all times


ESTIMATORS = {
    "backprop": metarl.estimators.backprop(2),
    "es": metarl.estimators.es(10),
    "pes": metarl.estimators.pes(2),
}


def groove(estimator, score):
    rule = metarl.optimizers.per_output(policy=optax.sgd(2.0), y=optax.sgd(1.0))
    inner = metarl.rl_inner_loop(
        LEVELS.env, tabular, lpg(bins=2, hidden=4), rule, num_envs=2, rollout_length=4, num_eval_episodes=4, **CRITIC
    )
    return metarl.compose(inner, ESTIMATORS[estimator], optax.adam(1e-2), replay(LEVELS, 12), 4, score)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "score", [scores.algorithmic_regret(LEARNS), scores.positive_value_loss(), scores.max_monte_carlo()]
)
def test_a_score_and_the_buffer_go_with_every_estimator(estimator, score):
    meta, key = groove(estimator, score), jax.random.key(0)
    state = jax.eval_shape(meta.init, key)
    after, metrics = jax.eval_shape(meta.step, state, key)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert "lifetimes_ended" in metrics


def test_a_buffer_serves_lifetimes_that_go_on_between_estimates():
    """Persistent evolution: lifetimes outlive meta-steps, and end at ages of their own."""
    meta = groove("pes", scores.algorithmic_regret(LEARNS))
    state, log = metarl.train(meta, seed=0, steps=20)
    jax.tree.map(np.testing.assert_array_equal, state.score.level, state.lifetimes.level)
    np.testing.assert_array_equal(state.score.step, state.lifetimes.step)
    buffer = state.curriculum
    assert (log["lifetimes_ended"] < 4).all() and log["lifetimes_ended"].sum() >= 16
    assert (buffer.filled & ~jnp.isnan(buffer.score)).sum() >= 4 and (buffer.origin == REPLAYED).any()
    lived = jax.tree.map(lambda x: x[buffer.slot.clip(max=11)], buffer.levels)
    followed = np.asarray(buffer.slot) < 12
    np.testing.assert_array_equal(lived.env_params.reward[followed], state.lifetimes.level.env_params.reward[followed])


def test_a_buffer_without_a_score_replays_nothing():
    meta = metarl.compose(LEARNS, ESTIMATORS["es"], optax.sgd(1.0), replay(LEVELS, 12, probability=1.0), 4)
    state = jax.jit(lambda key: jax.lax.fori_loop(0, 3, lambda i, s: meta.step(s, key)[0], meta.init(key)))(
        jax.random.key(0)
    )
    assert (state.curriculum.origin == 0).all() and state.curriculum.filled.sum() == 4


def test_training_with_the_buffer_resumes_exactly(tmp_path):
    def train(steps, **options):
        meta = groove("backprop", scores.algorithmic_regret(LEARNS, batch_size=2))
        return metarl.train(meta, seed=1, steps=steps, chunk=5, **options)

    whole, log = train(30)
    train(15, directory=tmp_path)
    resumed, resumed_log = train(30, directory=tmp_path, resume=True)
    assert_same((whole, log), (resumed, resumed_log))
    buffer = whole.curriculum
    assert (buffer.filled & ~jnp.isnan(buffer.score)).sum() >= 4  # levels were scored ...
    assert (buffer.last[buffer.slot] > 0).any() and buffer.clock > 10
    # ... and antagonists are as old as the agents, and on the same levels
    jax.tree.map(np.testing.assert_array_equal, whole.score.level, whole.lifetimes.level)
    np.testing.assert_array_equal(whole.score.step, whole.lifetimes.step)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="batch_size must be at least 1 lifetime, got 0"):
        scores.algorithmic_regret(LEARNS, batch_size=0)
    with pytest.raises(ValueError, match="optimal_regret needs levels whose optimal return is known"):
        scores.optimal_regret(None)
    meta = metarl.compose(LEARNS, ESTIMATORS["es"], optax.adam(1e-2), uniform(LEVELS), 4, scores.l1_value_loss())
    with pytest.raises(ValueError, match="needs the lifetimes' own critic"):
        jax.eval_shape(meta.step, jax.eval_shape(meta.init, jax.random.key(0)), jax.random.key(0))

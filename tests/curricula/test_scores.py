"""Scores of levels: regret against an antagonist and against the optimum, value losses, and what they are asked for."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratic
import scipy.stats
from toy import assert_same

import metarl
from envs import bandit, mdp
from metarl.curricula import replay, scores
from metarl.curricula.replay import REPLAYED
from metarl.inner.rl import value_judge
from metarl.meta import advance, done
from metarl.objectives import a2c, lpg
from metarl.rl.networks import tabular

LEVELS = mdp.distribution(num_states=3, num_actions=3, max_steps=4, horizon=10)
CRITIC = metarl.Critic(optax.adam(0.1))
EXPERIENCE = metarl.Experience(4, 8)


def agent(rate=0.3, objective=None, **options):
    options = {"num_eval_episodes": 16, "max_episode_steps": 5, **options}
    return metarl.rl_inner_loop(LEVELS.env, tabular, objective or a2c(), optax.adam(rate), EXPERIENCE, **options)


LEARNS = agent()


@pytest.fixture(scope="module")
def lived():
    """256 lifetimes at a learning rate, scored every 4 updates till they end: {score: (last scores, state)}, lifetimes.

    By the regret against an antagonist that learns as `LEARNS` does, and against the optimum.
    """
    by = {
        "antagonist": scores.algorithmic_regret(LEARNS, batch_size=64),
        "optimum": scores.optimal_regret(LEVELS.optimal_return, batch_size=64),
    }
    count, keys = 256, jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def live(rate):
        inner = agent(rate)
        levels = jax.vmap(LEVELS.sample)(jax.random.split(keys[0], count))
        rule = inner.init_meta(keys[1])
        lifetimes = jax.vmap(inner.init)(jax.random.split(keys[1], count), levels)

        def age(carry, key):
            lifetimes, states = carry

            def update(lifetimes, key):
                step = jax.vmap(advance, (None, None, 0, 0))(inner, rule, lifetimes, jax.random.split(key, count))
                return step.lifetime, None

            update_key, score_key = jax.random.split(key)
            lifetimes, _ = jax.lax.scan(update, lifetimes, jax.random.split(update_key, 4))
            ended = done(lifetimes)
            scored = {x: by[x].update(inner, rule, states[x], lifetimes, ended, score_key) for x in by}
            return (lifetimes, {x: state for x, (_, state) in scored.items()}), {x: y for x, (y, _) in scored.items()}

        states = {x: score.init(keys[2], levels) for x, score in by.items()}
        (lifetimes, states), values = jax.lax.scan(age, (lifetimes, states), jax.random.split(keys[3], 3))
        return {x: (values[x], states[x]) for x in by}, lifetimes

    return {"learns": live(0.3), "never": live(0.0)}


def standard_error(values):
    return values.std(ddof=1) / len(values) ** 0.5


def test_only_lifetimes_that_ended_have_a_regret_and_antagonists_keep_pace(lived):
    scored, lifetimes = lived["learns"]
    values, antagonists = scored["antagonist"]
    assert values.shape == (3, 256)
    assert np.isnan(values[:2]).all() and np.isfinite(values[2]).all()
    assert (antagonists.step == 10).all() and (lifetimes.step == 10).all()
    jax.tree.map(np.testing.assert_array_equal, antagonists.level, lifetimes.level)


def test_the_regret_of_an_agent_like_its_antagonist_is_zero_in_expectation(lived):
    values = np.asarray(lived["learns"][0]["antagonist"][0][2])
    assert values.std() > 0.0 and abs(values.mean()) < 4 * standard_error(values)


def test_the_regret_of_an_agent_that_never_learns_is_positive_and_ranks_levels_as_the_optimum_does(lived):
    values, exact = (np.asarray(lived["never"][0][x][0][2]) for x in ("antagonist", "optimum"))
    assert values.mean() > 10 * standard_error(values)
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
    inner, ended = agent(critic=CRITIC), jnp.ones(3, bool)
    judge = value_judge(LEVELS.env, tabular, a2c(), CRITIC, EXPERIENCE)
    names = ("positive_value_loss", "l1_value_loss", "max_monte_carlo")

    @jax.jit
    def judged(key):
        keys = jax.random.split(key, 3)
        lifetimes = jax.vmap(inner.init)(keys, jax.vmap(LEVELS.sample)(keys))

        def values(name, state=None):
            score = getattr(scores, name)(judge)
            state = score.init(key, lifetimes.level) if state is None else state
            return score.update(inner, inner.init_meta(key), state, lifetimes, ended, key)

        found = {name: values(name) for name in names}
        found["higher"] = values("max_monte_carlo", found["max_monte_carlo"][1] + 1.0)
        return *jax.vmap(judge, (None, 0, 0))({}, lifetimes, keys), found

    data, targets, found = jax.device_get(judged(jax.random.key(3)))
    assert targets.advantage.shape == (3, 8, 4)
    advantage = targets.advantage.reshape(3, -1)
    np.testing.assert_allclose(found["positive_value_loss"][0], np.maximum(advantage, 0).mean(1), rtol=1e-4)
    np.testing.assert_allclose(found["l1_value_loss"][0], np.abs(advantage).mean(1), rtol=1e-4)
    best = np.nanmax(data.episode_return.reshape(3, -1), 1)
    value = targets.value.reshape(3, -1).mean(1)
    np.testing.assert_allclose(found["max_monte_carlo"][0], best - value, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["max_monte_carlo"][1], best)
    np.testing.assert_allclose(found["higher"][0], best + 1.0 - value, rtol=1e-4, atol=1e-5)  # the best of all times


ESTIMATORS = {
    "backprop": metarl.estimators.backprop(2),
    "es": metarl.estimators.es(10),
    "pes": metarl.estimators.pes(2),
}


RULE, SHORT = lpg(bins=2, hidden=4), metarl.Experience(2, 4)
JUDGE = value_judge(LEVELS.env, tabular, RULE, CRITIC, SHORT)


def groove(estimator, score):
    rule = metarl.optimizers.per_output(policy=optax.sgd(2.0), y=optax.sgd(1.0))
    inner = metarl.rl_inner_loop(LEVELS.env, tabular, RULE, rule, SHORT, num_eval_episodes=4, critic=CRITIC)
    return metarl.compose(inner, ESTIMATORS[estimator], optax.adam(1e-2), replay(LEVELS, 12, score=score), 4)


@pytest.mark.parametrize(
    ("estimator", "score"),
    [
        ("backprop", scores.algorithmic_regret(LEARNS)),
        ("es", scores.positive_value_loss(JUDGE)),
        ("pes", scores.max_monte_carlo(JUDGE)),
    ],  # the other pairs as experiments make them: tests/test_groove.py
)
def test_a_score_and_the_buffer_go_with_every_estimator(estimator, score):
    meta, key = groove(estimator, score), jax.random.key(0)
    state = jax.eval_shape(meta.init, key)
    after, metrics = jax.eval_shape(meta.step, state, key)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert "lifetimes_ended" in metrics


def test_a_buffer_serves_lifetimes_that_go_on_between_estimates_and_resumes_exactly(tmp_path):
    """Persistent evolution: lifetimes outlive meta-steps, and end at ages of their own."""
    levels, inner = quadratic.levels(10, spread=1.0), quadratic.quadratic(noise=0.1)
    curriculum = replay(levels, 12, score=scores.algorithmic_regret(quadratic.quadratic()))
    meta = metarl.compose(inner, ESTIMATORS["pes"], optax.adam(1e-3), curriculum, 4)
    state, log = metarl.train(meta, seed=0, steps=30, chunk=5)
    # antagonists are as old as the agents, and on the same levels
    jax.tree.map(np.testing.assert_array_equal, state.curriculum.score.level, state.lifetimes.level)
    np.testing.assert_array_equal(state.curriculum.score.step, state.lifetimes.step)
    buffer = jax.device_get(state.curriculum.buffer)
    assert (log["lifetimes_ended"] < 4).all() and log["lifetimes_ended"].sum() >= 16
    assert (buffer.filled & ~np.isnan(buffer.score)).sum() >= 4 and (buffer.origin == REPLAYED).any()
    assert (buffer.last[buffer.slot.clip(max=11)] > 0).any() and buffer.clock > 10
    lived_on = jax.tree.map(lambda x: x[buffer.slot.clip(max=11)], buffer.levels)
    followed = buffer.slot < 12
    start = jax.device_get(state.lifetimes.level.problem[1])
    np.testing.assert_array_equal(lived_on.problem[1][followed], start[followed])

    metarl.train(meta, seed=0, steps=15, chunk=5, directory=tmp_path)
    resumed = metarl.train(meta, seed=0, steps=30, chunk=5, directory=tmp_path, resume=True)
    assert_same(resumed, (state, log))


def test_a_mixture_is_replayed_by_its_regret():
    """Learners of two kinds at one rate, on pairs of levels that are scored against a pair of antagonists."""
    places = [quadratic.levels(10, h, spread=1.0) for h in ((1.0, 3.0), (2.0, 2.0))]
    inner, antagonist = (metarl.mixture([quadratic.quadratic(noise)] * 2, [1.0, 2.0]) for noise in (0.1, 0.0))
    levels = metarl.mixed_levels(places)
    curriculum = replay(levels, 12, score=scores.algorithmic_regret(antagonist), probability=1.0)
    meta = metarl.compose(inner, ESTIMATORS["es"], optax.adam(1e-3), curriculum, 4)
    state, log = metarl.train(meta, seed=0, steps=4, chunk=2)
    buffer = jax.device_get(state.curriculum.buffer)
    assert np.isfinite(buffer.score).sum() >= 4 and len(set(buffer.score[np.isfinite(buffer.score)])) > 1
    assert log["replayed_share"][-1] > 0.0
    np.testing.assert_array_equal(state.curriculum.score.step, state.lifetimes.step)


BANDITS = bandit.distribution(num_arms=2, max_steps=1)


def test_learnability_is_that_of_the_agents_rate_of_success():
    """Of newborn agents, which pull both arms of a bandit alike: p is the mean of the arms' probabilities."""
    player = metarl.rl_inner_loop(
        BANDITS.env, tabular, a2c(), optax.adam(0.1), metarl.Experience(1, 1), num_eval_episodes=1
    )
    means = jnp.array([[0.0, 0.0], [0.2, 0.2], [0.2, 0.8], [1.0, 0.6], [1.0, 1.0]])
    rate = np.array(means.mean(1))
    keys = jax.random.split(jax.random.key(0), 5)
    levels = jax.vmap(BANDITS.sample)(keys)
    levels = levels._replace(problem=levels.problem._replace(means=means))
    count = 2000

    def score(success):
        values = scores.learnability(player, success, num_episodes=count, batch_size=5)
        lifetimes = jax.vmap(player.init)(keys, levels)
        return values.update(player, player.init_meta(keys[0]), (), lifetimes, jnp.ones(5, bool), keys[1])[0]

    found = jax.jit(lambda: score(scores.success(None)))()
    np.testing.assert_allclose(found, rate * (1 - rate), atol=5 * 0.5 / count**0.5)
    assert found[0] == found[4] == 0.0 and found.max() == found[2]
    always = jax.jit(lambda: score(lambda problem, episode_return: episode_return >= problem.means.min() - 1))()
    np.testing.assert_array_equal(always, 0.0)


@pytest.mark.parametrize(
    ("optimum", "share", "fails", "succeeds"),
    [(2.0, 0.5, 0.99, 1.0), (2.0, 1.0, 1.99, 2.0), (-2.0, 0.5, -3.01, -3.0), (-2.0, 1.0, -2.01, -2.0)]
    + [(2.0, 0.0, -0.01, 0.0), (0.0, 0.5, -0.01, 0.0), (None, 0.5, 0.0, 0.01)],
)
def test_success_is_a_share_of_the_optimum_or_a_positive_return(optimum, share, fails, succeeds):
    success = scores.success(None if optimum is None else lambda problem: jnp.float32(optimum), share)
    assert not success((), jnp.float32(fails)) and success((), jnp.float32(succeeds))


def test_an_agent_that_diverged_has_no_learnability():
    """It would else never succeed, as on a level that is too hard."""

    class Lived(NamedTuple):
        level: metarl.Level
        returned: jax.Array

    player = LEARNS._replace(fitness=lambda rule, lifetime, key: lifetime.returned)
    lifetimes = Lived(metarl.Level(jnp.zeros(3), jnp.ones(3, jnp.int32)), jnp.array([jnp.nan, -1.0, 1.0]))
    score = scores.learnability(player, scores.success(None))
    found, _ = score.update(player, (), (), lifetimes, jnp.ones(3, bool), jax.random.key(0))
    np.testing.assert_array_equal(found, [np.nan, 0.0, 0.0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        scores.algorithmic_regret(LEARNS, batch_size=0)
    with pytest.raises(ValueError, match="optimal_regret needs levels whose optimal return is known"):
        scores.optimal_regret(None)
    with pytest.raises(ValueError, match="regret compares fitness, but an antagonist has none"):
        scores.algorithmic_regret(LEARNS._replace(fitness=None))
    with pytest.raises(ValueError, match="plays episodes, but `player` has no fitness"):
        scores.learnability(LEARNS._replace(fitness=None), scores.success(None))
    with pytest.raises(ValueError, match="num_episodes must be at least 2, got 1"):
        scores.learnability(LEARNS, scores.success(None), num_episodes=1)
    with pytest.raises(ValueError, match="share must be at most 1, got 1.5"):
        scores.success(None, 1.5)

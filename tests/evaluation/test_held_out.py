"""Reports on held-out levels against hand-worked numbers."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import envs
import metarl
from metarl.evaluation.families import a2c, family
from metarl.evaluation.held_out import Judge, held_out_report, horizon_report, measure, worst_report
from metarl.rules import build

SMALL = {"objective": {}, "experience": {"num_envs": 2, "rollout_length": 2}}


def test_intervals_over_horizons_are_the_hand_worked_ones():
    """Of several rules of a kind by Student's t over rules; of one, over levels and evaluation seeds."""
    zero, one = jnp.zeros(2), jnp.full(2, 2.0)

    def player(score):
        return lambda horizon: jnp.full((3, 2), score * horizon)  # [seeds, levels]

    judge = SimpleNamespace(
        living=lambda horizon: horizon,
        returns=lambda play, levels: play(levels),
        plain={"plain": player(0.1)},
        random=None,
        optimal=None,
        scale=lambda best: (zero, one) if (best == 1.0).all() else None,  # of the longest lifetime, and not shared out
    )
    kinds = {"new": [player(x) for x in (0.2, 0.4, 0.6)], "old": [player(0.2)] * 3}
    report = horizon_report(measure(judge, kinds, (1, 10)))
    assert list(report) == ["new", "old", "plain", "new minus old"]
    half = 4.302653 * 0.2 / 3**0.5  # t of two degrees of freedom
    for horizon, scale in ((1, 0.5), (10, 5.0)):
        np.testing.assert_allclose(
            report["new"][horizon], [scale * x for x in (0.4, 0.4 - half, 0.4 + half)], rtol=1e-5
        )
        np.testing.assert_allclose(report["old"][horizon], [scale * 0.2] * 3, rtol=1e-5)
        np.testing.assert_allclose(report["plain"][horizon], [scale * 0.1] * 3, rtol=1e-5)
        difference = [scale * x for x in (0.2, 0.2 - half, 0.2 + half)]
        np.testing.assert_allclose(report["new minus old"][horizon], difference, rtol=1e-5)
    fewer = {"new": [player(0.2)] * 2, "old": [player(0.2)]}
    assert list(horizon_report(measure(judge, fewer, (1, 10)))) == ["new", "old", "plain"]


def test_returns_on_the_worst_levels_are_the_hand_worked_ones():
    """Of single players by the bootstrap, of several by Student's t over players, with the first one's differences."""
    returns = np.array([[4.0, 2.0, 3.0, 8.0], [0.0, 1.0, 9.0, 6.0]])  # [seeds, levels]; the worst half has 4 on average
    judge = SimpleNamespace(
        levels=None,
        random=None,
        optimal=None,
        returns=lambda play, levels: play(levels),
        plain={"plain": lambda levels: jnp.array(returns)},
        scale=lambda best: (jnp.zeros(4), jnp.full(4, 10.0)),
    )

    def players(*shifts):
        return [lambda levels, shift=shift: jnp.array(returns + shift) for shift in shifts]

    found = worst_report(measure(judge, {"new": players(0.0, 2.0), "old": players(0.0, 0.0)}), (0.5, 1.0))
    assert list(found) == ["new", "old", "plain", "new minus old"]
    half = 12.7062 * 0.1
    assert found["new"][None][0.5] == pytest.approx((0.5, 0.5 - half, 0.5 + half), rel=1e-4)
    assert found["new minus old"][None][0.5] == pytest.approx((0.1, 0.1 - half, 0.1 + half), rel=1e-4)
    assert found["old"][None][1.0].mean == pytest.approx(33 / 8 / 10)
    single = worst_report(measure(judge, {"new": players(2.0), "old": players(0.0)}), (0.5,))
    assert single["new"][None][0.5].mean == pytest.approx(0.6)
    assert single["new minus old"][None][0.5] == pytest.approx((0.2, 0.2, 0.2))  # the same levels are worst for both


def test_agents_that_diverged_count_as_random_with_a_warning(capsys):
    judge = SimpleNamespace(random=jnp.array([[1.0, 2.0], [3.0, 2.0]]))
    returns = Judge.returns(judge, lambda levels: jnp.array([[5.0, jnp.nan], [jnp.inf, 6.0]]), None)
    assert returns.tolist() == [[5.0, 2.0], [2.0, 6.0]]
    assert "2 of 4 agents diverged" in capsys.readouterr().err


def test_a_reference_that_is_not_above_random_leaves_returns_as_they_are(capsys):
    judge = SimpleNamespace(random=jnp.array([[1.0, 2.0]]), optimal=None)
    zero, one = Judge.scale(judge, jnp.array([[1.0, 1.0]]))
    assert zero.tolist() == [0.0, 0.0] and one.tolist() == [1.0, 1.0]
    assert "plain returns" in capsys.readouterr().err


@pytest.fixture(scope="module")
def judge():
    levels = envs.make("mdp/random", 2)
    recipe = a2c(family("mdp/random", levels.environment), SMALL)
    inner = build(recipe).inner_loop(levels.environment, num_eval_episodes=2)
    return Judge(levels, ("a2c", inner), num_levels=2, num_seeds=2, batch_size=4)


def test_random_scores_zero_and_the_optimal_policy_one(judge):
    report = held_out_report(measure(judge, {}))
    assert list(report) == ["a2c", "random", "optimal"]
    assert report["random"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert report["optimal"]["mean"] == pytest.approx(1.0)
    assert set(report["a2c"]) == {"mean", "low", "high", "return"}


def test_rewards_that_are_not_finite_are_no_score():
    """Not even of agents that "diverged": a newborn agent cannot."""
    levels = envs.make("mdp/random", 2)
    inner = build(a2c(family("mdp/random", levels.environment), SMALL)).inner_loop(
        levels.environment, num_eval_episodes=2
    )

    def sample(key):
        level = levels.sample(key)
        return level._replace(problem=level.problem._replace(reward=jnp.full_like(level.problem.reward, jnp.nan)))

    with pytest.raises(ValueError, match="4 of 4 returns of the random policy in the held-out levels are not finite"):
        Judge(levels._replace(sample=sample), ("a2c", inner), num_levels=2, num_seeds=2, batch_size=4)


def test_too_few_levels_or_seeds_are_refused():
    with pytest.raises(ValueError, match="num_levels must be at least 2, got 1"):
        Judge(metarl.Levels(lambda key: None), ("a2c", None), num_levels=1, num_seeds=1, batch_size=1)

"""The scale from 0 to 1: normalised returns against hand-worked numbers, and scales of environments."""

import numpy as np
import pytest

from metarl.evaluation.scales import (
    Scale,
    check_finite,
    cvar_return,
    diverged_as_random,
    normalised_return,
    on_scale,
    scale,
)
from metarl.evaluation.statistics import over_runs


def test_normalised_returns_are_the_hand_worked_ones():
    # per level 2, 5 and 2; above zero 1, 3 and 0, of 2, 4 and 4
    returns = np.array([[1.0, 4.0, 2.0], [3.0, 6.0, 2.0]])
    score = normalised_return(returns, np.array([1.0, 2.0, 2.0]), np.array([3.0, 6.0, 6.0]))
    assert score.mean == pytest.approx(4.0 / 10.0)  # a ratio of means, not the mean .416.. of ratios
    assert 0.0 <= score.low < score.mean < score.high <= 1.0 + 1e-9


def test_the_ends_of_the_scale_score_zero_and_one():
    zero, one = np.array([0.1, -3.0, 5.0]), np.array([2.0, 1.0, 5.1])
    assert normalised_return(zero[None], zero, one) == pytest.approx((0.0, 0.0, 0.0))
    assert normalised_return(np.tile(one, (4, 1)), zero, one) == pytest.approx((1.0, 1.0, 1.0))


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, levels, hits = np.random.default_rng(0), 40, 0
    for trial in range(30):
        returns = rng.normal(0.5, 0.3, size=(1, levels))
        score = normalised_return(returns, np.zeros(levels), np.ones(levels), seed=trial)
        hits += score.low <= 0.5 <= score.high
    assert 25 <= hits <= 30  # 95 % of 30 are 28.5; fewer than 25 have a probability below 1 in 200


def test_more_seeds_do_not_make_levels_more_certain():
    """Levels are resampled as well: copies of the same agents say nothing new about other levels."""
    rng = np.random.default_rng(1)
    returns, ends = rng.normal(size=(1, 20)), (np.zeros(20), np.ones(20))
    assert normalised_return(returns, *ends) == pytest.approx(
        normalised_return(np.tile(returns, (50, 1)), *ends), abs=0.1
    )


def test_seeds_are_resampled_too():
    """On levels that are all alike, only the seeds are left to differ."""
    returns = np.repeat(np.array([[0.0], [1.0], [0.0], [1.0]]), 6, axis=1)
    score = normalised_return(returns, np.zeros(6), np.ones(6))
    assert score.mean == 0.5 and score.low < 0.2 and score.high > 0.8


def test_a_reference_that_is_not_above_zero_is_refused():
    with pytest.raises(ValueError, match="is not above"):
        normalised_return(np.ones((2, 3)), np.ones(3), np.ones(3))


@pytest.mark.parametrize(
    ("returns", "zero", "one"), [((2, 3), (3,), (2,)), ((2, 3), (2,), (3,)), ((2, 1), (1,), (1,)), ((3, 2), (3,), (3,))]
)
def test_shapes_that_do_not_agree_are_named(returns, zero, one):
    with pytest.raises(ValueError, match=rf"n >= 2 levels, got \({returns[0]}, {returns[1]}\)"):
        normalised_return(np.ones(returns), np.zeros(zero), np.ones(one))


def test_the_scale_of_an_environment_is_from_the_random_policy_to_the_reference():
    random = np.array([1.0, 3.0])
    known = scale(random, np.array([6.0, 8.0]), "a2c")
    assert known == Scale(2.0, 7.0, "a2c", True)
    assert on_scale(np.array([2.0, 7.0, 9.5]), known.random, known.reference).tolist() == [0.0, 1.0, 1.5]
    assert not scale(random, np.array([1.0, 2.0]), "a2c").valid
    assert scale(random, np.array([6.0, np.nan]), "a2c").reference == pytest.approx(4.0)  # it counts as random


def test_agents_that_diverged_count_as_random():
    returns = np.array([[5.0, np.nan], [np.inf, 6.0]])
    assert diverged_as_random(returns, np.array([2.0, 3.0])).tolist() == [[5.0, 3.0], [2.0, 6.0]]


def test_a_random_policy_without_finite_returns_is_no_end_of_a_scale():
    check_finite([[0.0, -1e30]], "here")
    with pytest.raises(
        ValueError, match="2 of 3 returns of the random policy in here are not finite, so rewards are not"
    ):
        check_finite([np.nan, 1.0, -np.inf], "here")


def test_means_of_what_is_not_finite_are_not_numbers():
    for bad in (np.nan, np.inf):
        score = normalised_return(np.array([[1.0, bad]]), np.zeros(2), np.ones(2))
        assert not np.isfinite(score.mean)
        assert not np.isfinite(over_runs([1.0, 2.0, bad]).mean)


def test_returns_on_the_worst_levels_are_the_hand_worked_ones():
    # the second seed finds levels 0 and 1 worst, on which the first has 4 and 2; the first finds 1 and 2, with 1 and 9
    returns, zero, one = np.array([[4.0, 2.0, 3.0, 8.0], [0.0, 1.0, 9.0, 6.0]]), np.zeros(4), np.full(4, 10.0)
    found = cvar_return(returns, zero, one, (0.5, 1.0))
    assert found[0.5].mean == pytest.approx((3.0 + 5.0) / 2 / 10)
    assert found[1.0] == pytest.approx(normalised_return(returns, zero, one))
    # of (4, 5, 12, 9) at best, the seeds fall short by (0, 3, 9, 1) and (4, 4, 3, 3): the first finds 2 and 1 worst and
    # the second 0 and 1, so that shortfalls of (3 + 4) / 2 and (0 + 3) / 2 are scored, where 7.5 can be had
    best = np.array([4.0, 5.0, 12.0, 9.0])
    assert cvar_return(returns, zero, best, (0.5,), best)[0.5].mean == pytest.approx((7.5 - 2.5) / 7.5)
    other = cvar_return(returns[::-1] + 1.0, zero, one, (0.5,), minus=returns)
    assert other[0.5].mean == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"minus must have the shape \(2, 4\) of the returns, got \(3, 4\)"):
        cvar_return(returns, zero, one, (0.5,), minus=np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"optimal must have the shape \(4,\) of the levels, got \(1,\)"):
        cvar_return(returns, zero, one, (0.5,), np.ones(1))


def test_the_optimal_policy_is_optimal_on_its_worst_levels():
    best = np.array([1.0, 5.0, 3.0])
    assert cvar_return(np.tile(best, (3, 1)), best - 1.0, best, (0.2, 0.7), best)[0.2] == pytest.approx((1.0, 1.0, 1.0))


def test_levels_that_are_worst_by_chance_are_not_worse():
    """All levels are alike: the worst by the scores themselves is below the mean, and the worst by others is not."""
    returns, ends = np.random.default_rng(0).normal(0.5, 0.3, size=(4, 400)), (np.zeros(400), np.ones(400))
    found = cvar_return(returns, *ends, (0.1,), resamples=200)[0.1]
    assert found.low < 0.5 < found.high and abs(found.mean - 0.5) < 0.05  # 160 scores: four deviations are 0.095
    naive = np.sort(returns.mean(0))[:40].mean()
    assert naive < 0.3  # 1.75 deviations of the mean of four seeds below


def test_intervals_on_the_worst_levels_cover_the_truth():
    """Of levels whose means are normal, the worst fifth by the mean of three other seeds, by 1e5 such levels."""
    random = np.random.default_rng(1)

    def drawn(n):
        return random.normal(0.5, 0.3, size=n) + random.normal(0.0, 0.2, size=(4, n))

    truth = cvar_return(drawn(100_000), np.zeros(100_000), np.ones(100_000), (0.2,), resamples=1)[0.2].mean
    hits = 0
    for trial in range(60):
        found = cvar_return(drawn(60), np.zeros(60), np.ones(60), (0.2,), seed=trial, resamples=200)[0.2]
        hits += found.low <= truth <= found.high
    assert hits >= 51  # 95 % of 60 are 57


def test_one_seed_cannot_choose_levels_for_another():
    with pytest.raises(ValueError, match="at least 2 seeds: levels are chosen by others than those that are scored"):
        cvar_return(np.ones((1, 3)), np.zeros(3), np.ones(3), (0.5,))

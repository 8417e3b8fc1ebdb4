"""The scale from 0 to 1: normalised returns against hand-worked numbers, and scales of environments."""

import numpy as np
import pytest

from metarl.evaluation.scales import Scale, check_finite, diverged_as_random, normalised_return, on_scale, scale
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
    for trial in range(60):
        returns = rng.normal(0.5, 0.3, size=(1, levels))
        score = normalised_return(returns, np.zeros(levels), np.ones(levels), seed=trial)
        hits += score.low <= 0.5 <= score.high
    assert 51 <= hits <= 60  # 95 % of 60 are 57; fewer than 51 have a probability below 1 in 200


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

"""Statistics of runs on tasks: hand-worked numbers, an independent bootstrap, and the rates that theory states."""

import random
import statistics

import numpy as np
import pytest
import scipy.stats

from metarl.evaluation.statistics import (
    Interval,
    aggregates,
    cvar,
    deviation,
    difference,
    interquartile_mean,
    optimality_gap,
    over_points,
    over_runs,
    pairs_needed,
    performance_profile,
    probability_of_improvement,
    verdict,
)


def test_curves_have_an_interval_at_each_point():
    curves = np.array([[1.0, 5.0], [2.0, 7.0], [3.0, 6.5]])
    for point, values in zip(np.array(over_points(curves)).T, curves.T, strict=True):
        assert tuple(point) == over_runs(values)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.2, 0.3, "better"),
        (-0.3, -0.2, "worse"),
        (0.001, 0.009, "alike"),  # surely above 0, and too little to matter
        (-0.009, 0.009, "alike"),
        (-0.2, 0.009, "no difference shown"),
        (0.0, 0.2, "no difference shown"),
    ],
)
def test_verdicts_are_those_of_the_interval(low, high, said):
    assert verdict(Interval((low + high) / 2, low, high), 0.01) == said


def test_the_interval_over_runs_is_students():
    assert over_runs([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 4.302653 / 3**0.5, 2.0 + 4.302653 / 3**0.5))
    with pytest.raises(ValueError, match=r"n >= 2 runs, got shape \(1,\)"):
        over_runs([1.0])


@pytest.mark.parametrize(
    ("size", "options", "pairs"),
    # as G*Power 3.1 and R's pwr.t.test(type = "paired") have them
    [(0.2, {}, 199), (0.3, {}, 90), (0.5, {}, 34), (0.8, {}, 15), (1.0, {}, 10), (2.0, {}, 5)]
    + [(0.5, {"power": 0.9}, 44), (0.5, {"power": 0.95}, 54), (0.5, {"level": 0.01}, 51), (1e5, {}, 2)],
)
def test_as_many_pairs_are_needed_as_the_tables_of_students_test_say(size, options, pairs):
    assert pairs_needed(size, 1.0, **options) == pairs
    assert pairs_needed(0.03 * size, 0.03, **options) == pairs


def test_a_paired_test_of_as_many_pairs_has_the_power():
    """By simulation; one pair less has less."""
    random, effect, spread = np.random.default_rng(0), 0.05, 0.04
    count = pairs_needed(effect, spread)
    rejected = {}
    for n in (count - 1, count):
        differences = random.normal(effect, spread, (40_000, n))
        rejected[n] = (scipy.stats.ttest_1samp(differences, 0.0, axis=1).pvalue < 0.05).mean()
    assert rejected[count - 1] < 0.8 < rejected[count] + 0.006  # three standard errors
    assert pairs_needed(effect, 0.0) == 2
    assert pairs_needed(1e-6, 1.0) == pytest.approx(((1.959964 + 0.841621) * 1e6) ** 2, rel=1e-5)  # the normal's


def test_the_deviation_of_few_runs_is_hardly_known():
    assert deviation([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((2.5**0.5, 0.599 * 2.5**0.5, 2.874 * 2.5**0.5), 1e-3)
    values = np.random.default_rng(0).normal(0.0, 2.0, (4000, 5))
    held = [low <= 2.0 <= high for _, low, high in map(deviation, values)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.011)
    with pytest.raises(ValueError, match=r"n >= 2 runs, got shape \(1,\)"):
        deviation([1.0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"effect": 0.0}, "effect must be above 0"),
        ({"effect": float("nan")}, "effect must be a number, not NaN"),
        ({"deviation": -1.0}, "deviation must be at least 0"),
        ({"power": 1.0}, "power must be below 1"),
        ({"level": 0.0}, "level must be above 0"),
    ],
)
def test_a_power_that_cannot_be_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        pairs_needed(**{"effect": 0.1, "deviation": 1.0, **options})


# hand-worked numbers


@pytest.mark.parametrize(
    ("scores", "middle"),
    [
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),  # of 3, 4, 5, 6
        ([100, 3, 0, 2, 1], 2.0),  # of 1, 2, 3: floor(5 / 4) = 1 at either end
        ([5, 1, -9, 4, 3, 2, 90], 3.0),  # of 1 to 5
        ([1, 2, 9], 4.0),  # of all three
        ([0, 2, 2, 2, 2, 9], 2.0),
        ([7], 7.0),
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(scores, middle):
    assert interquartile_mean(scores) == pytest.approx(middle)
    kept = sorted(scores)[len(scores) // 4 : len(scores) - len(scores) // 4]
    assert interquartile_mean(scores) == pytest.approx(sum(kept) / len(kept))


def test_interquartile_means_along_an_axis_and_over_all():
    scores = np.array([[0.0, 10.0], [1.0, 20.0], [2.0, 30.0], [99.0, -90.0]])
    np.testing.assert_allclose(interquartile_mean(scores, axis=0), [1.5, 15.0])
    assert interquartile_mean(scores) == pytest.approx((1 + 2 + 10 + 20) / 4)


def test_the_optimality_gap_is_what_is_missing():
    assert optimality_gap([[0.5, 2.0, -1.0]]) == pytest.approx(2.5 / 3)
    assert optimality_gap([[0.5, 2.0, -1.0]], optimum=2.0) == pytest.approx(4.5 / 3)


def test_aggregates_are_the_hand_worked_ones():
    found = aggregates([[0.0, 1.0, 10.0, 0.25], [2.0, 3.0, 20.0, 0.25]])
    assert list(found) == ["iqm", "median", "mean", "optimality_gap"]
    assert found["iqm"].mean == pytest.approx((0.25 + 1 + 2 + 3) / 4)
    assert found["median"].mean == pytest.approx((1 + 2) / 2)  # of the tasks' means 0.25, 1, 2, 15
    assert found["mean"].mean == pytest.approx(18.25 / 4)
    assert found["optimality_gap"].mean == pytest.approx((1 + 0.75 + 0.75) / 8)
    assert all(interval.low <= interval.mean <= interval.high for interval in found.values())


def test_the_probability_of_improvement_counts_pairs_and_ties_by_half():
    x, y = np.array([[1.0, 5.0], [2.0, 5.0], [2.0, 5.0]]), np.array([[2.0, 0.0], [3.0, 5.0]])
    assert probability_of_improvement(x, y).mean == pytest.approx((1 / 6 + 4.5 / 6) / 2)
    assert probability_of_improvement(y, x).mean == pytest.approx(1 - (1 / 6 + 4.5 / 6) / 2)
    assert probability_of_improvement(x, x).mean == 0.5
    assert probability_of_improvement(x + 9, y) == (1.0, 1.0, 1.0)


def test_differences_are_of_interquartile_means():
    x = np.array([[8.0, 7.0], [1.0, 2.0], [6.0, 3.0], [5.0, 4.0]])
    assert difference(x, np.array([[0.0, 1.0], [2.0, 99.0]])).mean == pytest.approx(4.5 - 1.5)
    assert difference(np.full((3, 2), 4.0), np.ones((2, 2))) == (3.0, 3.0, 3.0)


def test_profiles_are_shares_above_each_threshold():
    share, low, high = performance_profile([[0.0, 0.5], [0.5, 1.0]], [-1.0, 0.0, 0.5, 1.0])
    np.testing.assert_array_equal(share, [1.0, 0.75, 0.25, 0.0])  # a score on the threshold is not above it
    np.testing.assert_array_equal(low, [1.0, 0.5, 0.0, 0.0])
    np.testing.assert_array_equal(high, [1.0, 1.0, 0.5, 0.0])


# the bootstrap


def middle_mean(values):
    values = sorted(values)
    values = values[len(values) // 4 : len(values) - len(values) // 4]
    return sum(values) / len(values)


SUMMARIES = {
    "iqm": lambda tasks: middle_mean([x for task in tasks for x in task]),
    "median": lambda tasks: statistics.median(statistics.fmean(task) for task in tasks),
    "mean": lambda tasks: statistics.fmean(x for task in tasks for x in task),
    "optimality_gap": lambda tasks: statistics.fmean(max(1 - x, 0) for task in tasks for x in task),
    "above a half": lambda tasks: statistics.fmean(x > 0.5 for task in tasks for x in task),
}


def test_intervals_agree_with_a_plain_stratified_bootstrap():
    draw = random.Random(0)
    x, y = (
        [[draw.gauss(mean, 0.4) for _ in range(n)] for mean in means] for n, means in ((6, (0, 1, 2)), (5, (0, 1, 1)))
    )

    def wins(x, y):
        return statistics.fmean((a > b) + 0.5 * (a == b) for p, q in zip(x, y, strict=True) for a in p for b in q)

    plain = {name: [] for name in [*SUMMARIES, "difference", "improvement"]}
    for _ in range(2000):
        p, q = ([draw.choices(task, k=len(task)) for task in tasks] for tasks in (x, y))
        for name, summary in SUMMARIES.items():
            plain[name].append(summary(p))
        plain["difference"].append(SUMMARIES["iqm"](p) - SUMMARIES["iqm"](q))
        plain["improvement"].append(wins(p, q))
    scores, others = np.transpose(x), np.transpose(y)
    found = aggregates(scores, resamples=4000) | {
        "above a half": [values[0] for values in performance_profile(scores, [0.5], resamples=4000)],
        "difference": difference(scores, others, resamples=4000),
        "improvement": probability_of_improvement(scores, others, resamples=4000),
    }
    for name, summary in SUMMARIES.items():
        assert found[name][0] == pytest.approx(summary(x)), name
    for name, samples in plain.items():
        low, *_, high = statistics.quantiles(samples, n=40)
        # an end's error is about 0.02 of the width: its density there is about 0.06 / sd, the width 3.9 sd
        assert found[name][1:] == pytest.approx((low, high), abs=0.1 * (high - low)), name


def test_every_task_draws_its_own_seeds_and_tasks_stay():
    column = np.arange(8.0)
    opposite = aggregates(np.stack([column, -column], 1))["mean"]  # rows drawn together would always give 0
    assert opposite.low < -0.5 and opposite.high > 0.5
    levels = aggregates(np.tile([0.0, 1.0, 5.0], (4, 1)))  # drawn tasks would vary
    assert levels["mean"] == pytest.approx((2.0, 2.0, 2.0))
    assert levels["median"] == (1.0, 1.0, 1.0)


def test_the_same_seed_gives_the_same_intervals():
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert aggregates(x, resamples=50, seed=1) == aggregates(x, resamples=50, seed=1)
    assert aggregates(x, resamples=50, seed=1) != aggregates(x, resamples=50, seed=2)


def test_an_interval_holds_its_estimate_despite_rounding():
    for interval in aggregates(np.full((7, 3), 0.1), resamples=20).values():
        assert interval.low <= interval.mean <= interval.high


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    hits = {name: 0 for name in ("iqm", "mean", "optimality_gap")}
    gap = 0.5 * scipy.stats.norm.cdf(0.5) + scipy.stats.norm.pdf(0.5)  # of normal scores around 0.5: E max(0.5 - z, 0)
    for trial in range(150):
        found = aggregates(rng.normal(0.5, 1.0, (40, 2)), resamples=200, seed=trial)
        for name, truth in (("iqm", 0.5), ("mean", 0.5), ("optimality_gap", gap)):
            hits[name] += found[name].low <= truth <= found[name].high
    # about 94 % of 150 = 141, with a standard deviation of 3
    assert all(132 <= n <= 149 for n in hits.values()), hits


# power


@pytest.mark.parametrize("tasks", [1, 2])
def test_effects_are_found_as_often_as_theory_says_and_no_effect_hardly_ever(tasks):
    """Two groups of 64 runs, of one task or split over two, half a standard deviation apart or not at all."""
    rng, trials, runs = np.random.default_rng(tasks), 100, 64
    quartile = scipy.stats.norm.ppf(0.75)
    middle = 1 - 2 * 0.25 - 2 * quartile * scipy.stats.norm.pdf(quartile)  # E z² over the middle half
    efficiency = {"improvement": 3 / np.pi, "difference": 0.5**2 / (middle + 0.5 * quartile**2)}  # relative to the mean
    for effect in (0.0, 0.5):
        found = dict.fromkeys(efficiency, 0)
        agree = 0
        for trial in range(trials):
            x, y = (rng.normal(mean, 1.0, (runs // tasks, tasks)) for mean in (effect, 0.0))
            better = probability_of_improvement(x, y, resamples=200, seed=trial)
            more = difference(x, y, resamples=200, seed=trial)
            detected = not better.low <= 0.5 <= better.high
            found["improvement"] += detected
            found["difference"] += not more.low <= 0.0 <= more.high
            agree += detected == (scipy.stats.mannwhitneyu(x.ravel(), y.ravel()).pvalue < 0.05)
        for name, share in efficiency.items():
            shift = effect * np.sqrt(share * runs / 2)
            power = scipy.stats.norm.sf(1.96 - shift) + scipy.stats.norm.cdf(-1.96 - shift)  # 0.05, or 0.79 and 0.74
            spread = np.sqrt(trials * power * (1 - power))
            # 200 resamples of few runs find a little too much: by about 0.015
            assert abs(found[name] - trials * (power + 0.015)) < 3 * spread, (name, effect, found)
        assert agree >= 0.9 * trials  # with the test of Mann and Whitney on the same runs


# bad input


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: interquartile_mean([]), r"at least one value, got shape \(0,\)"),
        (lambda: optimality_gap([1.0, np.inf]), "1 of 2 values are not finite"),
        (lambda: aggregates(np.ones(3)), r"scores: need \[seeds, tasks\] of at least two seeds.* got shape \(3,\)"),
        (lambda: aggregates(np.ones((1, 3))), r"at least two seeds and one task, got shape \(1, 3\)"),
        (lambda: aggregates(np.ones((3, 0))), r"at least two seeds and one task, got shape \(3, 0\)"),
        (lambda: aggregates([[0.0, np.nan], [1.0, 1.0]]), "1 of 4 values are not finite"),
        (lambda: aggregates(np.ones((2, 3)), resamples=0), "resamples must be at least 1, got 0"),
        (lambda: difference(np.ones((2, 3)), np.ones((2, 4))), "x and y need the same tasks, got 3 and 4"),
        (lambda: probability_of_improvement(np.ones((2, 3)), np.ones((1, 3))), r"y: need .* got shape \(1, 3\)"),
        (lambda: performance_profile(np.ones((2, 3)), [[0.5]]), r"need thresholds \[n\], got shape \(1, 1\)"),
        (lambda: performance_profile(np.ones((2, 3)), []), r"at least one value, got shape \(0,\)"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_the_worst_share_of_tasks_is_the_hand_worked_one():
    """Five tasks: .4 are the two that the other measurements call worst, .5 those and half of the third."""
    scores, chosen_by = np.array([10.0, 20.0, 30.0, 40.0, 50.0]), np.array([3.0, 1.0, 5.0, 2.0, 4.0])
    found = cvar(scores, chosen_by, (0.1, 0.2, 0.4, 0.5, 1.0))
    np.testing.assert_allclose(found, [20.0, 20.0, 30.0, (20.0 + 40.0 + 0.5 * 10.0) / 2.5, 30.0])
    np.testing.assert_allclose(cvar(np.stack([scores, -scores]), np.stack([chosen_by, scores]), (0.4,)), [[30], [-15]])


def test_the_worst_share_of_tasks_is_that_of_a_loop():
    draw = random.Random(0)
    for _ in range(20):
        n, alpha = draw.randint(1, 9), draw.uniform(0.05, 1.0)
        scores, by = ([draw.choice([-1.0, 0.5, 2.0, 3.0]) for _ in range(n)] for _ in range(2))
        left, total = alpha * n, 0.0
        for i in sorted(range(n), key=lambda i: by[i]):
            share = min(left, 1.0)
            total, left = total + share * scores[i], left - share
        assert cvar(scores, by, [alpha])[0] == pytest.approx(total / (alpha * n))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([1.0], [1.0], [0.0]), r"alphas must be above 0 and at most 1, got \[0.0\]"),
        (([1.0], [1.0], [1.5]), r"at most 1, got \[1.5\]"),
        (([1.0, 2.0], [1.0], [0.5]), r"got \(2,\), \(1,\) and \(1,\)"),
        (([1.0], [np.nan], [0.5]), "1 of 1 values are not finite"),
    ],
)
def test_shares_that_cannot_be_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        cvar(*arguments)

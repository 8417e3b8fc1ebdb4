"""Statistics of few runs on several tasks, after Agarwal et al. 2021, "Deep RL at the Edge of the Statistical
Precipice" (arXiv 2108.13264).

`scores` [seeds, tasks] are normalised: 0 and 1 mean the same on every task. Every 95 % interval but Student's is that
of a stratified percentile bootstrap (their section 4.1): the seeds of each task are drawn anew with replacement, each
task's by themselves, and the tasks stay. So it says what other seeds on these tasks would give. It is widened, if need
be, to hold its own estimate. Few seeds vary less than they should: the intervals of 4, 8 and 16 normal scores on one
task hold the true mean in 80, 88 and 92 % of cases. The same `seed` gives the same interval.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np
import scipy.stats

from metarl.checks import COUNT, POSITIVE, Bound, checked

_INSIDE = Bound(0, 1, above=True, below=True)


class Interval(NamedTuple):
    """An estimate, which most often is a mean, and its 95 % interval."""

    mean: float
    low: float
    high: float


def over_runs(scores: Any) -> Interval:
    """Mean of the scores [n] of n independent runs and its 95 % interval by Student's t, which is fit for few runs.

    Raises ValueError if there are fewer than two.
    """
    values = _independent(scores)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def over_points(curves: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`over_runs` at each of n points of `curves` [runs, n]: mean, low and high, all [n]."""
    mean, low, high = np.array([over_runs(x) for x in np.asarray(curves).T]).T
    return mean, low, high


def verdict(gain: Interval, relevant: float) -> str:
    """What the interval of a difference shows: "better", "worse", "no difference shown", or "alike".

    The last is said of an interval within ±`relevant`, also if it is without 0.
    """
    if max(abs(gain.low), abs(gain.high)) < relevant:
        return "alike"
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "no difference shown"


def deviation(scores: Any) -> Interval:
    """Standard deviation of the scores [n] of n independent runs and its 95 % interval by chi-square.

    Few runs tell little of it: that of 5 normal ones may be off by a factor of 0.6 to 2.9. Raises ValueError as
    `over_runs` does.
    """
    values = _independent(scores)
    found, freedom = values.std(ddof=1), len(values) - 1
    low, high = found * np.sqrt(freedom / scipy.stats.chi2.ppf([0.975, 0.025], freedom))
    return Interval(float(found), float(low), float(high))


@checked
def pairs_needed(
    effect: Annotated[float, POSITIVE],
    deviation: Annotated[float, Bound(0, 1e9)],
    power: Annotated[float, _INSIDE] = 0.8,
    level: Annotated[float, _INSIDE] = 0.05,
) -> int:
    """How many pairs of runs show a mean difference of `effect` with probability `power`, in a two-sided paired t-test.

    `deviation` is the standard deviation of the differences within pairs, and `level` that of significance. The power
    is exact for normal differences: an effect of half a deviation needs 34 pairs, and one of a whole deviation
    10. Raises ValueError for numbers out of range.
    """
    size = effect / max(deviation, 1e-6 * effect)
    normal = scipy.stats.norm.ppf(1 - level / 2) + scipy.stats.norm.ppf(power)
    count = max(2, math.ceil((normal / size) ** 2) if normal > 0 else 2)  # Student's t needs a few more than this
    while count < 10**6 and _power(count, size, level) < power:
        count += 1
    return count


def _power(count: int, size: float, level: float) -> float:
    """Probability that a paired t-test of `count` pairs finds an effect of `size` standard deviations."""
    limit = scipy.stats.f.ppf(1 - level, 1, count - 1)  # of t^2, because scipy's noncentral t can be NaN
    return float(scipy.stats.ncf.sf(limit, 1, count - 1, size**2 * count))


def interquartile_mean(scores: Any, axis: int | None = None) -> Any:
    """Mean of the middle half of `scores` along `axis`, or of them all: floor(n / 4) of n are left out at either end.

    Outliers do not move it, as they do a mean, and it uses more of the scores than a median. Raises ValueError if there
    are no scores or some are not finite.
    """
    return scipy.stats.trim_mean(_finite(scores), 0.25, axis=axis)


def optimality_gap(scores: Any, optimum: float = 1.0, axis: int | tuple[int, ...] | None = None) -> Any:
    """How far scores fall short of `optimum` on average along `axis`; what lies above it makes up for nothing.

    Raises ValueError if there are no scores or some are not finite.
    """
    return np.maximum(optimum - _finite(scores), 0.0).mean(axis)


def cvar(scores: Any, chosen_by: Any, alphas: Any) -> np.ndarray:
    """Mean of `scores` [..., n] over the share alpha of n tasks on which `chosen_by` [..., n] is lowest: [..., alphas].

    That is their conditional value at risk: at 1 the mean, near 0 the score on the worst task. The worst alpha n tasks
    count, the last of them in part if alpha n is no integer; of equal ones, the first are worse. `chosen_by` should be
    other measurements than `scores`, or the worst tasks are those where the noise is. Raises ValueError for alphas that
    are not above 0 and at most 1, for shapes that differ, for no scores and for some that are not finite.
    """
    values, by, shares = _finite(scores), _finite(chosen_by), _finite(alphas)
    if values.shape != by.shape or not values.ndim or shares.ndim != 1:
        raise ValueError(
            f"need scores and chosen_by [..., n] and alphas [m], got {values.shape}, {by.shape} and {shares.shape}"
        )
    if not ((shares > 0) & (shares <= 1)).all():
        raise ValueError(f"alphas must be above 0 and at most 1, got {shares.tolist()}")
    order, counted = by.argsort(-1, kind="stable"), shares[:, None] * values.shape[-1]  # [alphas, 1]
    weights = np.clip(counted - np.arange(values.shape[-1]), 0.0, 1.0)  # of the worst, the second, ...
    return np.take_along_axis(values, order, -1) @ (weights / weights.sum(1, keepdims=True)).T


def aggregates(scores: Any, *, resamples: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Four summaries of `scores` [seeds, tasks]: "iqm", "median", "mean" and "optimality_gap".

    The interquartile mean is that of all runs on all tasks, the median that over tasks of their mean scores. Raises
    ValueError if there are fewer than two seeds, of which no interval can be told, no tasks, or scores not finite.
    """
    values = _runs("scores", scores)
    sample = _resample(values, resamples, np.random.default_rng(seed))
    statistics = {
        "iqm": _pooled,
        "median": lambda x: np.median(x.mean(-2), -1),
        "mean": lambda x: x.mean((-2, -1)),
        "optimality_gap": lambda x: optimality_gap(x, axis=(-2, -1)),
    }
    return {name: _interval(statistic(values), statistic(sample)) for name, statistic in statistics.items()}


def probability_of_improvement(x: Any, y: Any, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """How likely a run of `x` [n, tasks] beats one of `y` [m, tasks] on the same task, meaned over tasks.

    A tie is half a win: it is the statistic of Mann and Whitney over n m, and 0.5 where there is no difference. Like
    their test, an interval without 0.5 finds a shift of half a standard deviation between 64 normal runs each in 79 %
    of cases and one of 0 in 5 %, be they runs of one task or of four; from few runs the latter in more. Raises
    ValueError as `aggregates` does, and if the tasks are not as many.
    """
    x, y = _two(x, y)
    random = np.random.default_rng(seed)
    # each score as its place among all of its task, so that no resample has to be sorted
    places = np.stack([np.unique(task, return_inverse=True)[1] for task in np.concatenate([x, y]).T], axis=-1)
    x, y = np.split(places, [len(x)])
    return _interval(_wins(x, y), _wins(_resample(x, resamples, random), _resample(y, resamples, random)))


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share [...] of pairs in which x [..., n, tasks] is above y [..., m, tasks]; both are places in an order."""
    size = max(x.max(), y.max()) + 1
    better, worse = (_counts(np.moveaxis(each, -1, -2), size) for each in (x, y))  # [..., tasks, size]
    below = worse.cumsum(-1) - 0.5 * worse
    return ((better * below).sum(-1) / (x.shape[-2] * y.shape[-2])).mean(-1)


def _counts(places: np.ndarray, size: int) -> np.ndarray:
    """How often each of `size` numbers occurs along the last axis, [..., size]."""
    rows = places.reshape(-1, places.shape[-1])
    numbered = rows + size * np.arange(len(rows))[:, None]
    return np.bincount(numbered.ravel(), minlength=size * len(rows)).reshape(*places.shape[:-1], size)


def difference(x: Any, y: Any, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Interquartile mean of `x` [n, tasks] less that of `y` [m, tasks], whose runs are not paired.

    An interval without 0 finds a shift of half a standard deviation between 64 normal runs each in 74 % of cases (where
    Student's test would in 80 %: the price of heeding no outliers), and one of 0 in 5 %. Raises ValueError as
    `aggregates` does, and if the tasks are not as many.
    """
    x, y = _two(x, y)
    random = np.random.default_rng(seed)
    samples = _pooled(_resample(x, resamples, random)) - _pooled(_resample(y, resamples, random))
    return _interval(_pooled(x) - _pooled(y), samples)


def performance_profile(
    scores: Any, thresholds: Any, *, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the runs `scores` [seeds, tasks] that score above each of `thresholds` [n]: (share, low, high), all [n].

    The 95 % intervals are pointwise. Raises ValueError as `aggregates` does, and if `thresholds` is not [n], n >= 1.
    """
    values, levels = _runs("scores", scores), _finite(thresholds)
    if levels.ndim != 1:
        raise ValueError(f"need thresholds [n], got shape {levels.shape}")
    sample = _resample(values, resamples, np.random.default_rng(seed))
    rows = [_interval((values > level).mean(), (sample > level).mean((-2, -1))) for level in levels]
    share, low, high = np.array(rows).T
    return share, low, high


def _independent(scores: Any) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"need the scores [n] of n >= 2 runs, got shape {values.shape}")
    return values


def _finite(scores: Any) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if not values.size:
        raise ValueError(f"need at least one value, got shape {values.shape}")
    if bad := np.count_nonzero(~np.isfinite(values)):
        raise ValueError(f"{bad} of {values.size} values are not finite")
    return values


def _runs(name: str, scores: Any) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 1:
        raise ValueError(f"{name}: need [seeds, tasks] of at least two seeds and one task, got shape {values.shape}")
    return _finite(values)


def _two(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = _runs("x", x), _runs("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y need the same tasks, got {x.shape[1]} and {y.shape[1]}")
    return x, y


def _pooled(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean [...] of `scores` [..., seeds, tasks]."""
    return interquartile_mean(scores.reshape(*scores.shape[:-2], -1), axis=-1)


@checked
def _resample(scores: np.ndarray, resamples: Annotated[int, COUNT], random: np.random.Generator) -> np.ndarray:
    """[resamples, seeds, tasks]: within each task, seeds drawn with replacement."""
    index = random.integers(len(scores), size=(resamples, *scores.shape))
    return np.take_along_axis(scores[None], index, axis=1)


def _interval(estimate: Any, samples: np.ndarray) -> Interval:
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(float(estimate), float(min(low, estimate)), float(max(high, estimate)))

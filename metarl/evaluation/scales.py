"""The one scale of returns: 0 is the random policy, 1 a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from metarl.evaluation.statistics import Interval, cvar


class Scale(NamedTuple):
    """What scores 0 and 1 in one environment: mean final returns."""

    random: float
    reference: float
    rule: str  # the rule that set the reference
    valid: bool  # the reference is above random, by more than twice the standard error of their difference


def on_scale(returns: Any, zero: Any, one: Any) -> Any:
    """`returns` on the scale on which `zero` scores 0 and `one` scores 1. Over levels or seeds, give means.

    A mean of ratios would be something else: levels on which `one` is hardly better than `zero` would dominate it.
    """
    return (returns - zero) / (one - zero)


def diverged_as_random(returns: Any, random: Any) -> np.ndarray:
    """`returns` with `random` in the place of those that are not finite: those of agents that have diverged."""
    return np.where(np.isfinite(returns), returns, random)


def check_finite(random: Any, where: str) -> None:
    """Raises ValueError if returns of the `random` policy are not finite: it cannot diverge, so rewards are not."""
    bad = np.count_nonzero(~np.isfinite(random))
    if bad:
        raise ValueError(
            f"{bad} of {np.size(random)} returns of the random policy in {where} are not finite, so rewards are not: "
            "metarl.check_environment looks for the fault"
        )


def scale(random: Any, reference: Any, rule: str) -> Scale:
    """The scale of an environment from final returns [seeds] of the random policy and of the agents of `rule`.

    Seeds may have levels of their own, so that the two are compared seed by seed.
    """
    zero = float(np.mean(random))
    lead = diverged_as_random(reference, zero) - random
    valid = lead.mean() > 2.0 * lead.std(ddof=1) / len(lead) ** 0.5
    return Scale(zero, zero + float(lead.mean()), rule, bool(valid))


def normalised_return(returns: Any, zero: Any, one: Any, seed: int = 0, resamples: int = 2000) -> Interval:
    """Mean return on the scale from `zero` to `one`, over seeds and levels, with its 95 % interval.

    `returns` [num_seeds, n] are of n levels; `zero` and `one` [n]. The interval is that of a percentile bootstrap which
    draws both seeds and levels anew: it says what other seeds on other levels of the distribution would give.

    Raises ValueError if there are fewer than two levels, the shapes do not agree, or `one` is not above `zero` on
    average.
    """
    scores, low, high = _on_levels(returns, zero, one)

    def mean(seeds: Any, levels: Any) -> np.ndarray:
        return on_scale(scores[np.ix_(seeds, levels)].mean()[None], low[levels].mean(), high[levels].mean())

    (interval,) = _bootstrap(mean, scores.shape, seed, resamples)
    return interval


def cvar_return(
    returns: Any,
    zero: Any,
    one: Any,
    alphas: Sequence[float],
    optimal: Any = None,
    minus: Any = None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[float, Interval]:
    """Mean return on the worst share alpha of levels, on the scale from `zero` to `one`, with 95 % intervals by alpha.

    The risk-sensitive evaluation of Rutherford et al. 2024 (arXiv 2408.15099): the worst levels are chosen by other
    lifetimes than those that are scored, because the ones that scored least by chance would do better next time. So
    the agents of each seed are scored on the levels that the mean of all other seeds chooses; the rest is as in
    `normalised_return`, which is the value at alpha 1. Where levels differ in what can be had, give the returns
    `optimal` [n]: worst are the levels that fall short of them most, and all levels are scored as if they offered as
    much as the mean level. The other options are those of `normalised_return`.

    With other returns `minus` [num_seeds, n], the values are differences from theirs, each on its own worst levels.

    Raises ValueError as `normalised_return` and `statistics.cvar` do, for `optimal` and `minus` of other shapes, and if
    there are fewer than two seeds.
    """
    scores, low, high = _on_levels(returns, zero, one)
    best = np.zeros_like(low) if optimal is None else np.asarray(optimal, np.float64)
    everyone = [scores] if minus is None else [scores, np.asarray(minus, np.float64)]
    if best.shape != low.shape:
        raise ValueError(f"optimal must have the shape {low.shape} of the levels, got {best.shape}")
    if everyone[-1].shape != scores.shape:
        raise ValueError(f"minus must have the shape {scores.shape} of the returns, got {everyone[-1].shape}")
    pairs = [(x - best, _of_others(x) - best) for x in everyone]  # what is scored, and what chooses the worst levels

    def values(seeds: Any, levels: Any) -> np.ndarray:
        at = np.ix_(seeds, levels)
        found = [cvar(scored[at], chosen_by[at], alphas).mean(0) for scored, chosen_by in pairs]
        zero, one = low[levels].mean(), high[levels].mean()
        if minus is None:
            return on_scale(found[0] + best[levels].mean(), zero, one)
        return (found[0] - found[1]) / (one - zero)

    return dict(zip(alphas, _bootstrap(values, scores.shape, seed, resamples), strict=True))


def _on_levels(returns: Any, zero: Any, one: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, low, high = (np.asarray(x, np.float64) for x in (returns, zero, one))
    if scores.ndim != 2 or not scores.shape[1:] == low.shape == high.shape or scores.shape[1] < 2:
        raise ValueError(
            f"need [num_seeds, n] returns and [n] references for n >= 2 levels, got {scores.shape}, "
            f"{low.shape} and {high.shape}"
        )
    if not (high - low).mean() > 0:
        raise ValueError(f"the reference for 1 ({high.mean():.4g}) is not above that for 0 ({low.mean():.4g})")
    return scores, low, high


def _of_others(scores: np.ndarray) -> np.ndarray:
    """For each of `scores` [seeds, n], the mean of the other seeds on the same level."""
    if len(scores) < 2:
        raise ValueError("need returns of at least 2 seeds: levels are chosen by others than those that are scored")
    return (scores.sum(0) - scores) / (len(scores) - 1)


def _bootstrap(
    estimate: Callable[[Any, Any], np.ndarray], shape: Sequence[int], seed: int, resamples: int
) -> list[Interval]:
    """`estimate(seeds, levels)` [k] of all seeds and levels, with 95 % intervals over draws of both."""
    random = np.random.default_rng(seed)
    draws = ([random.integers(count, size=count) for count in shape] for _ in range(resamples))
    samples = [estimate(seeds, levels) for seeds, levels in draws]
    found = estimate(*(np.arange(count) for count in shape))
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    return [Interval(*map(float, interval)) for interval in zip(found, low, high, strict=True)]

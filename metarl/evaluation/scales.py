"""The one scale of returns: 0 is the random policy, 1 a reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metarl.evaluation.statistics import Interval


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
    scores, low, high = (np.asarray(x, np.float64) for x in (returns, zero, one))
    if scores.ndim != 2 or not scores.shape[1:] == low.shape == high.shape or scores.shape[1] < 2:
        raise ValueError(
            f"need [num_seeds, n] returns and [n] references for n >= 2 levels, got {scores.shape}, "
            f"{low.shape} and {high.shape}"
        )
    if not (high - low).mean() > 0:
        raise ValueError(f"the reference for 1 ({high.mean():.4g}) is not above that for 0 ({low.mean():.4g})")
    random = np.random.default_rng(seed)
    samples = []
    for _ in range(resamples):
        seeds, levels = (random.integers(count, size=count) for count in scores.shape)
        samples.append(on_scale(scores[np.ix_(seeds, levels)].mean(), low[levels].mean(), high[levels].mean()))
    below, over = np.quantile(samples, [0.025, 0.975])
    return Interval(float(on_scale(scores.mean(), low.mean(), high.mean())), float(below), float(over))

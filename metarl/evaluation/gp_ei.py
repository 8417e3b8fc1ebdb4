"""Bayesian optimisation by hand: expected improvement under a Gaussian process."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.stats


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """`E max(y - best, 0)` [n] of normal y of these `mean` and `deviation` [n] (Jones et al. 1998, eq. 15)."""
    gain = mean - best
    size = np.where(deviation > 0.0, deviation, 1.0)
    expected = gain * scipy.stats.norm.cdf(gain / size) + size * scipy.stats.norm.pdf(gain / size)
    return np.where(deviation > 0.0, expected, np.maximum(gain, 0.0))


def gp_ei(
    points: np.ndarray,
    values: np.ndarray,
    steps: int,
    scales: tuple[float, float],
    noise: float = 1e-4,
) -> np.ndarray:
    """The candidates [steps] that are evaluated, in order, to find the greatest of `values` [N] at `points` [N, d].

    The first one is that nearest to the centre of all, and each later one has the greatest expected improvement among
    those left. The Gaussian process has mean 0, variance 1 and an RBF kernel with `noise` on its diagonal, and its
    length scale is the most likely one between both `scales`, fitted anew after each evaluation.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    low, high = scales
    kernel = RBF(float(np.sqrt(low * high)), scales if low < high else "fixed")
    chosen = [int(np.square(points - points.mean(0)).sum(1).argmin())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the most likely scale is often one of `scales`
        for _ in range(steps - 1):
            process = GaussianProcessRegressor(kernel, alpha=noise).fit(points[chosen], values[chosen])
            mean, deviation = process.predict(points, return_std=True)
            improvement = expected_improvement(mean, deviation, values[chosen].max())
            improvement[chosen] = -np.inf
            chosen.append(int(improvement.argmax()))
    return np.array(chosen)

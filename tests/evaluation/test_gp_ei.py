"""Expected improvement and the searches it leads to, against values worked out by hand."""

import numpy as np
import pytest

from metarl.evaluation.gp_ei import expected_improvement, gp_ei

POINTS = np.linspace(0.0, 1.0, 5)[:, None]


def test_expected_improvement_by_hand():
    """At the best value it is sigma / sqrt(2 pi); of what is certain it is the gain; one more from the normal table."""
    mean, deviation = np.array([1.0, 3.0, 0.0, 2.0]), np.array([2.0, 0.0, 0.0, 1.0])
    found = expected_improvement(mean, deviation, best=1.0)
    np.testing.assert_allclose(found, [2.0 / np.sqrt(2 * np.pi), 2.0, 0.0, 0.8413447 + 0.2419707], rtol=1e-6)


def test_the_search_by_hand():
    """From 0 in the middle, whose posterior is alike to both sides, the ends are the most uncertain: the first of them
    comes first. It is 0.5, so the expected improvements of those left are 0.09, 0.08 and, at the other end, 0.18."""
    values = np.array([0.5, 0.4, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(gp_ei(POINTS, values, 3, (0.3, 0.3)), [2, 0, 4])


def test_one_step_is_that_of_the_posterior_by_hand():
    """After two evaluations, with the kernel written out."""
    values, scale = np.array([0.0, 0.0, 0.5, 0.0, 1.0]), 0.4
    chosen = gp_ei(POINTS, values, 3, (scale, scale), noise=1e-6)
    kernel = np.exp(-0.5 * np.square((POINTS - POINTS.T) / scale))
    known = chosen[:2]
    gain = kernel[:, known] @ np.linalg.inv(kernel[np.ix_(known, known)] + 1e-6 * np.eye(2))
    deviation = np.sqrt(np.maximum(1.0 - (gain * kernel[:, known]).sum(1), 0.0))
    improvement = expected_improvement(gain @ values[known], deviation, values[known].max())
    improvement[known] = -1.0
    assert chosen[2] == improvement.argmax()


def test_no_candidate_is_evaluated_twice():
    values = np.sin(9.0 * POINTS[:, 0])
    assert sorted(gp_ei(POINTS, values, 5, (0.05, 0.5))) == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings("error")
def test_it_finds_the_top_of_a_hill():
    points = np.linspace(0.0, 1.0, 33)[:, None]
    chosen = gp_ei(points, -np.square(3.0 * (points[:, 0] - 0.8)), 8, (0.05, 0.5))
    assert abs(points[chosen[-1], 0] - 0.8) < 0.1 and {25, 26} & set(chosen)

"""Indices against those by hand and by recursion."""

import functools

import numpy as np
import pytest

from metarl.strategies.gittins import table


def index(pulls: int, played: int, paid: int) -> float:
    """The index of an arm with `pulls` pulls left, by bisection over the known arm."""

    def is_worth_more(known: float) -> bool:
        @functools.cache
        def value(left: int, played: int, paid: int) -> float:
            """Of the choice between the arms, with all rewards."""
            return max(known * left, unknown(left, played, paid)) if left else 0.0

        def unknown(left: int, played: int, paid: int) -> float:
            chance = (paid + 1) / (played + 2)
            won, lost = (value(left - 1, played + 1, paid + more) for more in (1, 0))
            return chance * (1 + won) + (1 - chance) * lost

        return unknown(pulls, played, paid) > known * pulls

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if is_worth_more(middle) else (low, middle)
    return low


def test_indices_by_hand():
    """With one pull left: the mean. With two: x with 1/2 + (2/3 + x) / 2 = 2 x for a new arm, which is 5/9."""
    found = table(2)
    np.testing.assert_array_equal(found.remaining, [1, 2])
    np.testing.assert_allclose(found.indices[0], [[1 / 2, 0], [1 / 3, 2 / 3]], atol=1e-6)  # s = 1 of j = 0 cannot be
    assert found.indices[1, 0, 0] == pytest.approx(5 / 9, abs=1e-4)


def test_indices_are_those_of_the_recursion():
    found = table(14)
    np.testing.assert_array_equal(found.remaining, [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14])
    for i, left in enumerate(found.remaining):
        for played in range(0, 14 - left + 1, 2):
            for paid in range(0, played + 1, 2):
                assert found.indices[i, played, paid] == pytest.approx(index(int(left), played, paid), abs=2e-3)


def test_more_pulls_left_are_worth_more_exploration():
    indices = table(40).indices[:, 0, 0]
    assert (np.diff(indices) > 0).all() and indices[0] == 0.5 and 0.75 < indices[-1] < 1


@pytest.mark.parametrize("pulls", [0, 2001])
def test_bad_counts(pulls):
    with pytest.raises(ValueError, match="pulls must be at"):
        table(pulls)

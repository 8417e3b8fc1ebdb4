"""Statistics of runs on tasks: hand-worked numbers, an independent bootstrap, and the rates that theory states."""

import pytest

from metarl.statistics import (
    over_runs,
)


def test_the_interval_over_runs_is_students():
    assert over_runs([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 4.302653 / 3**0.5, 2.0 + 4.302653 / 3**0.5))
    with pytest.raises(ValueError, match=r"n >= 2 runs, got shape \(1,\)"):
        over_runs([1.0])

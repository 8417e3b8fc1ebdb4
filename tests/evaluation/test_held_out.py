"""Reports on held-out levels: their intervals, and agents that diverged."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from metarl.evaluation.held_out import Judge, horizon_report


def test_intervals_over_horizons_are_the_hand_worked_ones():
    """Of several rules of a kind by Student's t over rules; of one, over levels and evaluation seeds."""
    zero, one = jnp.zeros(2), jnp.full(2, 2.0)

    def player(score):
        return lambda horizon: jnp.full((3, 2), score * horizon)  # [seeds, levels]

    judge = SimpleNamespace(
        living=lambda horizon: horizon,
        returns=lambda play, levels: play(levels),
        plain={"plain": player(0.1)},
        scale=lambda best: (zero, one) if (best == 1.0).all() else None,  # of the longest lifetime, and not shared out
    )
    report = horizon_report(judge, {"new": [player(x) for x in (0.2, 0.4, 0.6)], "old": [player(0.2)] * 3}, (1, 10))
    assert list(report) == ["new", "old", "plain", "new minus old"]
    half = 4.302653 * 0.2 / 3**0.5  # t of two degrees of freedom
    for horizon, scale in ((1, 0.5), (10, 5.0)):
        np.testing.assert_allclose(
            report["new"][horizon], [scale * x for x in (0.4, 0.4 - half, 0.4 + half)], rtol=1e-5
        )
        np.testing.assert_allclose(report["old"][horizon], [scale * 0.2] * 3, rtol=1e-5)
        np.testing.assert_allclose(report["plain"][horizon], [scale * 0.1] * 3, rtol=1e-5)
        difference = [scale * x for x in (0.2, 0.2 - half, 0.2 + half)]
        np.testing.assert_allclose(report["new minus old"][horizon], difference, rtol=1e-5)
    unequal = horizon_report(judge, {"new": [player(0.2)] * 2, "old": [player(0.2)]}, (1, 10))
    assert list(unequal) == ["new", "old", "plain"]


def test_agents_that_diverged_count_as_random_and_are_told_of(capsys):
    judge = SimpleNamespace(random=jnp.array([[1.0, 2.0], [3.0, 2.0]]))
    returns = Judge.returns(judge, lambda levels: jnp.array([[5.0, jnp.nan], [jnp.inf, 6.0]]), None)
    assert returns.tolist() == [[5.0, 2.0], [2.0, 6.0]]
    assert "2 of 4 agents diverged" in capsys.readouterr().err


def test_a_reference_that_is_not_above_random_leaves_returns_as_they_are(capsys):
    judge = SimpleNamespace(random=jnp.full((3, 2), 1.0), optimal=None)
    zero, one = Judge.scale(judge, jnp.full((3, 2), 0.5))
    assert zero.tolist() == [0.0, 0.0] and one.tolist() == [1.0, 1.0]
    assert "plain returns, not normalised" in capsys.readouterr().err
    assert [x.tolist() for x in Judge.scale(judge, jnp.full((3, 2), 4.0))] == [[1.0, 1.0], [4.0, 4.0]]


@pytest.mark.parametrize(("num_levels", "num_seeds"), [(1, 1), (2, 0)])
def test_too_few_to_judge_are_refused(num_levels, num_seeds):
    with pytest.raises(ValueError, match="at least 2 held-out levels and 1 seed, got"):
        Judge(None, ("a2c", None), num_levels=num_levels, num_seeds=num_seeds, batch_size=1)

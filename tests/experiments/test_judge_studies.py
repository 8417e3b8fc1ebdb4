"""Studies of judges: their raters and measures by hand, and that each can be run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import judge_studies
from experiments.judge_studies import Frontier, ahead_of, certain, labelled, random_texts, ranks
from experiments.study_tasks import gold


def test_the_gold_reward_is_highest_with_some_praise():
    """Shares of 0, 2 / 8, 3 / 8 and 1 of each kind; 0.4 is best."""
    texts = jnp.array([[4] * 8, [1, 2, 1, 2, 5, 5, 5, 5], [3, 3, 3, 4, 5, 6, 7, 4], [3] * 8, [3, 3, 0, 3, 3, 3, 3, 3]])
    expected = [0.0, 1 - 0.375**2, 1 - 0.0625**2, 1 - 1.5**2, 1 - 0.375**2]
    np.testing.assert_allclose(gold(texts), expected, rtol=1e-5, atol=1e-6)


def test_raters_prefer_higher_gold_and_sometimes_err():
    texts = random_texts(jax.random.key(0), 4000)
    sure, unsure = certain(texts), labelled(texts, jax.random.key(1))
    assert bool((gold(sure.chosen) >= gold(sure.rejected)).all())
    gap = gold(unsure.chosen) - gold(unsure.rejected)
    first, second = jnp.split(texts, 2)
    expected = jax.nn.sigmoid(5 * jnp.abs(gold(first) - gold(second))).mean()
    assert float((gap > 0).mean() + (gap == 0).mean() / 2) == pytest.approx(float(expected), abs=0.03)
    assert float(ranks(gap, unsure)) < 1.0 == float(ranks(gold(sure.chosen) - gold(sure.rejected), sure))


def test_random_texts_have_as_much_praise_as_they_should():
    texts = random_texts(jax.random.key(0), 4000, praising=0.3)
    assert float((texts <= 3).mean()) == pytest.approx(0.3, abs=0.02)
    assert (int(texts.min()), int(texts.max())) == (1, 7)


def test_frontiers_are_compared_at_equal_divergence():
    """At the same divergence the first earns 0.5 more, though with each coefficient it earns less."""
    kl = np.array([[4.0], [2.0], [1.0]])
    other = Frontier(2 * kl, kl)
    one = Frontier(2 * (kl / 2) + 0.5, kl / 2)
    np.testing.assert_allclose(ahead_of(one, other), [0.5])
    np.testing.assert_allclose(other.at(np.array([3.0])), [[6.0]])


def without_values(function):
    """Instead of `jax.jit`: the shapes of what the function would return, with numbers that differ."""

    def call(*arguments):
        shapes = jax.eval_shape(function, *arguments)
        return jax.tree.map(lambda x: _numbers(x.shape).astype(x.dtype), shapes)

    return call


def _numbers(shape):
    return jnp.ones(shape) + 0.1 * jnp.arange(int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize(
    "name", [x if x == "tastes" else pytest.param(x, marks=pytest.mark.slow) for x in judge_studies.STUDIES]
)
def test_every_study_can_be_run(name, monkeypatch):
    monkeypatch.setattr(judge_studies, "imitated", lambda policy, task, keys, *_: jax.vmap(policy.init)(keys))
    monkeypatch.setattr(jax, "jit", without_values)
    rows, claims = judge_studies.STUDIES[name](jax.random.split(jax.random.key(0), 2))
    assert len({tuple(row) for row in rows.values()}) == 1 and len(rows) >= 2 and claims
    assert all(np.shape(x) == (2,) for row in rows.values() for x in row.values())
    assert all(np.shape(x) == (2,) for x, _ in claims.values())

"""Confidence in preferences and optimism: their optima, and the methods that they are without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import B, T, V, batch

from metarl.finetune import Context, TokenStatistics, losses, preferences, terms


@pytest.mark.parametrize("confidence", [0.6, 0.9])
def test_the_optimum_of_an_unsure_preference_is_where_it_is_as_sure(confidence):
    """CREAM: `sigmoid(beta d) = c`."""
    loss = lambda d: terms.direct_preference(d, jnp.zeros(()), 0.3, confidence)  # noqa: E731
    best = jnp.log(confidence / (1 - confidence)) / 0.3
    assert float(jax.grad(loss)(best)) == pytest.approx(0.0, abs=1e-6)
    assert loss(best) < min(loss(best + 0.1), loss(best - 0.1))


def test_a_sure_preference_is_dpo_and_a_wrong_one_prefers_the_other():
    d, e = jnp.array([0.3, -2.0]), jnp.array([1.0, 0.5])
    np.testing.assert_allclose(terms.direct_preference(d, e, 0.3), np.log1p(np.exp(-0.3 * (d - e))), rtol=1e-5)
    np.testing.assert_allclose(terms.direct_preference(d, e, 0.3, 0.0), terms.direct_preference(e, d, 0.3), rtol=1e-5)


def test_optimism_pushes_off_what_was_seen():
    d = jnp.array([0.3, -0.2, 0.7])
    value, slope = jax.value_and_grad(lambda d: preferences.optimistic_preference(*d, beta=0.5, alpha=0.1))(d)
    plain = terms.direct_preference(d[0], d[1], 0.5)
    assert float(value) == pytest.approx(float(plain) + 0.1 * 0.5 * 0.7, rel=1e-5)
    assert float(slope[2]) == pytest.approx(0.05) and slope[0] < 0.0 < slope[1]
    assert preferences.optimistic_preference(*d, beta=0.5, alpha=0.0) == plain


def context(old_log_prob, **changes):
    """Of the shared batch; the reference is not the policy."""
    x = batch(old_log_prob=old_log_prob, **changes)
    logits, ref_logits = jax.random.normal(jax.random.key(0), (2, B, T, V))
    log_prob = jnp.where(x.mask, terms.log_prob_of(logits, x.answers), 0.0)
    now = TokenStatistics(logits, log_prob, jnp.zeros((B, T)), ref_logits)
    return Context(now, x, jnp.ones((B, T)), jnp.zeros(B), 3, jax.random.key(0), None)


def test_the_loss_of_a_group_weighs_each_answer_by_how_likely_the_reference_gives_it():
    x = context(jnp.full((B, T), -0.5))
    d = np.asarray(x.answer_log_ratio)
    ref = np.asarray(terms.of_answer(x.ref_log_prob, x.batch.mask))
    weight = np.exp(np.minimum(ref + 0.5 * np.asarray(x.batch.mask.sum(1)), 5.0))
    expected = np.asarray(losses.direct_preference(0.4)(x)) + 0.3 * 0.4 * (weight * d).reshape(2, 3).mean(1)
    np.testing.assert_allclose(preferences.selm(0.4, 0.3)(x), expected, rtol=1e-4)


def test_consistency_is_the_share_of_pairs_in_the_same_order():
    """[3, 1, 2] against [1, 2, 3]: one pair of three agrees."""
    score = jnp.array([3.0, 1.0, 2.0])
    assert float(preferences.consistency(score, jnp.array([1.0, 2.0, 3.0]))) == pytest.approx(1 / 3)
    assert float(preferences.consistency(score, 2.0 * score)) == 1.0
    assert float(preferences.consistency(score, -score)) == 0.0
    assert float(preferences.consistency(score, jnp.ones(3))) == 0.5


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: losses.direct_preference(confidence=1.2), "confidence must be at most 1, got 1.2"),
        (lambda: preferences.selm(alpha=-1.0), "alpha must be at least 0, got -1.0"),
        (lambda: preferences.consistency(jnp.ones(1), jnp.ones(1)), "consistency needs at least 2 answers, got 1"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()

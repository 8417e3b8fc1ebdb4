"""Rewards of tokens: what an imperfect judge of steps can and cannot pay for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import B, T, batch, corrupted

from metarl.finetune import TokenCritic, credit, rewards
from metarl.finetune.policies import gru

SCORES = jax.random.uniform(jax.random.key(0), (B, T))
CRITIC = TokenCritic(gru(5, 4, outputs=1), optax.sgd(0.1))


def scorer(batch):
    return SCORES


def test_renormed_rewards_follow_the_sign_of_the_outcome():
    x = corrupted(batch())
    found = np.asarray(rewards.renormed(scorer)(x))
    right = np.asarray(x.correct)
    assert (found[right] >= 0.0).all() and (found[~right] <= 0.0).all() and found.any(1).all()
    np.testing.assert_allclose(found, np.where(x.mask, SCORES + right[:, None] - 1.0, 0.0), rtol=1e-6)


def test_credit_sees_the_rewards_of_tokens():
    """With a discount of 1 and without bootstrapping, the advantage is what follows, less the value."""
    x = corrupted(batch())
    total = rewards.process_and_outcome(scorer)
    found = credit.gae(CRITIC, gae_lambda=1.0, rewards=total)(x)
    reward = np.where(x.mask, SCORES, 0.0)
    reward[np.arange(B), np.asarray(x.mask.sum(1)) - 1] += np.asarray(x.reward)
    expected = np.cumsum(reward[:, ::-1], 1)[:, ::-1] - np.asarray(x.value)
    np.testing.assert_allclose(found, np.where(x.mask, expected, 0.0), rtol=1e-4, atol=1e-5)
    plain, same = credit.gae(CRITIC)(x), credit.gae(CRITIC, rewards=credit.outcome)(x)
    np.testing.assert_array_equal(plain, same)


def test_scores_of_a_segment_come_with_the_token_that_ends_it():
    """Six answers of four tokens, of which the second and fourth end segments; and the answer as one."""
    x = batch(mask=jnp.ones((B, T), bool).at[5, 3].set(False))
    second = lambda batch: jnp.tile(jnp.array([False, True, False, True]), (B, 1))  # noqa: E731
    last = lambda batch: jnp.tile(jnp.array([False, False, False, True]), (B, 1))  # noqa: E731
    found = rewards.segments((scorer, scorer), (second, last), (1.0, 10.0))(x)
    s = np.asarray(SCORES)
    np.testing.assert_allclose(found[:5, 1], s[:5, 0] + s[:5, 1], rtol=1e-5)
    np.testing.assert_allclose(found[:5, 3], s[:5, 2] + s[:5, 3] + 10.0 * s[:5].sum(1), rtol=1e-5)
    assert (found[:, ::2] == 0.0).all() and found[5, 3] == 0.0  # no token ends its last segment


def test_segments_of_single_tokens_are_the_process():
    x = corrupted(batch())
    every = lambda batch: jnp.ones((B, T), bool)  # noqa: E731
    np.testing.assert_allclose(
        rewards.segments((scorer,), (every,), (1.0,))(x), rewards.process(scorer)(x), rtol=1e-4, atol=1e-6
    )


def test_scorers_ends_and_weights_go_together():
    with pytest.raises(ValueError, match=r"as many scorers as ends and weights, one or more, got \(1, 0, 1\)"):
        rewards.segments((scorer,), (), (1.0,))


def test_harder_problems_teach_more():
    x = batch()
    difficulty = jnp.array([0.0, 1.0, 2.0, 0.5, -1.0, 0.5])
    found = credit.by_difficulty(credit.dr_grpo(3), lambda batch: difficulty)(x)
    scale = jax.nn.sigmoid(difficulty) / jax.nn.sigmoid(0.5)
    np.testing.assert_allclose(found, credit.dr_grpo(3)(x) * scale[:, None], rtol=1e-5)
    assert found.shape == (B, T) and scale[2] > 1.0 > scale[4]


def test_equal_difficulties_and_outliers_change_nothing():
    np.testing.assert_allclose(credit.difficulty_scale(jnp.full(4, 3.0)), 1.0)
    many = jnp.append(jnp.zeros(99), 1000.0)
    np.testing.assert_allclose(credit.difficulty_scale(many), 1.0)
    with pytest.raises(ValueError, match="by_difficulty needs credit without a critic"):
        credit.by_difficulty(credit.gae(CRITIC), scorer)


def test_successes_are_imitated_where_the_policy_drew_them():
    x = batch()
    found = credit.successes()(x)
    expected = np.asarray(x.mask & x.correct[:, None] & (jnp.arange(T) >= x.prefix_length[:, None]))
    np.testing.assert_array_equal(found, expected.astype(float))

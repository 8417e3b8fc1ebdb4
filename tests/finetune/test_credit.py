"""Credit of tokens: hand-worked numbers, and the identities that tie the kinds of credit to one another."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import LOGITS, B, T, V, batch, corrupted, softmax

from metarl.finetune import TokenCritic, credit
from metarl.finetune.policies import gru

CRITIC = TokenCritic(gru(V, width=4, outputs=1), optax.sgd(0.1))
CREDITS = {
    "grpo": jax.jit(credit.grpo(3)),
    "dr_grpo": jax.jit(credit.dr_grpo(3)),
    "rloo": jax.jit(credit.rloo(3)),
    "gae": jax.jit(credit.gae(CRITIC, 0.9, 0.8)),
    "prefix_group": jax.jit(credit.prefix_group(3, top=0.5)),
}
every_credit = pytest.mark.parametrize("name", CREDITS)


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (credit.centred, [0.0, -1.0, -1.0, 2.0]),
        (credit.leave_one_out, [0.0, -4 / 3, -4 / 3, 8 / 3]),
        (credit.standardised, np.array([0.0, -1.0, -1.0, 2.0]) / np.sqrt(1.5)),
        (lambda reward: credit.standardised(reward, 1.0), np.array([0.0, -1.0, -1.0, 2.0]) / (np.sqrt(1.5) + 1.0)),
    ],
)
def test_advantages_of_a_group_are_the_hand_worked_ones(leaf, expected, strict):
    advantage = leaf(jnp.array([1.0, 0.0, 0.0, 3.0]))
    assert (advantage.shape, advantage.dtype) == ((4,), jnp.float32)
    np.testing.assert_allclose(advantage, expected, atol=1e-5)


@pytest.mark.parametrize("make", [credit.grpo, credit.dr_grpo, credit.rloo])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -1.7, 1e4 / 3])
def test_a_group_whose_rewards_are_equal_learns_exactly_nothing(make, reward):
    for size in (3, 7):
        equal = batch(reward=jnp.full(size, reward), mask=jnp.ones((size, T), bool))
        np.testing.assert_array_equal(make(size)(equal), np.zeros((size, T)))


@pytest.mark.parametrize("right", range(9))
def test_the_mean_size_of_advantages_is_greatest_where_half_of_the_answers_are_right(right, x64):
    """What SEC takes as the worth of a category: 2 p (1 - p), or 2 sqrt(p (1 - p)) after division by the deviation."""
    reward, p = jnp.where(jnp.arange(8) < right, 1.0, 0.0), right / 8
    assert jnp.abs(credit.centred(reward)).mean() == pytest.approx(2 * p * (1 - p), abs=1e-12)
    expected = 2 * np.sqrt(p * (1 - p))
    assert jnp.abs(credit.standardised(reward, 1e-12)).mean() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("leaf", "scale"), [(credit.leave_one_out, 1.0), (credit.centred, 2 / 3)])
def test_leaving_one_out_is_unbiased_and_centring_shrinks(leaf, scale, x64):
    """Over all groups of three answers to a bandit's prompt; centring counts an answer in its own baseline."""
    value = np.array([1.0, -0.3, 0.2, 4.0, 0.0])
    pi = softmax(LOGITS)
    groups = np.array(list(product(range(V), repeat=3)))
    advantage = jax.vmap(leaf)(jnp.array(value[groups]))
    scores = np.eye(V)[groups] - pi
    gradient = np.einsum("n,ng,ngv->v", pi[groups].prod(1), advantage, scores) / 3
    np.testing.assert_allclose(gradient, scale * pi * (value - pi @ value), atol=1e-12)


@every_credit
def test_credit_ends_with_the_answer_and_stays_in_its_group(name, strict):
    advantage = CREDITS[name](batch())
    assert (advantage.shape, advantage.dtype) == ((B, T), jnp.float32)
    assert (advantage[~batch().mask] == 0.0).all() and (advantage[:3] != 0.0).any() and (advantage[3:] != 0.0).any()
    other = batch(reward=batch().reward.at[3:].set(jnp.array([5.0, -1.0, 0.3])))
    np.testing.assert_array_equal(CREDITS[name](other)[:3], advantage[:3])
    assert (CREDITS[name](other)[3:] != advantage[3:]).any()


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_every_token_of_an_answer_has_the_advantage_of_the_answer(name):
    leaf = {"grpo": credit.standardised, "dr_grpo": credit.centred, "rloo": credit.leave_one_out}[name]
    reward = batch().reward
    expected = np.concatenate([leaf(reward[:3]), leaf(reward[3:])])
    np.testing.assert_allclose(CREDITS[name](batch()), np.where(batch().mask, expected[:, None], 0.0), atol=1e-6)


def test_gae_of_an_answer_is_the_hand_worked_one(strict):
    """delta = 0, .1, .4 and A = delta + .25 A of the next; what is after the end is not looked at."""
    value, mask = jnp.array([0.1, 0.2, 0.6, 7.0]), jnp.array([True, True, True, False])
    reward = credit.at_the_end(jnp.float32(1.0), mask)
    np.testing.assert_array_equal(reward, [0.0, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(credit.answer_gae(reward, value, mask, 0.5, 0.5), [0.05, 0.2, 0.4, 0.0], atol=1e-6)
    of_two = credit.gae(CRITIC, 0.5, 0.5)(batch(reward=jnp.ones(B), value=jnp.tile(value, (B, 1))))
    np.testing.assert_allclose(of_two[2], [0.05, 0.2, 0.4, 0.0], atol=1e-6)
    np.testing.assert_allclose(of_two[3], [0.9, 0.0, 0.0, 0.0], atol=1e-6)


def test_gae_without_discount_is_the_reward_less_the_value():
    x = batch()
    expected = jnp.where(x.mask, x.reward[:, None] - x.value, 0.0)
    np.testing.assert_allclose(credit.gae(CRITIC, 1.0, 1.0)(x), expected, atol=1e-5)


def test_renormed_rewards_have_the_sign_of_the_outcome(strict):
    process = jnp.array([0.0, 0.25, 1.0])
    np.testing.assert_array_equal(credit.renorm(process, jnp.float32(1.0)), [0.0, 0.25, 1.0])
    np.testing.assert_array_equal(credit.renorm(process, jnp.float32(0.0)), [-1.0, -0.75, 0.0])
    mask, value = jnp.ones(3, bool), jnp.zeros(3)
    advantage = [credit.answer_gae(credit.renorm(process, jnp.float32(r)), value, mask, 1.0, 1.0) for r in (0, 1)]
    np.testing.assert_allclose(advantage, [[-1.75, -0.75, 0.0], [1.25, 1.25, 1.0]], atol=1e-6)


REWARD = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]  # of six answers to one prompt
PREFIX = [0, 0, 0, 2, 2, 3]


@pytest.mark.parametrize("lone", ["zero", "reward"])
def test_credit_of_prefixes_is_the_hand_worked_one(lone, strict):
    """On policy a third is right. Two answers continue a prefix of 2 tokens, one continues a prefix of 3."""
    entropy = jnp.zeros((B, T)).at[3:5, 0].set(2.0).at[5, 1:3].set(1.0).at[0].set(9.0)  # on policy it does not matter
    fields = {"reward": jnp.array(REWARD), "prefix_length": jnp.array(PREFIX, jnp.int32), "entropy": entropy}
    x = batch(**fields, mask=jnp.ones((B, T), bool))
    third, alone = 1 / 3, {"zero": 0.0, "reward": 1.0}[lone]
    expected = np.array(
        [
            *([[2 * third] * 4, [-third] * 4, [-third] * 4]),
            [third, third, 0.5, 0.5],  # (1 - 1/3) / 2 and 1 - 1/2
            [-third / 2, -third / 2, -0.5, -0.5],
            [2 * third, 2 * third, 2 * third, alone],
        ]
    )
    np.testing.assert_allclose(credit.prefix_group(6, 1.0, lone)(x), expected, atol=1e-6)
    expected[3:5, 1] = expected[5, 0] = 0.0  # 4 of the 7 forced tokens are left
    np.testing.assert_allclose(credit.prefix_group(6, 0.57, lone)(x), expected, atol=1e-6)
    expected[5, 1:3] = 0.0  # 2
    np.testing.assert_allclose(credit.prefix_group(6, 0.29, lone)(x), expected, atol=1e-6)
    expected[3:5, 0] = 0.0
    np.testing.assert_allclose(credit.prefix_group(6, 0.0, lone)(x), expected, atol=1e-6)


def test_a_batch_without_prefixes_has_the_credit_of_dr_grpo():
    x = batch(prefix_length=jnp.zeros(B, jnp.int32))
    np.testing.assert_allclose(CREDITS["prefix_group"](x), CREDITS["dr_grpo"](x), atol=1e-6)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_as_many_of_the_highest_as_asked_for_even_among_equals(share, count):
    x = jnp.array([[5.0, 1.0, 2.0], [2.0, 9.0, 2.0]])
    where = jnp.array([[True, False, True], [True, False, True]])
    chosen = credit.highest(x, where, share)
    assert chosen.sum() == count and not (chosen & ~where).any()
    assert chosen[0, 0] == (count > 0)


@every_credit
def test_nothing_after_the_end_of_an_answer_is_credited(name):
    np.testing.assert_array_equal(CREDITS[name](corrupted(batch())), CREDITS[name](batch()))


# --- gaps in the mask -----------------------------------------------------------------------------------------

GAP = jnp.array([True, True, False, True, True])  # two turns of two tokens; another spoke between them


def test_the_reward_of_several_turns_is_paid_once(strict):
    np.testing.assert_array_equal(credit.at_the_end(jnp.float32(2.0), GAP), [0.0, 0.0, 0.0, 0.0, 2.0])
    last = jnp.array([False, True, False, False])
    np.testing.assert_array_equal(credit.at_the_end(jnp.float32(2.0), last), [0.0, 2.0, 0.0, 0.0])
    np.testing.assert_array_equal(credit.at_the_end(jnp.float32(2.0), jnp.zeros(3, bool)), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("junk", [7.0, jnp.nan])
def test_gae_goes_on_across_a_gap(junk, strict):
    """A = delta + .25 A of the next token in the mask, and delta = r + .5 of its value - V."""
    value = jnp.array([0.1, 0.3, junk, 0.8, 0.8], jnp.float32)
    reward = credit.at_the_end(jnp.float32(1.0), GAP).at[2].set(junk)
    # delta: .5 * .3 - .1 = .05;  .5 * .8 - .3 = .1;  .5 * .8 - .8 = -.4;  1 - .8 = .2
    expected = [0.05 + 0.25 * (0.1 + 0.25 * -0.35), 0.1 + 0.25 * -0.35, 0.0, -0.4 + 0.25 * 0.2, 0.2]
    np.testing.assert_allclose(credit.answer_gae(reward, value, GAP, 0.5, 0.5), expected, atol=1e-6)


def test_gae_of_a_mask_with_a_gap_is_that_of_the_tokens_alone():
    value = jnp.array([0.1, 0.3, -5.0, 0.8, 0.6])
    reward = credit.at_the_end(jnp.float32(1.0), GAP)
    alone = credit.answer_gae(reward[GAP], value[GAP], jnp.ones(4, bool), 0.9, 0.8)
    np.testing.assert_allclose(credit.answer_gae(reward, value, GAP, 0.9, 0.8)[GAP], alone, atol=1e-6)
    whole = batch(mask=jnp.tile(GAP[:T], (B, 1)))
    np.testing.assert_allclose(credit.gae(CRITIC, 1.0, 1.0)(whole)[:, 1], whole.reward - whole.value[:, 1], atol=1e-6)


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: credit.grpo(1), "group_size must be at least 2, got 1"),
        (lambda: credit.rloo(0), "group_size must be at least 2, got 0"),
        (lambda: credit.prefix_group(1), "group_size must be at least 2, got 1"),
        (lambda: credit.dr_grpo(4)(batch()), "group_size must divide the 6 rows of the batch, got 4"),
        (lambda: credit.prefix_group(5)(batch()), "group_size must divide the 6 rows of the batch, got 5"),
        (lambda: credit.grpo(2, eps=-1.0), "eps must be above 0, got -1.0"),
        (lambda: credit.grpo(2, eps=float("nan")), "eps must be a number, not NaN, got nan"),
        (lambda: credit.gae(CRITIC, discount=1.1), "discount must be at most 1, got 1.1"),
        (lambda: credit.gae(CRITIC, gae_lambda=-0.1), "gae_lambda must be at least 0, got -0.1"),
        (lambda: credit.gae(CRITIC)(batch(value=None)), "gae needs batch.value, got None"),
        (lambda: credit.prefix_group(3, top=20), "top must be at most 1, got 20"),
        (lambda: credit.prefix_group(3, lone="mean"), "lone must be .* got 'mean'"),
        (lambda: credit.prefix_group(3)(batch(entropy=None)), "prefix_group needs batch.entropy, got None"),
    ],
)
def test_bad_options_are_named_with_their_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_reward_weighted_regression_imitates_in_proportion_to_the_exponential_reward():
    x = batch()
    found = credit.reward_weighted(3, beta=0.5)(x)
    expected = [3 * jax.nn.softmax(r / 0.5) for r in x.reward.reshape(2, 3)]
    np.testing.assert_allclose(found, credit.to_tokens(jnp.concatenate(expected), x.mask), rtol=1e-5)


def test_cold_reward_weighted_regression_is_best_of_n():
    """But for the size of the group, which only one of them counts, and for ties."""
    x = batch(reward=jnp.array([1.0, 0.0, 0.25, 0.5, 2.0, 1.0]))
    np.testing.assert_allclose(credit.reward_weighted(3, beta=1e-3)(x), 3 * credit.best_of(3)(x), atol=1e-6)
    assert credit.best_of(3)(x)[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert (credit.best_of(3)(x._replace(reward=jnp.ones(6))) == 0.0).all()

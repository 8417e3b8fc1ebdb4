"""Terms of losses: hand-worked numbers, and the identities that tie the methods to one another."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import LENGTHS, LOGITS, REF_LOGITS, B, T, V, batch, corrupted, score, softmax

from metarl.finetune import credit, terms


@pytest.fixture(params=[jnp.float32, jnp.float64])
def precision(request):
    """How far numbers may be apart."""
    with jax.enable_x64(request.param == jnp.float64):
        yield 1e-12 if request.param == jnp.float64 else 1e-5


# --- demonstrations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", range(V))
def test_dft_is_sft_slowed_down_by_the_probability(token, precision):
    logits = jnp.array(LOGITS)
    slope = {
        f: jax.grad(lambda x, f=f: f(terms.log_prob_of(x, jnp.int32(token))))(logits) for f in (terms.sft, terms.dft)
    }
    np.testing.assert_allclose(slope[terms.sft], -score(token), atol=precision)
    np.testing.assert_allclose(slope[terms.dft], softmax(LOGITS)[token] * slope[terms.sft], atol=precision)
    assert terms.dft(jnp.log(0.25)) == pytest.approx(0.25 * np.log(4))


def test_asft_without_an_anchor_is_dft():
    logits, ref = jnp.array(LOGITS, jnp.float32), jnp.array(REF_LOGITS, jnp.float32)
    value, slope = jax.jit(jax.value_and_grad(terms.asft))(logits, ref, jnp.int32(2), 0.0)
    dft = jax.jit(jax.value_and_grad(lambda x: terms.dft(terms.log_prob_of(x, jnp.int32(2)))))
    expected, expected_slope = dft(logits)
    assert float(value) == pytest.approx(float(expected), abs=1e-6)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-6)


def test_the_anchor_of_asft_is_the_forward_kl(precision):
    """Its gradient is `pi - ref`; that of the reverse KL would weigh by pi."""
    pi, ref = softmax(LOGITS), softmax(REF_LOGITS)
    arguments = jnp.array(LOGITS), jnp.array(REF_LOGITS)
    value, slope = jax.jit(jax.value_and_grad(terms.forward_kl))(*arguments)
    assert value == pytest.approx((ref * np.log(ref / pi)).sum(), abs=precision)
    assert abs(value - (pi * np.log(pi / ref)).sum()) > 0.1
    np.testing.assert_allclose(slope, pi - ref, atol=precision)
    anchored = jax.jit(jax.grad(terms.asft))(*arguments, jnp.int32(1), 0.3)
    np.testing.assert_allclose(anchored, -pi[1] * score(1) + 0.3 * (pi - ref), atol=precision)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("beta", [-0.1, 0.0, 0.5])
@pytest.mark.parametrize("token", [1, 2])
def test_one_token_rollout_is_the_sampled_twin_of_dft(token, beta, count, precision):
    """Over every possible sample, for a likely and an unlikely token: `1 - beta` times DFT's gradient."""
    logits, pi = jnp.array(LOGITS), softmax(LOGITS)
    samples = np.array(list(product(range(V), repeat=count)))
    slopes = jax.vmap(jax.grad(terms.otr), (None, None, 0, None))(logits, jnp.int32(token), jnp.array(samples), beta)
    dft = jax.grad(lambda x: terms.dft(terms.log_prob_of(x, jnp.int32(token))))(logits)
    np.testing.assert_allclose(pi[samples].prod(1) @ slopes, (1 - beta) * dft, atol=precision)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_tokens_are_sampled_at_the_temperature(temperature):
    logits = jnp.array([[0.0, 2.0, -1.0], [1.0, 0.0, 0.0]])
    sampled = terms.otr_samples(jax.random.key(0), logits, 20_000, temperature)
    assert sampled.shape == (2, 20_000)
    seen = (sampled[..., None] == jnp.arange(3)).mean(1)
    np.testing.assert_allclose(seen, jax.nn.softmax(logits / temperature), atol=0.02)  # 5 deviations


# --- rewards --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "dual"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, -2.4),
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -1.0, 0.8, 0.8),
        (1.5, -1.0, 1.5, 1.5),
        (8.0, -1.0, 8.0, 3.0),
        (8.0, 1.0, -1.2, -1.2),
    ],
)
def test_clipped_losses_are_the_hand_worked_ones(ratio, advantage, expected, dual, strict):
    arguments = jnp.log(jnp.float32(ratio)) - 1.0, jnp.float32(-1.0), jnp.float32(advantage)
    assert float(terms.ppo_clip(*arguments)) == pytest.approx(expected, rel=1e-5)
    assert float(terms.dual_clip(*arguments)) == pytest.approx(dual, rel=1e-5)
    higher = terms.ppo_clip(*arguments, clip_high=0.28)
    assert float(higher) == pytest.approx(expected * (1.28 / 1.2 if expected in (-2.4, -1.2) else 1.0), rel=1e-5)


def test_on_policy_clipping_does_not_matter():
    log_prob = jax.nn.log_softmax(jnp.array(LOGITS, jnp.float32))
    advantage = jnp.array([1.0, -2.0, 0.0, 0.5, -0.1])

    def slope(term):
        return jax.jit(jax.grad(lambda x: term(x).sum()))(log_prob)

    expected = slope(lambda x: terms.reinforce(x, advantage))
    np.testing.assert_allclose(expected, -advantage, atol=1e-6)
    for term in (terms.ppo_clip, terms.dual_clip):
        np.testing.assert_allclose(slope(lambda x, term=term: term(x, log_prob, advantage)), expected, atol=1e-6)


def test_dual_clipping_bounds_the_loss_of_bad_actions():
    log_prob, old = jnp.linspace(-60.0, 0.0, 61), jnp.full(61, -30.0)
    advantage = jnp.full(61, -2.0)
    assert terms.ppo_clip(log_prob, old, advantage).max() > 1e6
    loss, slope = jax.jit(jax.vmap(jax.value_and_grad(terms.dual_clip)))(log_prob, old, advantage)
    assert loss.max() == 6.0 and (slope[log_prob > old + 2.0] == 0.0).all()
    tighter = terms.dual_clip(log_prob, old, advantage, bound=1.5)
    assert tighter.max() == 3.0


@pytest.mark.parametrize("right", [1, 4, 7])
@pytest.mark.parametrize("weight", ["grpo", "dr_grpo"])
def test_on_policy_nft_is_grpo(weight, right, precision):
    """Supervised learning with an implicit negative policy has the gradient of REINFORCE with group advantages."""
    reward, rate = jnp.where(jnp.arange(8) < right, 1.0, 0.0), jnp.array(right / 8)
    old = jnp.linspace(-3.0, -0.1, 8)
    slope = jax.jit(jax.grad(lambda x: terms.nft(x, old, reward, rate, weight=weight).sum()))(old)
    advantage = credit.standardised(reward, 0.0) if weight == "grpo" else credit.centred(reward)
    np.testing.assert_allclose(slope, -advantage, atol=precision)
    if (weight, right) == ("grpo", 1):
        np.testing.assert_allclose(-slope[:2], [2.6457513, -0.3779645], atol=1e-5)


@pytest.mark.parametrize(
    ("reward", "ratio", "eps", "expected", "slope"),
    [
        (1.0, 1.5, 1.0, -np.log(1.5), -1.0),
        (0.0, 1.5, 1.0, 0.0, 1.5),  # (1 - .75) / .5 = .5 is raised to 1, and the gradient passes
        (0.0, 1.5, 0.1, -np.log(0.5), 3.0),
        (0.0, 0.5, 1.0, -np.log(1.5), 1 / 3),  # (1 - .25) / .5
    ],
)
def test_nft_off_policy_is_the_hand_worked_one(reward, ratio, eps, expected, slope, strict):
    """Half of the answers are right; the gradient by log pi of `-log((1 - q rho) / (1 - q))` is `rho` over it."""
    arguments = jnp.float32(np.log(ratio) - 1.0), jnp.float32(-1.0), jnp.float32(reward), jnp.float32(0.5)
    value, gradient = jax.jit(jax.value_and_grad(partial(terms.nft, eps=eps, weight="one")))(*arguments)
    assert (float(value), float(gradient)) == pytest.approx((expected, slope), abs=1e-5)
    assert float(terms.nft(*arguments, eps)) == pytest.approx(0.5 * expected, abs=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_nft_learns_nothing_where_all_answers_are_alike(rate):
    for weight in ("dr_grpo", "grpo", "one"):
        loss = jax.value_and_grad(lambda x, weight=weight: terms.nft(x, jnp.array(-1.0), rate, rate, weight=weight))
        assert [float(x) for x in jax.jit(loss)(jnp.array(-0.3))] == [0.0, 0.0]


# --- whole answers --------------------------------------------------------------------------------------------

REWARDS = np.array([1.0, 0.0, 0.3, -2.0, 0.5])


@pytest.mark.parametrize("k", [2, 3, 5])
def test_copg_is_the_pairwise_loss_and_has_leave_one_out_gradients(k, precision):
    reward, log_ratio, beta = jnp.array(REWARDS[:k]), jnp.array(LOGITS[:k]), 0.4
    loss, slope = jax.jit(jax.value_and_grad(lambda d: terms.copg(d, reward, beta).sum()))(log_ratio)
    regularised = REWARDS[:k] - beta * LOGITS[:k]
    pairs = [(regularised[i] - regularised[j]) ** 2 / 2 for i in range(k) for j in range(i)]
    assert loss == pytest.approx(sum(pairs) / (k - 1), abs=precision)
    others = [np.delete(regularised, i).mean() for i in range(k)]
    np.testing.assert_allclose(slope, -beta * (regularised - others), atol=precision)
    np.testing.assert_allclose(slope, -beta * credit.leave_one_out(jnp.array(regularised)), atol=precision)


def test_copg_is_zero_at_the_regularised_optimum_and_nowhere_near_it(x64):
    """pi ∝ ref exp(R / beta) zeroes it for whatever answers, which no gradient estimated from samples does."""
    beta, ref = 0.4, softmax(REF_LOGITS)
    optimum = softmax(REF_LOGITS + REWARDS / beta)
    for answers in ([0, 1], [3, 3, 4], [4, 2, 1, 0, 3]):
        x = np.array(answers)
        log_ratio = jnp.array(np.log(optimum / ref)[x])
        copg = jax.jit(jax.value_and_grad(lambda d, x=x: terms.copg(d, jnp.array(REWARDS[x]), beta).sum()))
        loss, slope = copg(log_ratio)
        assert loss == pytest.approx(0.0, abs=1e-20)
        np.testing.assert_allclose(slope, 0.0, atol=1e-12)
        assert copg(log_ratio + 0.1 * x)[0] > 1e-5


def test_ipo_is_copg_with_one_margin(precision):
    """`1 / (2 tau) = c / beta` for rewards c and 0; as losses they differ by `beta^2 / 2`."""
    beta, margin = 0.3, 0.7
    pair = jnp.array([0.4, -1.1])
    copg = jax.value_and_grad(lambda d: terms.copg(d, jnp.array([margin, 0.0]), beta).sum())(pair)
    ipo = jax.value_and_grad(lambda d: beta**2 / 2 * terms.ipo(*d, tau=beta / (2 * margin)))(pair)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=precision), copg, ipo)
    assert terms.ipo(*pair, tau=0.5) == pytest.approx(0.25)  # (1.5 - 1)^2


@pytest.mark.parametrize(("gap", "expected", "slope"), [(0.0, np.log(2), -0.25), (2.0, 0.3132617, -0.1344707)])
def test_direct_preference_is_the_hand_worked_one(gap, expected, slope, strict):
    value, slopes = jax.value_and_grad(terms.direct_preference, (0, 1))(jnp.float32(gap - 1.0), jnp.float32(-1.0), 0.5)
    assert (float(value), *map(float, slopes)) == pytest.approx((expected, slope, -slope), abs=1e-6)


# --- divergences and entropy ----------------------------------------------------------------------------------


def test_estimators_of_the_kl_expect_the_kl_but_not_its_gradient(x64):
    """As losses on samples: k1's gradient is zero, and k3's is that of the other KL."""
    pi, ref = softmax(LOGITS), softmax(REF_LOGITS)

    def expected(estimator):
        def under(logits):
            return pi @ estimator(jax.nn.log_softmax(logits), jnp.log(ref))

        return jax.jit(jax.value_and_grad(under))(jnp.array(LOGITS))

    kl = (pi * np.log(pi / ref)).sum()
    for estimator, slope in ((terms.kl_k1, np.zeros(V)), (terms.kl_k3, pi - ref)):
        value, gradient = expected(estimator)
        assert value == pytest.approx(kl, abs=1e-12)
        np.testing.assert_allclose(gradient, slope, atol=1e-12)
    d = jnp.linspace(-3.0, 3.0, 61)
    assert (terms.kl_k3(d, jnp.zeros(61)) >= 0.0).all() and terms.kl_k3(d[30], d[30]) == 0.0


def test_the_entropy_bonus_is_a_loss_and_bears_impossible_tokens():
    assert terms.entropy_bonus(jnp.zeros((2, 8))) == pytest.approx(-np.log([8.0, 8.0]), abs=1e-6)
    logits = jnp.array([0.0, 1.0, -jnp.inf])
    pi = softmax(np.array([0.0, 1.0]))
    value, slope = jax.jit(jax.value_and_grad(terms.entropy_bonus))(logits)
    assert value == pytest.approx((pi * np.log(pi)).sum(), abs=1e-6)
    np.testing.assert_allclose(slope, [*(pi * (np.log(pi) - value)), 0.0], atol=1e-6)


# --- reducers and masks ---------------------------------------------------------------------------------------

LOSS = jnp.array([[1.0, 2.0, 3.0], [4.0, 100.0, jnp.nan]])
MASK = jnp.array([[True, True, True], [True, False, False]])


def of_five(loss, mask):
    return terms.constant_length(loss, mask, 5)


REDUCERS = [terms.token_mean, terms.sequence_mean, of_five]


@pytest.mark.parametrize(("reduce", "expected"), zip(REDUCERS, [10 / 4, (6 / 3 + 4) / 2, 10 / (2 * 5)], strict=True))
def test_reducers_are_the_hand_worked_ones(reduce, expected, strict):
    value, weight = jax.jit(jax.value_and_grad(reduce))(LOSS, MASK)
    assert (value.shape, value.dtype) == ((), jnp.float32)
    assert float(value) == pytest.approx(expected)
    assert (weight[~MASK] == 0.0).all()
    assert float(jax.jit(reduce)(LOSS, jnp.zeros_like(MASK))) == 0.0


def test_an_answer_without_tokens_is_not_an_answer():
    loss, mask = np.concatenate([LOSS, np.ones((3, 3), np.float32)]), np.concatenate([MASK, np.zeros((3, 3), bool)])
    for reduce in (terms.token_mean, terms.sequence_mean):
        assert jax.jit(reduce)(loss, mask) == jax.jit(reduce)(LOSS, MASK)


# every term of tokens, from logits [B, T, V], a batch and advantages [B, T]
TERMS = {
    "sft": lambda x, b, a: terms.sft(terms.log_prob_of(x, b.answers)),
    "dft": lambda x, b, a: terms.dft(terms.log_prob_of(x, b.answers)),
    "asft": lambda x, b, a: terms.asft(x, 0.5 * x[..., ::-1], b.answers),
    "otr": lambda x, b, a: terms.otr(x, b.answers, terms.otr_samples(jax.random.key(0), x, 3), -0.1),
    "reinforce": lambda x, b, a: terms.reinforce(terms.log_prob_of(x, b.answers), a),
    "ppo_clip": lambda x, b, a: terms.ppo_clip(terms.log_prob_of(x, b.answers), b.old_log_prob, a),
    "dual_clip": lambda x, b, a: terms.dual_clip(terms.log_prob_of(x, b.answers), b.old_log_prob, a),
    "nft": lambda x, b, a: terms.nft(
        terms.log_prob_of(x, b.answers), b.old_log_prob, (b.reward > 0.5)[:, None].astype(x.dtype), jnp.float32(0.5)
    ),
    "kl_k1": lambda x, b, a: terms.kl_k1(terms.log_prob_of(x, b.answers), b.old_log_prob),
    "kl_k3": lambda x, b, a: terms.kl_k3(terms.log_prob_of(x, b.answers), b.old_log_prob),
    "entropy_bonus": lambda x, b, a: terms.entropy_bonus(x),
}


@pytest.mark.parametrize("term", TERMS)
def test_nothing_after_the_end_of_an_answer_matters(term, strict):
    """To no reducer, in value or gradient, and each token's loss is its own."""
    logits = jnp.array(np.random.default_rng(1).normal(size=(B, T, V)).astype(np.float32))
    x, mask = batch(), batch().mask

    @jax.jit
    def look(logits, x):
        def losses(logits):
            loss = TERMS[term](logits, x, credit.dr_grpo(3)(x))
            return jnp.stack([reduce(loss, x.mask) for reduce in REDUCERS]), loss

        return (*losses(logits), jax.jacrev(losses, has_aux=True)(logits)[0])

    reduced, loss, slope = look(logits, x)
    assert (loss.shape, loss.dtype) == ((B, T), jnp.float32)
    other = look(jnp.where(mask[..., None], logits, 3.0 * logits[:, ::-1]), corrupted(x))
    for before, after in ((reduced, other[0]), (loss[mask], other[1][mask]), (slope, other[2])):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert (slope[:, ~mask] == 0.0).all() and (jnp.abs(slope[:, mask]).sum(-1) > 0.0).any()


def test_the_log_probability_of_an_answer_is_that_of_its_tokens():
    x = batch()
    expected = [np.asarray(x.old_log_prob)[i, : LENGTHS[i]].sum() for i in range(B)]
    np.testing.assert_allclose(terms.of_answer(x.old_log_prob, x.mask), expected, rtol=1e-6)


# --- bad input ------------------------------------------------------------------------------------------------
ONE, TWO = jnp.zeros(1), jnp.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: terms.dual_clip(ONE, ONE, ONE, bound=1.0), "bound must be above 1, got 1.0"),
        (lambda: terms.otr_samples(jax.random.key(0), ONE, 0), "num_samples must be at least 1, got 0"),
        (lambda: terms.otr_samples(jax.random.key(0), ONE, 1, 0.0), "temperature must be above 0, got 0.0"),
        (lambda: terms.nft(ONE, ONE, ONE, ONE, weight="rloo"), "weight must be .* got 'rloo'"),
        (lambda: terms.nft(ONE, ONE, ONE, ONE, eps=0.0), "eps must be above 0, got 0.0"),
        (lambda: terms.copg(ONE, ONE, 0.1), "copg needs at least 2 answers to a prompt, got 1"),
        (lambda: terms.direct_preference(ONE, ONE, -0.1), "beta must be above 0, got -0.1"),
        (lambda: terms.ipo(ONE, ONE, float("inf")), "tau must be at most 1000000000, got inf"),
        (lambda: terms.constant_length(LOSS, MASK, 0), "length must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named_with_their_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: terms.reinforce(jnp.zeros((2, 2)), TWO),
        lambda: terms.ppo_clip(jnp.zeros((2, 2)), jnp.zeros((2, 2)), TWO),
        lambda: terms.nft(jnp.zeros((2, 2)), TWO, 1.0, 0.5),
        lambda: terms.kl_k3(jnp.zeros((2, 2)), TWO),
        lambda: terms.token_mean(jnp.zeros((2, 2)), jnp.ones(2, bool)),
        lambda: terms.copg(TWO, jnp.zeros(3), 0.1),
        lambda: terms.direct_preference(TWO, jnp.zeros(1)),
    ],
)
def test_advantages_of_answers_do_not_pass_for_those_of_tokens(call):
    """They would broadcast, over the wrong axis, where there are as many answers as tokens."""
    with pytest.raises(AssertionError):
        call()

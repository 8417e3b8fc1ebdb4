"""Reward models: their loss, votes, peers and the meta-gradient, against numbers computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import bag, batch

from metarl.finetune import reward_models
from metarl.finetune.reward_models import Pairs, RewardModel, bradley_terry

END = 0
MODEL = RewardModel(bag(5, 6, 1), optax.sgd(0.1), END)
PARAMS = MODEL.init(jax.random.key(0))[0]
PROMPTS = jnp.array([[1, 2], [3, 4], [2, 2]], jnp.int32)
CHOSEN = jnp.array([[1, 3, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]], jnp.int32)
REJECTED = jnp.array([[4, 0, 0, 0], [1, 2, 3, 4], [3, 3, 0, 0]], jnp.int32)
PAIRS = reward_models.ranked(PROMPTS, CHOSEN, REJECTED, jnp.ones(3, bool))


def loss(params):
    return bradley_terry(MODEL, params, PAIRS).mean()


def test_a_score_is_read_after_the_last_token_and_what_follows_the_end_has_no_effect():
    by_hand = [
        MODEL.network.apply(PARAMS, jnp.array(x))[-1, 0] for x in ([1, 2, 1, 3, 0], [3, 4, 2, 2, 2, 2], [2, 2, 0])
    ]
    np.testing.assert_allclose(MODEL.score(PARAMS, PROMPTS, CHOSEN), by_hand, rtol=1e-5)
    other = jnp.where(jnp.cumsum(CHOSEN == END, 1) > 1, 4, CHOSEN)
    np.testing.assert_allclose(MODEL.score(PARAMS, PROMPTS, other), by_hand, rtol=1e-5)


def test_a_preference_is_the_other_way_round_where_the_second_answer_was_preferred():
    found = reward_models.ranked(PROMPTS, CHOSEN, REJECTED, jnp.array([True, False, True]))
    np.testing.assert_array_equal(found.chosen, [CHOSEN[0], REJECTED[1], CHOSEN[2]])
    np.testing.assert_array_equal(found.rejected, [REJECTED[0], CHOSEN[1], REJECTED[2]])


def test_the_loss_has_confidences_and_margins():
    d = np.asarray(MODEL.score(PARAMS, PROMPTS, CHOSEN) - MODEL.score(PARAMS, PROMPTS, REJECTED))
    np.testing.assert_allclose(bradley_terry(MODEL, PARAMS, PAIRS), np.log1p(np.exp(-d)), rtol=1e-4)
    c, m = np.array([1.0, 0.9, 0.5]), np.array([0.0, 0.4, 1.0])
    expected = c * np.log1p(np.exp(m - d)) + (1 - c) * np.log1p(np.exp(d - m))
    found = bradley_terry(MODEL, PARAMS, PAIRS._replace(confidence=jnp.array(c), margin=jnp.array(m)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_votes_are_means_and_deviations_of_an_ensemble():
    many = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x, -x]), PARAMS)
    one_by_one = np.stack([MODEL.strength(jax.tree.map(lambda x, i=i: x[i], many), PAIRS) for i in range(3)])
    mean, deviation = reward_models.votes(MODEL, many, PAIRS)
    np.testing.assert_allclose(mean, one_by_one.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(deviation, one_by_one.std(0), rtol=1e-4, atol=1e-6)


def test_voting_flips_the_lowest_and_gives_margins():
    rows = jnp.arange(5, dtype=jnp.int32)[:, None]
    labelled = Pairs(rows, rows, rows + 10, jnp.ones(5), jnp.zeros(5))
    found = reward_models.voted(labelled, jnp.array([0.5, -2.0, 1.0, -0.1, -3.0]), flip=0.4, smoothing=0.1, margin=2.0)
    np.testing.assert_array_equal(found.chosen[:, 0], [0, 11, 2, 3, 14])
    np.testing.assert_array_equal(found.rejected[:, 0], [10, 1, 12, 13, 4])
    np.testing.assert_allclose(found.margin, [1.0, 4.0, 2.0, 0.0, 6.0])
    np.testing.assert_allclose(found.confidence, np.full(5, 0.9), rtol=1e-6)
    unchanged = reward_models.voted(labelled, jnp.array([0.5, 2.0, 1.0, 0.1, 3.0]), flip=0.4)
    np.testing.assert_array_equal(unchanged.chosen, labelled.chosen)  # no mean is negative


def test_each_peer_learns_from_the_pairs_that_the_other_likes_best():
    first, second = ((p, MODEL.optimizer.init(p)) for p in (PARAMS, jax.tree.map(jnp.negative, PARAMS)))
    review = jax.jit(lambda keep: reward_models.peer_review(MODEL, (first, second), PAIRS, keep), static_argnums=0)
    after, other = review(1 / 3)

    @jax.jit
    def learned(state, reviewer):
        best = MODEL.strength(reviewer[0], PAIRS).argmax()
        return MODEL.step(state, lambda params: bradley_terry(MODEL, params, PAIRS)[best])

    for found, expected in ((after, learned(first, second)), (other, learned(second, first))):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found[0], expected[0])
    alike = review(1.0)[0]
    everything = jax.jit(lambda state: MODEL.step(state, loss))(first)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), alike[0], everything[0])


def test_the_difference_of_scores_by_hand():
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    expected = 2 / 9 * (sigmoid(2.0) + sigmoid(1.0) + sigmoid(3.0))
    assert float(reward_models.difference(jnp.array([1.0, 3.0, 0.0]))) == pytest.approx(expected, rel=1e-6)


SHIFTED = batch(answers=jnp.array(np.random.default_rng(1).integers(0, 5, (6, 4)), jnp.int32))


def meta(params, rate=0.7, first_order=False):
    return reward_models.meta_loss(MODEL, params, PAIRS, SHIFTED, 3, rate, first_order)


def test_the_exact_meta_gradient_agrees_with_finite_differences_and_the_first_order_one_with_the_paper():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), PARAMS)
        direction = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)

        def apart(params):
            score = MODEL.score(params, SHIFTED.prompts, SHIFTED.answers).reshape(2, 3)
            return (reward_models.difference(score[0]) + reward_models.difference(score[1])) / 2

        @jax.jit
        def gradients(params):
            move = jax.grad(apart)(params)
            adapted = jax.tree.map(lambda x, g: x + 0.7 * g, params, move)
            first_order = jax.grad(lambda p: meta(p, first_order=True))(params)
            slope = optax.tree.vdot(jax.grad(meta)(params), direction)
            product = optax.tree.vdot(jax.grad(loss)(params), move)
            return slope, first_order, jax.grad(loss)(adapted), product

        @jax.jit
        def at(h, rate):
            return meta(jax.tree.map(lambda x, d: x + h * d, params, direction), rate)

        slope, first_order, expected, product = gradients(params)
        numeric = (at(1e-5, 0.7) - at(-1e-5, 0.7)) / 2e-5
        assert float(slope) == pytest.approx(float(numeric), rel=1e-6)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9), first_order, expected)
        assert abs(float(optax.tree.vdot(first_order, direction) - slope)) > 1e-5  # the two do differ
        # to first order in the rate, the exact loss adds the product of both gradients (equation 17)
        assert float((at(0.0, 1e-5) - at(0.0, 0.0)) / 1e-5) == pytest.approx(float(product), rel=1e-3)


def test_without_a_move_it_is_bradley_terry():
    assert meta(PARAMS, rate=0.0) == loss(PARAMS)


def test_it_learns_a_rule_that_it_can_generalise():
    """Raters prefer the answer with more threes."""
    key = jax.random.key(3)
    model = MODEL._replace(optimizer=optax.adam(0.05))
    drawn = jax.random.randint(key, (3, 240, 4), 1, 5)
    more = (drawn[1] == 3).sum(1) > (drawn[2] == 3).sum(1)
    known = reward_models.ranked(drawn[0][:, :2], drawn[1], drawn[2], more)
    told_apart = (drawn[1] == 3).sum(1) != (drawn[2] == 3).sum(1)
    train, test = (jax.tree.map(lambda x, s=s: x[s], known) for s in (slice(0, 160), slice(160, None)))

    @jax.jit
    def accuracy(key):
        params, _ = reward_models.fit(model, model.init(key), train, key, steps=150)
        right = model.strength(params, test) > 0
        return (right & told_apart[160:]).sum() / told_apart[160:].sum()

    assert float(accuracy(key)) > 0.9


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: reward_models.voted(PAIRS, jnp.zeros(3), flip=1.5), "flip must be at most 1, got 1.5"),
        (lambda: reward_models.peer_review(MODEL, (None, None), PAIRS, keep=-0.1), "keep must be at least 0, got -0.1"),
        (
            lambda: reward_models.meta_loss(MODEL, PARAMS, PAIRS, SHIFTED, 4),
            "group_size must divide the 6 shifted answers, got 4",
        ),
        (lambda: reward_models.fit(MODEL, None, PAIRS, None, steps=-1), "steps must be at least 0, got -1"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()

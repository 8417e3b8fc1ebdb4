"""Judges as sources: what becomes of their scores, the penalty, online annotation, and the best of n."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import POLICY, SIZES, Echo, bag, batch, loop, newborn, step_of

from metarl.finetune import Weights, controllers, credit, judged, losses, sources, terms
from metarl.finetune.policies import evaluate_answers
from metarl.finetune.reward_models import RewardModel, bradley_terry, ranked
from metarl.finetune.sources import Keys, Outcome
from metarl.types import Progress

FRESH = sources.fresh(Echo(), SIZES)
PARAMS, REFERENCE = (POLICY.init(jax.random.key(i)) for i in (1, 2))
MODEL = RewardModel(bag(4, 4, 1), optax.sgd(0.1), 0)


def drawn(source, state=()):
    keys, progress = Keys(*jax.random.split(jax.random.key(0), 3)), Progress(jnp.int32(0), jnp.int32(1))
    return jax.jit(lambda state: source.sample(POLICY, PARAMS, state, progress, keys))(state)


def ones(x):
    return ((x.answers == 1) & x.mask).sum(1).astype(jnp.float32)


def test_a_score_replaces_the_reward_and_nothing_else():
    plain, found = drawn(FRESH), drawn(judged.judged(FRESH, ones))
    np.testing.assert_array_equal(found.reward, ones(plain))
    jax.tree.map(np.testing.assert_array_equal, found._replace(reward=plain.reward), plain)


def test_what_is_no_number_scores_as_the_lowest():
    found = judged.finite(jnp.array([1.0, jnp.nan, -2.0, jnp.inf, -jnp.inf]))
    np.testing.assert_array_equal(found, [1.0, -2.0, -2.0, -2.0, -2.0])
    np.testing.assert_array_equal(judged.finite(jnp.full(3, jnp.nan)), np.zeros(3))


def test_a_policy_survives_a_reward_model_that_returns_nan():
    source = judged.judged(FRESH, lambda x: jnp.where(ones(x) > 0, jnp.nan, ones(x)))
    inner = loop(controllers.constant(0.0), answers=source, advantages=credit.grpo(4))
    after = step_of(inner, newborn(inner)).lifetime
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(after.params))


def test_the_penalty_is_the_log_ratio_of_the_answer():
    plain, found = drawn(FRESH), drawn(judged.penalised(FRESH, REFERENCE, 0.3))

    @jax.jit
    def log_prob(params):
        return terms.of_answer(evaluate_answers(POLICY, params, plain.prompts, plain.answers, 0).log_prob, plain.mask)

    own, ref = map(log_prob, (PARAMS, REFERENCE))
    np.testing.assert_allclose(found.reward, plain.reward - 0.3 * (own - ref), atol=1e-5)
    assert float(jnp.abs(own - ref).max()) > 0.01
    np.testing.assert_allclose(judged.log_ratio(POLICY, REFERENCE, plain), own - ref, atol=1e-5)


def test_a_rater_compares_the_first_two_answers_of_some_problems_after_the_step():
    source = judged.annotated(FRESH, MODEL, ones, count=2)
    state = source.init(jax.random.key(0))
    found = drawn(source, state)
    np.testing.assert_allclose(found.reward, MODEL.score(state.model[0], found.prompts, found.answers), rtol=1e-5)
    weights = Weights(jnp.zeros(()), jnp.ones(()))
    update = jax.jit(lambda state: source.update(state, Outcome(found, 4, jnp.zeros(found.mask.shape), weights)))
    after = update(state)
    first, second = found.answers[jnp.array([0, 4])], found.answers[jnp.array([1, 5])]
    one, other = (ones(found)[jnp.array(rows)] for rows in ([0, 4], [1, 5]))
    known = ranked(found.prompts[jnp.array([0, 4])], first, second, one > other)
    assert (one != other).any()
    loss = lambda params: terms.token_mean(bradley_terry(MODEL, params, known), one != other)  # noqa: E731
    expected = jax.jit(lambda model: MODEL.step(model, loss))(state.model)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), after.model[0], expected[0])


def test_equal_answers_teach_a_reward_model_nothing():
    source = judged.annotated(FRESH, MODEL, lambda x: jnp.zeros(len(x.answers)), count=2)
    state = source.init(jax.random.key(0))
    found = batch(answers=jnp.ones((16, 3), jnp.int32), prompts=jnp.ones((16, 1), jnp.int32), mask=jnp.ones((16, 3)))
    after = source.update(state, Outcome(found, 4, found.mask, Weights(jnp.zeros(()), jnp.ones(()))))
    jax.tree.map(np.testing.assert_array_equal, after.model[0], state.model[0])


@pytest.mark.slow
def test_with_its_own_reward_model_a_policy_learns_what_the_rater_likes():
    model = MODEL._replace(optimizer=optax.adam(0.05))
    parts = {"answers": judged.annotated(FRESH, model, ones, count=4, steps=3), "reward": losses.reinforce()}
    inner = loop(controllers.constant(0.0), optax.adam(0.03), advantages=credit.rloo(4), **parts)

    @jax.jit
    def train(key):
        step = lambda tuning, key: (inner.step((), tuning, key).lifetime, None)  # noqa: E731
        return jax.lax.scan(step, newborn(inner), jax.random.split(key, 60))[0].params

    def liked(params):
        keys = Keys(*jax.random.split(jax.random.key(6), 3))
        return float(ones(FRESH.sample(POLICY, params, (), Progress(0, 1), keys)).mean())

    assert liked(train(jax.random.key(5))) > 2.0 > 1.2 > liked(newborn(inner).params)


def test_the_best_of_n_is_that_of_all_subsets():
    score, gold = jnp.array([0.3, 2.0, -1.0, 0.7, 1.1]), jnp.array([5.0, 1.0, 0.0, 3.0, 4.0])
    expected = [
        np.mean([gold[max(rows, key=lambda i: score[i])] for rows in itertools.combinations(range(5), n)])
        for n in (1, 2, 4, 5)
    ]
    np.testing.assert_allclose(judged.best_of(score, gold, (1, 2, 4, 5)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: judged.judged(sources.demonstrations(Echo(), 4), ones), "source must draw answers of the policy"),
        (lambda: judged.penalised(FRESH, REFERENCE, -1.0), "beta must be at least 0, got -1.0"),
        (lambda: judged.annotated(FRESH, MODEL, ones, count=5), "count must be at most the 4 problems"),
        (lambda: judged.best_of(jnp.ones(3), jnp.ones(3), (4,)), "sizes must be between 1 and the 3 answers"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()

"""Labels of prefixes by further tries, and the loss of a judge of prefixes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from finetuning import POLICY, Echo, Problem, bag, batch

from metarl.finetune import stepwise
from metarl.finetune.reward_models import RewardModel
from metarl.finetune.sampling import demonstrated

TASK, MODEL = Echo(), RewardModel(bag(4, 4, 1), optax.sgd(0.1), 0)
# problems 1, 2 and 3; answers that are right, wrong from the second token on, and wrong from the first
PROBLEMS = Problem(jnp.array([1, 2, 3], jnp.int32))
ANSWERS = jnp.array([[1, 1, 0], [2, 1, 0], [1, 3, 0]], jnp.int32)


def answers():
    shown = demonstrated(TASK, PROBLEMS, jax.random.key(0))
    verdict = jax.vmap(TASK.verify)(PROBLEMS, ANSWERS)
    return shown._replace(answers=ANSWERS, reward=verdict.reward, correct=verdict.correct)


def test_with_many_tries_a_prefix_is_good_if_and_only_if_it_can_become_right():
    """A newborn policy gives every completion with a chance of about 1 / 16 or more."""
    found = jax.jit(
        lambda key: stepwise.completable(POLICY, POLICY.init(key), TASK, answers(), key, tries=150)
    )(jax.random.key(1))  # fmt: skip
    np.testing.assert_array_equal(found, [[True] * 3, [True, False, False], [False] * 3])


def test_what_comes_before_a_good_prefix_is_good():
    """A policy that never succeeds finds no completion, but an answer that is right shows that all of it was good."""
    never = POLICY._replace(decode=lambda params, cache, token: (jnp.zeros(4).at[3].set(1e9), cache))
    never = never._replace(prefill=lambda params, prompt, room: (jnp.zeros(4).at[3].set(1e9), jnp.zeros(1)))
    found = jax.jit(lambda key: stepwise.completable(never, (), TASK, answers(), key, tries=2))(jax.random.key(1))
    np.testing.assert_array_equal(found, [[True] * 3, [False] * 3, [False] * 3])


def test_an_outcome_model_is_told_of_the_outcome_alone():
    np.testing.assert_array_equal(stepwise.outcomes(answers()), [[True] * 3, [False] * 3, [False] * 3])


def test_the_loss_is_logistic_after_each_token():
    params = MODEL.network.init(jax.random.key(2))
    x = batch(answers=batch().answers % 4)
    labels = jnp.arange(24).reshape(6, 4) % 3 == 0
    read = np.stack([MODEL.network.apply(params, jnp.append(p, a)) for p, a in zip(x.prompts, x.answers, strict=True)])
    score = read[:, 2:, 0]
    expected = np.where(labels, np.log1p(np.exp(-score)), np.log1p(np.exp(score)))
    np.testing.assert_allclose(stepwise.token_loss(MODEL, params, x, labels), expected, rtol=1e-4)

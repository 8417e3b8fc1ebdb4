"""Pioneer and observer: what the relay says of two answers, what each learns from, and the exchange of roles."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import POLICY, SIZES, Echo, loop, newborn

from metarl.finetune import Tuning, controllers, credit, sources, terms, updates
from metarl.finetune.cory import Both, exchanged, relay
from metarl.finetune.policies import evaluate_answers, sample
from metarl.finetune.sampling import demonstrated, problems_of
from metarl.meta import InnerLoop, Update
from metarl.types import Level

TASK, BOTH = Echo(), Both(Echo())
RELAY = relay(POLICY, TASK)
PARAMS = tuple(POLICY.init(jax.random.key(i)) for i in (1, 2))
PROMPTS = jnp.array([[1], [2], [3], [1]], jnp.int32)
# two halves of three tokens each; 0 ends a half
ANSWERS = jnp.array([[1, 0, 0, 3, 2, 0], [2, 2, 1, 0, 0, 0], [0, 0, 0, 3, 3, 3], [3, 1, 0, 1, 1, 0]], jnp.int32)


def by_hand(prompt, answer):
    """Log-probabilities [6] of the tokens: the pioneer reads the prompt, the observer the first answer, too."""
    found = []
    for half, params in enumerate(PARAMS):
        logits = np.asarray(POLICY.apply(params, jnp.append(prompt, answer)))
        ended = False
        for t in range(3 * half, 3 * half + 3):
            row = logits[t]
            found.append(0.0 if ended else row[answer[t]] - np.log(np.exp(row).sum()))
            ended = ended or answer[t] == 0
    return found


def test_each_half_is_said_by_one_of_the_two_and_ends_at_its_first_end():
    found = jax.jit(lambda params: evaluate_answers(RELAY, params, PROMPTS, ANSWERS, BOTH.end))(PARAMS)
    expected = [by_hand(p, a) for p, a in zip(PROMPTS, np.asarray(ANSWERS), strict=True)]
    np.testing.assert_allclose(found.log_prob, expected, rtol=1e-4, atol=1e-5)
    assert found.mask.all() and bool(jnp.isfinite(found.entropy).all())
    assert float(jnp.abs(found.entropy[0, 2])) == 0.0  # padding is certain


def test_what_is_drawn_is_what_is_evaluated_and_halves_are_padded():
    prompts = jnp.tile(PROMPTS, (16, 1))

    @jax.jit
    def both(key):
        drawn = sample(RELAY, PARAMS, prompts, key, BOTH.answer_length, BOTH.end)
        return drawn, evaluate_answers(RELAY, PARAMS, prompts, drawn.tokens, BOTH.end)

    drawn, evaluated = both(jax.random.key(0))
    np.testing.assert_allclose(drawn.log_prob, evaluated.log_prob, atol=1e-5)
    np.testing.assert_allclose(drawn.entropy, evaluated.entropy, atol=1e-5)
    assert int(drawn.tokens.max()) < 4  # never the additional token
    for half in np.split(np.asarray(drawn.tokens), 2, axis=1):
        after = np.cumsum(half == 0, 1) > 0
        assert (half[after] == 0).all()
        assert {1, 2, 3} <= set(half[:, 0])


def test_each_learns_from_what_it_said():
    def loss(params, rows):
        found = evaluate_answers(RELAY, params, PROMPTS, ANSWERS, BOTH.end)
        return found.log_prob[:, rows].sum()

    @jax.jit
    def norms(rows):
        return [optax.tree.norm(x) for x in jax.grad(loss)(PARAMS, rows)]

    pioneer, observer = norms(jnp.array([0, 1, 2]))
    assert pioneer > 0.01 and observer == 0.0
    pioneer, observer = norms(jnp.array([3, 4, 5]))
    assert observer > 0.01 and pioneer == 0.0


def test_both_earn_the_sum_and_the_second_answer_decides():
    problems = problems_of(TASK, jax.random.key(0), 1)
    token = int(problems.token[0])
    right, wrong = [token, token, 0], [token, 0, 0]  # rewards 1 and 0.3
    for first, second in ((right, wrong), (wrong, right)):
        verdict = BOTH.verify(jax.tree.map(lambda x: x[0], problems), jnp.array(first + second))
        assert float(verdict.reward) == pytest.approx(1.3) and bool(verdict.correct) == (second == right)
    shown = demonstrated(BOTH, problems, jax.random.key(1))
    np.testing.assert_array_equal(shown.answers, [right + right])
    assert float(shown.reward[0]) == 2.0 and shown.mask.all() and (BOTH.end, BOTH.num_tokens) == (4, 5)


UPDATE = updates.joint(optax.adam(0.02))


def test_roles_are_exchanged_after_some_steps_and_the_optimizer_begins_anew():
    """Of a loop whose steps add 1 to everything."""

    def step(meta_params, tuning, key):
        opt_state = jax.tree.map(lambda x: x + 1, tuning.opt_state)
        return Update(tuning._replace(step=tuning.step + 1, opt_state=opt_state), jnp.zeros(()), {})

    plain = InnerLoop(dict, None, step, None, None)
    turning, tuning = exchanged(plain, UPDATE, every=2), newborn_tuning()
    first = turning.step({}, tuning, jax.random.key(0)).lifetime
    jax.tree.map(np.testing.assert_array_equal, first, plain.step({}, tuning, None).lifetime)
    second = turning.step({}, first, jax.random.key(0)).lifetime
    jax.tree.map(np.testing.assert_array_equal, second.params, PARAMS[::-1])
    jax.tree.map(np.testing.assert_array_equal, second.opt_state, UPDATE.init(PARAMS[::-1]))
    third = turning.step({}, second, jax.random.key(0)).lifetime
    jax.tree.map(np.testing.assert_array_equal, third.params, PARAMS[::-1])
    assert int(third.step) == 3


def newborn_tuning():
    return Tuning(PARAMS, PARAMS, UPDATE.init(PARAMS), (), (), (), (), Level((), jnp.int32(9)), jnp.int32(0))


def test_both_learn_the_task_together():
    inner = loop(
        controllers.constant(0.0),
        task=BOTH,
        policy=RELAY,
        sampling=SIZES,
        demonstrations=sources.demonstrations(BOTH, 4),
        advantages=credit.rloo(4),
        update=UPDATE,
        reduce=terms.sequence_mean,
    )
    inner = exchanged(inner, UPDATE, every=5)

    @jax.jit
    def train(key):
        step = lambda tuning, key: inner.step((), tuning, key)[::2]  # noqa: E731
        start = newborn(inner)._replace(params=PARAMS)
        return jax.lax.scan(step, start, jax.random.split(key, 150))[1]["reward"]

    reward = train(jax.random.key(3))
    assert float(reward[-10:].mean()) > 2 * float(reward[:10].mean()) + 0.2


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        exchanged(InnerLoop(dict, None, None, None, None), UPDATE, every=0)

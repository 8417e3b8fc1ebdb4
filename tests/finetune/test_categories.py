"""Categories of problems: what is remembered of each, and which of them the rules choose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import POLICY, Echo, FirstToken, batch, loop, newborn, step_of

from metarl.finetune import Sampling, Weights, categories, controllers, credit
from metarl.finetune.categories import Record
from metarl.finetune.sources import Keys, Outcome
from metarl.finetune.tasks import Categories, Categorised
from metarl.types import Progress

TASK = Categories((Echo(), FirstToken(), Echo()))
SAMPLING = Sampling(8, 2)


def progress(step, horizon=9):
    return Progress(jnp.int32(step), jnp.int32(horizon))


def record(advantage=(0.0, 0.0, 0.0), success=(0.0, 0.0, 0.0)):
    return Record(jnp.array(advantage), jnp.array(success))


def drawn(rule, state, sampling=SAMPLING):
    source = categories.categorised(TASK, rule, sampling)
    keys = Keys(*jax.random.split(jax.random.key(0), 3))
    return jax.jit(lambda: source.sample(POLICY, POLICY.init(jax.random.key(1)), state, progress(0), keys))()


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_the_expected_advantage_is_greatest_at_even_chances(p):
    """SEC: E|A| is `2 p (1 - p)`, and `2 sqrt(p (1 - p))` where advantages are divided by the deviation."""
    reward = jnp.arange(8) < 8 * p
    reward = reward.astype(jnp.float32)
    assert float(jnp.abs(credit.centred(reward)).mean()) == pytest.approx(2 * p * (1 - p), abs=1e-6)
    assert float(jnp.abs(credit.standardised(reward)).mean()) == pytest.approx(2 * (p * (1 - p)) ** 0.5, abs=1e-4)


def test_rules_are_those_of_their_formulas():
    seen = record((0.2, 0.6, 0.0), (0.9, 0.5, 0.0))
    np.testing.assert_allclose(categories.bandit(0.5)(seen, progress(0)), jax.nn.softmax(jnp.array([0.4, 1.2, 0.0])))
    np.testing.assert_allclose(categories.missing()(seen, progress(0)), [0.1, 0.5, 1.0], rtol=1e-5)
    np.testing.assert_array_equal(categories.missing()(record(success=(1.0, 1.0, 1.0)), progress(0)), [1.0, 1.0, 1.0])
    turns = [int(categories.easy_to_hard()(seen, progress(step)).argmax()) for step in range(10)]
    assert turns == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_problems_are_of_the_categories_that_the_rule_chooses():
    only = drawn(lambda record, progress: jnp.array([0.0, 1.0, 0.0]), record())
    assert (only.problem.category == 1).all()
    many = drawn(lambda record, progress: jnp.array([0.0, 3.0, 1.0]), record(), Sampling(400, 2))
    groups = many.problem.category.reshape(400, 2)
    assert (groups[:, 0] == groups[:, 1]).all()
    assert float((groups == 1).mean()) == pytest.approx(0.75, abs=0.07)  # 3 deviations


def test_the_record_moves_toward_what_was_seen_of_the_categories_in_the_step():
    """Two answers of the first, four of the last, none of the second, whose record stays."""
    category = jnp.array([0, 0, 2, 2, 2, 2])
    x = batch(problem=Categorised(category, ()), correct=jnp.array([1, 0, 1, 1, 1, 0], bool))
    advantage = jnp.where(x.mask, jnp.array([1.0, -3.0, 0.5, 0.5, -0.5, -0.5])[:, None], 99.0)
    source = categories.categorised(TASK, categories.bandit(), SAMPLING, rate=0.25)
    outcome = Outcome(x, 2, advantage, Weights(jnp.zeros(()), jnp.ones(())))
    found = source.update(record((1.0, 1.0, 1.0), (0.5, 0.5, 0.5)), outcome)
    np.testing.assert_allclose(found.advantage, [1.25, 1.0, 0.875], rtol=1e-6)
    np.testing.assert_allclose(found.success, [0.5, 0.5, 0.5625], rtol=1e-6)


def test_a_step_remembers_what_it_found():
    answers = categories.categorised(TASK, categories.bandit(), Sampling(8, 4))
    inner = loop(controllers.constant(0.0), answers=answers, advantages=credit.grpo(4))
    after = step_of(inner, newborn(inner)).lifetime.answers
    assert after.advantage.shape == (3,) and float(after.advantage.max()) > 0.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: categories.categorised(TASK, categories.missing(), rate=0.0), "rate must be above 0"),
        (lambda: categories.bandit(0.0), "temperature must be above 0"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()

"""AEPO: what the tempered answers teach, and the temperature that follows from the entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import POLICY, Echo, FirstToken, batch, loop, newborn, step_of

from metarl.finetune import Sampling, Weights, aepo, controllers, credit, sources, terms
from metarl.finetune.sources import Keys, Outcome
from metarl.types import Progress

LOGITS = jnp.array([0.5, -1.0, 2.0, 0.0])


def entropy(logits):
    return float(-terms.entropy_bonus(logits))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_imitating_all_tempered_answers_moves_the_policy_toward_its_tempered_self(temperature):
    """Of equal rewards the expected gradient is `pi^T - pi`: entropy rises with T above 1, and falls below."""
    shifted, pi = jax.nn.softmax(LOGITS / temperature), jax.nn.softmax(LOGITS)
    loss = lambda x: (shifted * terms.reinforce(jax.nn.log_softmax(x), jnp.ones(4))).sum()  # noqa: E731
    step = -jax.grad(loss)(LOGITS)
    np.testing.assert_allclose(step, shifted - pi, atol=1e-6)
    assert (entropy(LOGITS + 0.1 * step) > entropy(LOGITS)) == (temperature > 1.0)


def test_advantages_are_those_of_grpo_and_rewards_of_the_tempered():
    x = batch(reward=jnp.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]))
    found = aepo.grpo_and_tempered(6, count=2, alpha=0.5)(x)
    own = credit.standardised(jnp.array([1.0, 0.0, 1.0, 0.0]))
    np.testing.assert_allclose(found, credit.to_tokens(jnp.append(own, jnp.array([0.5, 0.0])), x.mask), rtol=1e-6)


def test_the_rules_of_the_temperature():
    levels, line = aepo.two_levels(0.5, 0.8, 1.2), aepo.linear(0.5, 0.8, 1.2)
    assert [float(levels(jnp.float32(h))) for h in (0.4, 0.6)] == pytest.approx([1.2, 0.8])
    assert [float(line(jnp.float32(h))) for h in (0.1, 0.4, 0.55, 2.0)] == pytest.approx([1.2, 1.1, 0.95, 0.8])


def test_the_last_answers_of_a_group_are_drawn_at_the_temperature_of_the_state():
    """At 1e-3 they say the likeliest tokens, so those to one problem are the same; the others are not."""
    source = aepo.tempered(Echo(), aepo.two_levels(0.5), 3, Sampling(4, 6))
    keys, params = Keys(*jax.random.split(jax.random.key(0), 3)), POLICY.init(jax.random.key(1))
    progress = Progress(jnp.int32(0), jnp.int32(1))
    assert source.init(jax.random.key(0)) == 1.0
    plain_source = sources.fresh(Echo(), Sampling(4, 6))

    @jax.jit
    def drawn(params):
        cold = source.sample(POLICY, params, jnp.float32(1e-3), progress, keys)
        return cold.answers, plain_source.sample(POLICY, params, (), progress, keys).answers

    answers, plain = (np.asarray(x).reshape(4, 6, 3) for x in drawn(params))
    assert (answers[:, 3:] == answers[:, 3:4]).all() and not (answers[:, :3] == answers[:, :1]).all()
    np.testing.assert_array_equal(answers[:, :3], plain[:, :3])


def test_the_temperature_follows_from_the_entropy_of_the_others_alone():
    source = aepo.tempered(Echo(), aepo.linear(1.0, 0.1, 9.0), 1, Sampling(2, 3))
    x = batch(entropy=jnp.array([0.3, 0.3, 7.0, 0.5, 0.5, 7.0])[:, None].repeat(4, 1))
    outcome = Outcome(x, 3, jnp.zeros(x.mask.shape), Weights(jnp.zeros(()), jnp.ones(())))
    mean = (0.3 * 6 + 0.5 * 5) / 11  # of 4 + 2 and 1 + 4 tokens
    assert float(source.update(jnp.ones(()), outcome)) == pytest.approx(2.0 - mean, rel=1e-5)


def test_a_step_uses_both():
    answers = aepo.tempered(FirstToken(), aepo.two_levels(9.0), 2, Sampling(4, 4))
    inner = loop(controllers.constant(0.0), answers=answers, advantages=aepo.grpo_and_tempered(4, 2))
    assert float(step_of(inner, newborn(inner)).lifetime.answers) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: aepo.tempered(Echo(), aepo.linear(1.0), 3, Sampling(2, 4)), "count must leave 2 or more of the 4"),
        (lambda: aepo.grpo_and_tempered(4, 3), "count must leave 2 or more of the 4 answers of a group, got 3"),
        (lambda: aepo.two_levels(0.5, low=0.0), "low must be above 0, got 0.0"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()

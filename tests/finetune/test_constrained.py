"""Constrained RLHF: the mixture of rewards, and the multipliers that hold each at its threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import POLICY, SIZES, Echo, batch, loop, newborn

from metarl.finetune import Weights, constrained, controllers, credit, losses, sources, terms
from metarl.finetune.constrained import Multipliers
from metarl.finetune.policies import evaluate_answers
from metarl.finetune.sources import Keys, Outcome
from metarl.types import Progress

ONES = [lambda x, token=token: ((x.answers == token) & x.mask).sum(1).astype(jnp.float32) for token in (1, 2)]
PARAMS, REFERENCE = (POLICY.init(jax.random.key(i)) for i in (1, 2))


def make(**options):
    return constrained.constrained(sources.fresh(Echo(), SIZES), ONES, (0.5, 0.2), REFERENCE, **options)


@pytest.mark.parametrize("kind", ["inequality", "equality"])
def test_the_advantages_of_the_reward_are_the_mixture_of_the_advantages(kind):
    """`A_mix = (N - sum f) A_KL + sum_i f_i A_i`, with A linear in rewards."""
    mu = jnp.array([0.3, -1.2])
    source, keys = make(kind=kind), Keys(*jax.random.split(jax.random.key(0), 3))
    x = source.sample(POLICY, PARAMS, Multipliers((), mu, mu), Progress(jnp.int32(0), jnp.int32(1)), keys)
    f = jax.nn.sigmoid(mu) if kind == "inequality" else jnp.tanh(mu)
    ref = evaluate_answers(POLICY, REFERENCE, x.prompts, x.answers, 0).log_prob
    divergence = terms.of_answer(x.old_log_prob - ref, x.mask)

    def advantage(reward):
        return credit.dr_grpo(4)(x._replace(reward=reward))

    expected = (2 - f.sum()) * advantage(-divergence) + sum(w * advantage(r(x)) for w, r in zip(f, ONES, strict=True))
    np.testing.assert_allclose(credit.dr_grpo(4)(x), expected, atol=1e-5)
    assert float(jnp.abs(divergence).max()) > 0.01


def test_a_reward_above_its_threshold_loses_weight_and_one_below_gains():
    x = batch(answers=jnp.full((6, 4), 1, jnp.int32))  # mean length 16 / 6
    outcome = Outcome(x, 3, jnp.zeros(x.mask.shape), Weights(jnp.zeros(()), jnp.ones(())))
    mu, velocity = jnp.array([0.4, 0.4]), jnp.array([1.0, 0.0])
    after = make(rate=0.1, momentum=0.5).update(Multipliers((), mu, velocity), outcome)
    slope = jax.nn.sigmoid(0.4) * jax.nn.sigmoid(-0.4) * np.array([16 / 6 - 0.5, -0.2])
    np.testing.assert_allclose(after.velocity, 0.5 * velocity + slope, rtol=1e-5)
    np.testing.assert_allclose(after.mu, mu - 0.1 * (0.5 * velocity + slope), rtol=1e-5)


@pytest.mark.slow
def test_a_proxy_is_held_at_its_threshold():
    """Without a constraint a policy says 1 all the time; with one, half a time per answer."""

    def trained(threshold):
        source = constrained.constrained(
            sources.fresh(Echo(), SIZES), ONES[:1], jnp.array([threshold]), REFERENCE, "equality", rate=0.3
        )
        inner = loop(controllers.constant(0.0), answers=source, advantages=credit.rloo(4), reward=losses.reinforce())
        step = lambda tuning, key: (inner.step((), tuning, key).lifetime, None)  # noqa: E731
        start = newborn(inner)._replace(params=REFERENCE, reference=REFERENCE)
        tuning = jax.lax.scan(step, start, jax.random.split(jax.random.key(0), 150))[0]
        keys = Keys(*jax.random.split(jax.random.key(7), 3))
        many = sources.fresh(Echo(), SIZES)._replace()
        draws = jax.vmap(
            lambda key: ONES[0](
                many.sample(POLICY, tuning.params, (), Progress(jnp.int32(0), jnp.int32(1)), keys._replace(answers=key))
            ).mean()
        )
        return draws(jax.random.split(jax.random.key(8), 50)).mean()

    held, free = jax.jit(jax.vmap(trained))(jnp.array([0.5, 99.0]))
    assert float(held) == pytest.approx(0.5, abs=0.25) and float(free) > 1.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "both"}, "kind must be"),
        ({"momentum": 1.0}, "momentum must be below 1"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        make(**options)


def test_parts_must_fit():
    with pytest.raises(ValueError, match="a threshold for each of one or more rewards, got 2, 1"):
        constrained.constrained(sources.fresh(Echo(), SIZES), ONES[:1], (0.5, 0.2), REFERENCE)
    with pytest.raises(ValueError, match="source must draw answers of the policy"):
        constrained.constrained(sources.demonstrations(Echo(), 4), ONES[:1], (0.5,), REFERENCE)

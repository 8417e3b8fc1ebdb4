"""MiCRo: the mixture's likelihood, and Hedge with its closed form and its bound."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import bag

from metarl.finetune import preference_mixtures
from metarl.finetune.reward_models import RewardModel, bradley_terry, ranked

MODEL = RewardModel(bag(5, 8, 4), optax.adam(0.05), 0)
PARAMS = MODEL.init(jax.random.key(0))[0]
PROMPTS, CHOSEN, REJECTED = jax.random.randint(jax.random.key(1), (3, 6, 4), 1, 5)
PAIRS = ranked(PROMPTS, CHOSEN, REJECTED, jnp.ones(6, bool))


def test_the_loss_is_the_likelihood_of_the_mixture_by_hand():
    def read(prompt, answer=()):
        return np.asarray(MODEL.network.apply(PARAMS, jnp.array([*prompt, *answer])))[-1]

    expected = []
    for prompt, chosen, rejected in zip(*map(np.asarray, (PROMPTS, CHOSEN, REJECTED)), strict=True):
        f = np.exp(read(prompt)[2:]) / np.exp(read(prompt)[2:]).sum()
        d = (read(prompt, chosen) - read(prompt, rejected))[:2]
        expected.append(-np.log(f @ (1 / (1 + np.exp(-d)))) + 0.3 * (f * np.log(f)).sum())
    np.testing.assert_allclose(preference_mixtures.mixture_loss(MODEL, PARAMS, PAIRS, 0.3), expected, rtol=1e-4)


def test_one_head_is_bradley_terry():
    model = RewardModel(bag(5, 8, 2), optax.adam(0.02), 0)
    params = model.init(jax.random.key(2))[0]
    np.testing.assert_allclose(
        preference_mixtures.mixture_loss(model, params, PAIRS, 0.5), bradley_terry(model, params, PAIRS), rtol=1e-5
    )


def test_hedge_minimises_the_loss_plus_the_divergence_from_the_weights_before():
    weights, losses = jnp.array([0.2, 0.5, 0.3]), jnp.array([1.0, 0.3, 2.0])
    found = preference_mixtures.hedge(weights, losses, 0.4)
    raw = np.array([0.2, 0.5, 0.3]) * np.exp(-np.array([1.0, 0.3, 2.0]) / 0.4)
    np.testing.assert_allclose(found, raw / raw.sum(), rtol=1e-5)

    def objective(f):
        return f @ losses + 0.4 * (f * jnp.log(f / weights)).sum()

    # the least value is -tau log sum_k w_k exp(-L_k / tau), and no neighbour is lower
    assert float(objective(found)) == pytest.approx(-0.4 * np.log(raw.sum()), rel=1e-5)
    for shift in (jnp.array([1, -1, 0]), jnp.array([0, 1, -1])):
        assert objective(found) < min(objective(found + 1e-3 * shift), objective(found - 1e-3 * shift))


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_regret_of_hedge_is_within_its_bound(temperature):
    losses = jax.random.uniform(jax.random.key(3), (200, 4))
    losses = losses.at[::2, 1].multiply(0.5)

    def one(weights, loss):
        return preference_mixtures.hedge(weights, loss, temperature), weights @ loss

    last, paid = jax.lax.scan(one, jnp.full(4, 0.25), losses)
    regret = float(paid.sum() - losses.sum(0).min())
    assert 0.0 < regret <= temperature * np.log(4) + 200 / (8 * temperature)
    total = np.exp(-np.asarray(losses.sum(0) - losses.sum(0).min()) / temperature)
    np.testing.assert_allclose(last, total / total.sum(), rtol=1e-3)  # rounds add up: the order has no effect


def test_two_heads_find_two_tastes_and_hedge_tells_whose_is_whose():
    """Half of the raters like threes and half like fours, whatever the prompt is."""
    key = jax.random.key(4)
    prompts, first, second = jax.random.randint(key, (3, 900, 6), 1, 5)
    ahead = jnp.stack([(first == x).sum(1) - (second == x).sum(1) for x in (3, 4)], 1)  # of each taste
    taste = jax.random.bernoulli(key, 0.5, (900,)).astype(jnp.int32)
    known = ranked(prompts, first, second, jnp.take_along_axis(ahead, taste[:, None], 1)[:, 0] > 0)
    model = MODEL._replace(network=bag(5, 12, 4))

    @jax.jit
    def train(key):
        def one(state, key):
            rows = jax.random.randint(key, (64,), 0, 700)
            some = jax.tree.map(lambda x: x[rows], known)
            differ = jnp.take_along_axis(ahead[rows], taste[rows][:, None], 1)[:, 0] != 0

            def loss(params):
                return jnp.where(differ, preference_mixtures.mixture_loss(model, params, some), 0.0).mean()

            return model.step(state, loss), None

        return jax.lax.scan(one, model.init(key), jax.random.split(key, 800))[0][0]

    params = train(key)
    test = ranked(prompts[700:], first[700:], second[700:], jnp.ones(200, bool))
    strength = preference_mixtures.strengths(model, params, test)
    right = np.array([[((s > 0) == (a > 0))[a != 0].mean() for s in strength.T] for a in ahead[700:].T])  # taste, head
    heads = right.argmax(1)
    assert set(heads) == {0, 1} and (right.max(1) > 0.85).all() and (right.min(1) < 0.75).all()
    for x, head in enumerate(heads):  # some pairs of a rater with each taste
        weights = jnp.full(2, 0.5)
        for d, a in zip(strength[:30], ahead[700:730, x], strict=True):
            if a != 0:
                weights = preference_mixtures.hedge(weights, -jax.nn.log_sigmoid(jnp.sign(a) * d))
        assert float(weights[head]) > 0.9


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="temperature must be above 0, got 0.0"):
        preference_mixtures.hedge(jnp.ones(2) / 2, jnp.zeros(2), 0.0)
    with pytest.raises(ValueError, match="alpha must be at least 0, got -1.0"):
        preference_mixtures.mixture_loss(MODEL, PARAMS, PAIRS, -1.0)

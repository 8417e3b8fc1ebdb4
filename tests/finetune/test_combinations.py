"""Combinations of policies: the optimum that guidance is, emulated fine-tuning, and sampling through the caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import bag

from metarl.finetune.combinations import combined
from metarl.finetune.policies import evaluate_answers, sample, transformer

SMALL, LARGE = bag(5, 4, 5), transformer(5, width=8, layers=1, heads=2, max_length=8)


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 3.0])
def test_guidance_is_the_kl_optimum_of_another_strength(w):
    """RLG: `ref^(1 - w) tuned^w` is optimal for `beta / w` where tuned is for beta."""
    reward, beta = jnp.array([1.0, 0.0, 0.3, -0.5, 0.2]), 0.7
    tokens = jnp.array([1, 2])
    logits = SMALL.apply(SMALL.init(jax.random.key(0)), tokens)
    fixed = lambda change: SMALL._replace(apply=lambda params, tokens: logits + change)  # noqa: E731
    found = combined((fixed(0.0), fixed(reward / beta)), (1.0 - w, w)).apply(((), ()), tokens)
    optimum = jax.nn.log_softmax(logits) + w * reward / beta
    np.testing.assert_allclose(jax.nn.softmax(found), jax.nn.softmax(optimum), rtol=1e-5)


def test_emulated_fine_tuning_moves_the_large_policy_as_the_small_one_moved():
    policy = combined((LARGE, SMALL, SMALL), (1.0, 2.0, -2.0))
    tokens = jnp.array([1, 0, 3])

    @jax.jit
    def read(key):
        large, tuned, small = policy.init(key)
        logs = [jax.nn.log_softmax(p.apply(x, tokens)) for p, x in ((LARGE, large), (SMALL, tuned), (SMALL, small))]
        return logs, policy.apply((large, tuned, small), tokens), policy.apply((large, small, small), tokens)

    logs, moved, unmoved = read(jax.random.key(0))
    assert np.abs(logs[1] - logs[2]).max() > 0.01
    np.testing.assert_allclose(moved, logs[0] + 2.0 * (logs[1] - logs[2]), atol=1e-5)
    np.testing.assert_allclose(unmoved, logs[0], atol=1e-5)


def test_combinations_decode_as_they_read():
    policy = combined((LARGE, SMALL), jnp.array([0.4, 0.6]))
    prompts = jnp.array([[1, 2], [3, 4], [0, 0]])

    @jax.jit
    def both(key):
        params = policy.init(jax.random.key(1))
        drawn = sample(policy, params, prompts, key, 4, 0)
        return drawn, evaluate_answers(policy, params, prompts, drawn.tokens, 0)

    drawn, read = both(jax.random.key(2))
    np.testing.assert_allclose(drawn.log_prob, read.log_prob, atol=1e-5)


@pytest.mark.parametrize(
    ("parts", "weights", "says"),
    [
        ((), (), r"one vocabulary, got \[\] tokens"),
        ((bag(4, 2, 4), bag(5, 2, 5)), (0.5, 0.5), r"one vocabulary, got \[4, 5\] tokens"),
        ((SMALL, SMALL), (1.0,), "a weight for each of the 2 parts, got 1"),
    ],
)
def test_parts_must_fit(parts, weights, says):
    with pytest.raises(ValueError, match=says):
        combined(parts, weights)

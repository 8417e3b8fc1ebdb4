"""The critic of tokens, in a step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import loop, newborn, step_of

from metarl.finetune import TokenCritic, controllers
from metarl.finetune.credit import gae
from metarl.finetune.policies import answer_logits, gru


def test_a_critic_learns_the_returns_of_its_own_credit():
    """Its step against one by hand: toward the lambda-return, with the advantages that the losses saw."""
    seen = []

    def note(x):
        jax.debug.callback(lambda *x: seen.append(x), x.batch, x.advantage)
        return x.now.log_prob * x.advantage

    critic = TokenCritic(gru(4, width=4, outputs=1), optax.sgd(0.1))
    inner = loop(controllers.constant(0.0), advantages=gae(critic, 1.0, 0.9), reward=note)
    tuning = newborn(inner)
    after = step_of(inner, tuning).lifetime
    jax.effects_barrier()
    batch, advantage = jax.tree.map(jnp.asarray, seen[-1])
    before, forward = tuning.critic[0], jax.jit(critic.network.apply)
    for row in range(len(batch.reward)):
        tokens = jnp.append(batch.prompts[row], batch.answers[row])[:-1]
        value, count = np.asarray(forward(before, tokens))[:, 0], int(batch.mask[row].sum())
        expected = 0.0  # from the last token back
        for t in reversed(range(count)):
            last = t == count - 1
            delta = (float(batch.reward[row]) if last else value[t + 1]) - value[t]
            expected = delta + 0.9 * expected
            assert float(advantage[row, t]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    values = jax.jit(partial(answer_logits, critic.network))(before, batch.prompts, batch.answers)[..., 0]

    def loss(params):
        def squares(prompt, answer, target, mask):
            value = critic.network.apply(params, jnp.append(prompt, answer)[:-1])[:, 0]
            return (0.5 * (value - target) ** 2 * mask).sum()

        return jax.vmap(squares)(batch.prompts, batch.answers, values + advantage, batch.mask).sum() / batch.mask.sum()

    by_hand = jax.tree.map(lambda x, g: x - 0.1 * g, before, jax.jit(jax.grad(loss))(before))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), after.critic[0], by_hand)


def test_a_critic_learns_from_every_minibatch():
    critic = TokenCritic(gru(4, width=4, outputs=1), optax.adam(0.01))
    inner = loop(controllers.constant(0.0), advantages=gae(critic), passes=(3, 2))
    tuning = newborn(inner)
    assert tuning.critic[1][0].count == 0 and step_of(inner, tuning).lifetime.critic[1][0].count == 6

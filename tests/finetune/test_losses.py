"""The losses of a step: every method runs in the loop, and its step is the one of its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import Echo, FirstToken, loop, newborn

from metarl.finetune import Credit, controllers, credit, gflownet, losses, preferences, terms
from metarl.finetune.controllers import elapsed


def moved(rate=0.5, key=1, start=None, mu=0.0, **options):
    """How one step of SGD at this rate moves a newborn policy."""
    options = {"task": FirstToken()} | options

    @jax.jit
    def move(key):
        inner = loop(controllers.constant(mu), optax.sgd(rate), **options)
        tuning = newborn(inner) if start is None else newborn(inner)._replace(params=start)
        return jax.tree.map(jnp.subtract, inner.step((), tuning, key).lifetime.params, tuning.params)

    return move(jax.random.key(key))


def assert_close(one, other, **tolerance):
    tolerance = {"rtol": 1e-4, "atol": 1e-6} | tolerance
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(other)) > 1e-3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), one, other)


def per_answer(loss, mask):
    """The mean over answers of the sum over their tokens."""
    return terms.constant_length(loss, mask, 1)


EVERY = {
    "sft": {"imitation": losses.sft()},
    "dft": {"imitation": losses.dft()},
    "asft": {"imitation": losses.asft(0.1)},
    "otr": {"imitation": losses.otr(-0.1, 8)},
    "own": {"imitation": lambda x: terms.sft(x.now.log_prob) + 0.01 * terms.entropy_bonus(x.now.logits)},
    "reinforce": {"reward": losses.reinforce()},
    "ppo_clip": {"reward": losses.ppo_clip(0.2, 0.28)},
    "dual_clip": {"reward": losses.dual_clip()},
    "kl": {"reward": lambda x: losses.ppo_clip()(x) + 0.1 * terms.kl_k3(x.now.log_prob, x.ref_log_prob)},
    "nft": {"reward": losses.nft()},
    "copg": {"reward": losses.copg(0.1)},
    "direct_preference": {"reward": losses.direct_preference()},
    "ipo": {"reward": losses.ipo()},
    "selm": {"reward": preferences.selm()},
    "var_tb": {"reward": gflownet.var_tb()},
    "with_kl": {"reward": losses.with_kl(losses.ppo_clip(), lambda signals: 1.0 - elapsed(signals.progress))},
}


@pytest.mark.parametrize("name", EVERY)
def test_every_loss_serves_in_a_step(name):
    inner, plain = (loop(controllers.constant(0.5), **options) for options in (EVERY[name], {}))
    after, usual = (jax.eval_shape(x.step, (), newborn(x), jax.random.key(0)) for x in (inner, plain))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), usual)


def test_one_token_rollouts_step_as_dft_does_but_for_chance():
    """At temperature 1 the expected gradient is `1 - beta` times that of DFT; every step draws anew."""
    dft = moved(mu=1.0, imitation=losses.dft())
    many = moved(mu=1.0, imitation=losses.otr(-0.1, 30_000, 1.0))
    assert_close(many, jax.tree.map(lambda x: 1.1 * x, dft), rtol=0.05, atol=2e-3)
    seen = []

    def few(x):
        loss = losses.otr(-0.1, 1)(x)
        jax.debug.callback(lambda loss: seen.append(np.asarray(loss)), loss)
        return loss

    inner = loop(controllers.constant(1.0), imitation=few, passes=(3, 1), optimizer=optax.sgd(0.0))
    jax.block_until_ready(jax.jit(inner.step)((), newborn(inner), jax.random.key(0)))
    jax.effects_barrier()
    first, second, third = (np.sort(x.ravel()) for x in seen)  # the rows come in another order, too
    assert (first != second).any() and (second != third).any()


@pytest.mark.parametrize("weight", ["dr_grpo", "grpo"])
def test_a_first_step_of_nft_is_that_of_group_advantages(weight):
    given = credit.dr_grpo(4) if weight == "dr_grpo" else credit.grpo(4)
    expected = moved(reward=losses.reinforce(), advantages=given)
    assert_close(moved(reward=losses.nft(weight=weight)), expected, rtol=1e-3)


def test_nft_takes_success_from_the_group_and_not_the_credit():
    one, other = (moved(reward=losses.nft(), advantages=x) for x in (credit.dr_grpo(4), credit.rloo(4)))
    assert_close(one, other)


def test_a_first_step_of_copg_is_that_of_leave_one_out_advantages():
    """`beta` times as long: the gradient of the losses of k answers is `-beta A`, and their mean is followed."""
    expected = moved(0.3 * 0.5, reward=losses.reinforce(), advantages=credit.rloo(4), reduce=per_answer)
    assert_close(moved(0.5, reward=losses.copg(0.3)), expected)


def best_and_worst_of(size):
    """+size for the first best answer of a group of 4, -size for its first worst, 0 where all are equal."""

    def advantage(batch):
        reward = batch.reward.reshape(-1, 4)
        chosen = jax.nn.one_hot(reward.argmax(1), 4) - jax.nn.one_hot(reward.argmin(1), 4)
        return credit.to_tokens((size * chosen).ravel(), batch.mask)

    return Credit(advantage, 4)


@pytest.mark.parametrize(("loss", "slope"), [(losses.direct_preference(0.3), 0.3 / 2), (losses.ipo(0.25), 1 / 0.25)])
def test_a_first_step_of_preferences_raises_the_best_and_lowers_the_worst(loss, slope):
    """Where pi = ref the slope of `-log sigmoid(beta d)` is -beta / 2, that of `(d - 1 / (2 tau))^2` is -1 / tau."""
    given = best_and_worst_of(4 * slope)  # one pair for four answers, and the mean is over pairs
    expected = moved(0.05, reward=losses.reinforce(), advantages=given, reduce=per_answer)
    assert_close(moved(0.05, reward=loss), expected)


def test_preferences_are_relative_to_the_first_policy():
    """Off the reference the loss of pairs is that of the log-ratios of whole answers, by hand."""
    seen = []

    def note(x):
        found = losses.direct_preference(0.5)(x)
        jax.debug.callback(lambda *y: seen.append(jax.tree.map(np.asarray, y)), x, found)
        return found

    inner = loop(controllers.constant(0.0), reward=note, task=Echo())
    tuning = newborn(inner)
    tuning = tuning._replace(
        params=jax.tree.map(lambda x: x + 0.3 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), tuning.params)
    )
    jax.block_until_ready(jax.jit(inner.step)((), tuning, jax.random.key(0)))
    jax.effects_barrier()
    x, found = seen[0]
    ref = np.asarray(terms.log_prob_of(jnp.array(x.now.ref_logits), jnp.array(x.batch.answers)))
    ratio = ((x.now.log_prob - ref) * x.batch.mask).sum(1).reshape(4, 4)
    assert np.abs(ratio).max() > 0.01
    for group, (d, reward) in enumerate(zip(ratio, x.batch.reward.reshape(4, 4), strict=True)):
        gap = d[reward.argmax()] - d[reward.argmin()]
        expected = np.log1p(np.exp(-0.5 * gap)) if np.ptp(reward) else 0.0
        assert found[group] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["copg", "direct_preference", "ipo", "nft"])
def test_a_group_of_equal_rewards_teaches_nothing(name):
    class Indifferent(Echo):
        def verify(self, problem, answer):
            return super().verify(problem, answer)._replace(reward=jnp.float32(0.3), correct=jnp.bool_(False))

    for leaf in jax.tree.leaves(moved(task=Indifferent(), **EVERY[name])):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-7)


def test_a_divergence_from_the_start_counts_once_the_policy_has_moved():
    """On the first step the policy is the one that it began with: the divergence is 0, and so is its gradient."""
    start = newborn(loop(controllers.constant(0.0))).params
    away = jax.tree.map(lambda x: x + 0.5 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), start)
    for params, matters in ((start, False), (away, True)):
        held, free = (
            moved(start=params, task=Echo(), **options)["embedding"]["embedding"] for options in (EVERY["kl"], {})
        )
        assert np.allclose(held, free, rtol=1e-4, atol=1e-7) != matters


def test_the_coefficient_of_a_divergence_follows_the_training():
    """It falls from 1 to 0 over ten steps: after five, half of the divergence counts, and as much of the entropy."""
    seen = []

    def note(x):
        kl = terms.kl_k3(x.now.log_prob, x.ref_log_prob)
        parts = (
            losses.with_kl(losses.reinforce(), lambda s: (1.0 - elapsed(s.progress)) * s.entropy)(x),
            losses.reinforce()(x) + 0.5 * x.signals.entropy * kl,
        )
        jax.debug.callback(lambda *y: seen.append(y), *parts)
        return parts[0]

    inner = loop(controllers.constant(0.0), reward=note)
    tuning = newborn(inner, horizon=10)
    moved = jax.tree.map(lambda x: x + 0.3 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), tuning.params)
    jax.block_until_ready(jax.jit(inner.step)((), tuning._replace(params=moved, step=jnp.int32(5)), jax.random.key(0)))
    jax.effects_barrier()
    found, expected = seen[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)

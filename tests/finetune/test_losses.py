"""The losses of a step: every method runs in the loop, and its step is the one of its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import Echo, FirstToken, loop, newborn

from metarl.finetune import controllers, credit, gflownet, losses, preferences, terms
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import elapsed


class Judged(Echo):
    """Verdicts of one kind: 0 of `FirstToken`, 1 of `Echo`, 2 for which all answers are equally bad."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def verify(self, problem, answer):
        usual = super().verify(problem, answer)
        equal = usual._replace(reward=jnp.float32(0.3), correct=jnp.bool_(False))
        kinds = FirstToken().verify(problem, answer), usual, equal
        return jax.tree.map(lambda *x: jnp.stack(x)[self.kind], *kinds)


OF_FIRST_TOKEN, OF_ECHO, INDIFFERENT = range(3)


def credited(advantage):
    """REINFORCE with the advantage of a credit, whatever that of the loop."""
    return lambda x: terms.reinforce(x.now.log_prob, advantage(x.batch))


def best_and_worst(batch):
    """+1 for the first best answer of a group of 4, -1 for its first worst, 0 where all are equal."""
    reward = batch.reward.reshape(-1, 4)
    chosen = jax.nn.one_hot(reward.argmax(1), 4) - jax.nn.one_hot(reward.argmin(1), 4)
    return credit.to_tokens(chosen.ravel(), batch.mask)


def with_other_credit(loss):
    return lambda x: loss(x._replace(advantage=1.0 - 2.0 * x.advantage))


OF_DEMONSTRATIONS = {
    "sft": losses.sft(),
    "dft": losses.dft(),
    "asft": losses.asft(0.1),
    "otr": losses.otr(-0.1, 8),
    "own": lambda x: terms.sft(x.now.log_prob) + 0.01 * terms.entropy_bonus(x.now.logits),
}
OF_ANSWERS = {
    "reinforce": losses.reinforce(),
    "ppo_clip": losses.ppo_clip(0.2, 0.28),
    "dual_clip": losses.dual_clip(),
    "kl": lambda x: losses.ppo_clip(0.2, 0.28)(x) + 0.1 * terms.kl_k3(x.now.log_prob, x.ref_log_prob),
    "nft": losses.nft(),
    "nft, grpo": losses.nft(weight="grpo"),
    "copg": losses.copg(0.3),
    "direct_preference": losses.direct_preference(0.5),
    "ipo": losses.ipo(0.25),
    "selm": preferences.selm(),
    "var_tb": gflownet.var_tb(),
    "with_kl": losses.with_kl(losses.reinforce(), lambda s: (1.0 - elapsed(s.progress)) * s.entropy),
}
FOR_COMPARISON = {
    "dr_grpo": credited(credit.dr_grpo(4)),
    "grpo": credited(credit.grpo(4)),
    "nft, other credit": with_other_credit(losses.nft()),
    "half of the divergence": lambda x: (
        losses.reinforce()(x) + 0.5 * x.signals.entropy * terms.kl_k3(x.now.log_prob, x.ref_log_prob)
    ),
}
SUMS = {"rloo": credited(credit.rloo(4)), "best and worst": credited(best_and_worst)}  # means of sums over answers


def reduced(name, loss, mask):
    if loss.ndim == 1:
        return loss.mean()
    return terms.constant_length(loss, mask, 1) if name in SUMS else terms.token_mean(loss, mask)


@pytest.fixture(scope="module")
def step():
    """How a step of SGD moves a policy in its sixth step of ten along some losses, times numbers, and what they are.

    One program for all of them: (kind of verdicts, whether the policy has moved before, number for each loss) ->
    (move, metrics, context, losses).
    """
    every = OF_ANSWERS | FOR_COMPARISON | SUMS
    seen = []

    @jax.jit
    def moved(kind, away, numbers):
        def weighted(x):
            found = {name: loss(x) for name, loss in every.items()}
            jax.debug.callback(lambda *y: seen.append(jax.tree.map(np.asarray, y)), x._replace(key=()), found)
            return sum(numbers[name] * reduced(name, loss, x.batch.mask) for name, loss in found.items())[None]

        inner = loop(controllers.constant(0.0), optax.sgd(1.0), reward=weighted, task=Judged(kind))
        start = newborn(inner, horizon=10)
        params = jax.tree.map(lambda x: x + away * 0.3 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), start.params)
        update = inner.step((), start._replace(params=params, step=jnp.int32(5)), jax.random.key(1))
        return jax.tree.map(jnp.subtract, update.lifetime.params, params), update.metrics

    def step(kind=OF_FIRST_TOKEN, away=False, **numbers):
        assert set(numbers) <= set(every)
        seen.clear()
        move, metrics = moved(kind, away, {name: jnp.float32(numbers.get(name, 0.0)) for name in every})
        jax.effects_barrier()
        return move, metrics, *seen[-1]

    return step


def assert_close(one, other, **tolerance):
    tolerance = {"rtol": 1e-4, "atol": 1e-6} | tolerance
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(other)) > 1e-3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), one, other)


def test_every_loss_of_answers_serves_in_a_step(step):
    """It is one of tokens or of whole answers, and its gradient reaches the policy."""
    moves = {name: step(OF_FIRST_TOKEN, True, **{name: 1.0}) for name in OF_ANSWERS}
    for name, (move, metrics, x, found) in moves.items():
        assert found[name].shape in [(16, 3), (16,), (4,)] and found[name].dtype == np.float32
        size = optax.tree.norm(move)
        assert np.isfinite(size) and size > 1e-3
        assert metrics["reward_gradient_norm"] == pytest.approx(float(size), rel=1e-4)
        assert metrics["reward_loss"] == pytest.approx(float(reduced(name, found[name], x.batch.mask)), 1e-4, 1e-6)


def test_losses_of_demonstrations_draw_anew_in_every_gradient_step():
    seen, masks = [], []

    def every(x):
        found = {name: loss(x) for name, loss in OF_DEMONSTRATIONS.items()}
        jax.debug.callback(lambda found: seen.append(jax.tree.map(np.asarray, found)), found)
        return sum(found.values())

    def of_ones(x):
        jax.debug.callback(lambda mask: masks.append(np.asarray(mask)), x.batch.mask)
        return jnp.ones(x.batch.mask.shape)

    parts = {"imitation": every, "reward": of_ones, "reduce": lambda loss, mask: 3.0 * (loss * mask).sum()}
    inner = loop(controllers.constant(1.0), passes=(3, 1), optimizer=optax.sgd(0.0), **parts)
    update = jax.jit(inner.step)((), newborn(inner), jax.random.key(0))
    jax.effects_barrier()
    for found in seen:
        assert all(x.shape == (8, 3) and x.dtype == np.float32 for x in found.values())
        assert all(np.isfinite(x).all() and np.ptp(x) > 0.0 for x in found.values())
    # the rows come in another order in each pass
    first, second, third = (np.sort(x["otr"].ravel()) for x in seen)
    assert (first != second).any() and (second != third).any()
    np.testing.assert_allclose(np.sort(seen[0]["dft"].ravel()), np.sort(seen[1]["dft"].ravel()), rtol=1e-5)
    assert update.metrics["reward_loss"] == 3.0 * masks[0].sum()


def test_one_token_rollouts_step_as_dft_does_but_for_chance():
    """At temperature 1 the expected gradient is `1 - beta` times that of DFT."""

    @jax.jit
    def gradients(logits):
        answers, ones = jnp.array([[1, 1, 0], [3, 2, 0]]), jnp.ones((2, 3), bool)

        def of(loss):
            def mean(logits):
                log_prob = terms.log_prob_of(logits, answers)
                now = losses.TokenStatistics(logits, log_prob, jnp.zeros((2, 3)), logits)
                shown = Batch((), answers, ones, None, None, None, None)
                x = losses.Context(now, shown, ones, None, 1, jax.random.key(0), None)
                return loss(x).mean()

            return jax.grad(mean)(logits)

        return of(losses.dft()), of(losses.otr(-0.1, 30_000, 1.0))

    dft, many = gradients(jax.random.normal(jax.random.key(1), (2, 3, 4)))
    assert_close(many, 1.1 * dft, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("weight", ["dr_grpo", "grpo"])
def test_a_first_step_of_nft_is_that_of_group_advantages(weight, step):
    name = "nft" if weight == "dr_grpo" else "nft, grpo"
    assert_close(step(**{name: 1.0})[0], step(**{weight: 1.0})[0], rtol=1e-3)


def test_nft_takes_success_from_the_group_and_not_the_credit(step):
    assert_close(step(nft=1.0)[0], step(**{"nft, other credit": 1.0})[0])


def test_a_first_step_of_copg_is_that_of_leave_one_out_advantages(step):
    """`beta` times as long: the gradient of the losses of k answers is `-beta A`, and their mean is followed."""
    assert_close(step(copg=1.0)[0], step(rloo=0.3)[0])


@pytest.mark.parametrize(("name", "slope"), [("direct_preference", 0.5 / 2), ("ipo", 1 / 0.25)])
def test_a_first_step_of_preferences_raises_the_best_and_lowers_the_worst(name, slope, step):
    """Where pi = ref the slope of `-log sigmoid(beta d)` is -beta / 2, that of `(d - 1 / (2 tau))^2` is -1 / tau."""
    given = {"best and worst": 4 * slope}  # one pair for four answers, and the mean is over pairs
    assert_close(step(**{name: 1.0})[0], step(**given)[0])


def test_preferences_are_relative_to_the_first_policy(step):
    """Off the reference the loss of pairs is that of the log-ratios of whole answers, by hand."""
    _, _, x, found = step(OF_ECHO, True)
    ref = np.asarray(terms.log_prob_of(jnp.array(x.now.ref_logits), jnp.array(x.batch.answers)))
    ratio = ((x.now.log_prob - ref) * x.batch.mask).sum(1).reshape(4, 4)
    assert np.abs(ratio).max() > 0.01
    for group, (d, reward) in enumerate(zip(ratio, x.batch.reward.reshape(4, 4), strict=True)):
        gap = d[reward.argmax()] - d[reward.argmin()]
        expected = np.log1p(np.exp(-0.5 * gap)) if np.ptp(reward) else 0.0
        assert found["direct_preference"][group] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["copg", "direct_preference", "ipo", "nft"])
def test_a_group_of_equal_rewards_teaches_nothing(name, step):
    for leaf in jax.tree.leaves(step(INDIFFERENT, **{name: 1.0})[0]):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-7)


@pytest.mark.parametrize("away", [False, True])
def test_a_divergence_from_the_start_counts_once_the_policy_has_moved(away, step):
    """On the first step the policy is the one that it began with: the divergence is 0, and so is its gradient."""
    held, free = (step(OF_ECHO, away, **{name: 1.0})[0]["embedding"] for name in ("kl", "ppo_clip"))
    assert np.allclose(held, free, rtol=1e-4, atol=1e-7) != away


def test_the_coefficient_of_a_divergence_follows_the_training(step):
    """It falls from 1 to 0 over ten steps: after five, half of the divergence counts, and as much of the entropy."""
    found = step(OF_ECHO, True)[-1]
    assert np.abs(found["with_kl"] - found["reinforce"]).max() > 1e-3
    np.testing.assert_allclose(found["with_kl"], found["half of the divergence"], rtol=1e-5)

"""GFlowNet objectives: their optimum on a tree that can be enumerated, and their gradients at and off it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import batch, corrupted, loop, newborn

from metarl.finetune import TokenCritic, controllers, gflownet, losses, terms
from metarl.finetune.policies import evaluate_answers, gru
from metarl.finetune.sampling import Sampling
from metarl.types import Verdict

TEMPERATURE = 0.5
ANSWERS = jnp.array([[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]])  # 0 ends
REWARDS = jnp.array([0.0, 1.0, 0.2, 0.5, 0.0, 1.0, 0.1])


class Nothing(NamedTuple):
    zero: jax.Array


class Tree:
    """One prompt; an answer is one or two of three tokens, and its reward is in a table."""

    num_tokens, end, prompt_length, answer_length, kinds = 3, 0, 1, 2, ("right", "wrong")

    def sample(self, key):
        return Nothing(jnp.int32(0))

    def prompt(self, problem):
        return problem.zero[None]

    def demonstrate(self, key, problem):
        return ANSWERS[1]

    def verify(self, problem, answer):
        reward = REWARDS[(ANSWERS == jnp.where(answer[0] == 0, 0, answer)).all(1).argmax()]
        return Verdict(reward, reward == 1.0, jnp.int32(0))


POLICY = gru(3, width=8)


def trained(steps=250, **options):
    """The probabilities [7] of all answers after a training by Adam."""
    inner = loop(
        controllers.constant(0.0), optax.adam(0.02), task=Tree(), sampling=Sampling(4, 8), policy=POLICY, **options
    )

    @jax.jit
    def train(tuning):
        step = lambda tuning, key: (inner.step((), tuning, key).lifetime, None)  # noqa: E731
        return jax.lax.scan(step, tuning, jax.random.split(jax.random.key(3), steps))[0].params

    prompts = jnp.zeros((len(ANSWERS), 1), jnp.int32)
    found = jax.jit(lambda params: evaluate_answers(POLICY, params, prompts, ANSWERS, 0))(train(newborn(inner, steps)))
    return np.exp(terms.of_answer(found.log_prob, found.mask))


def flow():
    return TokenCritic(gru(3, width=8, outputs=1), optax.adam(0.03))


@pytest.mark.parametrize(
    "name", ["var_tb", "detailed balance", pytest.param("subtrajectories", marks=pytest.mark.slow)]
)
def test_the_policy_comes_to_answer_in_proportion_to_the_reward(name):
    options = {
        "var_tb": lambda: {"reward": gflownet.var_tb(TEMPERATURE), "reduce": per_answer},
        "detailed balance": lambda: {"reward": losses.reinforce(), "advantages": gflownet.balance(flow(), TEMPERATURE)},
        "subtrajectories": lambda: {
            "reward": losses.reinforce(),
            "advantages": gflownet.balance(flow(), TEMPERATURE, 0.7),
        },
    }[name]()
    expected = jax.nn.softmax(REWARDS / TEMPERATURE)
    found = trained(**options)
    assert np.abs(found - expected).sum() / 2 < 0.05, found


def per_answer(loss, mask):
    return terms.constant_length(loss, mask, 1)


@pytest.mark.slow
def test_a_reward_maximiser_does_not():
    found = trained(reward=losses.reinforce())
    assert np.abs(found - jax.nn.softmax(REWARDS / TEMPERATURE)).sum() / 2 > 0.3


def test_var_tb_is_the_variance_of_what_is_out_of_balance():
    """By hand for one group, and zero, with a zero gradient, where pi is proportional to R whatever was drawn."""
    reward = jnp.array([1.0, 0.0, 2.0, 0.5])

    def loss(log_prob):
        return terms.copg(log_prob, reward / TEMPERATURE, 1.0).mean()

    log_prob = jnp.array([-1.0, -2.0, -0.3, -5.0])
    z = np.asarray(log_prob - reward / TEMPERATURE)
    assert float(loss(log_prob)) == pytest.approx(z.var(ddof=1) / 2, rel=1e-5)
    value, slope = jax.value_and_grad(loss)(reward / TEMPERATURE - 7.0)
    np.testing.assert_allclose([value, *slope], 0.0, atol=1e-6)


def test_credit_of_balance_follows_the_squared_error_of_detailed_balance():
    x = corrupted(batch())
    credit = gflownet.balance(flow(), TEMPERATURE)
    advantage = credit(x)

    def error(log_prob):
        last = jnp.cumsum(x.mask[:, ::-1], 1)[:, ::-1] == 1
        after = jnp.append(x.value[:, 1:], jnp.zeros((len(log_prob), 1)), 1)
        after = jnp.where(last, x.reward[:, None] / TEMPERATURE, after)
        return jnp.where(x.mask, jnp.square(x.value + log_prob - after) / 2, 0.0).sum()

    np.testing.assert_allclose(-advantage, jax.grad(error)(x.old_log_prob), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flow_lambda", [0.0, 0.5, 1.0])
def test_nothing_is_out_of_balance_where_flows_are_sums_of_rewards(flow_lambda):
    """Flows and policy of the whole tree: `F(s)` is the sum of `exp(R / T)` below s."""
    weight = np.exp(REWARDS / TEMPERATURE)
    below = np.array([weight[0], weight[1:4].sum(), weight[4:].sum()])
    root, first = weight.sum(), below[ANSWERS[:, 0]]
    log_prob = np.log(np.stack([first / root, weight / first], 1))
    tree = batch()._replace(
        answers=ANSWERS,
        mask=jnp.array(np.asarray(ANSWERS[:, :1]).repeat(2, 1) > 0) | jnp.array([True, False]),
        old_log_prob=jnp.array(log_prob, jnp.float32),
        reward=REWARDS,
        value=jnp.array(np.log(np.stack([np.full(7, root), first], 1)), jnp.float32),
    )
    np.testing.assert_allclose(gflownet.balance(flow(), TEMPERATURE, flow_lambda)(tree), 0.0, atol=1e-5)
    moved = gflownet.balance(flow(), TEMPERATURE, flow_lambda)(tree._replace(reward=REWARDS + 0.1))
    assert float(jnp.abs(moved).max()) > 0.1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: gflownet.var_tb(0.0), "temperature must be above 0, got 0.0"),
        (lambda: gflownet.balance(flow(), flow_lambda=1.5), "flow_lambda must be at most 1, got 1.5"),
        (lambda: gflownet.balance(flow())(batch(value=None)), "balance needs batch.value, got None"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()

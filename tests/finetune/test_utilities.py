"""Utilities: their value, their gradient, and where it moves a weight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import END, POLICY, Echo, constant_levels, loop, newborn

import metarl
from metarl import optimizers
from metarl.finetune import Sampling, controllers, utilities
from metarl.finetune.policies import answer_logits, evaluate_answers
from metarl.run.sweep import side_by_side

PARAMS = jax.tree.map(lambda x: x + 0.3 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), POLICY.init(jax.random.key(0)))


def every_answer():
    """[n, 3]: every answer of three tokens, which are the end after the first end."""
    answers = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3)
    after = np.cumsum(answers == END, 1) - (answers == END) > 0
    return jnp.array(np.unique(np.where(after, END, answers), axis=0))


def expected_reward(params):
    """Over the three problems and all answers to each."""
    answers = every_answer()

    def of_problem(token):
        logits = answer_logits(POLICY, params, jnp.full((len(answers), 1), token), answers)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), answers[..., None], -1)[..., 0]
        after = jnp.cumsum(answers == END, 1) - (answers == END) > 0
        probability = jnp.exp(jnp.where(after, 0.0, log_prob).sum(1))
        right = (answers == jnp.array([token, token, END])).all(1)
        return (probability * jnp.where(right, 1.0, 0.3 * (answers[:, 0] == token))).sum()

    return jnp.stack([of_problem(token) for token in (1, 2, 3)]).mean()


def test_the_gradient_of_the_reward_is_that_of_its_expectation():
    utility = utilities.reward(Echo(), Sampling(20_000, 4))
    gradient, value = jax.jit(lambda params: utility.estimate(POLICY, params, jax.random.key(1)))(PARAMS)
    expected, slope = jax.jit(jax.value_and_grad(expected_reward))(PARAMS)
    assert float(value) == pytest.approx(float(expected), abs=0.01)
    cosine = -optax.tree.vdot(gradient, slope) / optax.tree.norm(gradient) / optax.tree.norm(slope)
    assert cosine > 0.97 and optax.tree.norm(gradient) == pytest.approx(float(optax.tree.norm(slope)), rel=0.1)
    assert utility.tokens_drawn == 20_000 * 4 * 3


@pytest.mark.parametrize("normalise", [False, True])
def test_minus_the_utility_has_its_value_and_its_gradient(normalise):
    utility = utilities.cross_entropy(Echo(), 8, normalise=normalise)

    @jax.jit
    def both(params):
        loss = lambda params: utilities.minus_utility(utility, POLICY, params, jax.random.key(1))  # noqa: E731
        return jax.value_and_grad(loss, has_aux=True)(params), utility.estimate(POLICY, params, jax.random.key(1))

    ((value, metrics), found), (gradient, expected) = both(PARAMS)
    assert value == -expected == -metrics["utility"] and expected < 0.0 and utility.tokens_drawn == 0
    size = float(optax.tree.norm(gradient))
    assert metrics["utility_gradient_norm"] == pytest.approx(size)
    scale = 1.0 / size if normalise else 1.0
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, scale * y, rtol=1e-4, atol=1e-6), found, gradient)


@pytest.mark.parametrize("measure", ["reward", "cross_entropy"])
def test_the_weight_moves_toward_what_is_useful(measure):
    """Right demonstrations are worth imitating for a newborn policy, and ones that say nothing at all are not."""
    amft = controllers.amft(0.5, low=0.0, high=1.0, entropy_rate=0.0)
    utility = utilities.reward(Echo(), Sampling(64, 4))
    if measure == "cross_entropy":
        utility = utilities.cross_entropy(Echo(), 64)

    class Demonstrated(Echo):
        """`says` 1.0: demonstrations are right; 0.0: they are the end, three times."""

        def demonstrate(self, key, problem):
            right = jnp.array([problem.token, problem.token, END])
            return jnp.where(self.says > 0.5, right, END)

    def make(says):
        task, sampling = Demonstrated(says), Sampling(32, 4)
        inner = loop(amft, optimizers.adam(0.02), task=task, sampling=sampling, utility=utility)
        return metarl.compose(inner, metarl.estimators.backprop(1), optax.sgd(0.5), constant_levels(100), 1)

    state, log = metarl.train(side_by_side(make, jnp.array([1.0, 0.0])), seed=0, steps=40)
    right, useless = jax.nn.sigmoid(state.params["logit"])
    assert right > 0.55 and useless < 0.45
    assert log["success"].shape == (40, 2) and np.isfinite(log["utility"]).all()


def test_the_next_steps_answers_are_what_the_utility_is_measured_on():
    """They cost nothing more, have the gradient of `reward`, and the next step learns from them."""
    task = Echo()
    amft, own = controllers.amft(0.5, entropy_rate=0.0), utilities.next_reward(task)
    inner = loop(amft, task=task, utility=own)
    with pytest.raises(ValueError, match="next_reward needs the task of the answers"):
        loop(amft, task=Echo(), utility=own)
    start, meta = newborn(inner), amft.init_meta()
    step = jax.jit(inner.step)
    tuning = step(meta, start, jax.random.key(0)).lifetime
    measured = jax.jit(inner.loss)(meta, tuning, jax.random.key(1))
    answers, _ = tuning.drawn
    assert own.tokens_drawn == 0 == measured.metrics["env_steps"]
    assert measured.metrics["utility"] == pytest.approx(float(answers.reward.mean()))
    assert (answers.answers != start.drawn[0].answers).any()

    def surrogate(params):
        log_prob = evaluate_answers(POLICY, params, answers.prompts, answers.answers, END).log_prob.sum(1)
        reward = answers.reward.reshape(4, 4)
        baseline = (reward.sum(1, keepdims=True) - reward) / 3
        return -((reward - baseline).ravel() * log_prob).mean()

    expected = jax.jit(jax.grad(surrogate))(tuning.params)
    found, _ = jax.jit(lambda params: own.of_next(POLICY, params, answers, 4))(tuning.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), found, expected)
    after = step(meta, measured.lifetime, jax.random.key(2))
    assert after.metrics["reward"] == pytest.approx(float(answers.reward.mean()))  # not of fresh answers
    assert (answers.answers != after.lifetime.drawn[0].answers).any()  # each step of several has answers of its own
    assert after.metrics["env_steps"] == 4 * 4 * 3


def test_what_is_not_measured_moves_nothing_and_costs_nothing():
    nothing = utilities.unmeasured(Echo())
    loss, metrics = utilities.minus_utility(nothing, POLICY, PARAMS, jax.random.key(0))
    slope = jax.grad(lambda params: utilities.minus_utility(nothing, POLICY, params, jax.random.key(0))[0])(PARAMS)
    assert loss == metrics["utility"] == nothing.tokens_drawn == 0
    assert all((x == 0.0).all() for x in jax.tree.leaves(slope))


def test_no_demonstrations_are_refused():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        utilities.cross_entropy(Echo(), 0)

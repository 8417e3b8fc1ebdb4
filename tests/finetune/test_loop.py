"""Fine-tuning as an inner loop: what a step follows, and the meta-gradient of the weight of imitation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import POLICY, SIZES, Echo, bag, loop, newborn

import metarl
from metarl import optimizers
from metarl.finetune import (
    Data,
    Sampling,
    TokenCritic,
    controllers,
    finetune,
    losses,
    sources,
    success_rate,
    updates,
    utilities,
)
from metarl.finetune.credit import dr_grpo, gae
from metarl.finetune.policies import gru
from metarl.meta import advance, done, no_loss

DATA = Data(sources.fresh(Echo(), SIZES), sources.demonstrations(Echo(), 8))


def test_at_its_bounds_a_step_is_pure_imitation_and_pure_reward_bit_for_bit():
    """AMFT's weight at a bound, against a loop in which the other loss is zero."""

    @jax.jit  # one program: no two round alike
    def step(logit, imitation, reward):
        inner = loop(
            controllers.amft(0.5, low=0.0, high=1.0, entropy_rate=0.0),
            imitation=lambda x: imitation * losses.sft()(x),
            reward=lambda x: reward * losses.ppo_clip()(x),
            utility=utilities.reward(Echo(), SIZES),
        )
        start = newborn(inner)
        return start.params, inner.step({"logit": logit}, start, jax.random.key(1))

    pure = []
    for mu in (1.0, 0.0):
        logit = 200.0 if mu else -200.0
        start, after = step(logit, 1.0, 1.0)
        assert after.metrics["imitation_weight"] == mu and after.metrics["reward_weight"] == 1.0 - mu
        _, alone = step(logit, mu, 1.0 - mu)
        jax.tree.map(np.testing.assert_array_equal, after.lifetime.params, alone.lifetime.params)
        pure.append(after.lifetime.params["embedding"])
        assert (pure[-1] != start["embedding"]).any()
    assert (pure[0] != pure[1]).any()


def test_a_step_follows_the_weighted_sum_of_both_gradients():
    """The weight is an array: trainings at several weights, side by side in one program."""

    @jax.jit
    @jax.vmap
    def moved(mu):
        inner = loop(controllers.constant(mu))
        start = newborn(inner)
        after = inner.step((), start, jax.random.key(1))
        return jax.tree.map(jnp.subtract, after.lifetime.params, start.params), after.metrics["imitation_weight"]

    weights = jnp.array([0.0, 0.25, 1.0])
    moves, found = moved(weights)
    np.testing.assert_array_equal(found, weights)
    for reward, both, imitation in jax.tree.leaves(moves):
        assert np.abs(reward - imitation).max() > 1e-3
        np.testing.assert_allclose(both, 0.75 * reward + 0.25 * imitation, rtol=1e-4, atol=1e-6)


LEARNER = gru(4, width=8)
ACTOR_CRITIC = {"advantages": gae(TokenCritic(gru(4, width=8, outputs=1), optax.adam(0.03)))}


@pytest.fixture(scope="module")
def training():
    """200 steps at a weight of imitation, with a critic or without: greedy success before and after, and more."""

    @partial(jax.jit, static_argnums=1)
    def train(mu, actor_critic):
        sizes = {"sampling": Sampling(8, 4), "demonstrations": sources.demonstrations(Echo(), 32)}
        options = {"policy": LEARNER, **sizes, **ACTOR_CRITIC} if actor_critic else {"policy": LEARNER, **sizes}
        inner = loop(controllers.constant(mu), optax.adam(0.03), **options)

        def step(tuning, key):
            after = inner.step((), tuning, key)
            return after.lifetime, after.metrics

        start = newborn(inner, horizon=1000)
        tuning, metrics = jax.lax.scan(step, start, jax.random.split(jax.random.key(2), 200))
        both = jax.tree.map(lambda *x: jnp.stack(x), start.params, tuning.params)
        rates = jax.vmap(lambda params: success_rate(LEARNER, Echo(), params, jax.random.key(3), count=64))(both)
        fitness = jax.vmap(lambda key: inner.fitness((), tuning, key))(jax.random.split(jax.random.key(4), 8))
        return *rates, metrics, fitness.mean()

    return train


@pytest.mark.parametrize(
    ("mu", "actor_critic", "least"), [(0.0, False, 0.6), (0.0, True, 0.6), (0.5, False, 0.95), (1.0, False, 0.95)]
)
def test_policies_learn_the_task(mu, actor_critic, least, training):
    """Reward alone may forget one of the three tokens for good: nothing brings it back."""
    before, after, metrics, fitness = training(mu, actor_critic)
    assert after > least > 0.5 > before
    assert metrics["success"][-20:].mean() > least - 0.2 and metrics["entropy"][-1] < metrics["entropy"][0]
    assert fitness > least - 0.2


def test_a_finished_training_is_frozen():
    inner = loop(controllers.constant(0.5))
    tuning = newborn(inner, horizon=1)
    step = jax.jit(lambda tuning, key: advance(inner, (), tuning, key))
    once = step(tuning, jax.random.key(1))
    assert done(once.lifetime) and not done(tuning)
    again = step(once.lifetime, jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, once.lifetime, again.lifetime)
    assert once.metrics["env_steps"] == 4 * 4 * 3 and again.metrics["env_steps"] == 0.0


# --- the meta-gradient --------------------------------------------------------------------------------------


AMFT = controllers.amft(0.5, low=0.0, high=1.0, entropy_rate=0.0)
CROSS_ENTROPY = utilities.cross_entropy(Echo(), 8, normalise=False)


@pytest.fixture(scope="module", params=[(1, 1), (2, 2)])
def utility(request):
    """The utility after one step as a function of the weight, on fixed draws: its derivative, and by differences."""
    with jax.enable_x64(True):
        inner = loop(AMFT, optax.sgd(0.5), utility=CROSS_ENTROPY, passes=request.param)
        tuning = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, newborn(inner))
        key = jax.random.key(7)

        def after(logit):
            step_key, loss_key = jax.random.split(key)
            return inner.loss(
                {"logit": logit}, inner.step({"logit": logit}, tuning, step_key).lifetime, loss_key
            ).objective

        mu, eps = 0.3, 1e-5
        logit = jnp.log(jnp.float64(mu)) - jnp.log1p(-jnp.float64(mu))
        both = jax.jit(jax.value_and_grad(after))
        exact, (high, low) = both(logit)[1], (both(logit + x)[0] for x in (eps, -eps))
        return float(exact), float(high - low) / (2 * eps), inner, tuning, {"logit": logit}, key


def test_the_meta_gradient_is_that_of_finite_differences(utility):
    """Through several epochs and minibatches, too: their gradients are differentiated."""
    exact, numeric, *_ = utility
    assert exact == pytest.approx(numeric, rel=1e-6) and abs(exact) > 1e-6


@pytest.mark.parametrize("utility", [(1, 1)], indirect=True)
def test_the_meta_gradient_is_the_inner_product_after_the_step(utility):
    """`d L_val(theta') / d mu = -eta <grad L_val(theta'), g_imitation - g_reward>`: an explicit SGD step."""
    exact, _, inner, tuning, meta, key = utility
    with jax.enable_x64(True):
        step_key, loss_key = jax.random.split(key)

        @jax.jit
        def moved(mu):
            fixed = loop(controllers.constant(mu), optax.sgd(0.5))
            return fixed.step((), tuning._replace(controller=()), step_key).lifetime.params

        @jax.jit
        def slope(direction):
            there = inner.step(meta, tuning, step_key).lifetime
            loss = lambda params: inner.loss(meta, there._replace(params=params), loss_key).objective  # noqa: E731
            return optax.tree.vdot(jax.grad(loss)(there.params), direction)

        # SGD's step is linear in the weight: the difference of the pure ones is -eta (g_imitation - g_reward)
        direction = jax.tree.map(jnp.subtract, moved(1.0), moved(0.0))
        assert exact == pytest.approx(0.3 * 0.7 * float(slope(direction)), rel=1e-6)  # the slope of the sigmoid


@pytest.mark.parametrize("optimizer", [optax.sgd(0.5), optimizers.adam(0.02)])
def test_a_normalised_meta_gradient_is_a_cosine(optimizer):
    amft = controllers.amft(0.3, low=0.0, high=1.0, entropy_rate=0.0)
    inner = loop(amft, optimizer, utility=utilities.reward(Echo(), Sampling(16, 4)))
    tuning, meta, key = newborn(inner), amft.init_meta(), jax.random.key(3)
    step_key, loss_key = jax.random.split(key)

    def after(meta, tuning):
        return inner.loss(meta, inner.step(meta, tuning, step_key).lifetime, loss_key).objective

    raw = loop(amft, optimizer, utility=utilities.reward(Echo(), Sampling(16, 4), normalise=False))

    @jax.jit
    def both(meta, tuning):
        there = raw.step(meta, tuning, step_key).lifetime
        loss = lambda params: raw.loss(meta, there._replace(params=params), loss_key).objective  # noqa: E731
        gradient = jax.grad(loss)(there.params)
        direction = jax.jvp(
            lambda x: raw.step({"logit": x}, tuning, step_key).lifetime.params, (meta["logit"],), (jnp.ones(()),)
        )[1]
        size = optax.tree.norm(gradient) * optax.tree.norm(direction)
        return jax.grad(after)(meta, tuning)["logit"], optax.tree.vdot(gradient, direction) / size

    found, cosine = both(meta, tuning)
    assert found / (0.3 * 0.7) == pytest.approx(float(cosine), rel=1e-3) and -1.0 <= cosine <= 1.0


def test_more_steps_per_estimate_give_their_gradient():
    """The K-step option is the estimator's: its gradient flows through K training steps."""
    inner = loop(AMFT, optax.sgd(0.5), utility=CROSS_ENTROPY)
    lifetimes = jax.tree.map(lambda x: x[None], newborn(inner))
    estimator = metarl.estimators.backprop(2)

    @jax.jit
    def at(logit):
        meta = {"logit": logit}
        return estimator.estimate(inner, meta, estimator.init(meta, lifetimes), lifetimes, jax.random.key(1))

    (gradient, _, after, _), eps = at(0.0), 0.02
    numeric = (at(eps)[3]["meta_loss"] - at(-eps)[3]["meta_loss"]) / (2 * eps)
    assert (after.step == 2).all() and abs(gradient["logit"]) > 1e-3
    assert float(gradient["logit"]) == pytest.approx(float(numeric), rel=0.02)


# --- parts that do not fit ------------------------------------------------------------------------------------

HALF = controllers.constant(0.5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: loop(HALF, passes=(0, 1)), "epochs must be at least 1, got 0"),
        (lambda: loop(HALF, passes=(1, 0)), "minibatches must be at least 1, got 0"),
        (lambda: loop(HALF, passes=(1, 3)), "minibatches must divide the 4 problems of answers, got 3"),
        (
            lambda: loop(HALF, passes=(1, 4), demonstrations=sources.demonstrations(Echo(), 6)),
            "minibatches must divide the 6 problems of demonstrations, got 4",
        ),
        (lambda: loop(HALF, answers=sources.demonstrations(Echo())), "answers must come from the policy"),
        (lambda: loop(HALF, advantages=dr_grpo(8)), "the credit compares groups of 8 answers, but the source draws 4"),
        (lambda: loop(controllers.success_gate(4)), "give it demonstrations from sources.failures"),
        (lambda: loop(AMFT), "the controller has a meta-parameter, which needs a utility"),
        (lambda: loop(HALF, utility=CROSS_ENTROPY), "the utility has no effect"),
        (
            lambda: finetune(bag(5, 4, 5), POLICY.init, DATA, dr_grpo(4), HALF, updates.joint(optax.sgd(1.0))),
            "the task has 4 tokens, but the policy 5",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_once(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_loop_without_a_meta_parameter_has_no_meta_loss():
    assert loop(HALF).loss is no_loss and loop(AMFT, utility=CROSS_ENTROPY).loss is not no_loss

"""Fine-tuning as an inner loop: controllers, what a step follows, and the meta-gradient of the weight of imitation."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl
from metarl import optimizers
from metarl.finetune import controllers, terms
from metarl.finetune.controllers import Signals
from metarl.finetune.credit import dr_grpo, gae, prefix_group
from metarl.finetune.loop import Critic, Settings, finetune, ppo_clip, sft, success_rate
from metarl.finetune.policies import answer_logits, gru
from metarl.run.sweep import side_by_side
from metarl.types import Level, Progress, Verdict

END = 0


class Problem(NamedTuple):
    token: jax.Array


class Echo:
    """Say the token that the prompt has, twice, and end. Demonstrations are right; or `says` something else."""

    num_tokens, end, prompt_length, answer_length, kinds = 4, END, 1, 3, ("right", "wrong")

    def __init__(self, says=None):
        self.says = says

    def sample(self, key):
        return Problem(jax.random.randint(key, (), 1, 4))

    def prompt(self, problem):
        return problem.token[None]

    def demonstrate(self, key, problem):
        token = problem.token if self.says is None else jnp.int32(self.says)
        return jnp.array([token, token, END])

    def verify(self, problem, answer):
        right = (answer == jnp.array([problem.token, problem.token, END])).all()
        # some credit for a good beginning, so that a newborn policy has something to go by
        reward = jnp.where(right, 1.0, 0.3 * (answer[0] == problem.token))
        return Verdict(reward.astype(jnp.float32), right, jnp.where(right, 0, 1))


POLICY = gru(4, width=8)
SIZES = Settings(num_prompts=4, group_size=4, num_demonstrations=8, num_validation=8)


def loop(controller, optimizer=None, settings=SIZES, task=None, **options):
    optimizer = optax.sgd(0.5) if optimizer is None else optimizer
    credit = options.pop("credit", dr_grpo(settings.group_size))
    return finetune(POLICY, task or Echo(), POLICY.init, controller, optimizer, credit, settings, **options)


def newborn(inner, horizon=100, seed=0):
    return inner.init(jax.random.key(seed), Level((), jnp.int32(horizon)))


def signals(step=0, horizon=10, entropy=1.0, success=0.5, imitation_loss=1.0, failures=0):
    return Signals(
        Progress(jnp.int32(step), jnp.int32(horizon)),
        *(jnp.float32(x) for x in (entropy, success, imitation_loss)),
        jnp.int32(failures),
    )


# --- controllers --------------------------------------------------------------------------------------------


def weight(controller, state=None, **seen):
    return float(
        controller.weights(
            controller.init_meta(), controller.init() if state is None else state, signals(**seen)
        ).imitation
    )


def test_controllers_without_a_memory_give_the_weights_of_their_formulas():
    assert weight(controllers.constant(0.3)) == pytest.approx(0.3)
    switch = controllers.schedule(controllers.switch(0.5))
    assert [weight(switch, step=t) for t in (0, 4, 5, 9)] == [1.0, 1.0, 0.0, 0.0]
    cosine = controllers.schedule(controllers.cosine(0.9, 0.1))
    assert [weight(cosine, step=t) for t in (0, 5, 10)] == pytest.approx([0.9, 0.5, 0.1])
    gate = controllers.success_gate(8)
    assert [weight(gate, failures=n) for n in (0, 7, 8, 20)] == [0.0, 0.0, 1.0, 1.0]
    srft = controllers.srft(0.5, 0.1).weights((), (), signals(entropy=2.0))
    assert (float(srft.imitation), float(srft.reward)) == pytest.approx((0.5 * np.exp(-2), 0.1 * np.exp(-2)))
    prefix = controllers.prefix_schedule(0.9, 0.1).weights((), (), signals(step=5))
    assert (float(prefix.imitation), float(prefix.reward), float(prefix.prefix)) == pytest.approx((0.0, 1.0, 0.5))


def test_the_servo_imitates_less_while_entropy_is_above_its_target():
    """AMFT's equation 6 without the meta-gradient; the prose has the other sign."""
    servo = controllers.entropy_servo(0.5, rate=0.1, target=1.0, low=0.2, high=0.9)
    for entropy, expected in ((2.0, 0.4), (0.0, 0.6), (9.0, 0.2), (-9.0, 0.9)):
        state, penalty = servo.update((), servo.init(), signals(entropy=entropy))
        assert weight(servo, state) == pytest.approx(expected) and penalty == 0.0
    other = controllers.entropy_servo(0.5, rate=0.1, target=1.0, sign=-1.0)
    assert weight(other, other.update((), other.init(), signals(entropy=2.0))[0]) == pytest.approx(0.6)


@pytest.mark.parametrize("make", [controllers.entropy_servo, controllers.amft])
def test_a_warm_up_imitates_and_the_entropy_after_it_is_the_target(make):
    controller = make(0.5, warm_up=2)
    state = controller.init()
    for step, entropy, target in ((0, 5.0, 5.0), (1, 4.0, 4.0), (2, 3.0, 3.0), (3, 1.0, 3.0)):
        assert weight(controller, state, step=step) == pytest.approx(1.0 if step < 2 else 0.5)
        after, penalty = controller.update(controller.init_meta(), state, signals(step=step, entropy=entropy))
        assert (after[1] if make is controllers.entropy_servo else after) == target
        assert (penalty == 0.0) == (step < 3 or make is controllers.entropy_servo)
        state = after


def test_dual_ascent_raises_the_multiplier_until_the_constraint_holds():
    dual = controllers.dual_ascent(limit=0.5, rate=0.1, initial=1.0)
    assert weight(dual) == 0.5
    state, _ = dual.update((), dual.init(), signals(imitation_loss=2.5))
    assert state == pytest.approx(1.2) and weight(dual, state) == pytest.approx(1.2 / 2.2)
    assert dual.update((), jnp.float32(0.01), signals(imitation_loss=0.0))[0] == 0.0


def test_amfts_penalty_pulls_as_the_equation_says():
    """Descending it moves mu by entropy_rate (H* - H), times sign."""
    for sign in (1.0, -1.0):
        amft = controllers.amft(0.4, entropy_rate=0.7, target=1.0, sign=sign, low=0.1, high=0.9)
        meta = amft.init_meta()
        assert weight(amft) == pytest.approx(0.4)
        slope = jax.grad(lambda meta: amft.update(meta, amft.init(), signals(entropy=3.0))[1])(meta)["logit"]  # noqa: B023
        mu = jax.grad(lambda meta: amft.weights(meta, amft.init(), signals()).imitation)(meta)["logit"]  # noqa: B023
        assert -slope == pytest.approx(float(sign * 0.7 * (1.0 - 3.0) * mu), rel=1e-5)


def test_amft_moves_by_meta_gradients_only_as_often_as_it_is_told():
    def moves(every, step):
        amft = controllers.amft(0.5, warm_up=2, target=1.0, meta_every=every)
        return float(
            jax.grad(lambda meta: amft.weights(meta, amft.init(), signals(step=step)).imitation)(amft.init_meta())[
                "logit"
            ]
        )

    assert [moves(1, t) != 0 for t in range(5)] == [False, False, True, True, True]
    assert [moves(3, t) != 0 for t in range(9)] == [False, False, True, False, False, True, False, False, True]
    assert not any(moves(0, t) for t in range(5))


def test_a_controller_vmaps_over_its_hyperparameters():
    def run(rate):
        servo = controllers.entropy_servo(0.5, rate=rate, target=1.0)
        return servo.update((), servo.init(), signals(entropy=2.0))[0][0]

    np.testing.assert_allclose(jax.vmap(run)(jnp.array([0.0, 0.1, 0.2])), [0.5, 0.4, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: controllers.constant(1.2), "imitation must be from 0.0 to 1.0, got 1.2"),
        (lambda: controllers.constant(float("nan")), "imitation must be from 0.0 to 1.0, got nan"),
        (lambda: controllers.srft(-1.0), "imitation must be from 0.0"),
        (lambda: controllers.success_gate(0), "failures must be from 1"),
        (lambda: controllers.amft(0.01), "initial must lie between low and high, got 0.05, 0.01 and 0.95"),
        (lambda: controllers.entropy_servo(0.5, high=1.5), "high must be from 0.0 to 1.0, got 1.5"),
        (lambda: controllers.prefix_schedule(2.0), "first must be from 0.0 to 1.0, got 2.0"),
    ],
)
def test_bad_hyperparameters_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# --- steps --------------------------------------------------------------------------------------------------


def step_of(inner, tuning, key=1, meta=None):
    return jax.jit(inner.step)(
        inner.init_meta(jax.random.key(0)) if meta is None else meta, tuning, jax.random.key(key)
    )


def test_at_its_bounds_a_step_is_pure_imitation_and_pure_reward_bit_for_bit():
    """AMFT's weight at a bound, against a loop in which the other loss is nothing at all."""

    @jax.jit  # one program: no two round alike
    def step(logit, imitation, reward):
        inner = loop(
            controllers.amft(0.5, low=0.0, high=1.0, entropy_rate=0.0),
            imitation=lambda x: imitation * sft(x),
            reward=lambda x, batch, advantage: reward * ppo_clip(x, batch, advantage),
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
        pure.append(after.lifetime.params["embedding"]["embedding"])
        assert (pure[-1] != start["embedding"]["embedding"]).any()
    assert (pure[0] != pure[1]).any()


def test_a_step_follows_the_weighted_sum_of_both_gradients():
    @jax.jit
    def moved(mu):
        inner = loop(controllers.constant(mu))
        start = newborn(inner)
        return jax.tree.map(jnp.subtract, inner.step((), start, jax.random.key(1)).lifetime.params, start.params)

    reward, both, imitation = map(moved, (0.0, 0.25, 1.0))
    jax.tree.map(
        lambda b, r, i: np.testing.assert_allclose(b, 0.75 * r + 0.25 * i, rtol=1e-4, atol=1e-6),
        both,
        reward,
        imitation,
    )


ACTOR_CRITIC = {"credit": gae(), "critic": Critic(gru(4, width=8, outputs=1), optax.adam(0.03))}


@pytest.fixture(scope="module")
def training():
    """200 steps at a weight of imitation, with a critic or without: greedy success before and after, and more."""

    @partial(jax.jit, static_argnums=1)
    def train(mu, actor_critic):
        sizes = SIZES._replace(num_prompts=8, num_demonstrations=32)
        inner = loop(controllers.constant(mu), optax.adam(0.03), sizes, **ACTOR_CRITIC if actor_critic else {})

        def step(tuning, key):
            after = inner.step((), tuning, key)
            return after.lifetime, after.metrics

        start = newborn(inner, horizon=1000)
        tuning, metrics = jax.lax.scan(step, start, jax.random.split(jax.random.key(2), 200))
        rates = [success_rate(POLICY, Echo(), x.params, jax.random.key(3), count=64) for x in (start, tuning)]
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


def test_a_critic_learns_the_returns_of_its_own_credit():
    """Its step against one by hand: toward the lambda-return, with the advantages that the policy's terms saw."""
    seen = []

    def note(x, batch, advantage):
        jax.debug.callback(lambda *x: seen.append(x), batch, advantage)
        return x.log_prob * advantage

    critic = Critic(gru(4, width=4, outputs=1), optax.sgd(0.1))
    inner = loop(controllers.constant(0.0), credit=gae(1.0, 0.9), critic=critic, reward=note)
    tuning = newborn(inner)
    after = step_of(inner, tuning).lifetime
    jax.effects_barrier()
    batch, advantage = jax.tree.map(jnp.asarray, seen[-1])
    before, forward = tuning.critic[0], jax.jit(critic.network.apply)
    for row in range(len(batch.reward)):
        tokens = jnp.append(batch.tokens[row], batch.answers[row])[:-1]
        value, count = np.asarray(forward(before, tokens))[:, 0], int(batch.mask[row].sum())
        expected = 0.0  # from the last token back
        for t in reversed(range(count)):
            last = t == count - 1
            delta = (float(batch.reward[row]) if last else value[t + 1]) - value[t]
            expected = delta + 0.9 * expected
            assert float(advantage[row, t]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    values = jax.jit(partial(answer_logits, critic.network))(before, batch.tokens, batch.answers)[..., 0]

    def loss(params):
        def squares(prompt, answer, target, mask):
            value = critic.network.apply(params, jnp.append(prompt, answer)[:-1])[:, 0]
            return (0.5 * (value - target) ** 2 * mask).sum()

        return jax.vmap(squares)(batch.tokens, batch.answers, values + advantage, batch.mask).sum() / batch.mask.sum()

    by_hand = jax.tree.map(lambda x, g: x - 0.1 * g, before, jax.jit(jax.grad(loss))(before))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), after.critic[0], by_hand)


def test_credit_that_needs_a_critic_says_so():
    inner = loop(controllers.constant(0.0), credit=gae())
    with pytest.raises(ValueError, match="gae needs batch.value, got None"):
        jax.eval_shape(inner.step, (), jax.eval_shape(lambda: newborn(inner)), jax.random.key(0))


def test_a_sweep_over_a_controllers_hyperparameter_is_the_single_runs():
    """The weight as an array leaf: trainings at several weights, side by side in one program."""
    levels = metarl.Levels(None, lambda key: Level((), jnp.int32(100)))

    def make(imitation):
        inner = loop(controllers.constant(imitation))
        uniform, nothing = metarl.curricula.uniform(levels), metarl.estimators.backprop(1)
        return metarl.compose(inner, nothing, optax.sgd(0.1), uniform, num_lifetimes=1)

    weights = jnp.array([0.0, 0.3, 1.0])
    meta, keys = side_by_side(make, weights), jax.random.split(jax.random.key(1), 3)

    def first(meta):
        return jax.jit(lambda key, step_key: meta.step(meta.init(key), step_key))

    state, metrics = first(meta)(jax.random.key(0), jax.random.key(1))
    np.testing.assert_allclose(metrics["imitation_weight"].ravel(), weights)
    alone, _ = first(make(0.3))(jax.random.split(jax.random.key(0), 3)[1], keys[1])
    jax.tree.map(
        lambda many, one: np.testing.assert_allclose(many[1], one, rtol=1e-4, atol=1e-6),
        state.lifetimes.params,
        alone.lifetimes.params,
    )


def test_separate_optimizers_rest_while_their_weight_is_zero():
    """ReLIFT: what imitation learns of the size of its gradients is not what reward learns of its own."""
    settings, rate = SIZES._replace(separate=True), 0.01

    @jax.jit
    def after(mu):
        inner = loop(controllers.constant(mu), optax.adam(rate), settings)
        start = newborn(inner)
        tuning = inner.step((), start, jax.random.key(1)).lifetime
        moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), tuning.params, start.params)
        return [state[0].count for state in tuning.opt_state], jnp.stack(jax.tree.leaves(moved)).max()

    for mu, moves in ((0.0, [0, 1]), (1.0, [1, 0]), (0.5, [1, 1])):
        counts, size = after(mu)
        assert counts == moves
        assert size == pytest.approx(rate * sum(moves), rel=0.05)  # each is as long as Adam's first step


TERMS = {
    "dft": {"imitation": lambda x: terms.dft(x.log_prob)},
    "asft": {"imitation": lambda x: terms.asft(x.logits, x.ref_logits, x.tokens, 0.1)},
    "otr": {"imitation": lambda x: terms.otr(x.logits, x.tokens, x.tokens[..., None], -0.1)},
    "entropy": {"imitation": lambda x: terms.sft(x.log_prob) + 0.01 * terms.entropy_bonus(x.logits)},
    "reinforce": {"reward": lambda x, batch, advantage: terms.reinforce(x.log_prob, advantage)},
    "kl": {
        "reward": lambda x, batch, advantage: (
            terms.ppo_clip(x.log_prob, batch.old_log_prob, advantage)
            + 0.1 * terms.kl_k3(x.log_prob, terms.log_prob_of(x.ref_logits, x.tokens))
        )
    },
    "nft": {
        "reward": lambda x, batch, advantage: terms.nft(
            x.log_prob, batch.old_log_prob, batch.reward[:, None], jnp.float32(0.5)
        )
    },
}


@pytest.mark.parametrize("term", TERMS)
def test_every_term_serves_in_a_step(term):
    inner, plain = (loop(controllers.constant(0.5), **options) for options in (TERMS[term], {}))
    after, usual = (jax.eval_shape(x.step, (), newborn(x), jax.random.key(0)) for x in (inner, plain))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), usual)


def test_a_divergence_from_the_start_counts_once_the_policy_has_moved():
    """On the first step the policy is the one that it began with: the divergence is 0, and so is its gradient."""
    held, free = (loop(controllers.constant(0.0), **options) for options in (TERMS["kl"], {}))
    tuning, steps = newborn(free), [jax.jit(x.step) for x in (held, free)]
    for moved in (False, True):
        one, other = (step((), tuning, jax.random.key(0)).lifetime.params["embedding"]["embedding"] for step in steps)
        assert np.allclose(one, other, rtol=1e-4, atol=1e-7) != moved
        params = jax.tree.map(lambda x: x + 0.5 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), tuning.params)
        tuning = tuning._replace(params=params)


def test_a_finished_training_is_frozen():
    inner = loop(controllers.constant(0.5))
    tuning = newborn(inner, horizon=1)
    once = step_of(inner, tuning).lifetime
    assert inner.done(once) and not inner.done(tuning)
    jax.tree.map(np.testing.assert_array_equal, once, step_of(inner, once, key=5).lifetime)


def test_problems_that_every_answer_fails_on_are_shown_once_enough_have_gathered():
    """ReLIFT: imitation only then, of those; and the count starts anew, with what failed meanwhile."""
    inner = loop(controllers.success_gate(6), settings=SIZES._replace(failures=6))
    tuning, weights, counts = newborn(inner), [], []
    for key in range(6):
        update = step_of(inner, tuning, key)
        tuning = update.lifetime
        weights.append(float(update.metrics["imitation_weight"]))
        counts.append(int(tuning.failures.gathered))
    assert set(weights) == {0.0, 1.0} and weights[0] == 0.0
    assert all(count <= SIZES.num_prompts for count, w in zip(counts, weights, strict=True) if w)
    assert all(later >= before for before, later, w in zip(counts, counts[1:], weights[1:], strict=False) if not w)


def test_the_last_answer_of_a_group_goes_on_from_a_demonstration():
    """Prefix-RFT, on a task whose demonstrations say 3: two of the three tokens are forced on every fourth answer."""

    def code(x, batch, advantage):  # what the step saw, as a loss
        threes = (batch.answers[:, :2] == 3).all(1)
        hybrid = jnp.where(batch.prefix_length > 0, 100.0 * batch.prefix_length + threes, 0.0)  # 201 each
        return (
            jnp.broadcast_to(hybrid.reshape(4, 4) @ jnp.array([1e3, 1e3, 1e3, 1.0]), (3, 4)).mean() + 0.0 * x.log_prob
        )

    inner = loop(
        controllers.prefix_schedule(0.7, 0.7),
        settings=SIZES._replace(hybrid=0.7),
        task=Echo(says=3),
        credit=prefix_group(4),
        reward=code,
    )
    metrics = step_of(inner, newborn(inner)).metrics
    assert metrics["reward_loss"] == 201.0 and metrics["prefix_share"] == pytest.approx(0.7)


# --- the meta-gradient --------------------------------------------------------------------------------------


def tilt(x):
    """AMFT whose weight is x itself at x = 0.5, with slope 1."""
    return {"logit": jnp.log(x) - jnp.log1p(-x)}


@pytest.fixture(scope="module")
def utility():
    """The utility after one step as a function of the weight, on fixed draws; and what the estimator makes of it."""
    with jax.enable_x64(True):
        settings = SIZES._replace(normalise=False, utility="cross_entropy")
        amft = controllers.amft(0.5, low=0.0, high=1.0, entropy_rate=0.0)
        inner = loop(amft, optax.sgd(0.5), settings)
        tuning = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, newborn(inner))
        key = jax.random.key(7)

        def after(logit):
            step_key, loss_key = jax.random.split(key)
            return inner.loss({"logit": logit}, inner.step({"logit": logit}, tuning, step_key).lifetime, loss_key)[0]

        mu, eps = 0.3, 1e-5
        logit = jnp.log(jnp.float64(mu)) - jnp.log1p(-jnp.float64(mu))
        exact = jax.jit(jax.grad(after))(logit)
        high, low = jax.jit(jax.vmap(after))(logit + jnp.array([eps, -eps]))
        return float(exact), float(high - low) / (2 * eps), inner, tuning, {"logit": logit}, key


def test_the_meta_gradient_is_that_of_finite_differences(utility):
    exact, numeric, *_ = utility
    assert exact == pytest.approx(numeric, rel=1e-6) and abs(exact) > 1e-6


def test_the_meta_gradient_is_the_inner_product_after_the_step(utility):
    """`d L_val(theta') / d mu = -eta <grad L_val(theta'), g_imitation - g_reward>`: an explicit SGD step."""
    exact, _, inner, tuning, meta, key = utility
    with jax.enable_x64(True):
        step_key, loss_key = jax.random.split(key)

        @jax.jit
        def moved(mu):
            fixed = loop(controllers.constant(mu), optax.sgd(0.5), SIZES)
            return fixed.step((), tuning._replace(controller=()), step_key).lifetime.params

        @jax.jit
        def slope(direction):
            there = inner.step(meta, tuning, step_key).lifetime
            loss = lambda params: inner.loss(meta, there._replace(params=params), loss_key)[0]  # noqa: E731
            return optax.tree.vdot(jax.grad(loss)(there.params), direction)

        # SGD's step is linear in the weight: the difference of the pure ones is -eta (g_imitation - g_reward)
        direction = jax.tree.map(jnp.subtract, moved(1.0), moved(0.0))
        assert exact == pytest.approx(0.3 * 0.7 * float(slope(direction)), rel=1e-6)  # the slope of the sigmoid


@pytest.mark.parametrize("measure", ["reward", "cross_entropy"])
def test_the_weight_moves_toward_what_is_useful(measure):
    """Right demonstrations are worth imitating for a newborn policy, and ones that say nothing at all are not."""
    settings = SIZES._replace(num_validation=64, num_prompts=32, utility=measure)
    amft = controllers.amft(0.5, low=0.0, high=1.0, entropy_rate=0.0)

    class Demonstrated(Echo):
        """`says` 1.0: demonstrations are right; 0.0: they are the end, three times."""

        def demonstrate(self, key, problem):
            right = jnp.array([problem.token, problem.token, END])
            return jnp.where(self.says > 0.5, right, END)

    def make(says):
        inner = loop(amft, optimizers.adam(0.02), settings, Demonstrated(says), validation=Echo())
        return metarl.compose(inner, metarl.estimators.backprop(1), optax.sgd(0.5), constant_levels(100), 1)

    state, log = metarl.train(side_by_side(make, jnp.array([1.0, 0.0])), seed=0, steps=40)
    right, useless = jax.nn.sigmoid(state.params["logit"])
    assert right > 0.55 and useless < 0.45
    assert log["success"].shape == (40, 2) and np.isfinite(log["utility"]).all()


def constant_levels(horizon):
    return metarl.curricula.uniform(metarl.Levels(None, lambda key: Level((), jnp.int32(horizon))))


@pytest.mark.parametrize("optimizer", [optax.sgd(0.5), optimizers.adam(0.02)])
def test_a_normalised_meta_gradient_is_a_cosine(optimizer):
    settings = SIZES._replace(num_validation=16)
    amft = controllers.amft(0.3, low=0.0, high=1.0, entropy_rate=0.0)
    inner = loop(amft, optimizer, settings)
    tuning, meta, key = newborn(inner), amft.init_meta(), jax.random.key(3)
    step_key, loss_key = jax.random.split(key)

    def after(meta, tuning):
        return inner.loss(meta, inner.step(meta, tuning, step_key).lifetime, loss_key)[0]

    raw = loop(amft, optimizer, settings._replace(normalise=False))

    @jax.jit
    def both(meta, tuning):
        there = raw.step(meta, tuning, step_key).lifetime
        gradient = jax.grad(lambda params: raw.loss(meta, there._replace(params=params), loss_key)[0])(there.params)
        direction = jax.jvp(
            lambda x: raw.step({"logit": x}, tuning, step_key).lifetime.params, (meta["logit"],), (jnp.ones(()),)
        )[1]
        size = optax.tree.norm(gradient) * optax.tree.norm(direction)
        return jax.grad(after)(meta, tuning)["logit"], optax.tree.vdot(gradient, direction) / size

    found, cosine = both(meta, tuning)
    assert found / (0.3 * 0.7) == pytest.approx(float(cosine), rel=1e-3) and -1.0 <= cosine <= 1.0


def test_more_steps_per_estimate_give_their_gradient():
    """The K-step option is the estimator's: its gradient flows through K training steps."""
    amft = controllers.amft(0.5, low=0.0, high=1.0, entropy_rate=0.0)
    inner = loop(amft, optax.sgd(0.5), SIZES._replace(normalise=False, utility="cross_entropy"))
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


def test_bad_settings_are_named():
    for change, says in (
        ({"num_prompts": 0}, "num_prompts must be at least 1, got 0"),
        ({"group_size": 1}, "group_size must be at least 2 answers, got 1"),
        ({"failures": -1}, "failures must not be negative, got -1"),
        ({"utility": "fun"}, "utility must be 'reward' or 'cross_entropy', got 'fun'"),
    ):
        with pytest.raises(ValueError, match=says):
            loop(controllers.constant(0.5), settings=SIZES._replace(**change), credit=dr_grpo(4))
    with pytest.raises(ValueError, match="the task has 4 tokens, but the policy 5"):
        finetune(gru(5, 4), Echo(), gru(5, 4).init, controllers.constant(0.5), optax.sgd(1.0), dr_grpo(8))

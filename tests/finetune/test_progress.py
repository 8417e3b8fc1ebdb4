"""Credit of meta reinforcement fine-tuning, by its identities and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import FirstToken, bag, batch

from envs.tokens import GeneralPoints, Turns
from metarl.finetune import (
    Data,
    Losses,
    Prover,
    Sampling,
    controllers,
    credit,
    finetune,
    losses,
    sources,
    updates,
)
from metarl.finetune.progress import bonus, length_penalty, mrt, progress, star, weights
from metarl.finetune.turns import solved
from metarl.types import Level

SCOPES, KINDS = ("episode", "to_go", "scalar_end"), ("uniform", "regret")
SUCCESS = jnp.array(np.random.default_rng(0).random((5, 3)))  # [B, K]

# Two groups of two transcripts; each try is one token, and one after it is the verifier's.
TURN = jnp.array([[0, 0, 1, 1, 2, 2]] * 4)
MADE = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]])
J = np.array([[0.5, 1.0, 1.0], [0.0, 0.25, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 1.0]])


def transcripts(**changes):
    fields = {
        "prompts": jnp.zeros((4, 1), jnp.int32),
        "answers": jnp.zeros((4, 6), jnp.int32),
        "mask": jnp.array(np.stack([MADE, 0 * MADE], -1).reshape(4, 6).astype(bool)),
        "old_log_prob": jnp.zeros((4, 6)),
        "reward": jnp.array([1.0, 0.0, 1.0, 1.0]),
        "correct": jnp.array([True, False, True, True]),
        "prefix_length": jnp.zeros(4, jnp.int32),
        "value": None,
        "entropy": None,
        "turn": TURN,
        "success_if_stopped": jnp.array(J),
    }
    return batch(**(fields | changes))


def of_tries(advantage):
    """Advantages [B, K] of the tries, of those [B, 2 K] of tokens, after a look at the rest."""
    frames = np.asarray(advantage).reshape(4, 3, 2)
    assert (frames[..., 1] == 0.0).all() and (frames[..., 0][MADE == 0] == 0.0).all()
    return frames[..., 0]


def test_progress_telescopes():
    np.testing.assert_allclose(progress(SUCCESS).sum(-1), SUCCESS[:, -1], atol=1e-6)


def test_the_area_under_success_is_progress_weighed_by_the_tries_that_are_left():
    """`sum_j J_j = sum_i (K - i) r_i`."""
    left = 3.0 - np.arange(3)
    np.testing.assert_allclose(SUCCESS.sum(-1), (left * progress(SUCCESS)).sum(-1), atol=1e-6)
    np.testing.assert_allclose(weights(3, "regret"), left / 3, atol=1e-6)
    np.testing.assert_allclose(bonus(SUCCESS, "scalar_end", "regret")[:, 0], SUCCESS.mean(-1), atol=1e-6)


def test_scopes_by_hand():
    success, near = jnp.array([0.5, 0.25, 1.0]), lambda x: pytest.approx(x, abs=1e-6)
    assert bonus(success, "episode", "uniform").tolist() == near([0.5, -0.25, 0.75])
    assert bonus(success, "episode", "regret").tolist() == near([0.5, -0.25 * 2 / 3, 0.25])
    assert bonus(success, "to_go", "uniform").tolist() == near([1.0, 0.5, 0.75])  # J_{K-1} - J_{j-1}
    assert bonus(success, "scalar_end", "uniform").tolist() == near([1.0, 1.0, 1.0])
    for kind in KINDS:
        whole = bonus(SUCCESS, "episode", kind).sum(-1)
        np.testing.assert_allclose(bonus(SUCCESS, "to_go", kind)[:, 0], whole, atol=1e-6)
        np.testing.assert_allclose(bonus(SUCCESS, "scalar_end", kind)[:, 2], whole, atol=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
def test_without_alpha_mrt_is_grpo(scope):
    expected = credit.grpo(2)(transcripts())
    np.testing.assert_array_equal(jax.jit(mrt(2, 0.0, scope))(transcripts()), expected)
    assert (expected != 0.0).any() and (mrt(2, 1.0, scope)(transcripts()) != expected).any()


def test_progress_is_compared_among_the_answers_that_made_the_try():
    advantage = of_tries(mrt(2, 2.0)(transcripts()))
    outcome = of_tries(credit.grpo(2)(transcripts()))
    # r = [.5, .5, 0], [0, .25, -.25]; [1, 0, 0], [.5, 0, .5]; the third try of each group was made by one alone
    extra = 2.0 * np.array([[0.25, 0.125, 0.0], [-0.25, -0.125, 0.0], [0.25, 0.0, 0.0], [-0.25, 0.0, 0.0]])
    np.testing.assert_allclose(advantage, outcome + extra, atol=1e-5)
    at_the_end = of_tries(mrt(2, 1.0, "scalar_end", "regret")(transcripts()))
    means = J.mean(1)
    centred = np.array([1, -1, 1, -1]) * np.repeat([(means[0] - means[1]) / 2, (means[2] - means[3]) / 2], 2)
    np.testing.assert_allclose(at_the_end[:, 0], outcome[:, 0] + centred, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", SCOPES)
def test_success_before_the_first_try_cancels_in_the_group(scope, kind):
    """Progress from `J_{-1} = c` is that of `J - c` from 0: a c of the group's own changes no advantage."""
    shifted = transcripts(success_if_stopped=jnp.array(J - np.array([[0.3], [0.3], [0.7], [0.7]])))
    np.testing.assert_allclose(mrt(2, 2.0, scope, kind)(shifted), mrt(2, 2.0, scope, kind)(transcripts()), atol=1e-5)
    np.testing.assert_array_equal(star(2)(shifted), star(2)(transcripts()))


def test_with_its_own_tries_as_answers_mrt_charges_solved_answers_for_their_tries():
    """`J_j = 1` from the try that is right on: the weighted sum is `R (1 - n / K)` with n tries before."""
    later = MADE.sum(1) - 1
    correct = np.asarray(transcripts().correct)
    by_try = correct[:, None] & (np.arange(3) >= later[:, None])
    success = jnp.array(by_try.astype(np.float32))
    np.testing.assert_allclose(bonus(success, "scalar_end", "regret")[:, 0], correct * (1 - later / 3), atol=1e-6)


def test_a_length_penalty_counts_the_tries_after_the_first():
    penalised = of_tries(length_penalty(2, 0.25)(transcripts()))
    rewards = jnp.array([0.75, -0.5, 1.0, 0.5])
    np.testing.assert_allclose(penalised[:, 0], credit.by_group(credit.standardised, 2)(rewards), atol=1e-6)
    np.testing.assert_array_equal(length_penalty(2, 0.0)(transcripts()), credit.grpo(2)(transcripts()))


def test_star_keeps_correct_answers_and_mrt_star_the_one_with_most_progress():
    np.testing.assert_array_equal(of_tries(star(2, by_progress=False)(transcripts())), MADE * [[1], [0], [1], [1]])
    np.testing.assert_array_equal(of_tries(star(2)(transcripts())), MADE * [[1], [0], [1], [0]])
    none = transcripts(correct=jnp.zeros(4, bool))
    assert not star(2)(none).any() and not star(2, by_progress=False)(none).any()


LEARNER = bag(6, 8, 6)


@pytest.mark.parametrize("name", ["mrt", pytest.param("star", marks=pytest.mark.slow)])
def test_mrt_learns_to_be_right_at_once(name):
    task = Turns(FirstToken(), 2)
    sizes, given = Sampling(8, 8), {"mrt": mrt(8, 1.0, "episode", "regret"), "star": star(8)}[name]
    data = Data(sources.proven(task, sizes, Prover(2)), sources.demonstrations(task, 1))
    chosen = Losses(reward=losses.ppo_clip() if name == "mrt" else losses.reinforce())
    inner = finetune(
        LEARNER, LEARNER.init, data, given, controllers.constant(0.0), updates.joint(optax.adam(0.05)), losses=chosen
    )

    @jax.jit
    def train(key):
        def step(tuning, key):
            update = inner.step((), tuning, key)
            return update.lifetime, update.metrics["success"]

        start = inner.init(key, Level((), jnp.int32(40)))
        tuning, success = jax.lax.scan(step, start, jax.random.split(key, 40))
        batch = data.answers.sample(LEARNER, tuning.params, (), None, sources.Keys(*jax.random.split(key, 3)))
        return success, solved(batch, 2).mean(0)

    success, by_try = train(jax.random.key(0))
    assert success[:5].mean() < 0.6 and by_try[0] > 0.8


def test_general_points_with_several_tries_makes_a_step_of_mrt():
    """The hands of the task in turns, whose replies are kinds of verdicts: progress after each of three tries."""
    task = Turns(GeneralPoints(), 3)
    policy, sizes = bag(task.num_tokens, 4, task.num_tokens), Sampling(2, 2)
    data = Data(sources.proven(task, sizes, Prover(2)), sources.demonstrations(task, 2))
    update = updates.joint(optax.sgd(0.1))
    inner = finetune(policy, policy.init, data, mrt(2, kind="regret"), controllers.constant(0.5), update)

    def step(key):
        start = inner.init(key, Level((), jnp.int32(10)))
        return start, inner.step((), start, key)

    start, after = jax.jit(step)(jax.random.key(0))
    assert after.metrics["env_steps"] == 2 * 2 * 8 * 3 * (1 + 2) and np.isfinite(after.metrics["reward_loss"])
    assert -15.0 <= after.metrics["reward"] <= 5.0  # of a try: 5, or -1 to -3
    changed = jax.tree.map(lambda x, y: bool((x != y).any()), start.params, after.lifetime.params)
    assert any(jax.tree.leaves(changed))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mrt(1), "group_size"),
        (lambda: mrt(2, -1.0), "alpha"),
        (lambda: mrt(2, 1.0, "all"), "scope"),
        (lambda: mrt(2, 1.0, "episode", "square"), "kind"),
        (lambda: mrt(3)(transcripts()), "group_size must divide the 4 rows of the batch, got 3"),
        (lambda: mrt(2)(transcripts(success_if_stopped=None)), "mrt needs batch.success_if_stopped"),
        (lambda: star(2)(transcripts(success_if_stopped=None)), "star needs batch.success_if_stopped"),
        (lambda: length_penalty(2, -0.1), "cost"),
        (lambda: length_penalty(2)(transcripts(turn=None)), "tries need batch.turn"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Sources of problems and answers, alone and in a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import END, POLICY, SIZES, Echo, Problem, bag, loop, newborn, step_of

from envs import tokens
from metarl.finetune import Sampling, Weights, controllers, credit, sources
from metarl.finetune.sources import Keys, Outcome
from metarl.tree import lot
from metarl.types import Progress


def batch_of(source, step=0, state=None):
    @jax.jit
    def sample(step, state):
        keys = Keys(*jax.random.split(jax.random.key(0), 3))
        state = source.init(jax.random.key(2)) if state is None else state
        return source.sample(POLICY, POLICY.init(jax.random.key(1)), state, Progress(step, jnp.int32(10)), keys)

    return sample(jnp.int32(step), state)


def test_answers_to_one_problem_are_neighbours():
    source = sources.fresh(Echo(), Sampling(3, 4))
    batch = batch_of(source)
    assert batch.answers.shape == (12, 3) and source.tokens_drawn == 36
    assert (batch.prompts.reshape(3, 4) == batch.prompts.reshape(3, 4)[:, :1]).all()
    assert (batch.prefix_length == 0).all() and (batch.old_log_prob[batch.mask] < 0.0).all()
    verdict = jax.jit(jax.vmap(Echo().verify))(batch.problem, batch.answers)
    np.testing.assert_array_equal(batch.reward, verdict.reward)
    np.testing.assert_array_equal(batch.correct, verdict.correct)


def test_demonstrations_are_batches_of_correct_answers_that_nobody_drew():
    source = sources.demonstrations(Echo(), 5)
    batch = batch_of(source)
    np.testing.assert_array_equal(batch.answers, batch.prompts * jnp.array([1, 1, 0]) + END)
    assert batch.mask.all() and batch.correct.all() and (batch.reward == 1.0).all()
    assert (batch.prefix_length == 3).all() and (batch.old_log_prob == 0.0).all() and source.tokens_drawn == 0


def test_only_a_share_of_the_problems_has_a_demonstration_and_always_the_same_ones():
    task = tokens.Sorting(2, 3, room=3)

    @jax.jit
    def shown(key, share=0.3):
        keys = Keys(*jax.random.split(jax.random.key(key), 3))
        progress = Progress(jnp.int32(0), jnp.int32(10))
        return sources.demonstrations(task, 4000, share).sample(POLICY, (), (), progress, keys)

    every = {tuple(row) for row in task.every()[0].digits.tolist()}
    batches = [jax.device_get(shown(key)) for key in (0, 1)]
    chosen = [{tuple(x) for x in batch.prompts[batch.mask.any(1)].tolist()} for batch in batches]
    left_out = [{tuple(x) for x in batch.prompts[~batch.mask.any(1)].tolist()} for batch in batches]
    assert not (chosen[0] | chosen[1]) & (left_out[0] | left_out[1])  # whoever draws them
    assert len(chosen[0] | chosen[1]) / len(chosen[0] | chosen[1] | left_out[0] | left_out[1]) == pytest.approx(
        0.3, abs=0.05
    )
    assert chosen[0] | left_out[0] <= every and shown(0, 1.0).mask.any(1).all() and not shown(0, 0.0).mask.any()


def test_the_last_answer_of_a_group_continues_a_demonstration():
    """Prefix-RFT, on a task whose demonstrations say 3: .7 of its three tokens are two."""
    batch = batch_of(sources.prefixed(Echo(says=3), SIZES, first=0.7, last=0.7, most=0.7))
    lengths = batch.prefix_length.reshape(4, 4)
    assert (lengths[:, :3] == 0).all() and (lengths[:, 3] == 2).all()
    assert (batch.answers.reshape(4, 4, 3)[:, 3, :2] == 3).all()


def test_the_least_prefix_falls_over_the_training():
    """Least shares of .9, .5 and .1 along a cosine, and .9 at most, of three tokens."""
    source = sources.prefixed(Echo(), Sampling(64, 2), first=0.9, last=0.1, most=0.9)
    keys, params = Keys(*jax.random.split(jax.random.key(0), 3)), POLICY.init(jax.random.key(1))

    @jax.jit
    def lengths(step):
        return source.sample(POLICY, params, (), Progress(step, jnp.int32(10)), keys).prefix_length[1::2]

    for step, shares in ((0, (2, 2)), (5, (1, 2)), (10, (0, 2))):
        found = lengths(jnp.int32(step))
        assert (int(found.min()), int(found.max())) == shares


def failed(*tokens, right=()):
    """Two answers to each of these problems; those at the places `right` have one correct answer."""
    problem = Problem(jnp.repeat(jnp.array(tokens, jnp.int32), 2))
    correct = jnp.zeros(len(problem.token), bool).at[jnp.array(right, int) * 2].set(True)
    return batch_of(sources.demonstrations(Echo(), 2 * len(tokens)))._replace(problem=problem, correct=correct)


def test_problems_without_a_correct_answer_take_the_places_of_the_oldest():
    source = sources.failures(Echo(), 3)
    state = source.init(jax.random.key(0))._replace(problems=Problem(jnp.array([9, 9, 9])))
    weights = Weights(jnp.float32(0.0), jnp.float32(1.0))

    @jax.jit
    def after(state, answers, weights=weights):
        return source.update(state, Outcome(answers, 2, jnp.zeros(answers.mask.shape), weights))

    state = after(state, failed(1, 2, 3, right=[1]))
    assert state.problems.token.tolist() == [1, 3, 9] and source.gathered(state) == 2
    np.testing.assert_array_equal(batch_of(source, state=state).prompts[:, 0], [1, 3, 9])
    state = after(state, failed(4, 5))
    assert state.problems.token.tolist() == [5, 3, 4] and source.gathered(state) == 4
    state = after(state, failed(6, 7, right=[0]), Weights(jnp.float32(1.0), jnp.float32(0.0)))
    assert state.problems.token.tolist() == [7, 3, 4] and source.gathered(state) == 1  # the count began anew


def test_problems_without_a_demonstration_begin_no_answer_and_are_not_gathered():
    task, sizes = tokens.Sorting(2, 3, room=3), Sampling(32, 2)
    policy = bag(task.num_tokens, 4, task.num_tokens)

    @jax.jit
    def drawn(key):
        keys, progress = Keys(*jax.random.split(key, 3)), Progress(jnp.int32(0), jnp.int32(10))
        begun = sources.prefixed(task, sizes, first=0.9, last=0.9, share=0.3)
        batch = begun.sample(policy, policy.init(key), (), progress, keys)
        gathers = sources.failures(task, 32, 0.3)
        nothing = Weights(jnp.float32(0.0), jnp.float32(1.0))
        outcome = Outcome(batch._replace(correct=jnp.zeros(64, bool)), 2, jnp.zeros(batch.mask.shape), nothing)
        state = gathers.update(gathers.init(key), outcome)
        return batch, gathers.gathered(state), gathers.sample(policy, (), state, progress, keys).mask.any(1)

    batch, gathered, shown = drawn(jax.random.key(0))
    has_one = np.asarray(jax.jit(jax.vmap(lot))(batch.prompts) < 0.3)
    np.testing.assert_array_equal(batch.prefix_length > 0, has_one & (np.arange(64) % 2 == 1))
    assert gathered == has_one[::2].sum() and 3 < gathered < 20
    assert shown[:gathered].all() and shown[gathered:].mean() < 0.7  # then the first ones, at random


def test_problems_that_every_answer_fails_on_are_shown_once_enough_have_gathered():
    """ReLIFT in a step: imitation only then; and the count starts anew, with what failed meanwhile."""
    inner = loop(controllers.success_gate(6), demonstrations=sources.failures(Echo(), 6))
    tuning, weights, counts = newborn(inner), [], []
    step = jax.jit(lambda tuning, key: inner.step((), tuning, key))
    for key in range(6):
        update = step(tuning, jax.random.key(key))
        tuning = update.lifetime
        weights.append(float(update.metrics["imitation_weight"]))
        counts.append(int(tuning.demonstrations.gathered))
    assert set(weights) == {0.0, 1.0} and weights[0] == 0.0
    assert all(count <= SIZES.num_problems for count, w in zip(counts, weights, strict=True) if w)
    assert all(later >= before for before, later, w in zip(counts, counts[1:], weights[1:], strict=False) if not w)


def test_a_step_learns_from_prefixes():
    """Prefix-RFT in a step, by a loss that says what it saw: two tokens are forced on every fourth answer."""

    def code(x):
        threes = (x.batch.answers[:, :2] == 3).all(1)
        hybrid = jnp.where(x.batch.prefix_length > 0, 100.0 * x.batch.prefix_length + threes, 0.0)  # 201 each
        weighted = hybrid.reshape(4, 4) @ jnp.array([1e3, 1e3, 1e3, 1.0])
        return jnp.broadcast_to(weighted, (3, 4)).mean() + 0.0 * x.now.log_prob

    answers = sources.prefixed(Echo(says=3), SIZES, first=0.7, last=0.7, most=0.7)
    inner = loop(controllers.constant(0.0), answers=answers, advantages=credit.prefix_group(4), reward=code)
    assert step_of(inner, newborn(inner)).metrics["reward_loss"] == 201.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sources.demonstrations(Echo(), 4, 1.5), "share must be at most 1, got 1.5"),
        (lambda: sources.demonstrations(Echo(), 0), "count must be at least 1, got 0"),
        (lambda: sources.failures(Echo(), -1), "capacity must be at least 1, got -1"),
        (lambda: sources.prefixed(Echo(), first=2.0), "first must be at most 1, got 2.0"),
        (lambda: sources.prefixed(Echo(), first=0.95, most=0.5), "first and last must be at most most = 0.5, got 0.95"),
        (lambda: sources.prefixed(Echo(), first=0.0, most=0.0), "most must be above 0"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()

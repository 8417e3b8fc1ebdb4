"""Second tries that teach first ones: which answers a batch has, what is learned from, and what refinements add."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import B, FirstToken, T, bag, batch

from envs.tokens import Turns
from metarl.finetune import Sampling, losses, refinement, terms
from metarl.finetune.losses import Context, TokenStatistics
from metarl.finetune.sampling import answered, problems_of
from metarl.finetune.sources import Keys
from metarl.finetune.turns import last_try, solved
from metarl.types import Progress

TASK = Turns(FirstToken(), 3)
FRAME = TASK.try_length + 1
SIZES = Sampling(16, 4)
POLICY = bag(TASK.num_tokens, 8, TASK.num_tokens)
PARAMS = POLICY.init(jax.random.key(4))
KEYS = Keys(*jax.random.split(jax.random.key(1), 3))


def drawn(source):
    sample = jax.jit(lambda params: source.sample(POLICY, params, (), Progress(jnp.int32(0), jnp.int32(1)), KEYS))
    return sample(PARAMS)


def of_groups(x, size):
    return np.asarray(x).reshape(SIZES.num_problems, size, *np.shape(x)[1:])


def test_refinements_join_the_first_tries_of_their_group_the_right_ones_first():
    source = refinement.refined(TASK, SIZES, count=3)
    assert (source.task.tries, source.group_size) == (1, 7)
    assert source.tokens_drawn == 2 * 16 * 4 * TASK.try_length  # two tries of each
    found = jax.tree.map(lambda x: of_groups(x, 7), drawn(source))

    two = Turns(FirstToken(), 2)
    draw = jax.jit(lambda params: answered(POLICY, params, two, problems_of(two, KEYS.problems, 16, 4), KEYS.answers))
    played = draw(PARAMS)
    first, second = (of_groups(played.answers.reshape(64, 2, FRAME)[:, i], 4) for i in (0, 1))
    scores, says = (of_groups(x.reshape(64, 2, FRAME)[:, 1], 4) for x in (played.old_log_prob, played.mask))
    right = of_groups(solved(played, 2), 4)
    np.testing.assert_array_equal(found.answers[:, :4], first)
    np.testing.assert_array_equal(found.correct[:, :4], right[..., 0])
    np.testing.assert_array_equal(found.prefix_length, np.tile([0, 0, 0, 0, FRAME, FRAME, FRAME], (16, 1)))
    seen, order = set(), False
    for group in range(16):
        failed = np.flatnonzero(~right[group, :, 0])
        best = sorted(failed, key=lambda i: not right[group, i, 1])[:3]
        for place, i in enumerate(best):
            np.testing.assert_array_equal(found.answers[group, 4 + place], second[group, i])
            np.testing.assert_array_equal(found.old_log_prob[group, 4 + place], scores[group, i])
            np.testing.assert_array_equal(found.mask[group, 4 + place], says[group, i])
            assert found.reward[group, 4 + place] == found.correct[group, 4 + place] == right[group, i, 1]
        assert not found.mask[group, 4 + len(best) :].any()  # a first try in its place, which teaches nothing
        assert found.correct[group, 4 + len(best) :].all()
        seen.add((len(failed), bool(right[group, failed, 1].any())))
        order |= [right[group, i, 1] for i in failed] != [right[group, i, 1] for i in best]
    assert {have for _, have in seen} == {False, True} and min(n for n, _ in seen) < 3
    assert order  # somewhere a wrong second try came first


def test_what_was_forced_is_shaped_and_the_rest_is_not():
    x = batch(prefix_length=jnp.array([0, 0, T, 0, 0, T], jnp.int32))
    log_prob = jnp.where(x.mask, x.old_log_prob, 0.0)
    advantage = jnp.where(x.mask, 0.7, 0.0)
    nothing = jnp.zeros((B, T))
    now = TokenStatistics(nothing[..., None], log_prob, nothing, nothing[..., None])
    context = Context(now, x, advantage, jnp.zeros(B), 3, jax.random.key(0), None)
    found = losses.shaped(losses.reinforce(), 0.25)(context)
    pi = np.exp(np.asarray(log_prob))
    expected = -0.7 * np.where(np.isin(np.arange(B), (2, 5))[:, None], pi / (pi + 0.25), np.asarray(log_prob))
    np.testing.assert_allclose(found, np.where(x.mask, expected, 0.0), rtol=1e-5)
    assert float(jax.grad(lambda y: terms.shaped(y, jnp.float32(2.0), 0.5))(jnp.log(0.3))) == pytest.approx(
        -2.0 * 0.3 * 0.5 / 0.8**2, rel=1e-5
    )


def test_next_tries_begin_in_a_state_of_the_policys_own():
    source = refinement.improved(TASK, SIZES)
    assert source.tokens_drawn == 16 * 3 * TASK.try_length * (1 + 4)
    found = drawn(source)
    at = of_groups(np.asarray(last_chosen(found)), 4)
    assert (at == at[:, :1]).all() and len(set(at[:, 0])) > 1

    transcript_key, _ = jax.random.split(KEYS.demonstrations)
    draw = jax.jit(lambda params: answered(POLICY, params, TASK, problems_of(TASK, KEYS.problems, 16), transcript_key))
    played = draw(PARAMS)
    assert (at[:, 0] <= np.asarray(last_try(played))).all()
    answers, mask = of_groups(found.answers, 4), of_groups(found.mask, 4)
    for group in range(16):
        start = at[group, 0] * FRAME
        np.testing.assert_array_equal(answers[group, :, :start], np.tile(played.answers[group, :start], (4, 1)))
        assert not mask[group, :, :start].any() and not mask[group, :, start + FRAME :].any()
        assert mask[group, :, start].all()
    first = np.asarray(found.answers).reshape(64, 3, FRAME)[np.arange(64), at.reshape(-1), 0]
    np.testing.assert_array_equal(found.correct, first == np.asarray(found.problem.token))
    np.testing.assert_array_equal(found.reward, found.correct)
    assert 0 < found.correct.sum() < 64 and not found.prefix_length.any()


def test_a_state_is_any_before_a_try_that_was_made():
    source = refinement.improved(TASK, Sampling(600, 2))
    at = np.asarray(last_chosen(drawn(source)))[::2]
    key, _ = jax.random.split(KEYS.demonstrations)
    draw = jax.jit(lambda params: answered(POLICY, params, TASK, problems_of(TASK, KEYS.problems, 600), key))
    made = np.asarray(last_try(draw(PARAMS)))
    for last in (0, 1, 2):
        shares = np.bincount(at[made == last], minlength=3) / (made == last).sum()
        np.testing.assert_allclose(shares, np.where(np.arange(3) <= last, 1 / (last + 1), 0.0), atol=0.08)


def last_chosen(found):
    return jnp.where(found.mask, found.turn, 0).max(1)


def test_there_are_no_more_refinements_than_tries():
    with pytest.raises(ValueError, match="count must be at most group_size = 4, got 5"):
        refinement.refined(TASK, SIZES, count=5)

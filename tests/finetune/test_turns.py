"""Several turns: transcripts, their cache and the forks of a prover, against passes that begin anew."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import END, Echo, FirstToken, bag

from envs.tokens import Turns
from metarl.finetune import Prover, Sampling, policies, sources
from metarl.finetune.policies import Prefix, answer_logits, evaluate_answers, sample
from metarl.finetune.sampling import answered, demonstrated, problems_of
from metarl.finetune.turns import mask_of, solved, tokens_drawn, turns_of
from metarl.finetune.utilities import cross_entropy
from metarl.types import Progress

COUNT, K, T = 24, 3, 3
TASK = Turns(FirstToken(), K)
POLICIES = {
    "bag": bag(TASK.num_tokens, 8, TASK.num_tokens),
    "transformer": policies.transformer(TASK.num_tokens, 8, 1, 2, TASK.prompt_length + TASK.answer_length + T),
}
PROBLEMS = problems_of(TASK, jax.random.key(1), COUNT)
GREEDY = Prover(1, 0.0)


@cache
def params_of(name):
    return jax.jit(POLICIES[name].init)(jax.random.key(4))


@cache
def played(name="bag", prover=None, task=TASK):
    draw = jax.jit(lambda params, key: answered(POLICIES[name], params, task, PROBLEMS, key, prover=prover))
    return draw(params_of(name), jax.random.key(2))


def frames(answers):
    return np.asarray(answers).reshape(len(answers), -1, T + 1)


def test_one_try_is_the_single_turn_bit_for_bit():
    single, one = played(task=FirstToken()), played(task=Turns(FirstToken(), 1))
    for name in ("answers", "mask", "old_log_prob", "entropy"):
        np.testing.assert_array_equal(getattr(one, name)[:, :T], getattr(single, name))
    for name in ("prompts", "reward", "correct", "prefix_length"):
        np.testing.assert_array_equal(getattr(one, name), getattr(single, name))
    assert not one.mask[:, T].any() and single.turn is None and 0 < single.correct.sum() < COUNT


@pytest.mark.parametrize("name", POLICIES)
def test_the_cache_remembers_all_that_was_said(name):
    """What sampling found of each token is what one pass over the whole transcript finds."""
    batch = played(name)
    judge = jax.jit(
        lambda params: evaluate_answers(POLICIES[name], params, batch.prompts, batch.answers, END, batch.mask)
    )
    found = judge(params_of(name))
    np.testing.assert_allclose(found.log_prob, batch.old_log_prob, atol=1e-4)
    np.testing.assert_allclose(found.entropy, batch.entropy, atol=1e-4)
    assert (batch.turn[batch.mask] > 0).sum() > 5 and (batch.old_log_prob < 0.0)[batch.mask].all()


def test_the_verifier_replies_to_each_try_and_a_right_one_is_the_last():
    batch = jax.device_get(played())
    for problem, rows, correct, earned in zip(
        np.asarray(PROBLEMS.token), frames(batch.answers), batch.correct, batch.reward, strict=True
    ):
        right = [row[0] == problem for row in rows]
        made = right.index(True) + 1 if any(right) else K
        assert rows[:made, -1].tolist() == [4 if x else 5 for x in right[:made]]  # after the four tokens of the task
        assert (rows[made:] == END).all()
        assert correct == any(right) == earned
    transcripts = jax.vmap(TASK.transcript)(PROBLEMS, frames(batch.answers)[..., :-1])
    np.testing.assert_array_equal(batch.answers, transcripts)
    assert 0 < batch.correct.sum() < COUNT


def test_the_mask_has_the_tokens_of_the_policy_alone():
    answers = jnp.array([[1, 2, END, 5, END, END, END, 5, 3, 3, 3, 4], [2, END, END, 4, *[END] * 8]])
    masks = [[1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0], [1, 1, *[0] * 10]]
    np.testing.assert_array_equal(mask_of(TASK, answers), np.array(masks, bool))
    np.testing.assert_array_equal(turns_of(TASK, 2)[1], np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(mask_of(Echo(), answers[:, :3]), np.array([[1, 1, 1], [1, 1, 0]], bool))
    batch = played()
    np.testing.assert_array_equal(mask_of(TASK, batch.answers), batch.mask)
    by_try = np.cumsum((frames(batch.answers)[..., -1] == 4), axis=1) > 0
    np.testing.assert_array_equal(solved(batch, K), by_try)


@pytest.mark.parametrize("name", POLICIES)
def test_forks_answer_as_the_policy_would_from_the_beginning(name):
    batch, without = played(name, GREEDY), played(name)
    np.testing.assert_array_equal(batch.answers, without.answers)  # forks change no transcript
    assert batch.success_if_stopped.shape == (COUNT, K) and without.success_if_stopped is None
    for made in range(1, K + 1):
        context = jnp.concatenate([batch.prompts, batch.answers[:, : made * (T + 1)]], 1)
        said = jax.jit(
            lambda params, context: sample(POLICIES[name], params, context, jax.random.key(0), T, END, 0.0).tokens
        )(params_of(name), context)
        right = np.asarray(said[:, 0] == PROBLEMS.token) | np.asarray(solved(batch, K))[:, made - 1]
        np.testing.assert_array_equal(batch.success_if_stopped[:, made - 1], right)
    by_try = np.asarray(batch.success_if_stopped)
    assert 0 < by_try[:, 0].sum() < COUNT and (by_try != solved(batch, K)).any()


def test_several_forks_are_averaged():
    success = np.asarray(played(prover=Prover(4)).success_if_stopped)
    assert set(np.unique(success)) <= {0.0, 0.25, 0.5, 0.75, 1.0} and (success % 1 != 0).any()
    np.testing.assert_array_equal(success[np.asarray(solved(played(), K))], 1.0)
    assert Prover(4).tokens(TASK) == 4 * K * T and tokens_drawn(TASK) == 3 * T and tokens_drawn(Echo()) == T


def test_a_forced_prefix_is_replied_to():
    shown = jax.jit(lambda key: demonstrated(TASK, PROBLEMS, key))(jax.random.key(3))
    length = jnp.arange(COUNT, dtype=jnp.int32) % (K * (T + 1) + 1)
    force = jax.jit(
        lambda params, prefix: answered(POLICIES["bag"], params, TASK, PROBLEMS, jax.random.key(2), 1.0, prefix)
    )
    batch = force(params_of("bag"), Prefix(shown.answers, length))
    forced = jnp.arange(TASK.answer_length) < length[:, None]
    np.testing.assert_array_equal(batch.answers[forced], shown.answers[forced])
    assert batch.correct[length == K * (T + 1)].all() and (batch.answers != shown.answers).any()


def test_sources_count_the_tokens_of_the_forks():
    sizes = Sampling(2, 4)
    assert sources.fresh(TASK, sizes).tokens_drawn == 8 * 9
    assert sources.proven(TASK, sizes, Prover(2)).tokens_drawn == 8 * (9 + 2 * 3 * 3)
    own = sources.proven(TASK, sizes)
    assert own.tokens_drawn == 8 * 9
    keys = sources.Keys(*jax.random.split(jax.random.key(0), 3))
    draw = jax.jit(lambda params: own.sample(POLICIES["bag"], params, (), Progress(0, 1), keys))
    batch = draw(params_of("bag"))
    np.testing.assert_array_equal(batch.success_if_stopped, solved(batch, K))


def test_the_utility_of_demonstrations_is_of_the_tokens_of_the_policy_alone():
    estimate = jax.jit(lambda params, key: cross_entropy(TASK, COUNT).estimate(POLICIES["bag"], params, key)[1])
    problem_key, shown_key = jax.random.split(jax.random.key(0))
    shown = demonstrated(TASK, problems_of(TASK, problem_key, COUNT), shown_key)
    logits = jax.jit(answer_logits, static_argnums=0)(POLICIES["bag"], params_of("bag"), shown.prompts, shown.answers)
    log_prob = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(shown.answers)[..., None], -1)
    expected = log_prob[..., 0][np.asarray(shown.mask)].mean()
    assert estimate(params_of("bag"), jax.random.key(0)) == pytest.approx(expected, rel=1e-4)


SHORT = policies.transformer(TASK.num_tokens, 8, 1, 2, TASK.prompt_length + TASK.answer_length)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Prover(0), "forks"),
        (lambda: Prover(2, 0.0), "forks must be 1 at temperature 0, where all are alike, got 2"),
        (lambda: Prover(1, -1.0), "temperature"),
        (
            lambda: answered(POLICIES["bag"], params_of("bag"), Echo(), PROBLEMS, jax.random.key(0), prover=GREEDY),
            "a prover needs a task of several tries, got Echo",
        ),
        (lambda: solved(played(task=FirstToken()), 1), "tries need batch.turn"),
        (
            lambda: jax.eval_shape(
                lambda: answered(SHORT, SHORT.init(jax.random.key(0)), TASK, PROBLEMS, jax.random.key(0), prover=GREEDY)
            ),
            "prompt and answer together, must be at most max_length=13 tokens long, got 15",
        ),
        (
            lambda: jax.eval_shape(
                lambda: answered(
                    SHORT, SHORT.init(jax.random.key(0)), Turns(FirstToken(), 4), PROBLEMS, jax.random.key(0)
                )
            ),
            "must be at most max_length=13 tokens long, got 17",
        ),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()

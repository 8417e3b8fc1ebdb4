"""Tasks made of other tasks: problems, prompts and verdicts are those of the right one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import POLICY, Echo, FirstToken, Problem

from metarl.finetune import Sampling, sources
from metarl.finetune.sources import Keys
from metarl.finetune.tasks import Abstaining, Categories, Judged, Judging, Pool, solvable
from metarl.types import Progress

ANSWER = jnp.array([2, 1, 0])  # the first token is right of problem 2, the whole is not


def test_each_problem_is_judged_by_its_own_task():
    task = Categories((Echo(), FirstToken()))
    for category, reward in ((0, 0.3), (1, 1.0)):
        problem = task.sample_of(jax.random.key(0), jnp.int32(category))._replace(problem=Problem(jnp.int32(2)))
        verdict = jax.jit(task.verify)(problem, ANSWER)
        assert float(verdict.reward) == pytest.approx(reward) and bool(verdict.correct) == (category == 1)
        assert task.prompt(problem).tolist() == [2]
        assert task.demonstrate(jax.random.key(0), problem).tolist() == [2, 2, 0]
    seen = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(1), 400)).category
    assert float(seen.mean()) == pytest.approx(0.5, abs=0.08)


class Longer(Echo):
    prompt_length = 2


class Other(Echo):
    def sample(self, key):
        return (super().sample(key),)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Categories(()), r"tasks must be one or more, got \(\)"),
        (lambda: Categories((Echo(), Longer())), r"tasks must have the same prompt_length, got \[1, 2\]"),
        (lambda: Categories((Echo(), Other())), "tasks must have problems of one shape"),
        (lambda: Pool(Echo(), Problem(jnp.arange(3)), jnp.ones(2)), r"a weight for each problem, got 2 for \[3\]"),
    ],
)
def test_parts_must_fit(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_pool_has_its_problems_as_often_as_their_weights_say():
    problems = Problem(jnp.array([3, 1, 2]))
    seen = jax.vmap(Pool(Echo(), problems, jnp.array([0.0, 1.0, 3.0])).sample)(jax.random.split(jax.random.key(0), 600))
    assert set(seen.token.tolist()) == {1, 2}
    assert float((seen.token == 2).mean()) == pytest.approx(0.75, abs=0.06)
    none = jax.vmap(Pool(Echo(), problems, jnp.zeros(3)).sample)(jax.random.split(jax.random.key(0), 600))
    assert set(none.token.tolist()) == {1, 2, 3}


def test_solvable_problems_are_those_with_a_correct_answer():
    """A policy that always says 2, and one that is uniform."""
    problems = Problem(jnp.array([1, 2, 3]))

    def says(logits):
        return POLICY._replace(
            apply=lambda params, tokens: jnp.tile(logits, (len(tokens), 1)),
            prefill=lambda params, prompt, room: (logits, jnp.zeros(1)),
            decode=lambda params, cache, token: (logits, cache),
        )

    @jax.jit
    def found(logits):
        return solvable(says(logits), (), FirstToken(), problems, jax.random.key(0), 64)

    assert found(50.0 * jax.nn.one_hot(2, 4)).tolist() == [0.0, 1.0, 0.0]
    assert found(jnp.zeros(4)).tolist() == [1.0] * 3


def test_abstaining_is_worth_more_than_guessing_wrong():
    task = Abstaining(FirstToken())
    problem = Problem(jnp.int32(2))
    for answer, reward, kind in (([2, 1, 0], 1.0, "right"), ([1, 1, 0], -1.0, "wrong"), ([0, 2, 0], 0.0, "abstained")):
        verdict = task.verify(problem, jnp.array(answer))
        assert verdict.reward == reward and task.kinds[int(verdict.kind)] == kind
        assert bool(verdict.correct) == (reward == 1.0)


@pytest.mark.parametrize("p", [0.4, 0.6])
def test_a_policy_should_answer_where_it_is_right_more_often_than_not(p):
    """Rewards of `p` right answers and `1 - p` wrong ones, against the 0 of none."""
    task, problem = Abstaining(FirstToken()), Problem(jnp.int32(2))
    right, wrong = (task.verify(problem, jnp.array([token, 0, 0])).reward for token in (2, 1))
    assert (p * right + (1 - p) * wrong > 0.0) == (p > 0.5)


def test_answers_branch_off_a_demonstration_at_equal_distances():
    source = sources.branched(Echo(says=3), Sampling(4, 3))
    keys = Keys(*jax.random.split(jax.random.key(0), 3))
    params, progress = POLICY.init(jax.random.key(1)), Progress(jnp.int32(0), jnp.int32(1))
    x = jax.device_get(jax.jit(lambda: source.sample(POLICY, params, (), progress, keys))())
    np.testing.assert_array_equal(x.prefix_length.reshape(4, 3), [[0, 1, 2]] * 4)
    answers = x.answers.reshape(4, 3, 3)
    assert (answers[:, 1, 0] == 3).all() and (answers[:, 2, :2] == 3).all()
    assert (x.prompts.reshape(4, 3) == x.prompts.reshape(4, 3)[:, :1]).all()


def test_half_of_the_problems_are_those_that_failed():
    source = sources.failed_first(Echo(), Sampling(8, 2), capacity=3)
    state = source.init(jax.random.key(0))._replace(problems=Problem(jnp.array([7, 7, 7])))
    keys = Keys(*jax.random.split(jax.random.key(0), 3))
    params, progress = POLICY.init(jax.random.key(1)), Progress(jnp.int32(0), jnp.int32(1))
    x = jax.device_get(jax.jit(lambda: source.sample(POLICY, params, state, progress, keys))())
    assert (x.problem.token[:8] == 7).all() and (x.problem.token[8:] != 7).all()


def test_answers_are_judged_in_a_share_of_the_prompts():
    task = Judging(Echo(), 0.3)
    problems = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(0), 600))
    prompts = np.asarray(jax.vmap(task.prompt)(problems))
    answer, token, to_solve = prompts[:, 1:], prompts[:, 0], np.asarray(problems.to_solve)
    assert (~to_solve).mean() == pytest.approx(0.3, abs=0.06)
    assert (answer[to_solve] == 0).all()
    judged, asked = answer[~to_solve], token[~to_solve]
    right = (judged == np.stack([asked, asked, 0 * asked], 1)).all(1)
    np.testing.assert_array_equal(right, np.asarray(problems.correct)[~to_solve])
    assert right.mean() == pytest.approx(2 / 3, abs=0.1)  # a third of the others has the same answer
    for problem in (1, 2, 3):
        assert {tuple(x) for x in judged[asked == problem]} == {(1, 1, 0), (2, 2, 0), (3, 3, 0)}


def test_judgements_are_right_or_wrong():
    task = Judging(Echo(), 1.0)
    assert (task.num_tokens, task.prompt_length, task.yes) == (6, 4, 4)
    wrong = Judged(Problem(jnp.int32(2)), ANSWER, jnp.bool_(False), jnp.bool_(False))
    for said, reward, kind in (([5, 0, 0], 1.0, 2), ([4, 0, 0], 0.0, 3), ([5, 5, 0], 0.0, 3), ([2, 2, 0], 0.0, 3)):
        verdict = task.verify(wrong, jnp.array(said))
        assert (float(verdict.reward), bool(verdict.correct), int(verdict.kind)) == (reward, reward == 1.0, kind)
    assert task.demonstrate(jax.random.key(0), wrong).tolist() == [5, 0, 0]
    solved = wrong._replace(to_solve=jnp.bool_(True))
    assert task.demonstrate(jax.random.key(0), solved).tolist() == [2, 2, 0]
    assert float(task.verify(solved, jnp.array([2, 1, 0])).reward) == pytest.approx(0.3)
    assert int(task.verify(solved, jnp.array([2, 2, 0])).kind) == 0
    with pytest.raises(ValueError, match="share"):
        Judging(Echo(), 1.5)
    short = Echo()
    short.answer_length = 1
    with pytest.raises(ValueError, match="room for 2 tokens, got answer_length 1"):
        Judging(short)

"""Tasks of several tries: demonstrations with corrections, hints, and the same verifier in the environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.tokens import GeneralPoints, HintedSorting, Sorting, TokenEnv, Turns
from envs.tokens.digits import BLANK, END, Unsorted

K = 4
TASK = Turns(HintedSorting(3, 4, room=4), K, mistakes=0.8)
T = TASK.try_length


def test_a_hint_is_the_place_of_the_first_wrong_token():
    task, plain = HintedSorting(2, 4, room=4), Sorting(2, 4, room=4)
    problem = Unsorted(jnp.array([3, 1, 2, BLANK]))
    answers = {
        (1, 2, 3, END, END): 0,
        (1, 2, 3, END, 7): 0,  # what comes after the end is ignored
        (3, 1, 2, END, END): 1,
        (1, 3, 2, END, END): 2,
        (1, 2, END, 3, END): 3,
        (1, 2, 3, 3, END): 4,
        (1, 2, 3, END - 1, 1): 4,
        (END, END, END, END, END): 1,
    }
    for answer, kind in answers.items():
        verdict, without = (x.verify(problem, jnp.array(answer)) for x in (task, plain))
        assert (verdict.kind, verdict.correct, verdict.reward) == (kind, without.correct, without.reward), answer
    assert len(task.kinds) == 6 and task.kinds[0] == "correct" and task.kinds[4] == "wrong from token 4 on"


@pytest.fixture(scope="module")
def shown():
    """Problems and the tries [256, K, T + 1] of their demonstrations."""
    keys = jax.random.split(jax.random.key(0), 256)
    problems = jax.vmap(TASK.sample)(keys)
    answers = jax.jit(jax.vmap(TASK.demonstrate))(keys, problems)
    verdicts = jax.jit(jax.vmap(TASK.verify))(problems, answers)
    return problems, np.asarray(answers).reshape(256, K, T + 1), verdicts


def test_demonstrations_err_and_correct_themselves(shown):
    problems, tries, verdicts = shown
    assert verdicts.correct.all() and (verdicts.reward == 1.0).all() and (verdicts.kind == 0).all()
    solutions = np.asarray(jax.vmap(TASK.task.demonstrate, (None, 0))(jax.random.key(0), problems))
    made = []
    for solution, rows in zip(solutions, tries, strict=True):
        wrong = [int(np.argmax(row[:T] != solution)) for row in rows if (row[:T] != solution).any() and row[-1] != END]
        assert all(a < b for a, b in zip(wrong, wrong[1:], strict=False))  # what was hinted at is put right
        assert [row[-1] - TASK.task.num_tokens for row in rows[: len(wrong)]] == [x + 1 for x in wrong]
        assert (rows[len(wrong), :T] == solution).all() and rows[len(wrong), -1] == TASK.task.num_tokens
        assert (rows[len(wrong) + 1 :] == END).all()
        assert all(sorted(row[:T]) == sorted(solution) for row in rows[: len(wrong)])
        made.append(len(wrong))
    assert 0.3 < np.mean(np.array(made) > 0) < 0.8  # fewer than the mistakes: a shuffle may change nothing
    assert np.mean(np.array(made) > 1) > 0.02
    never = Turns(TASK.task, K, mistakes=0.0)
    problem = jax.tree.map(lambda x: x[0], problems)
    assert never.demonstrate(jax.random.key(1), problem)[T + 1 :].tolist() == [END] * ((K - 1) * (T + 1))


@pytest.mark.parametrize("task", [TASK, Turns(GeneralPoints(), 3)])
def test_the_environment_has_the_same_verifier(task):
    """Tries of a transcript, played token by token: the same replies, and the return is the reward."""
    env = TokenEnv(task.task, task.tries)
    keys = jax.random.split(jax.random.key(3), 6)
    step = jax.jit(env.step)
    returns = []
    for key in keys:
        problem = task.sample(key)
        # some tries of another problem: legal, and most often wrong
        tries = jnp.stack([task.task.demonstrate(k, task.sample(k)) for k in jax.random.split(key, task.tries)])
        if len(returns) % 2:
            tries = tries.at[1].set(task.task.demonstrate(key, problem))
        transcript = task.transcript(problem, tries)
        verdict = task.verify(problem, transcript)
        frames = np.asarray(transcript).reshape(task.tries, -1)
        said = [row for row in frames if row[-1] != task.end]
        tokens = [x for row in said for x in row[:-1][: int(np.argmax(row[:-1] == task.end)) + 1]]
        _, state = env.reset(key, problem)
        total, done = 0.0, False
        for token in tokens:
            assert not done
            _, state, reward, done, _, info = step(key, state, jnp.int32(token), problem)
            total += float(reward)
        assert done and total == pytest.approx(float(verdict.reward))
        replies = [x for x in info["final_observation"].tolist() if task.task.num_tokens <= x < env.padding]
        assert replies == [row[-1] for row in said]
        returns.append(total)
    assert len(set(returns)) > 1


def test_what_has_several_tries_is_not_given_more():
    for make in (lambda: Turns(TASK), lambda: TokenEnv(TASK)):
        with pytest.raises(ValueError, match="task must have one try"):
            make()
    with pytest.raises(ValueError, match="tries"):
        Turns(TASK.task, 0)
    with pytest.raises(ValueError, match="mistakes"):
        Turns(TASK.task, mistakes=1.5)

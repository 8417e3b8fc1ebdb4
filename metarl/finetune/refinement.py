"""Learning from one's own second tries: refinements after a critique, and answers that improve on what was said.

    refined(turns, sampling)     Critique-GRPO: an answer that was improved after the verifier's reply is shown to a
                                 policy that has seen no reply, beside its own; with the loss `losses.shaped`
    improved(turns, sampling)    RISE: from a state of the policy's own transcript, several next tries; with
                                 `credit.best_of`, which imitates the best

Both need a task whose verifier replies (`envs.tokens.Turns`).
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, checked
from metarl.finetune.batch import Batch
from metarl.finetune.policies import Prefix, SequencePolicy
from metarl.finetune.sampling import Sampling, answered, problems_of
from metarl.finetune.sources import Keys, Source, keep, no_state
from metarl.finetune.turns import last_try, solved
from metarl.tree import repeated, select
from metarl.types import Array, Params, Progress, PyTree, TurnTask


@checked
def refined(
    task: TurnTask,
    sampling: Sampling = Sampling(),  # noqa: B008
    count: Annotated[int, COUNT] = 1,
) -> Source:
    """Groups of first tries, and `count` second tries as answers of the same group (Critique-GRPO; Zhang et al. 2025,
    arXiv 2506.03106).

    The policy answers, reads the verifier's reply, and answers again. Of the second tries in a group the right ones are
    taken first. They stand as answers to the *prompt*, which no reply preceded, so they count as forced, and
    `losses.shaped` says how much they move a policy that would hardly say them. Where there are fewer second tries than
    `count`, first ones, which are right, take their places: they have no tokens to learn, but count in their group's
    mean. The paper's credit is `credit.dr_grpo`.

    The source's task is `task` with one try (`tries` must be a field of it), and its groups have
    `sampling.group_size + count` answers. `old_log_prob` of refinements is that with the reply. Raises ValueError if
    `count` is above `sampling.group_size`.
    """
    size, problems = sampling.group_size, sampling.num_problems
    if count > size:
        raise ValueError(f"count must be at most group_size = {size}, got {count}")
    one, two = (dataclasses.replace(task, tries=tries) for tries in (1, 2))  # type: ignore[type-var]

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        posed = problems_of(two, keys.problems, problems, size)
        played = answered(policy, params, two, posed, keys.answers, sampling.temperature)
        again = ~solved(played, 2)[:, 0]  # there was a second try
        first, second = (_try(one, played, i) for i in (0, 1))
        second = select(again, second, first)
        second = second._replace(
            mask=second.mask & again[:, None],
            prefix_length=jnp.full_like(second.prefix_length, one.answer_length),
        )
        worth = (again & second.correct).astype(jnp.int32) + again
        rows = jnp.argsort(-worth.reshape(problems, size), axis=1)[:, :count] + jnp.arange(problems)[:, None] * size

        def joined(x: Array, y: Array) -> Array:
            x, y = x.reshape(problems, size, *x.shape[1:]), y[rows]
            return jnp.concatenate([x, y], 1).reshape(-1, *x.shape[2:])

        return jax.tree.map(joined, first, second)

    drawn_again = problems * size * task.try_length
    return Source(one, problems, size + count, sampling, no_state, sample, keep, forked=drawn_again)


def _try(one: TurnTask, played: Batch, which: int) -> Batch:
    """The tries number `which` of transcripts of two, as transcripts of `one`."""

    def frame(x: Array) -> Array:
        return x.reshape(len(x), 2, -1)[:, which]

    assert played.entropy is not None  # the policy drew them
    verdict = jax.vmap(one.verify)(played.problem, frame(played.answers))
    return Batch(
        prompts=played.prompts,
        answers=frame(played.answers),
        mask=frame(played.mask),
        old_log_prob=frame(played.old_log_prob),
        reward=verdict.reward,
        correct=verdict.correct,
        prefix_length=played.prefix_length,
        problem=played.problem,
        entropy=frame(played.entropy),
        turn=jnp.zeros_like(frame(played.answers)),
    )


def improved(task: TurnTask, sampling: Sampling = Sampling()) -> Source:  # noqa: B008
    """Groups of next tries from states of the policy's own transcripts (RISE; Qu et al. 2024, arXiv 2407.18219).

    For each problem the policy plays one transcript. One of its tries is chosen, all alike, and the policy makes it
    anew, once for each answer of the group: the state, so the tries and replies before, is the same for all of them.
    Only the tokens of that try are in the mask, and the reward is 1 if it is right. With `credit.best_of` the policy
    imitates the best next try that it found itself, and learns nothing where all are alike. With
    `credit.reward_weighted` it imitates all of them, also in groups where none is right. (The paper imitates the best
    one, with the weight `exp(reward / tau)`.)

    What comes before that try and after it is played again for each answer, and not used: of the tokens that count as
    drawn, one try is learned from.
    """
    frame = task.try_length + 1

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        transcript_key, choice_key = jax.random.split(keys.demonstrations)
        once = problems_of(task, keys.problems, sampling.num_problems)
        played = answered(policy, params, task, once, transcript_key, sampling.temperature)
        at = jax.random.randint(choice_key, (sampling.num_problems,), 0, last_try(played) + 1)
        posed, begun, at = repeated((once, Prefix(played.answers, at * frame), at), sampling.group_size)
        batch = answered(policy, params, task, posed, keys.answers, sampling.temperature, begun)
        right = jnp.take_along_axis(solved(batch, task.tries), at[:, None], 1)[:, 0]
        assert batch.turn is not None  # there are tries
        return batch._replace(
            mask=batch.mask & (batch.turn == at[:, None]),
            reward=right.astype(batch.reward.dtype),
            correct=right,
            prefix_length=jnp.zeros_like(at),  # nothing in the mask is forced
        )

    played_first = sampling.num_problems * task.tries * task.try_length
    sizes = sampling.num_problems, sampling.group_size
    return Source(task, *sizes, sampling, no_state, sample, keep, forked=played_first)

"""Sources: which problems a training step poses, and which answers to them it learns from.

Each function here returns a `Source`. `fresh`, `prefixed`, `branched` and `failed_first` let the policy answer;
`demonstrations` and `failures` show how it is done. `metarl.finetune.categories` chooses among kinds of problems.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, FACTOR, SHARE, checked
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import Weights, cosine, elapsed
from metarl.finetune.policies import Prefix, SequencePolicy
from metarl.finetune.sampling import Sampling, answered, demonstrate, demonstrated, problems_of
from metarl.finetune.turns import Prover, mask_of, solved
from metarl.tree import lot, repeated, select
from metarl.types import Array, Key, Params, Progress, PyTree, TokenTask, TurnTask


class Keys(NamedTuple):
    """One key for each thing in a batch that is random."""

    problems: Key
    demonstrations: Key
    answers: Key


class Outcome(NamedTuple):
    """What a step has found, for sources that learn from it."""

    answers: Batch  # that the policy drew
    group_size: int  # answers to each problem
    advantage: Array  # [B, T] of their tokens
    weights: Weights  # of imitation and reward, means over the step


class Source(NamedTuple):
    """Problems and answers to them. Pure functions; what a source remembers between steps is its state."""

    task: TokenTask
    num_problems: int  # in a batch
    group_size: int  # answers to each problem
    sampling: Sampling | None  # how the policy draws the answers; None for demonstrations, which it does not draw
    init: Callable[[Key], PyTree]  # state
    sample: Callable[[SequencePolicy, Params, PyTree, Progress, Keys], Batch]  # of `num_problems * group_size` answers
    update: Callable[[PyTree, Outcome], PyTree]  # the next state
    # state -> () int32, failed problems gathered since the last step of imitation; None for sources that gather none
    gathered: Callable[[PyTree], Array] | None = None
    forked: int = 0  # tokens that the policy draws besides its answers, in a batch: for a prover, or to find states

    @property
    def tokens_drawn(self) -> int:
        """Tokens that the policy draws for a batch, those after the ends of answers included."""
        return self.forked + (0 if self.sampling is None else self.sampling.tokens(self.task))


# --- answers of the policy ------------------------------------------------------------------------------------


def fresh(task: TokenTask, sampling: Sampling = Sampling()) -> Source:  # noqa: B008
    """Answers of the policy to fresh problems."""

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        problems = problems_of(task, keys.problems, sampling.num_problems, sampling.group_size)
        return answered(policy, params, task, problems, keys.answers, sampling.temperature)

    return Source(task, sampling.num_problems, sampling.group_size, sampling, no_state, sample, keep)


def proven(task: TurnTask, sampling: Sampling = Sampling(), prover: Prover | None = None) -> Source:  # noqa: B008
    """As `fresh`, for tasks of several tries: with the batch's `success_if_stopped`, for the credit of progress.

    Without a `prover` the last try is the last answer, and success is whether the problem is solved. That draws no
    tokens.
    """

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        problems = problems_of(task, keys.problems, sampling.num_problems, sampling.group_size)
        batch = answered(policy, params, task, problems, keys.answers, sampling.temperature, prover=prover)
        if prover is None:
            batch = batch._replace(success_if_stopped=solved(batch, task.tries).astype(batch.reward.dtype))
        return batch

    forked = 0 if prover is None else sampling.num_problems * sampling.group_size * prover.tokens(task)
    source = Source(task, sampling.num_problems, sampling.group_size, sampling, no_state, sample, keep)
    return source._replace(forked=forked)


@checked
def prefixed(
    task: TokenTask,
    sampling: Sampling = Sampling(),  # noqa: B008
    *,
    first: Annotated[float, SHARE] = 0.95,
    last: Annotated[float, SHARE] = 0.0,
    most: Annotated[float, FACTOR] = 0.95,
    share: Annotated[Array | float, SHARE] = 1.0,
) -> Source:
    """Prefix-RFT (Huang et al. 2025, arXiv 2507.01679): the last answer of each group continues a demonstration.

    The prefix is a share of the demonstration's tokens, rounded down. The share is drawn uniformly between a least
    one, which falls from `first` to `last` along half a period of a cosine over the training, and `most`. Where a
    problem has no demonstration (only a `share` of them has, as in `demonstrations`) all answers are the policy's own.

    Raises ValueError for a share outside [0, 1], for a least share above `most`, or if `most` is 0.
    """
    if max(first, last) > most:
        raise ValueError(f"first and last must be at most most = {most}, got {first} and {last}")

    def prefix(problems: PyTree, progress: Progress, key: Key) -> Prefix:
        demonstration_key, share_key = jax.random.split(key)
        shown = demonstrate(task, problems, demonstration_key)
        least = cosine(first, last)(elapsed(progress))
        of_tokens = jax.random.uniform(share_key, (len(shown),), minval=least, maxval=most)
        length = jnp.floor(of_tokens * _extent(task, shown)).astype(jnp.int32)
        is_last = jnp.arange(len(shown)) % sampling.group_size == sampling.group_size - 1
        return Prefix(shown, jnp.where(is_last & _has_one(jax.vmap(task.prompt)(problems), share), length, 0))

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        problems = problems_of(task, keys.problems, sampling.num_problems, sampling.group_size)
        begun = prefix(problems, progress, keys.demonstrations)
        return answered(policy, params, task, problems, keys.answers, sampling.temperature, begun)

    return Source(task, sampling.num_problems, sampling.group_size, sampling, no_state, sample, keep)


def branched(task: TokenTask, sampling: Sampling = Sampling()) -> Source:  # noqa: B008
    """The answers of a group branch off one demonstration at equal distances: G answers keep 0, 1/G, .., (G-1)/G of it.

    The simulations of EEF (Lan et al. 2025, arXiv 2504.13145): a demonstration that fails in the end may begin well, so
    the policy goes on from states of it, and learns from the branches that succeed (with `credit.successes`).
    """

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        once = problems_of(task, keys.problems, sampling.num_problems)
        shown = demonstrate(task, once, keys.demonstrations)
        problems, shown = repeated((once, shown), sampling.group_size)
        place = jnp.arange(len(shown)) % sampling.group_size
        begun = Prefix(shown, _extent(task, shown) * place // sampling.group_size)
        return answered(policy, params, task, problems, keys.answers, sampling.temperature, begun)

    return Source(task, sampling.num_problems, sampling.group_size, sampling, no_state, sample, keep)


@checked
def failed_first(
    task: TokenTask,
    sampling: Sampling = Sampling(),  # noqa: B008
    capacity: Annotated[int, COUNT] = 64,
) -> Source:
    """Answers to problems half of which are drawn from the last `capacity` ones of which no answer was right.

    The others are fresh. A baseline of curricula: what has failed comes again, whether or not it can be learned yet.
    Raises ValueError if `capacity` is below 1.
    """

    def init(key: Key) -> Failures:
        return Failures(problems_of(task, key, capacity), jnp.int32(0))

    def sample(policy: SequencePolicy, params: Params, state: Failures, progress: Progress, keys: Keys) -> Batch:
        fresh_key, row_key = jax.random.split(keys.problems)
        problems = problems_of(task, fresh_key, sampling.num_problems)
        rows = jax.random.randint(row_key, (sampling.num_problems,), 0, capacity)
        again = jnp.arange(sampling.num_problems) < sampling.num_problems // 2
        problems = select(again, jax.tree.map(lambda x: x[rows], state.problems), problems)
        problems = repeated(problems, sampling.group_size)
        return answered(policy, params, task, problems, keys.answers, sampling.temperature)

    def update(state: Failures, outcome: Outcome) -> Failures:
        return _remember(state, outcome.answers, outcome.group_size)

    return Source(task, sampling.num_problems, sampling.group_size, sampling, init, sample, update)


# --- demonstrations -------------------------------------------------------------------------------------------


@checked
def demonstrations(
    task: TokenTask, count: Annotated[int, COUNT] = 64, share: Annotated[Array | float, SHARE] = 1.0
) -> Source:
    """Demonstrations of `count` fresh problems, those of them that have one.

    Only a `share` of all problems has a demonstration, always the same ones: the others are left out by the mask.
    Raises ValueError if `count` is below 1 or `share` outside [0, 1].
    """

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        return _shown(task, problems_of(task, keys.problems, count), keys.demonstrations, share)

    return Source(task, count, 1, None, no_state, sample, keep)


class Failures(NamedTuple):
    """The state of `failures` and `failed_first`."""

    problems: PyTree  # leaves [capacity, ...], the last ones that were failed; at first some at random
    gathered: Array  # () int32, how many since the last step that learned by imitation


@checked
def failures(
    task: TokenTask, capacity: Annotated[int, COUNT] = 64, share: Annotated[Array | float, SHARE] = 1.0
) -> Source:
    """Demonstrations of the last `capacity` problems of which the policy solved no answer of the group.

    The buffer of ReLIFT (Ma et al. 2025, arXiv 2506.07527), for the controller `success_gate`. It begins with problems
    at random. Only a `share` of all problems has a demonstration, as in `demonstrations`; the others are not gathered.
    Raises ValueError if `capacity` is below 1 or `share` outside [0, 1].
    """

    def init(key: Key) -> Failures:
        return Failures(problems_of(task, key, capacity), jnp.int32(0))

    def sample(policy: SequencePolicy, params: Params, state: Failures, progress: Progress, keys: Keys) -> Batch:
        return _shown(task, state.problems, keys.demonstrations, share)

    def update(state: Failures, outcome: Outcome) -> Failures:
        state = state._replace(gathered=jnp.where(outcome.weights.imitation > 0.0, 0, state.gathered))
        answers = outcome.answers
        return _remember(state, answers, outcome.group_size, _has_one(answers.prompts, share))

    return Source(task, capacity, 1, None, init, sample, update, lambda state: state.gathered)


def _has_one(prompts: Array, share: Array | float) -> Array:
    """Which of the prompts [B, P] are of the `share` that has a demonstration, [B] bool."""
    return jax.vmap(lot)(prompts) < share


def _shown(task: TokenTask, problems: PyTree, key: Key, share: Array | float) -> Batch:
    """Demonstrations of the problems, leaves [B, ...]; those that have none are left out by the mask."""
    shown = demonstrated(task, problems, key)
    return shown._replace(mask=shown.mask & _has_one(shown.prompts, share)[:, None])


def _remember(state: Failures, answers: Batch, group_size: int, counts: Array | bool = True) -> Failures:
    """Puts the problems that no answer solved in the places of the oldest, those of the answers that count [B]."""
    capacity = len(jax.tree.leaves(state.problems)[0])
    failed = (~answers.correct & counts).reshape(-1, group_size).all(1)
    place = jnp.where(failed, (state.gathered + jnp.cumsum(failed) - 1) % capacity, capacity)
    new = jax.tree.map(lambda x: x[::group_size], answers.problem)
    stored = jax.tree.map(lambda x, y: x.at[place].set(y, mode="drop"), state.problems, new)
    return Failures(stored, state.gathered + failed.sum(dtype=jnp.int32))


def _extent(task: TokenTask, shown: Array) -> Array:
    """How many tokens [B] int32 of each of the demonstrations [B, L] there are, up to the end of the last try."""
    return jnp.where(mask_of(task, shown), jnp.arange(1, shown.shape[1] + 1), 0).max(1)


def no_state(key: Key) -> PyTree:
    """The state of sources that remember nothing."""
    return ()


def keep(state: PyTree, outcome: Outcome) -> PyTree:
    """The next state of sources that learn nothing."""
    return state

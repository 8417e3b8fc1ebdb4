"""Sources: which problems a training step poses, and which answers to them it learns from.

Each function here returns a `Source`. `fresh` and `prefixed` let the policy answer; `demonstrations` and `failures`
show how it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, FACTOR, SHARE, checked
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import Weights, cosine, elapsed
from metarl.finetune.policies import Prefix, SequencePolicy, until_end
from metarl.finetune.sampling import Sampling, answered, demonstrate, demonstrated, problems_of
from metarl.tree import lot
from metarl.types import Array, Key, Params, Progress, PyTree, TokenTask


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

    @property
    def tokens_drawn(self) -> int:
        """Tokens that the policy draws for a batch, those after the ends of answers included."""
        return 0 if self.sampling is None else self.sampling.tokens(self.task)


# --- answers of the policy ------------------------------------------------------------------------------------


def fresh(task: TokenTask, sampling: Sampling = Sampling()) -> Source:  # noqa: B008
    """Answers of the policy to fresh problems."""

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        problems = problems_of(task, keys.problems, sampling.num_problems, sampling.group_size)
        return answered(policy, params, task, problems, keys.answers, sampling.temperature)

    return Source(task, sampling.num_problems, sampling.group_size, sampling, _no_state, sample, _keep)


@checked
def prefixed(
    task: TokenTask,
    sampling: Sampling = Sampling(),  # noqa: B008
    *,
    first: Annotated[float, SHARE] = 0.95,
    last: Annotated[float, SHARE] = 0.0,
    most: Annotated[float, FACTOR] = 0.95,
) -> Source:
    """Prefix-RFT (Huang et al. 2025, arXiv 2507.01679): the last answer of each group continues a demonstration.

    The prefix is a share of the demonstration's tokens, rounded down. The share is drawn uniformly between a least
    one, which falls from `first` to `last` along half a period of a cosine over the training, and `most`.

    Raises ValueError for a share outside [0, 1], for a least share above `most`, or if `most` is 0.
    """
    if max(first, last) > most:
        raise ValueError(f"first and last must be at most most = {most}, got {first} and {last}")

    def prefix(problems: PyTree, progress: Progress, key: Key) -> Prefix:
        demonstration_key, share_key = jax.random.split(key)
        shown = demonstrate(task, problems, demonstration_key)
        least = cosine(first, last)(elapsed(progress))
        share = jax.random.uniform(share_key, (len(shown),), minval=least, maxval=most)
        length = jnp.floor(share * until_end(shown, task.end).sum(1)).astype(jnp.int32)
        is_last = jnp.arange(len(shown)) % sampling.group_size == sampling.group_size - 1
        return Prefix(shown, jnp.where(is_last, length, 0))

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        problems = problems_of(task, keys.problems, sampling.num_problems, sampling.group_size)
        begun = prefix(problems, progress, keys.demonstrations)
        return answered(policy, params, task, problems, keys.answers, sampling.temperature, begun)

    return Source(task, sampling.num_problems, sampling.group_size, sampling, _no_state, sample, _keep)


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
        shown = demonstrated(task, problems_of(task, keys.problems, count), keys.demonstrations)
        has_one = jax.vmap(lot)(shown.prompts) < share
        return shown._replace(mask=shown.mask & has_one[:, None])

    return Source(task, count, 1, None, _no_state, sample, _keep)


class Failures(NamedTuple):
    """The state of `failures`."""

    problems: PyTree  # leaves [capacity, ...], the last ones that were failed
    gathered: Array  # () int32, how many since the last step of imitation


@checked
def failures(task: TokenTask, capacity: Annotated[int, COUNT] = 64) -> Source:
    """Demonstrations of the last `capacity` problems of which the policy solved no answer of the group.

    The buffer of ReLIFT (Ma et al. 2025, arXiv 2506.07527), for the controller `success_gate`. It begins with problems
    at random. Raises ValueError if `capacity` is below 1.
    """

    def init(key: Key) -> Failures:
        return Failures(problems_of(task, key, capacity), jnp.int32(0))

    def sample(policy: SequencePolicy, params: Params, state: Failures, progress: Progress, keys: Keys) -> Batch:
        return demonstrated(task, state.problems, keys.demonstrations)

    def update(state: Failures, outcome: Outcome) -> Failures:
        state = state._replace(gathered=jnp.where(outcome.weights.imitation > 0.0, 0, state.gathered))
        return _remember(state, outcome.answers, outcome.group_size)

    return Source(task, capacity, 1, None, init, sample, update, lambda state: state.gathered)


def _remember(state: Failures, answers: Batch, group_size: int) -> Failures:
    """Puts the problems that no answer solved in the places of the oldest."""
    capacity = len(jax.tree.leaves(state.problems)[0])
    failed = ~answers.correct.reshape(-1, group_size).any(1)
    place = jnp.where(failed, (state.gathered + jnp.cumsum(failed) - 1) % capacity, capacity)
    new = jax.tree.map(lambda x: x[::group_size], answers.problem)
    stored = jax.tree.map(lambda x, y: x.at[place].set(y, mode="drop"), state.problems, new)
    return Failures(stored, state.gathered + failed.sum(dtype=jnp.int32))


def _no_state(key: Key) -> PyTree:
    return ()


def _keep(state: PyTree, outcome: Outcome) -> PyTree:
    return state

"""Tasks made of other tasks: several kinds of problems in one, a given set of problems, answers that may abstain, and
answers that are to be judged.

All are a `metarl.types.TokenTask`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import SHARE
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sampling import answered
from metarl.tree import repeated, select
from metarl.types import Array, DerivedTask, Key, Params, PyTree, TokenTask, Verdict

# --- several kinds of problems --------------------------------------------------------------------------------


class Categorised(NamedTuple):
    """A problem of `Categories`."""

    category: Array  # () int32
    problem: PyTree  # of that task


@dataclass(frozen=True)
class Categories(DerivedTask):
    """Problems of C tasks, equally likely, that know which task they are of.

    `categories.categorised` chooses among them.

    The tasks have one vocabulary, and prompts, answers, verdicts and problems of one shape, as Countdown with two,
    three and four numbers has. Raises ValueError if there are none, or if they differ in any of these.
    """

    tasks: tuple[TokenTask, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks must be one or more, got ()")
        super().__post_init__()
        for name in ("num_tokens", "end", "prompt_length", "answer_length", "kinds"):
            if len({getattr(task, name) for task in self.tasks}) > 1:
                raise ValueError(f"tasks must have the same {name}, got {[getattr(x, name) for x in self.tasks]}")
        shapes = [str(jax.eval_shape(task.sample, jax.random.key(0))) for task in self.tasks]
        if len(set(shapes)) > 1:
            raise ValueError(f"tasks must have problems of one shape, got {sorted(set(shapes))}")

    @property
    def task(self) -> TokenTask:  # type: ignore[override]
        """The first task, as which all others look."""
        return self.tasks[0]

    def sample(self, key: Key) -> Categorised:
        """A problem of any category."""
        category_key, key = jax.random.split(key)
        return self.sample_of(key, jax.random.randint(category_key, (), 0, len(self.tasks)))

    def sample_of(self, key: Key, category: Array) -> Categorised:
        """A problem of the `category` () int32."""
        return Categorised(category, jax.lax.switch(category, [task.sample for task in self.tasks], key))

    def prompt(self, problem: Categorised) -> Array:
        """The prompt of the problem."""
        return self._switch("prompt", problem.category, problem.problem)

    def demonstrate(self, key: Key, problem: Categorised) -> Array:
        """A correct answer to the problem."""
        return self._switch("demonstrate", problem.category, key, problem.problem)

    def verify(self, problem: Categorised, answer: Array) -> Verdict:
        """The verdict of the problem's task."""
        return self._switch("verify", problem.category, problem.problem, answer)

    def _switch(self, method: str, category: Array, *arguments: Any) -> Any:
        return jax.lax.switch(category, [getattr(task, method) for task in self.tasks], *arguments)


# --- a given set of problems ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pool(DerivedTask):
    """`task` with the given problems alone, each as likely as its weight says; all alike if all weights are 0.

    With the weights that `solvable` finds, this is the filter of RIF-RFT. Raises ValueError for other than one weight
    for each problem.
    """

    task: TokenTask
    problems: PyTree  # leaves [n, ...]
    weight: Array  # [n], at least 0

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = {len(x) for x in jax.tree.leaves(self.problems)}
        if rows != {len(self.weight)}:
            raise ValueError(f"there must be a weight for each problem, got {len(self.weight)} for {sorted(rows)}")

    def sample(self, key: Key) -> PyTree:
        """One of the problems."""
        weight = jnp.where(jnp.sum(self.weight) > 0.0, self.weight, 1.0)
        row = jax.random.categorical(key, jnp.log(weight))
        return jax.tree.map(lambda x: x[row], self.problems)


def solvable(
    policy: SequencePolicy, params: Params, task: TokenTask, problems: PyTree, key: Key, tries: int = 8
) -> Array:
    """Which of the problems (leaves [n, ...]) the policy solves at least once in `tries` answers, [n] float32 0 or 1.

    Rollout-based instance filtering (RIF-RFT; Lai et al. 2025, arXiv 2507.05386): problems that the policy never
    solves teach it nothing by reward, so they are left out.
    """
    correct = answered(policy, params, task, repeated(problems, tries), key).correct
    return correct.reshape(-1, tries).any(1).astype(jnp.float32)


# --- answers that may abstain ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Abstaining(DerivedTask):
    """`task` with the ternary reward of TruthRL (Wei et al. 2025, arXiv 2509.25760): right 1, wrong -1, no answer 0.

    A policy abstains by ending at once. Answering pays where it is right more often than not, and whoever is less sure
    than that had better abstain; under a reward of 0 and 1 guessing costs nothing. The verdict of such an answer is the
    last of the `kinds`.
    """

    task: TokenTask

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those of the task, and "abstained"."""
        return (*self.task.kinds, "abstained")

    def verify(self, problem: PyTree, answer: Array) -> Verdict:
        """The verdict of the task, with the ternary reward."""
        found = self.task.verify(problem, answer)
        abstained = answer[0] == self.end
        reward = jnp.where(abstained, 0.0, jnp.where(found.correct, 1.0, -1.0)).astype(found.reward.dtype)
        kind = jnp.where(abstained, len(self.task.kinds), found.kind).astype(found.kind.dtype)
        return Verdict(reward, found.correct & ~abstained, kind)


# --- answers that are to be judged ------------------------------------------------------------------------------


class Judged(NamedTuple):
    """A problem of `Judging`."""

    problem: PyTree  # of the task
    answer: Array  # [T] int32, what is to be judged; `end` alone if the problem is to be solved
    correct: Array  # () bool, whether it is right
    to_solve: Array  # () bool


@dataclass(frozen=True)
class Judging(DerivedTask):
    """`task`, in a `share` of whose prompts an answer is to be judged instead (CRL of Critique-Coder; Ruan et al. 2025,
    arXiv 2509.22824).

    Prompts are those of the task with an answer after it, which is empty where the problem is to be solved. A judgement
    is one of two further tokens, `yes` and `no`, and the end. The answers to be judged are demonstrations, half of them
    of another problem; the task's verdict says whether they are right.

    Raises ValueError for a share outside [0, 1], a task of several tries, or one whose answers have no room for a
    token and the end.
    """

    task: TokenTask
    share: Annotated[float, SHARE] = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fields(self)
        if self.task.answer_length < 2:
            raise ValueError(f"answers must have room for 2 tokens, got answer_length {self.task.answer_length}")

    @property
    def num_tokens(self) -> int:
        """The vocabulary of the task, `yes` and `no`."""
        return self.task.num_tokens + 2

    @property
    def yes(self) -> int:
        """The token that says that an answer is right; the next one says that it is wrong."""
        return self.task.num_tokens

    @property
    def prompt_length(self) -> int:
        """A prompt and an answer."""
        return self.task.prompt_length + self.task.answer_length

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those of the task, and those of judgements."""
        return (*self.task.kinds, "judged rightly", "judged wrongly")

    def sample(self, key: Key) -> Judged:
        """A problem to solve, or an answer to judge."""
        problem_key, other_key, kind_key, half_key, answer_key = jax.random.split(key, 5)
        problem, other = self.task.sample(problem_key), self.task.sample(other_key)
        to_solve = ~jax.random.bernoulli(kind_key, self.share)
        answer = self.task.demonstrate(answer_key, select(jax.random.bernoulli(half_key), problem, other))
        correct = self.task.verify(problem, answer).correct
        return Judged(problem, jnp.where(to_solve, self.end, answer), correct, to_solve)

    def prompt(self, problem: Judged) -> Array:
        """The prompt of the task, and the answer to judge."""
        return jnp.concatenate([self.task.prompt(problem.problem), problem.answer])

    def demonstrate(self, key: Key, problem: Judged) -> Array:
        """The answer of the task, or the right judgement."""
        solution = self.task.demonstrate(key, problem.problem)
        judgement = jnp.full_like(solution, self.end).at[0].set(jnp.where(problem.correct, self.yes, self.yes + 1))
        return jnp.where(problem.to_solve, solution, judgement)

    def verify(self, problem: Judged, answer: Array) -> Verdict:
        """The verdict of the task; or 1 for the right judgement and the end, else 0."""
        found = self.task.verify(problem.problem, answer)
        said = self.yes + jnp.where(problem.correct, 0, 1)
        right = (answer[0] == said) & (answer[1] == self.end)
        judged = Verdict(right.astype(found.reward.dtype), right, len(self.task.kinds) + jnp.where(right, 0, 1))
        return jax.tree.map(lambda x, y: jnp.where(problem.to_solve, x, y.astype(x.dtype)), found, judged)

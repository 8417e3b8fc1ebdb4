"""Tasks made of other tasks: several kinds of problems in one, a given set of problems, and answers that may abstain.

All are a `metarl.types.TokenTask`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sampling import answered
from metarl.tree import repeated
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

"""Token tasks whose teachers err: demonstrations that copy the prompt, and a verifier that is wrong now and then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import SHARE
from metarl.tree import lot
from metarl.types import Array, DerivedTask, Key, PyTree, TokenTask, Verdict


@dataclass(frozen=True)
class Imperfect(DerivedTask):
    """`task` with demonstrations and verdicts that are not always right. Measure what was learned on `task` itself.

    With probability `copies` a demonstration is the prompt instead, as many tokens of it as the solution has. With
    probability `flips` a verdict is the opposite: prompt and answer decide, so the same answer to the same prompt is
    always judged alike. The reward is 1 for what the verdict calls correct, else 0.

    Both may be arrays, so that tasks vmap. Raises ValueError for numbers outside [0, 1], or a task of several tries.
    """

    task: TokenTask
    copies: Annotated[Array | float, SHARE] = 0.0
    flips: Annotated[Array | float, SHARE] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fields(self)

    def demonstrate(self, key: Key, problem: PyTree) -> Array:
        """A demonstration `[T] int32` of the task, or a copy of the prompt."""
        solution = self.task.demonstrate(key, problem)
        length = self.answer_length
        room = (0, max(length - self.prompt_length, 0))
        copied = jnp.pad(self.prompt(problem)[:length], room, constant_values=self.end)
        copies = jax.random.bernoulli(jax.random.fold_in(key, 1), self.copies)
        return jnp.where(copies & (solution != self.end), copied, solution)

    def verify(self, problem: PyTree, answer: Array) -> Verdict:
        """The verdict of the task on an answer `[T] int32`, or the opposite."""
        verdict = self.task.verify(problem, answer)
        said = jnp.where(jnp.cumsum(answer == self.end) == 0, answer, self.end)  # what follows the end is ignored
        correct = verdict.correct ^ (lot((self.prompt(problem), said)) < self.flips)
        kind = jnp.where(correct, 0, jnp.maximum(verdict.kind, 1)).astype(jnp.int32)
        return Verdict(correct.astype(jnp.float32), correct, kind)

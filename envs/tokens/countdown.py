"""Countdown: make the target of two to four numbers, each used exactly once, in reverse Polish notation.

    prompt  [target, n1, n2, n3, n4]    numbers in any order, then blanks
    answer  [7 tokens, end]

More numbers make a problem harder. Targets are uniform among those that the numbers can make.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.tokens import rpn
from metarl import checks
from metarl.types import Array, Key, Verdict

ROOM = 4  # the largest number of numbers, for which prompts and answers have room


class Problem(NamedTuple):
    """One problem."""

    numbers: Array  # [4] int32, 0 where there is none
    target: Array  # () int32
    row: Array  # () int32, of the table of solutions


class Table(NamedTuple):
    """All H solvable problems of two to four numbers and up to K solutions of each."""

    size: np.ndarray  # [H] int64, number of numbers
    numbers: np.ndarray  # [H, 4] int32, 0 where there is none
    target: np.ndarray  # [H] int32
    weight: np.ndarray  # [H] float64, sums to 1 over the problems of one size
    answers: np.ndarray  # [H, K, 8] uint8
    known: np.ndarray  # [H] int32, number of solutions, at most K


@functools.cache
def table(highest: int, max_target: int, room: int) -> Table:
    """All problems with numbers up to `highest` and targets up to `max_target`. Takes about a second by default."""
    notation = rpn.Notation(room)
    tables = []
    for size in range(2, ROOM + 1):
        hands = rpn.multisets(highest, size)
        solved = rpn.solve(notation, hands, range(1, max_target + 1))
        orderings, targets = rpn.orderings(hands), np.bincount(solved.hand, minlength=len(hands))
        weight = (orderings / np.maximum(targets, 1))[solved.hand]
        wider = ((0, 0), (0, ROOM - size))
        tables.append(
            Table(
                size=np.full(len(weight), size),
                numbers=np.pad(hands[solved.hand], wider),
                target=solved.target.astype(np.int32),
                weight=weight / weight.sum(),
                answers=np.pad(solved.answers, ((0, 0), (0, 0), (0, 2 * (ROOM - size)))),  # the end token is 0
                known=solved.known,
            )
        )
    return Table(*(np.concatenate(x) for x in zip(*tables, strict=True)))


@functools.cache
def _probability(task: Countdown) -> np.ndarray:
    """The probability of each problem of the table `[H] float64`; sizes are equally likely."""
    problems = table(task.highest, task.max_target, task.room)
    fits = (problems.size >= task.min_numbers) & (problems.size <= task.max_numbers)
    fits &= problems.target >= task.min_target
    if task.part != "all":
        rows = np.concatenate([problems.target[:, None], problems.numbers], 1)
        fits &= rpn.held_out(rows) == (task.part == "held_out")
    weight = np.where(fits, problems.weight, 0.0)
    per_size = np.bincount(problems.size, weight)[problems.size]
    weight = weight / np.where(per_size > 0, per_size, 1.0)
    if not weight.any():
        raise ValueError(f"{task} has no problems; choose a larger highest, max_target or max_numbers")
    return weight / weight.sum()


@dataclass(frozen=True)
class Countdown:
    """The task (`metarl.types.TokenTask`) with `min_numbers` to `max_numbers` numbers, equally likely.

    Numbers are 1 .. `highest`, targets `min_target` .. `max_target`. The vocabulary has numbers up to `room`, so that a
    policy can be tested on larger targets than those of its training. `part` is "train", "held_out" (a fixed fifth of
    the problems) or "all"; `scale` is as in `GeneralPoints`. Raises ValueError for counts out of order or range, for
    numbers that could overflow, and for other choices.
    """

    min_numbers: int = 2
    max_numbers: int = 4
    highest: int = 10
    min_target: int = 1
    max_target: int = 30
    room: int = 30
    part: str = "train"
    scale: str = "binary"
    end: ClassVar[int] = rpn.END
    kinds: ClassVar[tuple[str, ...]] = rpn.KINDS
    prompt_length: ClassVar[int] = 1 + ROOM
    """The target and room for four numbers."""
    answer_length: ClassVar[int] = 2 * ROOM
    """Four numbers, three operators and the end."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if not 2 <= self.min_numbers <= self.max_numbers <= ROOM:
            raise ValueError(
                f"need 2 <= min_numbers <= max_numbers <= {ROOM}, got {self.min_numbers} and {self.max_numbers}"
            )
        if not 1 <= self.highest <= self.room:
            raise ValueError(f"highest must be from 1 to room = {self.room}, got {self.highest}")
        if not 1 <= self.min_target <= self.max_target <= self.room:
            raise ValueError(
                f"need 1 <= min_target <= max_target <= room = {self.room}, got {self.min_target} and {self.max_target}"
            )
        checks.one_of(rpn.PARTS, part=self.part)
        checks.one_of(rpn.REWARDS, scale=self.scale)
        rpn.require_exact(ROOM, self.highest, self.max_target)
        _ = self.notation  # raises ValueError for numbers that cannot be tokens

    @property
    def notation(self) -> rpn.Notation:
        """The vocabulary."""
        return rpn.Notation(self.room)

    @property
    def num_tokens(self) -> int:
        """Numbers up to `room`, the operators, a blank and the end."""
        return self.notation.num_tokens

    def sample(self, key: Key) -> Problem:
        """One problem; sizes are equally likely."""
        row_key, order_key = jax.random.split(key)
        return self._problem(order_key, rpn.draw(row_key, _probability(self)))

    def every(self) -> tuple[Problem, Array]:
        """All N problems, leaves [N, ...], and the probability of each [N]: one order of the numbers of each."""
        probability = _probability(self)
        rows = np.flatnonzero(probability)
        keys = jax.random.split(jax.random.key(0), len(rows))
        return jax.vmap(self._problem)(keys, jnp.asarray(rows, jnp.int32)), jnp.asarray(probability[rows])

    def _problem(self, key: Key, row: Array) -> Problem:
        problems = table(self.highest, self.max_target, self.room)
        numbers = jnp.asarray(problems.numbers)[row]
        return Problem(numbers[rpn.shuffle(key, numbers > 0)], jnp.asarray(problems.target)[row], row)

    def prompt(self, problem: Problem) -> Array:
        """The target and the numbers `[5] int32`, blanks after them."""
        numbers = jnp.where(problem.numbers > 0, problem.numbers, self.notation.blank)
        return jnp.append(problem.target, numbers)

    def demonstrate(self, key: Key, problem: Problem) -> Array:
        """One of the known solutions `[8] int32`, uniformly drawn."""
        problems = table(self.highest, self.max_target, self.room)
        return rpn.draw_answer(key, problems.answers, problems.known, problem.row, self.answer_length)

    def verify(self, problem: Problem, answer: Array) -> Verdict:
        """Exact evaluation of an answer `[8] int32`."""
        return rpn.verify(self.notation, answer, problem.numbers, problem.target, rpn.REWARDS[self.scale])

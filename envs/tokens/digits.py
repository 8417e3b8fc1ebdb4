"""Sorting of digits, and addition of numbers digit by digit: problems with one correct answer.

    sorting    prompt [d1 .. dn], blanks             answer the digits in ascending order, end
    addition   prompt [a1 .. an], blanks, plus, [b1 .. bm], blanks     answer the digits of a + b, end

Numbers are written with their ones first, so that every digit of a sum follows from the digits before it. `room` is
the number of digits for which prompts and answers have room: a policy that is trained on short problems can be tested
on longer ones of the same `room`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl import checks
from metarl.types import Array, Key, Verdict

END, BLANK, PLUS = 10, 11, 12  # after the ten digits
KINDS = ("correct", "wrong", "malformed")  # malformed: something else than digits, or no end


def _judge(solution: Array, answer: Array) -> Verdict:
    """Reward 1 if `answer` `[T]` is `solution` `[T]`, which is padded by the end token, else 0."""
    before_end = jnp.cumsum(answer == END) == 0
    correct = jnp.all(jnp.where(before_end, answer, END) == solution)
    malformed = jnp.any(before_end & ((answer < 0) | (answer > 9))) | before_end[-1]
    kind = jnp.where(correct, 0, jnp.where(malformed, 2, 1)).astype(jnp.int32)
    return Verdict(correct.astype(jnp.float32), correct, kind)


@dataclass(frozen=True)
class _Digits:
    """The common part of both tasks: problems of `shortest` to `longest` digits, with room for `room`."""

    shortest: int = 2
    longest: int = 5
    room: int = 8
    num_tokens: ClassVar[int] = 13
    """Ten digits, the end, the blank and the plus."""
    end: ClassVar[int] = END
    kinds: ClassVar[tuple[str, ...]] = KINDS

    def __post_init__(self) -> None:
        checks.fields(self)
        if not 1 <= self.shortest <= self.longest <= self.room <= 8:
            raise ValueError(
                f"need 1 <= shortest <= longest <= room <= 8, got {self.shortest}, {self.longest} and {self.room}"
            )

    def _length(self, key: Key) -> Array:
        return jax.random.randint(key, (), self.shortest, self.longest + 1)


class Unsorted(NamedTuple):
    """One problem of `Sorting`."""

    digits: Array  # [room] int32, blank where there is none


@dataclass(frozen=True)
class Sorting(_Digits):
    """The task (`metarl.types.TokenTask`) of sorting `shortest` to `longest` digits, uniform in number and value.

    Raises ValueError for lengths that are out of order or beyond 8.
    """

    @property
    def prompt_length(self) -> int:
        """`room` digits."""
        return self.room

    @property
    def answer_length(self) -> int:
        """`room` digits and the end."""
        return self.room + 1

    def sample(self, key: Key) -> Unsorted:
        """Digits `[room] int32`, uniform in number and value."""
        length_key, digits_key = jax.random.split(key)
        present = jnp.arange(self.room) < self._length(length_key)
        return Unsorted(jnp.where(present, jax.random.randint(digits_key, (self.room,), 0, 10), BLANK))

    def every(self) -> tuple[Unsorted, Array]:
        """All N problems, leaves [N, room], and the probability of each [N]. Raises ValueError for `longest` over 5."""
        if self.longest > 5:
            raise ValueError(f"longest must be at most 5 to list all problems, got {self.longest}")
        lengths = range(self.shortest, self.longest + 1)
        digits = [np.indices((10,) * n).reshape(n, -1).T for n in lengths]
        problems = [np.pad(x, ((0, 0), (0, self.room - x.shape[1])), constant_values=BLANK) for x in digits]
        probability = [np.full(len(x), 1.0 / len(x) / len(digits)) for x in digits]
        return Unsorted(jnp.asarray(np.concatenate(problems), jnp.int32)), jnp.asarray(np.concatenate(probability))

    def prompt(self, problem: Unsorted) -> Array:
        """The digits `[room] int32`, blanks after them."""
        return problem.digits

    def demonstrate(self, key: Key, problem: Unsorted) -> Array:
        """The sorted digits `[room + 1] int32`."""
        return jnp.append(jnp.minimum(jnp.sort(problem.digits), END), END)  # blanks come last

    def verify(self, problem: Unsorted, answer: Array) -> Verdict:
        """1 for the sorted digits, 0 for any other answer."""
        return _judge(self.demonstrate(jax.random.key(0), problem), answer)


class Sum(NamedTuple):
    """One problem of `Addition`."""

    a: Array  # () int32
    b: Array  # () int32


@dataclass(frozen=True)
class Addition(_Digits):
    """The task (`metarl.types.TokenTask`) of adding two numbers of `shortest` to `longest` digits each.

    Lengths are uniform, and numbers uniform among those of their length. Raises ValueError for lengths that are out of
    order or beyond 8.
    """

    @property
    def prompt_length(self) -> int:
        """Two numbers of `room` digits and a plus between them."""
        return 2 * self.room + 1

    @property
    def answer_length(self) -> int:
        """`room + 1` digits and the end."""
        return self.room + 2

    def sample(self, key: Key) -> Sum:
        """Two numbers whose lengths are uniform."""

        def number(key: Key) -> Array:
            length_key, number_key = jax.random.split(key)
            length = self._length(length_key)
            return jax.random.randint(number_key, (), jnp.where(length == 1, 0, 10 ** (length - 1)), 10**length)

        a_key, b_key = jax.random.split(key)
        return Sum(number(a_key), number(b_key))

    def prompt(self, problem: Sum) -> Array:
        """Both numbers `[2 room + 1] int32`, ones first, padded by blanks."""
        plus = jnp.array([PLUS], jnp.int32)
        return jnp.concatenate([_write(problem.a, self.room, BLANK), plus, _write(problem.b, self.room, BLANK)])

    def demonstrate(self, key: Key, problem: Sum) -> Array:
        """The sum `[room + 2] int32`, ones first."""
        return _write(problem.a + problem.b, self.answer_length, END)

    def verify(self, problem: Sum, answer: Array) -> Verdict:
        """1 for the sum, 0 for any other answer."""
        return _judge(self.demonstrate(jax.random.key(0), problem), answer)


def _write(number: Array, length: int, padding: int) -> Array:
    """The digits `[length] int32` of `number` `()`, ones first, padded."""
    powers = 10 ** jnp.minimum(jnp.arange(length), 9)  # 10 ** 10 overflows int32, and no number here is that long
    significant = (number >= powers) & (jnp.arange(length) < 9) | (jnp.arange(length) == 0)
    return jnp.where(significant, number // powers % 10, padding)

"""Toy tasks of `experiments.mechanisms`, each made for one mechanism, and a judge that can be fooled.

All are a `metarl.types.TokenTask`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metarl.finetune.batch import Batch
from metarl.finetune.rewards import Scorer
from metarl.types import Array, DerivedTask, Key, Verdict


def right_or_wrong(right: Array) -> Verdict:
    """The verdict of tasks whose `kinds` are `("right", "wrong")` and pay 1 or 0."""
    return Verdict(right.astype(jnp.float32), right, jnp.where(right, 0, 1))


# --- problems with many answers -------------------------------------------------------------------------------


class Whole(NamedTuple):
    """One problem of `Compositions`."""

    total: Array  # () int32


@dataclass(frozen=True)
class Compositions:
    """Write a number as a sum of parts from 1 to 4, in any way: 7 as 4 3, or as 1 2 1 3.

    Prompts are a `marker` and a number from `least` to `most`, in base five; the sum must be the number plus `offset`.
    Demonstrations take the largest parts first, parts as small as there is room for, or any parts at random.
    """

    least: int = 4
    most: int = 11
    marker: int = 0
    offset: int = 0
    style: Literal["any", "large", "small"] = "any"
    num_tokens: ClassVar[int] = 5
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 3
    answer_length: ClassVar[int] = 6
    kinds: ClassVar[tuple[str, ...]] = ("right", "wrong")

    def sample(self, key: Key) -> Whole:
        """A number."""
        return Whole(jax.random.randint(key, (), self.least, self.most + 1))

    def prompt(self, problem: Whole) -> Array:
        """The marker and two digits [3]."""
        return jnp.stack([jnp.int32(self.marker), problem.total // 5, problem.total % 5])

    def demonstrate(self, key: Key, problem: Whole) -> Array:
        """Parts in the style of the task, from the first to the last."""
        places = self.answer_length - 1
        small = -(-(problem.total + self.offset) // places)

        def part(rest: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
            later, key = x
            low, high = jnp.maximum(rest - 4 * later, 1), jnp.minimum(rest, 4)  # what is left must fit
            drawn = {
                "any": jax.random.randint(key, (), low, high + 1),
                "large": high,
                "small": jnp.minimum(rest, small),
            }
            chosen = jnp.where(rest > 0, drawn[self.style], 0)
            return rest - chosen, chosen

        xs = jnp.arange(places)[::-1], jax.random.split(key, places)
        _, parts = jax.lax.scan(part, problem.total + self.offset, xs)
        return jnp.append(parts, self.end).astype(jnp.int32)

    def verify(self, problem: Whole, answer: Array) -> Verdict:
        """Whether the parts end and have the right sum."""
        inside = jnp.cumsum(answer == self.end) == 0
        right = ~inside[-1] & (jnp.where(inside, answer, 0).sum() == problem.total + self.offset)
        return right_or_wrong(right)


@dataclass(frozen=True, eq=False)
class Failing(DerivedTask):
    """`task` whose demonstrations fail by one wrong part, at a random place after the first if there is one.

    A share of them does, which may be an array.
    """

    task: Compositions
    share: Array | float = 1.0

    def demonstrate(self, key: Key, problem: Whole) -> Array:
        """A demonstration of the task, or one with another part in one place, so that its sum is wrong."""
        shown_key, fails_key, place_key, part_key = jax.random.split(key, 4)
        shown = self.task.demonstrate(shown_key, problem)
        parts = (shown != self.end).sum()
        place = jnp.minimum(jax.random.randint(place_key, (), 1, jnp.maximum(parts, 2)), parts - 1)
        other = (shown[place] + jax.random.randint(part_key, (), 0, 3)) % 4 + 1
        fails = jax.random.bernoulli(fails_key, self.share)
        return jnp.where(fails, shown.at[place].set(other), shown)


# --- questions that nobody can be sure of ----------------------------------------------------------------------


class Guess(NamedTuple):
    """One problem of `Guessing`."""

    sure: Array  # () int32, how often the likely answer is right, in tenths
    right: Array  # () int32, the right answer, 1 or 2; the prompt does not say it


@dataclass(frozen=True)
class Guessing:
    """Questions that nobody can be sure of: the prompt says how often the answer 1 is right, and else it is 2 to 5."""

    num_tokens: ClassVar[int] = 10
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 1
    answer_length: ClassVar[int] = 2
    kinds: ClassVar[tuple[str, ...]] = ("right", "wrong")

    def sample(self, key: Key) -> Guess:
        """How sure one can be, from 0.2 to 0.9 but for 0.5, and the answer."""
        sure_key, right_key, other_key = jax.random.split(key, 3)
        sure = jax.random.choice(sure_key, jnp.array([2, 3, 4, 6, 7, 8, 9]))
        likely = jax.random.uniform(right_key) < sure / 10
        return Guess(sure, jnp.where(likely, 1, jax.random.randint(other_key, (), 2, 6)))

    def prompt(self, problem: Guess) -> Array:
        """How sure one can be [1]."""
        return problem.sure[None]

    def demonstrate(self, key: Key, problem: Guess) -> Array:
        """The answer that is likely."""
        return jnp.array([1, 0])

    def verify(self, problem: Guess, answer: Array) -> Verdict:
        """Whether the first token is the answer."""
        right = answer[0] == problem.right
        return right_or_wrong(right)


# --- two proxies of what is good ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Praise:
    """Texts of up to eight words, which two proxies count, and a judge who likes some of both but not too much.

    Word 1 counts for the first proxy, 2 for the second and 3 for both; the others are neutral. The gold reward is
    highest where both proxies are at `BEST`, a share of the eight words.
    """

    num_tokens: ClassVar[int] = 8
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 1
    answer_length: ClassVar[int] = 8
    kinds: ClassVar[tuple[str, ...]] = ("text",)

    def sample(self, key: Key) -> Whole:
        """There is one problem."""
        return Whole(jnp.int32(7))

    def prompt(self, problem: Whole) -> Array:
        """A neutral word [1]."""
        return problem.total[None]

    def demonstrate(self, key: Key, problem: Whole) -> Array:
        """Neutral words."""
        return jax.random.randint(key, (self.answer_length,), 4, 8)

    def verify(self, problem: Whole, answer: Array) -> Verdict:
        """The sum of the proxies."""
        return Verdict(praise(answer, 1) + praise(answer, 2), jnp.bool_(True), jnp.int32(0))


BEST = 0.4


def praise(answers: Array, word: int) -> Array:
    """A proxy of answers [..., T]: the share of words that count for it."""
    inside = jnp.cumsum(answers == 0, -1) == 0
    return (inside & ((answers == word) | (answers == 3))).mean(-1)


def gold(answers: Array) -> Array:
    """The gold reward of texts [..., T]: 1 where both kinds of praise are at `BEST`, 0 without any, less with more."""
    over = jnp.stack([praise(answers, word) / BEST - 1.0 for word in (1, 2)])
    return 1.0 - jnp.square(over).mean(0)


# --- a judge of steps -----------------------------------------------------------------------------------------


def in_order(noise: float) -> Scorer:
    """A judge of sorting that can be fooled: is each digit no lower than the one before? With some wrong verdicts.

    It likes long answers of whatever digits in order. The wrong verdicts are always the same for the same answer.
    """

    def score(batch: Batch) -> Array:
        digit = batch.answers < 10
        before = jnp.pad(batch.answers[:, :-1], ((0, 0), (1, 0)))
        good = digit & (batch.answers >= before)
        place = jnp.arange(batch.answers.shape[1])
        hashed = (
            batch.answers * 7919 + before * 104_729 + place * 1_299_709 + batch.prompts.sum(1)[:, None] * 611
        ) % 1000
        return jnp.where(hashed < 1000 * noise, ~good, good).astype(jnp.float32)

    return score

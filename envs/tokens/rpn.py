"""Exact arithmetic in reverse Polish notation (RPN): evaluation in JAX, all solutions of small problems in numpy.

Rational numbers are pairs (numerator, denominator) that are never reduced. A division by zero gives `(0, 0)`, and so
does every operation on `(0, 0)`. Few and small numbers cannot overflow: by induction over the expression,
|numerator| + |denominator| is at most the product of (number + 1) over its numbers. `require_exact` checks that int32
holds this bound.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl.tree import select
from metarl.types import Array, Key, Verdict

END = 0
OPERATORS = "+-*/"
KINDS = ("correct", "wrong value", "illegal number", "illegal formula")
PARTS = ("train", "held_out", "all")
# for each kind of verdict: "points" as in General Points (Chu et al. 2025), "binary" as usual in fine-tuning
REWARDS = {"points": (5.0, -1.0, -2.0, -3.0), "binary": (1.0, 0.0, 0.0, 0.0)}

_CORRECT, _WRONG_VALUE, _ILLEGAL_NUMBER, _ILLEGAL_FORMULA = range(len(KINDS))


@dataclass(frozen=True)
class Notation:
    """The vocabulary: 0 ends an answer, n is the number n up to `max_number`, then come + - * / and a blank."""

    max_number: int
    end: ClassVar[int] = END

    def __post_init__(self) -> None:
        if not 1 <= self.max_number <= 250:
            raise ValueError(
                f"max_number must be from 1 to 250, because tables have uint8 tokens, got {self.max_number}"
            )

    @property
    def plus(self) -> int:
        """The first operator; the others follow in the order of `OPERATORS`."""
        return self.max_number + 1

    @property
    def blank(self) -> int:
        """In prompts, the token in the place of a missing number."""
        return self.plus + len(OPERATORS)

    @property
    def num_tokens(self) -> int:
        """Numbers, operators, the blank and the end."""
        return self.blank + 1

    def spell(self, tokens: Sequence[int] | Array | np.ndarray) -> str:
        """Tokens as words, up to the first `end`: "3 8 3 / -"."""
        words = {self.plus + i: operator for i, operator in enumerate(OPERATORS)} | {self.blank: "_"}
        answer = itertools.takewhile(lambda token: token != self.end, map(int, tokens))
        return " ".join(words.get(token, str(token)) for token in answer)


def require_exact(count: int, highest: int, target: int) -> None:
    """Raises ValueError if arithmetic on `count` numbers up to `highest`, compared with `target`, could overflow."""
    largest = (highest + 1) ** count * max(1, target)
    if largest >= 2**31:
        raise ValueError(
            f"{count} numbers up to {highest} and targets up to {target} could overflow int32 "
            f"({largest} >= 2**31); use fewer or smaller ones"
        )


class Value(NamedTuple):
    """The value of an answer."""

    numerator: Array  # () int32
    denominator: Array  # () int32, 0 after a division by zero; may be negative
    legal: Array  # () bool, one value is left at the end token, and every operator had two operands


def _arithmetic(an, ad, bn, bd) -> Iterator[tuple]:  # arrays of numpy or of JAX
    """(numerator, denominator) of a + b, a - b, a * b and a / b, in this order."""
    left, right, product = an * bd, bn * ad, ad * bd
    yield left + right, product
    yield left - right, product
    yield an * bn, product
    yield left * (right != 0), right  # division by zero must give (0, 0): with (left, 0), 1 / (1 / 0) would be 0


def evaluate(notation: Notation, answer: Array) -> Value:
    """Evaluates the tokens of `answer` `[T] int32` before the first end token. Never fails, whatever the tokens are.

    Exact for numbers that pass `require_exact`. An expression of k numbers has 2 k - 1 tokens and the end token.
    """
    # a complete expression of at most T tokens never has more values on the stack, whose top is at index 0
    size = max(2, answer.shape[0] // 2)

    def read(state: _Reading, token: Array) -> tuple[_Reading, None]:
        number = (token > notation.end) & (token < notation.plus)
        operator = (token >= notation.plus) & (token < notation.blank)
        (b, a, *_), (bd, ad, *_) = state.numerators, state.denominators
        which = [token == notation.plus + i for i in range(len(OPERATORS))]
        numerator, denominator = (jnp.select(which, x) for x in zip(*_arithmetic(a, ad, b, bd), strict=True))
        ended = state.ended | (token == notation.end)
        new = _Reading(
            numerators=jnp.where(number, _push(state.numerators, token), _replace_two(state.numerators, numerator)),
            denominators=jnp.where(
                number, _push(state.denominators, jnp.int32(1)), _replace_two(state.denominators, denominator)
            ),
            depth=state.depth + jnp.where(number, 1, -1),
            legal=state.legal & (number & (state.depth < size) | operator & (state.depth >= 2)),
            ended=ended,
        )
        return select(ended, state, new)._replace(ended=ended), None

    empty = jnp.zeros(size, jnp.int32)
    start = _Reading(empty, empty, jnp.int32(0), jnp.bool_(True), jnp.bool_(False))
    final, _ = jax.lax.scan(read, start, answer.astype(jnp.int32))
    return Value(final.numerators[0], final.denominators[0], final.legal & final.ended & (final.depth == 1))


class _Reading(NamedTuple):
    """The state of an evaluation, with a stack of S values."""

    numerators: Array  # [S] int32, the top first
    denominators: Array  # [S] int32
    depth: Array  # () int32, number of values on the stack
    legal: Array  # () bool, so far
    ended: Array  # () bool


def _push(stack: Array, value: Array) -> Array:
    return jnp.concatenate([value[None], stack[:-1]])


def _replace_two(stack: Array, value: Array) -> Array:
    return jnp.concatenate([value[None], stack[2:], jnp.zeros_like(stack[:1])])


def verify(notation: Notation, answer: Array, numbers: Array, target: Array, rewards: tuple[float, ...]) -> Verdict:
    """Whether `answer` `[T]` makes `target` `()` from `numbers` `[C] int32` (0 where there is none), each used once.

    The first of these that applies decides: an answer that is not a formula or does not end is an illegal formula; an
    answer with other numbers has an illegal number; a division by zero is an illegal formula; a wrong value. The value
    is only read if the numbers are those of the problem, so it has not overflowed.
    """
    value = evaluate(notation, answer)
    counted = jnp.arange(notation.end + 1, notation.plus)
    given = jnp.sum(numbers[:, None] == counted, 0)
    before_end = jnp.cumsum(answer == notation.end) == 0
    used = jnp.sum((answer[:, None] == counted) & before_end[:, None], 0)
    right = value.numerator == target * value.denominator
    kind = jnp.select(
        [~value.legal, jnp.any(used != given), value.denominator == 0, right],
        [jnp.int32(k) for k in (_ILLEGAL_FORMULA, _ILLEGAL_NUMBER, _ILLEGAL_FORMULA, _CORRECT)],
        jnp.int32(_WRONG_VALUE),
    )
    return Verdict(jnp.array(rewards, jnp.float32)[kind], kind == _CORRECT, kind)


def shuffle(key: Key, present: Array) -> Array:
    """A uniformly random order `[C] int32` of the indices of `present` `[C] bool`, with the others last."""
    return jnp.argsort(jnp.where(present, jax.random.uniform(key, present.shape), 2.0))


def draw(key: Key, probability: np.ndarray) -> Array:
    """A row `() int32` of a table, drawn with `probability` `[N]`."""
    below = jnp.asarray(np.cumsum(probability)[:-1], jnp.float32)  # without the last: rounding may keep it below 1
    return jnp.searchsorted(below, jax.random.uniform(key), side="right").astype(jnp.int32)


def draw_answer(key: Key, answers: np.ndarray, known: np.ndarray, row: Array, length: int) -> Array:
    """One of the answers `[R, keep, 2 n]` of `row` `()`, drawn uniformly and padded to `[length] int32`."""
    which = jax.random.randint(key, (), 0, jnp.asarray(known)[row])
    answer = jnp.asarray(answers)[row, which].astype(jnp.int32)
    return jnp.pad(answer, (0, length - answer.shape[0]))  # the end token is 0


# --- the solver, in numpy on the host --------------------------------------------------------------------------------


class Solved(NamedTuple):
    """The R solvable pairs of a hand and a target, sorted by hand, then by target."""

    hand: np.ndarray  # [R] int64, row of the hand
    target: np.ndarray  # [R] int64
    answers: np.ndarray  # [R, keep, 2 n] uint8, different correct answers, padded by the end token
    known: np.ndarray  # [R] int32, number of answers, at most `keep`
    total: np.ndarray  # [R] int32, number of all correct answers


def multisets(highest: int, size: int) -> np.ndarray:
    """All multisets of `size` numbers from 1 .. highest, `[N, size] int32`, each sorted."""
    return np.array(list(itertools.combinations_with_replacement(range(1, highest + 1), size)), np.int32)


def orderings(hands: np.ndarray) -> np.ndarray:
    """The number of different orders `[N]` of the cards of sorted `hands` `[N, n]`."""
    repeats = np.tril(hands[:, :, None] == hands[:, None, :]).sum(-1)  # 1, 2, ... along a run of equal cards
    return np.prod(np.arange(1, hands.shape[1] + 1)) // repeats.prod(-1)


def held_out(rows: np.ndarray) -> np.ndarray:
    """Which `rows` `[N, n]` of small numbers are held out from training, `[N] bool`: a fixed fifth of all rows."""
    return np.array([zlib.crc32(row.tobytes()) % 5 == 0 for row in rows.astype(np.uint8)], bool)


def solve(notation: Notation, hands: np.ndarray, targets: Sequence[int], keep: int = 16) -> Solved:
    """All answers that make `targets` from each of `hands` `[N, n]` (sorted rows, 2 <= n <= 5), each number used once.

    Answers are different if their tokens are. At most `keep` of them are kept, drawn uniformly with a fixed seed.
    Raises ValueError for hands that are not sorted or could overflow.
    """
    n = hands.shape[1]
    if not 2 <= n <= 5 or (np.diff(hands) < 0).any():
        raise ValueError(f"hands must be rows of 2 to 5 sorted numbers, got shape {hands.shape}")
    require_exact(n, int(hands.max()), max(targets))
    templates = _templates(n)[2**n - 1]
    # equal cards are interchangeable: of the templates with the same tokens, keep the one with the cards in order
    in_order = np.diff(np.argsort(templates, axis=1, kind="stable")[:, :n]) > 0
    chunk = max(1, 2**23 // len(templates))
    found = []
    for first in range(0, len(hands), chunk):
        some = hands[first : first + chunk]
        row, target, template = _search(some, targets)
        kept = np.all(in_order[template] | (some[row, :-1] != some[row, 1:]), axis=1)
        found.append((first + row[kept], target[kept], template[kept]))
    row, target, template = (np.concatenate(x) for x in zip(*found, strict=True))

    order = np.random.RandomState(0).permutation(len(row))  # numpy guarantees that its stream never changes
    order = order[np.lexsort((target[order], row[order]))]
    row, target, template = row[order], target[order], template[order]
    new = np.append(True, (np.diff(row) != 0) | (np.diff(target) != 0))[: len(row)]
    pair, starts = np.cumsum(new) - 1, np.nonzero(new)[0]
    place = np.arange(len(row)) - starts[pair]
    total = np.bincount(pair, minlength=len(starts)).astype(np.int32)

    first_ones = place < keep
    tokens, cards = templates[template[first_ones]], hands[row[first_ones]]
    tokens = np.where(
        tokens < n, np.take_along_axis(cards, np.minimum(tokens, n - 1), 1), tokens.astype(np.int32) - n + notation.plus
    )
    answers = np.full((len(starts), keep, 2 * n), notation.end, np.uint8)
    answers[pair[first_ones], place[first_ones], :-1] = tokens
    return Solved(row[starts], target[starts], answers, np.minimum(total, keep), total)


def _splits(mask: int) -> Iterator[tuple[int, int]]:
    """All splits of a set of cards, the bits of `mask`, into a left and a right operand."""
    return ((left, mask ^ left) for left in range(1, mask) if left & mask == left)


@functools.cache
def _templates(n: int) -> dict[int, np.ndarray]:
    """For each set of k cards, all its expressions `[E, 2 k - 1] int8`: i is card i, n + j is operator j."""
    templates = {1 << i: np.array([[i]], np.int8) for i in range(n)}
    for mask in range(1, 2**n):
        if mask in templates:
            continue
        parts = []
        for left, right in _splits(mask):
            a, b = templates[left], templates[right]
            both = np.concatenate([np.repeat(a, len(b), 0), np.tile(b, (len(a), 1))], 1)
            parts += [np.pad(both, ((0, 0), (0, 1)), constant_values=n + j) for j in range(len(OPERATORS))]
        templates[mask] = np.concatenate(parts)
    return templates


def _search(hands: np.ndarray, targets: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, targets and templates of all correct answers for `hands` `[N, n]`, in the order of `_templates`."""
    n = hands.shape[1]
    full = 2**n - 1
    cards = hands.astype(np.int32)
    values = {1 << i: (cards[:, i : i + 1], np.ones_like(cards[:, :1])) for i in range(n)}

    def results(mask: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for left, right in _splits(mask):
            (an, ad), (bn, bd) = values[left], values[right]
            yield from _arithmetic(an[:, :, None], ad[:, :, None], bn[:, None, :], bd[:, None, :])

    for mask in range(1, full):
        if mask not in values:
            parts = [(x.reshape(len(cards), -1), y.reshape(len(cards), -1)) for x, y in results(mask)]
            values[mask] = np.concatenate([x for x, _ in parts], 1), np.concatenate([y for _, y in parts], 1)

    found, first = [], 0
    for numerators, denominators in results(full):
        numerators, denominators = numerators.reshape(len(cards), -1), denominators.reshape(len(cards), -1)
        for target in targets:
            hits = np.flatnonzero(numerators == target * denominators)  # many times faster than in two dimensions
            row, template = np.divmod(hits, numerators.shape[1])
            defined = denominators[row, template] != 0
            found.append((row[defined], np.full(defined.sum(), target), first + template[defined]))
        first += numerators.shape[1]
    row, target_of, template = (np.concatenate(x) for x in zip(*found, strict=True))
    return row, target_of, template

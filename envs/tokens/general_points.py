"""General Points: make 24 from four (or five) cards, where the prompt gives the values of the face cards.

The environment of Chu et al. 2025 ("SFT memorizes, RL generalizes") with the splits of its follow-up on prompt
diversity. Cards are drawn uniformly with replacement among the hands that can make 24. Every card is used exactly once,
with + - * / on exact rationals. Answers are in reverse Polish notation with the values of the cards:

    prompt  [J, Q, K, r1, r2, r3, r4]    the values of the three faces, then the ranks (jack 11, queen 12, king 13)
    answer  [7 tokens, end]

With `max_cards=5`, prompts and answers have room for five cards; the prompt has a blank in the place of a missing card.
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

TARGET = 24
HIGHEST = 19  # number in any split: all splits have the same vocabulary
NOTATION = rpn.Notation(HIGHEST)

FaceValues = tuple[int, int, int]  # of J, Q and K


@dataclass(frozen=True)
class Split:
    """A set of hands, and of face values, one of which is drawn uniformly for each problem."""

    rules: tuple[FaceValues, ...]  # the face values in the prompt
    scored: FaceValues | None = None  # for the score, if they differ from those in the prompt
    cards: int = 4
    highest: int = 13  # ranks are 1 .. highest; ranks above the king are their own values
    required: tuple[int, int] | None = None  # at least one card has a rank in this range, both ends included


_REGULAR = (11, 12, 13)
_TEN = (10, 10, 10)
SPLITS = {
    "id": Split((_TEN,)),
    "rule": Split((_REGULAR,), required=(11, 13)),
    "all_5": Split(((5, 5, 5),)),
    "all_7": Split(((7, 7, 7),)),
    "all_12": Split(((12, 12, 12),)),
    "regular": Split((_REGULAR,)),
    "large": Split((_TEN,), highest=HIGHEST, required=(14, HIGHEST)),
    "five": Split((_TEN,), cards=5),
    "fake": Split((_REGULAR,), scored=_TEN),  # hands that are solvable with both
    "diverse": Split(
        (_TEN, (11, 11, 11), (13, 13, 13), (9, 10, 11), (10, 11, 12), (7, 9, 11), (8, 10, 12), (9, 11, 13))
    ),
}


class Hand(NamedTuple):
    """One problem, with room for C cards."""

    faces: Array  # [3] int32, the face values in the prompt
    ranks: Array  # [C] int32, in the order of the prompt, 0 where there is no card
    values: Array  # [C] int32, values of the cards for the score, 0 where there is none
    solutions: Array  # () int32, row of the split's table of solutions


class Table(NamedTuple):
    """All H hands of a split (n cards, sorted by rank), and up to K solutions of each of their M sets of values."""

    faces: np.ndarray  # [H, 3] int32
    ranks: np.ndarray  # [H, n] int32
    values: np.ndarray  # [H, n] int32
    probability: np.ndarray  # [H] float64
    solutions: np.ndarray  # [H] int64, row of the next two
    answers: np.ndarray  # [M, K, 2 n] uint8
    known: np.ndarray  # [M] int32, number of solutions, at most K


@functools.cache
def table(split: str, part: str = "all") -> Table:
    """The hands of a part of a split. Takes less than a second, except "five", which takes some seconds once.

    Hands are held out by the values of their cards: no solution of a held-out hand solves a training hand. So a hand
    with a queen may be a training hand with some face values and held out with others, and different hands with the
    same values are in the same part.
    """
    spec = SPLITS[split]
    ranks, scored, solutions, solved = _solved(split)
    faces, hand = np.nonzero(solutions >= 0)
    values = scored[faces, hand]
    if part != "all":
        rows = rpn.held_out(np.sort(values, 1)) == (part == "held_out")
        faces, hand, values = faces[rows], hand[rows], values[rows]
    ways = rpn.orderings(ranks)[hand]
    return Table(
        faces=np.array(spec.rules, np.int32)[faces],
        ranks=ranks[hand],
        values=values,
        probability=ways / np.bincount(faces, ways)[faces] / len(spec.rules),
        solutions=solutions[faces, hand],
        answers=solved.answers,
        known=solved.known,
    )


@functools.cache
def _solved(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, rpn.Solved]:
    """All hands of a split and their solutions, for each of its R face values.

    Returns the ranks `[N, n]`, the values of the cards for the score `[R, N, n]`, the rows `[R, N]` of the solutions
    (-1 if the hand cannot make 24), and the solutions.
    """
    spec = SPLITS[split]
    ranks = rpn.multisets(spec.highest, spec.cards)
    if spec.required:
        low, high = spec.required
        ranks = ranks[((ranks >= low) & (ranks <= high)).any(1)]
    shown = np.stack([_values(ranks, faces) for faces in spec.rules])
    scored = shown if spec.scored is None else np.stack([_values(ranks, spec.scored)] * len(shown))
    both = np.sort(np.stack([shown, scored]), -1)
    distinct, row = np.unique(both.reshape(-1, spec.cards), axis=0, return_inverse=True)
    solved = rpn.solve(NOTATION, distinct, (TARGET,))
    solution = np.full(len(distinct), -1)
    solution[solved.hand] = np.arange(len(solved.hand))
    in_shown, in_scored = solution[row.reshape(both.shape[:-1])]
    return ranks, scored, np.where(in_shown >= 0, in_scored, -1), solved


def _values(ranks: np.ndarray, faces: FaceValues) -> np.ndarray:
    """The values of cards with these ranks and face values."""
    values = np.arange(HIGHEST + 1, dtype=np.int32)
    values[11:14] = faces
    return values[ranks]


@dataclass(frozen=True)
class GeneralPoints:
    """The task (`metarl.types.TokenTask`) on a part of a split.

    `part` is "train", "held_out" (a fifth, see `table`) or "all"; `max_cards` is 4 or 5;
    `scale` is "points" (+5 if correct, -1 for a wrong value, -2 for an illegal number, -3 for an illegal formula) or
    "binary" (1 if correct). Raises ValueError for other choices.
    """

    split: str = "id"
    part: str = "train"
    max_cards: int = 4
    scale: str = "points"
    num_tokens: ClassVar[int] = NOTATION.num_tokens
    """The vocabulary of all splits."""
    end: ClassVar[int] = rpn.END
    kinds: ClassVar[tuple[str, ...]] = rpn.KINDS

    def __post_init__(self) -> None:
        checks.one_of(SPLITS, split=self.split)
        checks.one_of(rpn.PARTS, part=self.part)
        checks.one_of(rpn.REWARDS, scale=self.scale)
        checks.one_of((4, 5), max_cards=self.max_cards)
        if SPLITS[self.split].cards > self.max_cards:
            raise ValueError(f"split {self.split!r} needs max_cards={SPLITS[self.split].cards}, got {self.max_cards}")
        rpn.require_exact(self.max_cards, HIGHEST, TARGET)

    @property
    def prompt_length(self) -> int:
        """The face values, and room for the cards."""
        return 3 + self.max_cards

    @property
    def answer_length(self) -> int:
        """The cards, the operators between them and the end."""
        return 2 * self.max_cards

    def sample(self, key: Key) -> Hand:
        """One hand, with its cards in random order."""
        hand_key, order_key = jax.random.split(key)
        return self._hand(order_key, rpn.draw(hand_key, table(self.split, self.part).probability))

    def every(self) -> tuple[Hand, Array]:
        """All N hands, leaves [N, ...], and the probability of each [N]: one order of the cards of each."""
        probability = table(self.split, self.part).probability
        keys, rows = jax.random.split(jax.random.key(0), len(probability)), jnp.arange(len(probability))
        return jax.vmap(self._hand)(keys, rows), jnp.asarray(probability)

    def _hand(self, key: Key, row: Array) -> Hand:
        hands = table(self.split, self.part)
        room = ((0, 0), (0, self.max_cards - hands.ranks.shape[1]))
        ranks, values = (jnp.asarray(np.pad(x, room))[row] for x in (hands.ranks, hands.values))
        order = rpn.shuffle(key, ranks > 0)
        faces, solutions = jnp.asarray(hands.faces)[row], jnp.asarray(hands.solutions, jnp.int32)[row]
        return Hand(faces, ranks[order], values[order], solutions)

    def prompt(self, problem: Hand) -> Array:
        """The face values and the ranks `[P] int32`, then blanks."""
        return jnp.concatenate([problem.faces, jnp.where(problem.ranks > 0, problem.ranks, NOTATION.blank)])

    def demonstrate(self, key: Key, problem: Hand) -> Array:
        """One of the known solutions `[T] int32`, uniformly drawn."""
        hands = table(self.split)
        return rpn.draw_answer(key, hands.answers, hands.known, problem.solutions, self.answer_length)

    def verify(self, problem: Hand, answer: Array) -> Verdict:
        """Exact evaluation of an answer `[T] int32`."""
        return rpn.verify(NOTATION, answer, problem.values, jnp.int32(TARGET), rpn.REWARDS[self.scale])

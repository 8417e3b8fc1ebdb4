"""General Points: make 24 of four (or five) cards, where a rule says what the face cards count as.

The environment of Chu et al. 2025 ("SFT memorizes, RL generalizes") with the splits of its follow-up on prompt
diversity. Cards are uniform with replacement, given that the hand can make 24. Every card is used exactly once, with
+ - * / on exact rationals, and answers are in reverse Polish notation over what the cards *count as*:

    prompt  [J, Q, K, r1, r2, r3, r4]    what the three faces count as, then the ranks (jack 11, queen 12, king 13)
    answer  [7 tokens, end]

With `max_cards=5` there is room for five cards in both, and a blank in the prompt where there is none.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.tokens import rpn
from metarl.types import Array, Key, Verdict

TARGET = 24
HIGHEST = 19  # of all splits: the vocabulary is the same everywhere
NOTATION = rpn.Notation(HIGHEST)

Rule = tuple[int, int, int]  # what J, Q and K count as


@dataclass(frozen=True)
class Split:
    """Which hands there are, under which rules (one of them drawn uniformly for each problem)."""

    rules: tuple[Rule, ...]
    scored: Rule | None = None  # the rule by which answers are scored where it is not the one in the prompt
    cards: int = 4
    highest: int = 13  # ranks are 1 .. highest; those above the king count as what they are
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
    "fake": Split((_REGULAR,), scored=_TEN),  # hands that are solvable under both
    "diverse": Split(
        (_TEN, (11, 11, 11), (13, 13, 13), (9, 10, 11), (10, 11, 12), (7, 9, 11), (8, 10, 12), (9, 11, 13))
    ),
}


class Hand(NamedTuple):
    """One problem, room for C cards."""

    faces: Array  # [3] int32, what the prompt says that J, Q and K count as
    ranks: Array  # [C] int32, in the order of the prompt, 0 where there is no card
    values: Array  # [C] int32, what the cards count as, 0 where there is none
    solutions: Array  # () int32, row of the split's table of solutions


class Table(NamedTuple):
    """All H hands of a split (n cards, sorted by rank) and up to K solutions of each of their M sets of values."""

    faces: np.ndarray  # [H, 3] int32
    ranks: np.ndarray  # [H, n] int32
    values: np.ndarray  # [H, n] int32
    probability: np.ndarray  # [H] float64
    solutions: np.ndarray  # [H] int64, row of the next two
    answers: np.ndarray  # [M, K, 2 n] uint8
    known: np.ndarray  # [M] int32, how many of the K there are


@functools.cache
def table(split: str, part: str = "all") -> Table:
    """The hands of a part of a split. Well below a second, but for "five", which takes some seconds once.

    What is held out is held out by value: no solution of a held-out hand solves a training hand, whatever the rule. So
    a hand with a queen may be in training under one rule and held out under another, and hands with different faces
    that count the same are in the same part.
    """
    spec = SPLITS[split]
    ranks, scored, solutions, solved = _solved(split)
    rule, hand = np.nonzero(solutions >= 0)
    values = scored[rule, hand]
    if part != "all":
        rows = rpn.held_out(np.sort(values, 1)) == (part == "held_out")
        rule, hand, values = rule[rows], hand[rows], values[rows]
    ways = rpn.orderings(ranks)[hand]
    return Table(
        faces=np.array(spec.rules, np.int32)[rule],
        ranks=ranks[hand],
        values=values,
        probability=ways / np.bincount(rule, ways)[rule] / len(spec.rules),
        solutions=solutions[rule, hand],
        answers=solved.answers,
        known=solved.known,
    )


@functools.cache
def _solved(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, rpn.Solved]:
    """Hands and their solutions.

    The ranks `[N, n]` that the split's cards can have, what they count as `[R, N, n]` where answers are scored under
    each of R rules, and rows `[R, N]` of the solutions, -1 where there is none.
    """
    spec = SPLITS[split]
    ranks = rpn.multisets(spec.highest, spec.cards)
    if spec.required:
        low, high = spec.required
        ranks = ranks[((ranks >= low) & (ranks <= high)).any(1)]
    shown = np.stack([_count(ranks, rule) for rule in spec.rules])
    scored = shown if spec.scored is None else np.stack([_count(ranks, spec.scored)] * len(shown))
    both = np.sort(np.stack([shown, scored]), -1)
    distinct, row = np.unique(both.reshape(-1, spec.cards), axis=0, return_inverse=True)
    solved = rpn.solve(NOTATION, distinct, (TARGET,))
    solution = np.full(len(distinct), -1)
    solution[solved.hand] = np.arange(len(solved.hand))
    in_shown, in_scored = solution[row.reshape(both.shape[:-1])]
    return ranks, scored, np.where(in_shown >= 0, in_scored, -1), solved


def _count(ranks: np.ndarray, rule: Rule) -> np.ndarray:
    """What cards of these ranks count as."""
    values = np.arange(HIGHEST + 1, dtype=np.int32)
    values[11:14] = rule
    return values[ranks]


@dataclass(frozen=True)
class GeneralPoints:
    """The task (`metarl.types.TokenTask`) on a part of a split.

    `part` is "train", "held_out" (a fifth, see `table`) or "all"; `max_cards` (4 or 5) sizes prompts and answers;
    `scale` is "points" (+5 if correct, -1 for a wrong value, -2 for an illegal number, -3 for an illegal formula) or
    "binary" (1 if correct). Raises ValueError for other choices.
    """

    split: str = "id"
    part: str = "train"
    max_cards: int = 4
    scale: str = "points"

    def __post_init__(self) -> None:
        for name, choices in {"split": SPLITS, "part": rpn.PARTS, "scale": rpn.REWARDS, "max_cards": (4, 5)}.items():
            rpn.require_choice(name, getattr(self, name), choices)
        if SPLITS[self.split].cards > self.max_cards:
            raise ValueError(f"split {self.split!r} needs max_cards={SPLITS[self.split].cards}, got {self.max_cards}")
        rpn.require_exact(self.max_cards, HIGHEST, TARGET)

    @property
    def num_tokens(self) -> int:
        """The vocabulary of all splits."""
        return NOTATION.num_tokens

    @property
    def end(self) -> int:
        """The token 0."""
        return NOTATION.end

    @property
    def prompt_length(self) -> int:
        """What J, Q and K count as, and room for the cards."""
        return 3 + self.max_cards

    @property
    def answer_length(self) -> int:
        """The cards, the operators between them and the end."""
        return 2 * self.max_cards

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of verdicts, those of `rpn`."""
        return rpn.KINDS

    def sample(self, key: Key) -> Hand:
        """One hand, with its cards in random order."""
        hands = table(self.split, self.part)
        hand_key, order_key = jax.random.split(key)
        row = rpn.draw(hand_key, hands.probability)
        room = ((0, 0), (0, self.max_cards - hands.ranks.shape[1]))
        ranks, values = (jnp.asarray(np.pad(x, room))[row] for x in (hands.ranks, hands.values))
        order = rpn.shuffle(order_key, ranks > 0)
        faces, solutions = jnp.asarray(hands.faces)[row], jnp.asarray(hands.solutions, jnp.int32)[row]
        return Hand(faces, ranks[order], values[order], solutions)

    def prompt(self, problem: Hand) -> Array:
        """What J, Q and K count as, and the ranks `[P] int32`, blanks after them."""
        return jnp.concatenate([problem.faces, jnp.where(problem.ranks > 0, problem.ranks, NOTATION.blank)])

    def demonstrate(self, key: Key, problem: Hand) -> Array:
        """One of the known solutions `[T] int32`, uniformly drawn."""
        hands = table(self.split)
        return rpn.draw_answer(key, hands.answers, hands.known, problem.solutions, self.answer_length)

    def verify(self, problem: Hand, answer: Array) -> Verdict:
        """Exact evaluation of an answer `[T] int32`."""
        return rpn.judge(NOTATION, answer, problem.values, jnp.int32(TARGET), rpn.REWARDS[self.scale])

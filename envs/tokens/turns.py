"""Several tries at a problem, with the verifier's reply after each, and sorting with a hint in the reply.

    transcript of K tries   [try 1, end .., reply, try 2, end .., reply, ...], frames of equal length

The reply is one token, that of the kind of the verdict: the tokens of the task come first, then one for each kind.
Multi-turn General Points (Chu et al. 2025, "SFT memorizes, RL generalizes") is `Turns(GeneralPoints(), tries=5)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from envs.tokens.digits import END, Sorting, Unsorted
from metarl import checks
from metarl.checks import COUNT, SHARE
from metarl.types import Array, DerivedTask, Key, PyTree, TokenTask, Verdict


def reply_to(task: TokenTask, verdict: Verdict) -> Array:
    """The verifier's token `() int32` for a verdict on an answer to `task`."""
    return task.num_tokens + verdict.kind


@dataclass(frozen=True)
class Turns(DerivedTask):
    """`task` with up to `tries` tries (`metarl.types.TurnTask`). Its rewards are the sums of those of the tries.

    Demonstrations have errors and corrections. Each try but the last is wrong with probability `mistakes`: from some
    place on, the tokens of the solution are shuffled. The next try keeps all that was right, and puts right the first
    token that was wrong. The last try is the solution.

    Raises ValueError for less than one try, a share outside [0, 1], or a task that has several tries itself.
    """

    task: TokenTask
    tries: Annotated[int, COUNT] = 5
    mistakes: Annotated[float, SHARE] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fields(self)

    @property
    def num_tokens(self) -> int:
        """The vocabulary of the task, and a reply for each kind of verdict."""
        return self.task.num_tokens + len(self.task.kinds)

    @property
    def try_length(self) -> int:
        """T, most tokens of an answer to the task."""
        return self.task.answer_length

    @property
    def answer_length(self) -> int:
        """Of a transcript."""
        return self.tries * (self.try_length + 1)

    def reply(self, problem: PyTree, answer: Array) -> tuple[Array, Array]:
        """The verifier's token `() int32` after a try `[T]`, and whether that was correct `() bool`."""
        verdict = self.task.verify(problem, answer)
        return reply_to(self.task, verdict), verdict.correct

    def verify(self, problem: PyTree, answer: Array) -> Verdict:
        """Of a transcript: the sum of the rewards of the tries that were made, and the kind of the last of them."""
        tries = answer.reshape(self.tries, self.try_length + 1)[:, :-1]
        verdicts = jax.vmap(self.task.verify, (None, 0))(problem, tries)
        made = self._made(verdicts.correct)
        reward = jnp.where(made, verdicts.reward, 0.0).sum()
        return Verdict(reward, verdicts.correct.any(), verdicts.kind[made.sum() - 1])

    def transcript(self, problem: PyTree, tries: Array) -> Array:
        """The transcript `[K (T + 1)] int32` of `tries` `[K, T]`, with the verifier's replies."""
        replies, correct = jax.vmap(self.reply, (None, 0))(problem, tries)
        frames = jnp.concatenate([tries, replies[:, None]], 1)
        return jnp.where(self._made(correct)[:, None], frames, self.end).reshape(-1)

    def demonstrate(self, key: Key, problem: PyTree) -> Array:
        """A transcript `[K (T + 1)] int32` that ends with a correct try."""
        solution_key, key = jax.random.split(key)
        solution = self.task.demonstrate(solution_key, problem)
        place = jnp.arange(self.try_length)
        length = (solution != self.end).sum()  # no token of an answer is the end, but those that pad it

        def one(kept: Array, key: Key) -> tuple[Array, Array]:
            """A try whose first `kept` tokens are right."""
            wrong_key, start_key, shuffle_key = jax.random.split(key, 3)
            start = jax.random.randint(start_key, (), kept, jnp.maximum(length - 1, kept + 1))
            moves = (place >= start) & (place < length)
            order = jnp.where(moves, start + jax.random.uniform(shuffle_key, place.shape) * (length - start), place)
            shuffled = solution[jnp.argsort(order)]
            answer = jnp.where(jax.random.bernoulli(wrong_key, self.mistakes), shuffled, solution)
            return jnp.maximum(kept, jnp.argmax(answer != solution) + 1), answer

        _, tries = jax.lax.scan(one, jnp.int32(0), jax.random.split(key, self.tries))
        return self.transcript(problem, tries.at[-1].set(solution))

    def _made(self, correct: Array) -> Array:
        """Which tries `[K] bool` were made: none after the first that is correct `[K]`."""
        return jnp.cumsum(correct) - correct == 0


@dataclass(frozen=True)
class HintedSorting(Sorting):
    """As `Sorting`, but the verdict tells the place of the first wrong token: a hint for the next try."""

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        """Correct, or the place of the first wrong token."""
        return ("correct", *(f"wrong from token {i + 1} on" for i in range(self.answer_length)))

    def verify(self, problem: Unsorted, answer: Array) -> Verdict:
        """1 for the sorted digits, 0 for any other answer."""
        verdict, solution = super().verify(problem, answer), self.demonstrate(jax.random.key(0), problem)
        before_end = jnp.cumsum(answer == END) == 0
        wrong = jnp.where(before_end, answer, END) != solution
        return verdict._replace(kind=jnp.where(verdict.correct, 0, 1 + jnp.argmax(wrong)).astype(jnp.int32))

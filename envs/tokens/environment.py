"""Any token task as an environment: one token per step, and as many tries as one likes.

What has been said so far is the observation: the prompt, then for each try the tokens of the answer and the token of
its verdict, all in the order in which they came. Multi-turn General Points (Chu et al. 2025) has five tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.types import Array, Box, Discrete, Key, PyTree, TokenTask


class TokenState(NamedTuple):
    """One episode in progress."""

    tokens: Array  # [L] int32, the observation
    length: Array  # () int32, how many of them there are so far
    answer: Array  # [T] int32, of the present try, padded by the end token
    written: Array  # () int32, tokens of the present try
    tries: Array  # () int32, answers that were judged


@dataclass(frozen=True)
class TokenEnv:
    """`task` as an environment; a level's parameters are a problem, which every episode on that level poses again.

    Observation `[P + tries * (T + 1)] int32`: what was said so far, and `padding` after it, so that its length is the
    number of tokens that are no padding. The vocabulary is the task's `num_tokens`, then a token for each of its kinds
    of verdicts, then `padding`. An action is the next token. An answer is over when it ends or has T tokens: then comes
    its reward, and a correct or last one terminates the episode. Raises ValueError for less than one try.
    """

    task: TokenTask
    tries: int = 1

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries must be at least 1, got {self.tries}")

    @property
    def padding(self) -> int:
        """The last token of the vocabulary."""
        return self.task.num_tokens + len(self.task.kinds)

    @property
    def length(self) -> int:
        """L, of observations."""
        return self.task.prompt_length + self.tries * (self.task.answer_length + 1)

    @property
    def default_params(self) -> PyTree:
        """A problem of the task, always the same."""
        return self.task.sample(jax.random.key(0))

    def action_space(self, params: PyTree = None) -> Discrete:
        """The tokens of the task."""
        return Discrete(self.task.num_tokens)

    def observation_space(self, params: PyTree = None) -> Box:
        """What was said so far, padded to L tokens."""
        return Box(0, self.padding, (self.length,), jnp.int32)

    def reset(self, key: Key, params: PyTree) -> tuple[Array, TokenState]:
        """The prompt, padded, and the state before the first token."""
        start, none = self.task.prompt_length, jnp.int32(0)
        tokens = jnp.full(self.length, self.padding, jnp.int32).at[:start].set(self.task.prompt(params))
        return tokens, TokenState(tokens, jnp.int32(start), self._no_answer(), none, none)

    def step(
        self, key: Key, state: TokenState, action: Array, params: PyTree
    ) -> tuple[Array, TokenState, Array, Array, Array, dict[str, Any]]:
        """Says one token, with auto-reset to the same problem."""
        action = jnp.asarray(action, jnp.int32)
        answer, written = state.answer.at[state.written].set(action), state.written + 1
        over = (action == self.task.end) | (written >= self.task.answer_length)
        verdict = self.task.verify(params, answer)
        terminated = over & (verdict.correct | (state.tries + 1 >= self.tries))

        says = jnp.where(over, self.task.num_tokens + verdict.kind, self.padding)
        following = TokenState(
            tokens=state.tokens.at[state.length].set(action).at[state.length + 1].set(says),
            length=state.length + 1 + over,
            answer=jnp.where(over, self._no_answer(), answer),
            written=jnp.where(over, 0, written),
            tries=state.tries + over,
        )
        _, newborn = self.reset(key, params)
        new = jax.tree.map(lambda new, old: jnp.where(terminated, new, old), newborn, following)
        reward = jnp.where(over, verdict.reward, 0.0)
        info = {"final_observation": following.tokens}
        return new.tokens, new, reward, terminated, jnp.zeros((), bool), info

    def _no_answer(self) -> Array:
        return jnp.full(self.task.answer_length, self.task.end, jnp.int32)


def optimal_return(env: TokenEnv, params: PyTree) -> Array:
    """Return `() float32` of an episode whose first answer is correct, which no reward for another one exceeds."""
    return env.task.verify(params, env.task.demonstrate(jax.random.key(0), params)).reward

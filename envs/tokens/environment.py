"""Any token task as an environment: one token per step, with one or more tries per episode.

The observation has all tokens so far: the prompt, then the answer of each try and the verifier's reply, as in the
transcripts of `Turns` but without gaps. Multi-turn General Points (Chu et al. 2025) has five tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.tokens.turns import reply_to
from metarl import checks
from metarl.checks import COUNT
from metarl.tree import select
from metarl.types import Array, Box, Discrete, Key, PyTree, TokenTask, TurnTask


class TokenState(NamedTuple):
    """One episode in progress."""

    tokens: Array  # [L] int32, the observation
    length: Array  # () int32, number of tokens so far
    answer: Array  # [T] int32, answer of the present try, padded by the end token
    written: Array  # () int32, number of tokens of the present try
    tries: Array  # () int32, number of complete tries


@dataclass(frozen=True)
class TokenEnv:
    """`task` as an environment. The parameters of a level are one problem, the same in all its episodes.

    The observation `[P + tries * (T + 1)] int32` is all tokens so far, then `padding`. Its vocabulary is the task's
    `num_tokens`, then one token for each kind of verdict, then `padding`. An action is the next token. A try is
    complete when its answer ends or has T tokens: it gets its reward, and a correct or last one terminates the episode.
    Raises ValueError for less than one try, or a task that has several itself.
    """

    task: TokenTask
    tries: Annotated[int, COUNT] = 1

    def __post_init__(self) -> None:
        checks.fields(self)
        if isinstance(self.task, TurnTask):
            raise ValueError(f"task must have one try: give the task in it, and tries={self.task.tries}")

    @property
    def padding(self) -> int:
        """The last token of the vocabulary."""
        return self.task.num_tokens + len(self.task.kinds)

    @property
    def length(self) -> int:
        """L, the length of observations."""
        return self.task.prompt_length + self.tries * (self.task.answer_length + 1)

    @property
    def default_params(self) -> PyTree:
        """A problem of the task, the same at every call."""
        return self.task.sample(jax.random.key(0))

    def action_space(self, params: PyTree = None) -> Discrete:
        """The tokens of the task."""
        return Discrete(self.task.num_tokens)

    def observation_space(self, params: PyTree = None) -> Box:
        """All tokens so far, padded to L tokens."""
        return Box(0, self.padding, (self.length,), jnp.int32)

    def reset(self, key: Key, params: PyTree) -> tuple[Array, TokenState]:
        """The padded prompt, and the state before the first token."""
        start, none = self.task.prompt_length, jnp.int32(0)
        tokens = jnp.full(self.length, self.padding, jnp.int32).at[:start].set(self.task.prompt(params))
        return tokens, TokenState(tokens, jnp.int32(start), self._no_answer(), none, none)

    def step(
        self, key: Key, state: TokenState, action: Array, params: PyTree
    ) -> tuple[Array, TokenState, Array, Array, Array, dict[str, Any]]:
        """Appends one token, with auto-reset to the same problem."""
        action = jnp.asarray(action, jnp.int32)
        answer, written = state.answer.at[state.written].set(action), state.written + 1
        complete = (action == self.task.end) | (written >= self.task.answer_length)
        verdict = self.task.verify(params, answer)
        terminated = complete & (verdict.correct | (state.tries + 1 >= self.tries))

        judgement = jnp.where(complete, reply_to(self.task, verdict), self.padding)
        following = TokenState(
            tokens=state.tokens.at[state.length].set(action).at[state.length + 1].set(judgement),
            length=state.length + 1 + complete,
            answer=jnp.where(complete, self._no_answer(), answer),
            written=jnp.where(complete, 0, written),
            tries=state.tries + complete,
        )
        new = select(terminated, self.reset(key, params)[1], following)
        reward = jnp.where(complete, verdict.reward, 0.0)
        info = {"final_observation": following.tokens}
        return new.tokens, new, reward, terminated, jnp.zeros((), bool), info

    def _no_answer(self) -> Array:
        return jnp.full(self.task.answer_length, self.task.end, jnp.int32)


def optimal_return(env: TokenEnv, params: PyTree) -> Array:
    """Return `() float32` of an episode whose first answer is correct, the highest of all."""
    return env.task.verify(params, env.task.demonstrate(jax.random.key(0), params)).reward

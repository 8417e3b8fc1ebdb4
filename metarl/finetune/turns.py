"""Several turns: a policy tries, the verifier replies, and the policy tries again, all in one cache.

The transcript of a `TurnTask` has a frame of equal length for every try, so sequences stay in step however long their
tries are: nothing that was said is computed again. After every try the cache can be forked, for a `Prover` who answers
as if there were no more tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import COUNT, NOT_NEGATIVE
from metarl.finetune.batch import Batch
from metarl.finetune.policies import Decode, Prefix, Samples, SequencePolicy, answer, check_prefix, in_step, until_end
from metarl.types import Array, Key, Params, PyTree, TokenTask, TurnTask


@dataclass(frozen=True)
class Prover:
    """The meta-prover of MRT (Qu et al. 2025, arXiv 2503.07572): the policy itself, made to give its last answer.

    It answers `forks` times after each try, greedily at temperature 0; its success is the share of right answers, or 1
    if a try was right before.

    Raises ValueError if `forks` is below 1, `temperature` negative, or if several forks would all be the greedy answer.
    """

    forks: Annotated[int, COUNT] = 1
    temperature: Annotated[float, NOT_NEGATIVE] = 1.0

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.forks > 1 and self.temperature == 0.0:
            raise ValueError(f"forks must be 1 at temperature 0, where all are alike, got {self.forks}")

    def tokens(self, task: TurnTask) -> int:
        """How many tokens it draws for one transcript, those after the ends of answers included."""
        return self.forks * task.tries * task.try_length


# --- the layout of transcripts --------------------------------------------------------------------------------


def tokens_drawn(task: TokenTask) -> int:
    """How many tokens a policy draws for one answer, those after ends included: replies are not drawn."""
    return task.tries * task.try_length if isinstance(task, TurnTask) else task.answer_length


def mask_of(task: TokenTask, answers: Array) -> Array:
    """Which tokens of `answers` [B, L] are the policy's: up to the end of each try that was made, without replies."""
    if not isinstance(task, TurnTask):
        return until_end(answers, task.end)
    frames = answers.reshape(len(answers), task.tries, task.try_length + 1)
    made = frames[..., -1:] != task.end
    said = until_end(frames[..., :-1], task.end) & made
    return jnp.concatenate([said, jnp.zeros_like(made)], -1).reshape(answers.shape)


def turns_of(task: TokenTask, count: int) -> Array | None:
    """The try of each token [count, L] int32 of transcripts; None if the task has one try."""
    if not isinstance(task, TurnTask):
        return None
    return jnp.broadcast_to(jnp.arange(task.answer_length) // (task.try_length + 1), (count, task.answer_length))


def last_try(batch: Batch) -> Array:
    """The last try that was made [B] int32, from 0. Raises ValueError for a batch of a task with one try."""
    if batch.turn is None:
        raise ValueError("tries need batch.turn, got None: the task has one try")
    return jnp.where(batch.mask, batch.turn, 0).max(1)


def solved(batch: Batch, tries: int) -> Array:
    """Whether each problem was solved by the end of each try [B, tries] bool. Raises ValueError as `last_try` does."""
    return batch.correct[:, None] & (jnp.arange(tries) >= last_try(batch)[:, None])


# --- sampling -------------------------------------------------------------------------------------------------


def play(
    policy: SequencePolicy,
    params: Params,
    task: TurnTask,
    problems: PyTree,
    prompts: Array,
    key: Key,
    temperature: Array | float = 1.0,
    prefix: Prefix | None = None,
    prover: Prover | None = None,
) -> tuple[Samples, Array | None]:
    """A transcript for each of the problems, leaves [B, ...], and the success [B, K] of a `prover` after each try.

    The first tokens of a transcript may be forced by a `prefix`; the verifier replies to what was forced, too. Sampling
    and forks have keys of their own: a prover changes no transcript.

    Raises ValueError as `policies.sample` does, and if the transcript, with the last answer of the prover, is longer
    than a sequence of the policy may be.
    """
    count, tries, length = len(prompts), task.tries, task.try_length
    room = tries * (length + 1) + (length - 1 if prover else 0)
    prefill, decode = in_step(policy, params, prompts.shape[1], room)
    noise = jax.random.gumbel(key, (tries, length, count, policy.num_tokens))
    prefixes = None if prefix is None else _frames(prefix, tries, length)

    def one_try(carry: tuple[Array, PyTree, Array], x: tuple[Array, Prefix | None, Key]) -> tuple[PyTree, PyTree]:
        logits, cache, right = carry
        noise, prefix, key = x
        drawn, cache = answer(decode, logits, cache, ~right, noise, task.end, temperature, prefix)
        reply, correct = jax.vmap(task.reply)(problems, drawn.tokens)
        reply = jnp.where(right, task.end, reply)
        logits, cache = _read(decode, cache, jnp.stack([drawn.tokens[:, -1], reply]))
        frame = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 1))), drawn)
        frame = frame._replace(tokens=frame.tokens.at[:, -1].set(reply))
        right = right | correct
        proven = _prove(prover, task, problems, decode, logits, cache, right, key)
        return (logits, cache, right), (frame, proven)

    keys = jax.random.split(jax.random.fold_in(key, 1), tries)
    start = (*prefill(prompts), jnp.zeros(count, bool))
    _, (frames, proven) = jax.lax.scan(one_try, start, (noise, prefixes, keys))
    transcript = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(count, -1), frames)
    return transcript, None if proven is None else proven.T


def _prove(
    prover: Prover | None,
    task: TurnTask,
    problems: PyTree,
    decode: Decode,
    logits: Array,
    cache: PyTree,
    right: Array,
    key: Key,
) -> Array | None:
    """Success [B] of the prover after a try; None without one."""
    if prover is None:
        return None
    everyone = jnp.ones(len(right), bool)
    noise = jax.random.gumbel(key, (prover.forks, task.try_length, *logits.shape))

    def fork(noise: Array) -> Array:
        said, _ = answer(decode, logits, cache, everyone, noise, task.end, prover.temperature)
        return jax.vmap(task.reply)(problems, said.tokens)[1]

    return jnp.where(right, 1.0, jax.vmap(fork)(noise).mean(0))


def _read(decode: Decode, cache: PyTree, tokens: Array) -> tuple[Array, PyTree]:
    """Logits [B, V] of the token after `tokens` [n, B], and the cache."""

    def step(cache: PyTree, tokens: Array) -> tuple[PyTree, Array]:
        logits, cache = decode(cache, tokens)
        return cache, logits

    cache, logits = jax.lax.scan(step, cache, tokens)
    return logits[-1], cache


def _frames(prefix: Prefix, tries: int, length: int) -> Prefix:
    """The prefix of each try, leaves [tries, B, ...], of the prefix of a transcript."""
    count = len(prefix.length)
    check_prefix(prefix, count, tries * (length + 1))
    tokens = prefix.tokens.reshape(count, tries, length + 1)[..., :-1]
    return Prefix(jnp.moveaxis(tokens, 1, 0), prefix.length - jnp.arange(tries)[:, None] * (length + 1))

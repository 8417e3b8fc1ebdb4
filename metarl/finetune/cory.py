"""CORY: a pioneer answers, an observer answers after reading it, and both earn the sum of their rewards.

Ma et al. 2024, arXiv 2410.06101. Two copies of one policy learn together, each with its own divergence from the first
policy, and exchange their roles from time to time. Here the two are *one* policy, `relay`, whose answers have two
parts, on one task, `Both`: so every source, credit, loss and controller serves them, and `exchanged` adds the exchange
to the finished inner loop:

    inner = finetune(relay(policy, task), lambda key: (base, base), data_of(Both(task)), credit.grpo(8), ...)
    inner = exchanged(inner, update, every=5)

Afterwards either of `tuning.params` is a policy for `task`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, checked
from metarl.finetune.loop import Tuning
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.updates import GradientUpdate
from metarl.meta import InnerLoop, Update
from metarl.tree import select
from metarl.types import Array, DerivedTask, Key, MetaParams, Params, PyTree, TokenTask, Verdict

_NEVER = -1e9  # the logit of what is impossible; with -inf, entropies would be NaN


@dataclass(frozen=True)
class Both(DerivedTask):
    """`task`, answered twice: 2 T tokens, of which the second T are the answer after reading the first.

    The first end of each half ends it, and the half is padded by more of them. The vocabulary has one token more,
    which ends the whole and which nobody ever says. The reward is the sum of both rewards; correct, and of a kind, is
    the second answer.
    """

    task: TokenTask

    @property
    def num_tokens(self) -> int:
        """Those of the task, and one that ends both answers."""
        return self.task.num_tokens + 1

    @property
    def end(self) -> int:
        """The additional token."""
        return self.task.num_tokens

    @property
    def answer_length(self) -> int:
        """Twice that of the task."""
        return 2 * self.task.answer_length

    def demonstrate(self, key: Key, problem: PyTree) -> Array:
        """Two demonstrations, drawn apart."""
        first, second = jax.random.split(key)
        return jnp.concatenate([self.task.demonstrate(first, problem), self.task.demonstrate(second, problem)])

    def verify(self, problem: PyTree, answer: Array) -> Verdict:
        """The verdict on the second answer, with the sum of both rewards."""
        first, second = (self.task.verify(problem, half) for half in jnp.split(answer, 2))
        return second._replace(reward=first.reward + second.reward)


class _Reading(NamedTuple):
    """The cache of `relay`."""

    caches: tuple[PyTree, PyTree]  # of pioneer and observer
    read: Array  # () int32, tokens of the answers so far
    ended: Array  # [1] bool, whether the half that is being spoken has ended; scalars would be shared by sequences


def relay(policy: SequencePolicy, task: TokenTask) -> SequencePolicy:
    """The policy for `Both(task)` of two copies of `policy`: the pioneer says the first half, the observer the second.

    Its parameters are a pair, (pioneer, observer). Both read everything, but each half is said by one of them alone, so
    the gradient of its log-probability is that of one of them alone. After the end of a half its padding is certain.
    """
    half, first_row = task.answer_length, task.prompt_length - 1

    def both(logits: tuple[Array, Array], spoken: Array, ended: Array) -> Array:
        """Logits [..., V + 1] of the token after `spoken` [...] tokens of the answers."""
        said = jnp.where((spoken < half)[..., None], *logits)
        said = jnp.where(ended[..., None], jnp.where(jnp.arange(task.num_tokens) == task.end, 0.0, _NEVER), said)
        return jnp.append(said, jnp.full((*said.shape[:-1], 1), _NEVER), axis=-1)

    def known(token: Array) -> Array:
        return jnp.minimum(token, task.num_tokens - 1)  # the additional token, which is never said, has no embedding

    def init(key: Key) -> Params:
        return tuple(policy.init(key) for key in jax.random.split(key))

    def apply(params: Params, tokens: Array) -> Array:
        spoken = jnp.arange(len(tokens)) - first_row  # before the token that each row predicts
        answers = tokens[first_row + 1 :]
        ends = jnp.pad(answers == task.end, (0, 2 * half - len(answers))).reshape(2, half)
        over = (jnp.cumsum(ends, axis=1) > 0).reshape(-1)  # whether the half has ended with each of its tokens
        ended = over[jnp.maximum(spoken - 1, 0)] & (spoken > 0) & (spoken % half > 0)
        return both(tuple(policy.apply(p, known(tokens)) for p in params), spoken, ended)  # type: ignore[arg-type]

    def prefill(params: Params, prompt: Array, room: int) -> tuple[Array, _Reading]:
        (one, first), (other, second) = (policy.prefill(p, known(prompt), room) for p in params)
        read, ended = jnp.int32(0), jnp.zeros(1, bool)
        return both((one, other), read, ended[0]), _Reading((first, second), read, ended)

    def decode(params: Params, cache: _Reading, token: Array) -> tuple[Array, _Reading]:
        (one, first), (other, second) = (
            policy.decode(p, c, known(token)) for p, c in zip(params, cache.caches, strict=True)
        )
        read = cache.read + 1
        ended = (cache.ended | (token == task.end)) & (read % half > 0)
        return both((one, other), read, ended[0]), _Reading((first, second), read, ended)

    return SequencePolicy(task.num_tokens + 1, init, apply, prefill, decode)


@checked
def exchanged(inner: InnerLoop, update: GradientUpdate, every: Annotated[int, COUNT] = 5) -> InnerLoop:
    """`inner`, a loop that tunes a `relay` by `update`, whose two policies exchange roles after `every` steps.

    The pioneer becomes the observer, and the state of the optimizer is that of the beginning, as in the official
    script, which exchanges every 5 steps. Both have begun with the same parameters, so their reference needs no
    exchange. Raises ValueError if `every` is below 1.
    """

    def step(meta_params: MetaParams, tuning: Tuning, key: Key) -> Update:
        found = inner.step(meta_params, tuning, key)
        after = found.lifetime
        pioneer, observer = after.params
        turned = after._replace(params=(observer, pioneer), opt_state=update.init((observer, pioneer)))
        return found._replace(lifetime=select(after.step % every == 0, turned, after))

    return inner._replace(step=step)

"""Rewards from judges: a source whose answers a reward model scores, fixed or learning as the policy does.

    penalised(judged(fresh(task), score), reference, 0.05)     reward - 0.05 log(pi / ref), as in Stiennon et al. 2020
    annotated(fresh(task), model, utility)                     a rater compares the policy's own answers as it learns

What is right is still the task's verdict: only `batch.reward` changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, NOT_NEGATIVE, checked
from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.policies import SequencePolicy, answer_logits, of_logits
from metarl.finetune.reward_models import RewardModel, State, bradley_terry, ranked
from metarl.finetune.sources import Keys, Outcome, Source
from metarl.types import Array, Key, Params, Progress, PyTree


def judged(source: Source, score: Callable[[Batch], Array]) -> Source:
    """The answers of `source`, with their `score` [B] as reward; for what is no finite number see `finite`.

    Raises ValueError for a source of demonstrations.
    """
    check_draws(source)

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        batch = source.sample(policy, params, state, progress, keys)
        return batch._replace(reward=finite(score(batch)))

    return source._replace(sample=sample)


def finite(score: Array) -> Array:
    """Scores [B], with the lowest finite one of the batch where a score is NaN or infinite, and 0 if none is finite.

    So an answer for which a reward model fails is never among the best, and no gradient becomes NaN.
    """
    good = jnp.isfinite(score)
    lowest = jnp.where(good, score, jnp.inf).min()
    return jnp.where(good, score, jnp.where(jnp.isfinite(lowest), lowest, 0.0))


@checked
def penalised(source: Source, reference: Params, beta: Annotated[Array | float, NOT_NEGATIVE]) -> Source:
    """The answers of `source`, with `beta log(pi / ref)` of the answer less as reward (Stiennon et al. 2020, arXiv
    2009.01325): its expectation is `E[r] - beta KL(pi || ref)`, best at `pi ~ ref exp(r / beta)`.

    `reference` are parameters of the policy. Raises ValueError for a source of demonstrations or a negative `beta`.
    """
    check_draws(source)

    def sample(policy: SequencePolicy, params: Params, state: PyTree, progress: Progress, keys: Keys) -> Batch:
        batch = source.sample(policy, params, state, progress, keys)
        return batch._replace(reward=batch.reward - beta * log_ratio(policy, reference, batch))

    return source._replace(sample=sample)


def log_ratio(policy: SequencePolicy, reference: Params, batch: Batch) -> Array:
    """`log(pi / ref)` [B] of answers, pi being the policy that drew them; its mean estimates KL(pi || ref)."""
    logits = answer_logits(policy, reference, batch.prompts, batch.answers)
    ref = of_logits(logits, batch.answers, batch.mask).log_prob
    return terms.of_answer(batch.old_log_prob - jax.lax.stop_gradient(ref), batch.mask)


class Annotations(NamedTuple):
    """The state of `annotated`."""

    inner: PyTree  # of the source that draws the answers
    model: State


@checked
def annotated(
    source: Source,
    model: RewardModel,
    utility: Callable[[Batch], Array],
    start: State | None = None,
    count: Annotated[int, COUNT] = 16,
    steps: Annotated[int, COUNT] = 1,
) -> Source:
    """The answers of `source`, scored by a reward model that learns from a rater of those answers.

    Online annotation as in ONI (Zheng et al. 2024, arXiv 2410.23022), in its ranking variant: after each training step
    a rater compares the first two answers to each of `count` problems, and the reward model makes `steps` steps on
    these preferences. So it knows the answers that the policy gives now. There the rater is a language model that
    answers late; here it is at once, prefers the answer of higher `utility` [B], and pairs of equal ones count for
    nothing. `start` is the model's first state, newborn without it.

    Raises ValueError for a source of demonstrations, or a `count` above its number of problems.
    """
    check_draws(source)
    if count > source.num_problems:
        raise ValueError(f"count must be at most the {source.num_problems} problems of the source, got {count}")

    def init(key: Key) -> Annotations:
        return Annotations(source.init(key), model.init(jax.random.fold_in(key, 1)) if start is None else start)

    def sample(policy: SequencePolicy, params: Params, state: Annotations, progress: Progress, keys: Keys) -> Batch:
        batch = source.sample(policy, params, state.inner, progress, keys)
        return batch._replace(reward=finite(model.score(state.model[0], batch.prompts, batch.answers)))

    def update(state: Annotations, outcome: Outcome) -> Annotations:
        answers, size = outcome.answers, outcome.group_size
        first, second = (answers.answers[i::size][:count] for i in (0, 1))
        one, other = (utility(answers)[i::size][:count] for i in (0, 1))
        compared = ranked(answers.prompts[::size][:count], first, second, one > other)

        def step(state: State, _: None) -> tuple[State, None]:
            loss = lambda params: terms.token_mean(bradley_terry(model, params, compared), one != other)  # noqa: E731
            return model.step(state, loss), None

        learned = jax.lax.scan(step, state.model, length=steps)[0]
        return Annotations(source.update(state.inner, outcome), learned)

    return source._replace(init=init, sample=sample, update=update)


def best_of(score: Array, gold: Array, sizes: tuple[int, ...]) -> Array:
    """The expected gold reward [len(sizes)] of the best of n answers by `score`, from M answers' scores [M] and gold.

    Exact for n answers drawn without replacement from these M: the answer with rank r (0 the lowest) is the best of n
    with probability `C(r, n - 1) / C(M, n)`. Raises ValueError for an n that is below 1 or above M.
    """
    total = len(score)
    if not all(1 <= n <= total for n in sizes):
        raise ValueError(f"sizes must be between 1 and the {total} answers, got {sizes}")
    order = jnp.argsort(score)
    rank = jnp.arange(total)

    def one(n: int) -> Array:
        # C(r, n - 1) / C(M, n) = n / M * prod_{i=1}^{n-1} (r - i + 1) / (M - i)
        chances = jnp.full(total, n / total)
        for i in range(1, n):
            chances = chances * jnp.maximum(rank - i + 1, 0) / (total - i)
        return chances @ gold[order]

    return jnp.stack([one(n) for n in sizes])


def check_draws(source: Source) -> None:
    """Raises ValueError for a source of demonstrations."""
    if source.sampling is None:
        raise ValueError("source must draw answers of the policy, got demonstrations")

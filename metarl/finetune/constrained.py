"""Constrained RLHF: several rewards, each pursued up to a threshold, so that none is over-optimised.

Moskovitz et al. 2023, arXiv 2310.04373. Beyond some point a proxy rises while what it stands for falls; with thresholds
at that point, multipliers weigh the rewards against the divergence from the first policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import DECAY, POSITIVE, checked
from metarl.finetune.batch import Batch
from metarl.finetune.judged import check_draws, log_ratio
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sources import Keys, Outcome, Source
from metarl.types import Array, Key, Params, Progress, PyTree

Kind = Literal["inequality", "equality"]


class Multipliers(NamedTuple):
    """The state of `constrained`."""

    inner: PyTree  # of the source that draws the answers
    mu: Array  # [N]
    velocity: Array  # [N]


@checked
def constrained(
    source: Source,
    rewards: Sequence[Callable[[Batch], Array]],
    thresholds: Array | Sequence[float],
    reference: Params,
    kind: Kind = "inequality",
    rate: Annotated[Array | float, POSITIVE] = 0.1,
    momentum: Annotated[float, DECAY] = 0.1,
) -> Source:
    """The answers of `source`, with a mixture of N `rewards` (batch -> [B]) as reward.

    The reward is `(N - sum_i f(mu_i)) r_KL + sum_i f(mu_i) r_i`, with `r_KL = -log(pi / ref)` of the answer against the
    parameters `reference`. Credit without a deviation (`credit.dr_grpo`, `rloo`) is linear in it, so its advantages are
    the paper's `A_mix`. After each step mu descends `sum_i f(mu_i) (J_i - theta_i)` by gradient descent with momentum,
    where J_i is the mean of r_i and theta_i the threshold.

    f is a sigmoid for constraints J_i >= theta_i (mu-PPO, "inequality"): a reward above its threshold loses its weight.
    It is tanh for J_i = theta_i (xi-PPO, "equality"), which also pushes a reward down.

    `rewards` must not read `batch.reward`, which is the mixture when J_i is measured: give the task's own reward by
    `batch.correct`, or compute it.

    Raises ValueError for a source of demonstrations, no reward, another number of thresholds, an unknown `kind`, or
    numbers out of bounds.
    """
    number = len(rewards)
    check_draws(source)
    if not number or len(thresholds) != number:
        raise ValueError(f"there must be a threshold for each of one or more rewards, got {len(thresholds)}, {number}")
    theta = jnp.asarray(thresholds, float)

    def weight(mu: Array) -> Array:
        return jax.nn.sigmoid(mu) if kind == "inequality" else jnp.tanh(mu)

    def each(batch: Batch) -> Array:
        return jnp.stack([reward(batch) for reward in rewards])

    def init(key: Key) -> Multipliers:
        return Multipliers(source.init(key), jnp.zeros(number), jnp.zeros(number))

    def sample(policy: SequencePolicy, params: Params, state: Multipliers, progress: Progress, keys: Keys) -> Batch:
        batch = source.sample(policy, params, state.inner, progress, keys)
        divergence = log_ratio(policy, reference, batch)
        f = weight(state.mu)
        return batch._replace(reward=f @ each(batch) - (number - f.sum()) * divergence)

    def update(state: Multipliers, outcome: Outcome) -> Multipliers:
        excess = each(outcome.answers).mean(1) - theta
        slope = jax.grad(lambda mu: weight(mu) @ excess)(state.mu)
        velocity = momentum * state.velocity + slope
        return Multipliers(source.update(state.inner, outcome), state.mu - rate * velocity, velocity)

    return source._replace(init=init, sample=sample, update=update)

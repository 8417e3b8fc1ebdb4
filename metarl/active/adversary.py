"""Adversaries: instances of one difficulty that are moved to where a policy fails."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from metarl.active.policies import Episode, Play
from metarl.active.problems import Problem, project
from metarl.types import Array, Key


def episodes(play: Play, key: Key, theta: Array, count: int) -> Episode:
    """`count` episodes of each of the instances `theta` [N, X]. Leaves [N, count, ...]."""
    keys = jax.random.split(key, (len(theta), count))
    return jax.vmap(jax.vmap(play, (0, None)))(keys, theta)


def advantage(loss: Array) -> Array:
    """How much more each of B >= 2 losses [..., B] is than the mean of the others."""
    count = loss.shape[-1]
    return (loss - loss.mean(-1, keepdims=True)) * count / (count - 1)


def ascent_direction(theta: Array, played: Episode) -> Array:
    """The gradient [N, X] of the expected loss in the instances `theta` [N, X], estimated from B episodes of each.

    By the score function: of normal answers, the gradient of the log-likelihood is sums - counts theta.
    """
    scores = played.history.sums - played.history.counts * theta[:, None]
    return (advantage(played.loss)[..., None] * scores).mean(1)


def ascend(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    theta: Array,
    state: optax.OptState,
    played: Episode,
    radius: Array,
) -> tuple[Array, optax.OptState]:
    """One step of the instances `theta` [N, X] towards a greater loss, within the classes of `radius` [N]."""
    updates, state = optimizer.update(-ascent_direction(theta, played), state)
    return jax.vmap(partial(project, problem))(jnp.asarray(optax.apply_updates(theta, updates)), radius), state


def worst_case(
    problem: Problem,
    play: Play,
    key: Key,
    radius: Array,
    *,
    starts: int,
    steps: int,
    count: int,
    learning_rate: float,
) -> tuple[Array, Array]:
    """The worst instance [X] that an adversary finds in the class of `radius` (), and its loss ().

    It ascends from `starts` instances of the prior, with `count` episodes of each in each of `steps` steps by Adam. The
    worst of them by 8 `count` new episodes is measured once more by `starts` times as many, so the choice of the worst
    does not bias its loss.
    """
    start_key, ascent_key, choice_key, final_key = jax.random.split(key, 4)
    radii = jnp.full(starts, radius)
    theta = jax.vmap(lambda key: project(problem, problem.sample(key), radius))(jax.random.split(start_key, starts))
    optimizer = optax.adam(learning_rate)

    def step(carry: tuple[Array, optax.OptState], key: Key) -> tuple[tuple[Array, optax.OptState], None]:
        theta, state = carry
        return ascend(problem, optimizer, theta, state, episodes(play, key, theta, count), radii), None

    (theta, _), _ = jax.lax.scan(step, (theta, optimizer.init(theta)), jax.random.split(ascent_key, steps))
    losses = episodes(play, choice_key, theta, 8 * count).loss.mean(1)
    worst = theta[losses.argmax()]
    return worst, episodes(play, final_key, worst[None], 8 * count * starts).loss.mean()

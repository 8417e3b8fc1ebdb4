"""Who asks: learned policies, successive halving and greedy information gain, and how one of them plays an instance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.active.problems import Problem
from metarl.types import Array, Key, Params


class History(NamedTuple):
    """All that answers tell, whatever their order: a sufficient statistic of theta."""

    counts: Array  # [X] float32, how often each query was made
    sums: Array  # [X], of its answers


class Episode(NamedTuple):
    """What came of one instance."""

    history: History  # at the end
    log_prob: Array  # () of the queries, for policy gradients
    loss: Array  # () the probability that a wrong candidate is named


# the logits of the next query [X], and of the candidate that would be named now [Z]
Policy = Callable[[History], tuple[Array, Array]]
Play = Callable[[Key, Array], Episode]  # (key, theta [X])


def play(problem: Problem, policy: Policy, key: Key, theta: Array) -> Episode:
    """Makes `problem.budget` queries, each drawn from `policy`, and draws a candidate.

    The loss is exact over that last draw. It is differentiable in the policy, and so is `log_prob`; the history is not.
    """

    query_key, noise_key = jax.random.split(key)
    drawn = (
        jax.random.gumbel(query_key, (problem.budget, theta.size)),
        jax.random.normal(noise_key, (problem.budget,)),
    )

    def step(history: History, drawn: tuple[Array, Array]) -> tuple[History, Array]:
        gumbel, noise = drawn
        logits, _ = policy(history)
        asked = jax.nn.one_hot(jnp.argmax(logits + gumbel), theta.size)  # a draw from the softmax of the logits
        counts, sums = history.counts + asked, history.sums + asked * (theta + noise)
        return History(counts, sums), (asked * jax.nn.log_softmax(logits)).sum()

    nothing = History(jnp.zeros(theta.size), jnp.zeros(theta.size))
    history, log_probs = jax.lax.scan(step, nothing, drawn)
    _, logits = policy(history)
    return Episode(history, log_probs.sum(), 1.0 - jax.nn.softmax(logits)[problem.right(theta)])


class Network(nn.Module):
    """Two dense layers that all queries share; the second sees the mean of the first over queries, too.

    So a policy does not depend on the order in which queries are listed. [X, features] -> [X, 3].
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.tanh(nn.Dense(self.width)(x))
        x = jnp.concatenate([x, jnp.broadcast_to(x.mean(0), x.shape)], -1)
        x = nn.tanh(nn.Dense(self.width)(x))
        return nn.Dense(3)(x)


def learned(problem: Problem, width: int) -> tuple[Callable[[Key], Params], Callable[[Params], Policy]]:
    """A small network on the sufficient statistic: `init(key) -> params` and `policy(params)`.

    For each query it sees how often that was made, the sum and the mean of its answers, the answer to expect if theta
    were the code of a candidate, and how much of the budget is left. It gives the logit of the query, and a weight and
    a bias for its mean answer. The logit of a candidate is the product of its code with the weighted means.
    """
    network, budget = Network(width), problem.budget

    def features(history: History) -> tuple[Array, Array]:
        counts, sums = history
        means = sums / jnp.maximum(counts, 1.0)
        expected = jax.nn.softmax(problem.codes @ sums) @ problem.codes
        left = jnp.broadcast_to(1.0 - counts.sum() / budget, counts.shape)
        return jnp.stack([counts / budget, sums / budget**0.5, means, expected, left], -1), means

    def policy(params: Params) -> Policy:
        def decide(history: History) -> tuple[Array, Array]:
            x, means = features(history)
            query, weight, bias = jnp.moveaxis(jnp.asarray(network.apply({"params": params}, x)), -1, 0)
            return query, problem.codes @ (jnp.exp(weight) * means + bias)

        return decide

    def init(key: Key) -> Params:
        x, _ = features(History(*2 * (jnp.zeros(problem.codes.shape[1]),)))
        return network.init(key, x)["params"]

    return init, policy


def information_gain(problem: Problem, reliability: float = 1.0) -> Policy:
    """Asks what is least certain, given that every question has this reliability; names what is most likely.

    For codes of +1 and -1. The gain of an answer is largest where hypotheses are most evenly split by the posterior.
    The first of equally good questions is asked.
    """

    def decide(history: History) -> tuple[Array, Array]:
        posterior = jax.nn.softmax(reliability * problem.codes @ history.sums)
        return _only(jnp.argmin(jnp.abs(posterior @ problem.codes)), problem.codes.shape[1]), _only(
            jnp.argmax(posterior), len(problem.codes)
        )

    return decide


def _only(index: Array, count: int) -> Array:
    return jnp.where(jnp.arange(count) == index, 0.0, -jnp.inf)


def pulls_by_round(arms: int, budget: int) -> list[tuple[int, int]]:
    """(arms left, pulls of each of them) in each round of successive halving."""
    rounds, left, found = math.ceil(math.log2(arms)), arms, []
    for _ in range(rounds):
        found.append((left, budget // (left * rounds)))
        left = math.ceil(left / 2)
    return found


def successive_halving(problem: Problem, key: Key, theta: Array) -> Episode:
    """Pulls all arms that are left equally often, then drops the worse half of them, until one is left.

    Karnin, Koren and Somekh 2013, with the mean of all pulls so far in place of the last round's. For `best_arm`.
    It has no use for pulls that do not divide evenly. `log_prob` is 0: it draws nothing.
    """
    counts, sums, alive = jnp.zeros(theta.size), jnp.zeros(theta.size), jnp.ones(theta.size, bool)
    for i, (left, pulls) in enumerate(pulls_by_round(theta.size, problem.budget)):
        noise = jax.random.normal(jax.random.fold_in(key, i), theta.shape)
        counts += pulls * alive
        sums += jnp.where(alive, pulls * theta + pulls**0.5 * noise, 0.0)
        means = jnp.where(alive, sums / jnp.maximum(counts, 1.0), -jnp.inf)
        alive &= jnp.argsort(jnp.argsort(-means)) < math.ceil(left / 2)
    wrong = jnp.argmax(alive) != problem.right(theta)
    return Episode(History(counts, sums), jnp.float32(0.0), wrong.astype(jnp.float32))

"""Classical learners of bandits whose arms pay 0 or 1, with means that are uniform a priori (Duan et al. 2016).

They are those of section 3.1 of RL^2 (arXiv 1611.02779). Each believes that the means are drawn from Beta(1, 1), as if
every arm had been seen to pay once and not to pay once. Of equally good arms they pull the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax.numpy as jnp

from metarl.checks import COUNT, NOT_NEGATIVE, SHARE, Bound, checked
from metarl.strategies import gittins as of_gittins
from metarl.strategies.sampling import beta
from metarl.strategies.strategy import Strategy, Transition, exploring
from metarl.types import Array, Discrete, Key


class Beliefs(NamedTuple):
    """Parameters of a Beta distribution of the mean of each arm."""

    paid: Array  # [k] float32, how often the arm paid, plus 1
    failed: Array  # [k] float32, how often it did not, plus 1

    @property
    def total(self) -> Array:
        """[k] pulls of each arm, plus 2."""
        return self.paid + self.failed

    @property
    def mean(self) -> Array:
        """[k] expected means of the arms."""
        return self.paid / self.total

    @property
    def time(self) -> Array:
        """() pulls of all arms."""
        return (self.total - 2).sum()


def by_index(num_arms: int, index: Callable[[Key, Beliefs], Array]) -> Strategy:
    """Pulls the arm of the highest `index` (key, beliefs) -> [k]."""

    def act(key: Key, obs: Array, beliefs: Beliefs) -> tuple[Array, Beliefs]:
        return jnp.argmax(index(key, beliefs)).astype(jnp.int32), beliefs

    def learn(beliefs: Beliefs, step: Transition) -> Beliefs:
        paid = beliefs.paid.at[step.action].add(step.reward)
        return Beliefs(paid, beliefs.failed.at[step.action].add(1 - step.reward))

    return Strategy(lambda key: Beliefs(jnp.ones(num_arms), jnp.ones(num_arms)), act, learn)


@checked
def greedy(num_arms: Annotated[int, COUNT]) -> Strategy:
    """Pulls the arm of the highest expected mean."""
    return by_index(num_arms, lambda key, beliefs: beliefs.mean)


@checked
def epsilon_greedy(num_arms: Annotated[int, COUNT], epsilon: Annotated[Array | float, SHARE] = 0.1) -> Strategy:
    """Pulls a uniformly drawn arm with probability `epsilon`, else that of the highest expected mean."""
    return exploring(greedy(num_arms), Discrete(num_arms), epsilon)


@checked
def ucb1(num_arms: Annotated[int, COUNT], scale: Annotated[Array | float, NOT_NEGATIVE] = 1.0) -> Strategy:
    """Pulls the arm of the highest mean + scale sqrt(2 log(t) / T) at pull t = 1, 2, ... (Auer et al. 2002).

    T is the number of pulls of the arm, with the two of the prior, and the mean is that of the posterior.
    """

    def index(key: Key, beliefs: Beliefs) -> Array:
        return beliefs.mean + scale * jnp.sqrt(2 * jnp.log(beliefs.time + 1) / beliefs.total)

    return by_index(num_arms, index)


@checked
def thompson(num_arms: Annotated[int, COUNT]) -> Strategy:
    """Draws the means from their posterior, and pulls the arm of the highest draw (Thompson 1933)."""
    return by_index(num_arms, lambda key, beliefs: beta(key, *beliefs))


@checked
def optimistic_thompson(num_arms: Annotated[int, COUNT], samples: Annotated[int, COUNT] = 2) -> Strategy:
    """Draws the means from their posterior `samples` times, and pulls the arm of the highest of all draws."""
    return by_index(num_arms, lambda key, beliefs: _draws(key, beliefs, samples).max(0))


@checked
def voting_thompson(num_arms: Annotated[int, COUNT], samples: Annotated[int, COUNT] = 20) -> Strategy:
    """Draws the means from their posterior `samples` times, and pulls the arm that is most often the best one.

    More samples explore less. In the tables of RL^2 these figures stand under "OTS" (`docs/results/adaptation.md`).
    """

    def votes(key: Key, beliefs: Beliefs) -> Array:
        return jnp.bincount(_draws(key, beliefs, samples).argmax(1), length=num_arms)

    return by_index(num_arms, votes)


def _draws(key: Key, beliefs: Beliefs, samples: int) -> Array:
    """Means [samples, k] from their posterior."""
    paid, failed = (jnp.tile(x, (samples, 1)) for x in beliefs)
    return beta(key, paid, failed)


@checked
def gittins(num_arms: Annotated[int, COUNT], pulls: Annotated[int, Bound(1, of_gittins.MAX_PULLS)]) -> Strategy:
    """Pulls the arm of the highest index of Gittins in a trial of `pulls` pulls (`metarl.strategies.gittins`).

    An index is optimal for discounted rewards without an end; with a known end it is close to that (Lattimore 2016,
    arXiv 1511.06014).
    """
    table = of_gittins.table(pulls)

    def index(key: Key, beliefs: Beliefs) -> Array:
        place = jnp.interp(pulls - beliefs.time, jnp.asarray(table.remaining), jnp.arange(len(table.remaining)))
        low = jnp.floor(place).astype(jnp.int32)
        high = jnp.minimum(low + 1, len(table.remaining) - 1)
        arms = (beliefs.total - 2).astype(jnp.int32), (beliefs.paid - 1).astype(jnp.int32)
        fewer, more = (jnp.asarray(table.indices)[i, *arms] for i in (low, high))
        return fewer + (place - low) * (more - fewer)

    return by_index(num_arms, index)

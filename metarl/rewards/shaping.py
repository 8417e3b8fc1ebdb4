"""Rewards that change while a tabular learner learns: bilevel shaping with a bonus, and rankings of episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import NOT_NEGATIVE, POSITIVE, checked
from metarl.rewards.learners import Episode, by_state, returns
from metarl.rewards.tables import Tables
from metarl.types import Array, PyTree


class Shaping(NamedTuple):
    """A reward that follows its learner."""

    init: PyTree  # its state at the start
    # (state, a new episode with the process's rewards) -> what the learner is given [H], state. Entries where the
    # episode is not alive are ignored.
    give: Callable[[Any, Episode], tuple[Array, PyTree]]
    update: Callable[[Any, Episode], PyTree]  # (state, the last episodes [B, H]) -> state


class Shaped(NamedTuple):
    """The state of `explors`."""

    phi: Array  # [S, A], R_phi
    critic: Array  # [S], value of the learner's policy, by Monte Carlo
    visits: Array  # [S]


@checked
def explors(
    tables: Tables,
    *,
    rate: Annotated[Array | float, NOT_NEGATIVE] = 0.01,
    bonus: Annotated[Array | float, NOT_NEGATIVE] = 1.0,
    largest_bonus: Annotated[Array | float, POSITIVE] = 1.0,
    limit: Annotated[Array | float, POSITIVE] = 1e9,
    extrinsic: Array | bool = True,
    ahead: Array | bool = False,
    critic_rate: Annotated[Array | float, NOT_NEGATIVE] = 0.01,
) -> Shaping:
    """ExploRS (Devidze et al. 2022): `Rbar(s, a) + R_phi(s, a) + B(s)`, with horizon h = 1.

    Rbar is `tables.reward`; with the reward of another design there, the rest comes on top of it. The bonus is
    `B(s) = bonus / sqrt(N(s))` with `N(s) = (bonus / largest_bonus)^2 + visits(s)`. With `ahead` it is that of the next
    state, and 0 for a terminal one, as in the published code; visits are of the states in which actions are taken in
    both cases. R_phi follows, at `rate`, the
    gradient of the extrinsic return of a learner that has made one step on the shaped reward (eq. 2):
    `sum_i pi(a_i|s_i) A(s_i, a_i) [grad R_phi(s_i, a_i) - sum_b pi(b|s_i) grad R_phi(s_i, b)]`.
    A is `G_i - V(s_i)` with Monte Carlo returns G and a critic V that follows them. They are those of the process's own
    reward, as the text of the paper says; without `extrinsic` they are those of the shaped reward, as eq. 2 prints.
    Entries of R_phi stay within `limit`.

    Without a bonus it is the paper's SelfRS, which is like LIRPG; with a rate of 0 it is its ExploB; with both 0 it is
    `tables.reward`. The numbers, `extrinsic` and `ahead` may be arrays that are vmapped over.
    """

    terminal = tables.terminal

    def give(state: Shaped, episode: Episode) -> tuple[Array, Shaped]:
        place = jnp.where(jnp.asarray(ahead), episode.next_state, episode.state)
        same = place[:, None] == episode.state[None]
        before = state.visits[place] + jnp.tril(same, -1).sum(-1)  # visits earlier in the episode count, too
        count = jnp.square(bonus / largest_bonus) + before
        novelty = jnp.where(terminal[place], 0.0, bonus / jnp.sqrt(jnp.where(bonus > 0, count, 1.0)))
        at = episode.state, episode.action
        visits = state.visits + (jax.nn.one_hot(episode.state, len(state.visits)) * episode.alive[:, None]).sum(0)
        return tables.reward[at] + state.phi[at] + novelty, state._replace(visits=visits)

    def update(state: Shaped, episodes: Episode) -> Shaped:
        target = jnp.where(jnp.asarray(extrinsic), episodes.reward, episodes.given)
        advantage = returns(target, tables.discount) - state.critic[episodes.state]
        chosen = jnp.take_along_axis(episodes.probs, episodes.action[..., None], -1)[..., 0]
        weight = jnp.where(episodes.alive, chosen * advantage, 0.0)[..., None]
        direction = jax.nn.one_hot(episodes.action, state.phi.shape[1]) - episodes.probs
        gradient = by_state(episodes.state, weight * direction, len(state.phi))
        error = jnp.where(episodes.alive, advantage, 0.0)
        critic = by_state(episodes.state, error, len(state.phi)) / jnp.maximum(episodes.alive.sum(), 1)
        phi = jnp.clip(state.phi + rate * gradient, -limit, limit)
        return state._replace(phi=phi, critic=state.critic + critic_rate * critic)

    size, actions = tables.reward.shape
    return Shaping(Shaped(jnp.zeros((size, actions)), jnp.zeros(size), jnp.zeros(size)), give, update)


@checked
def sors(
    tables: Tables,
    rate: Annotated[Array | float, NOT_NEGATIVE] = 0.01,
    limit: Annotated[Array | float, POSITIVE] = 1e9,
) -> Shaping:
    """SORS (Memarian et al. 2021, arXiv 2103.04529) on top of the process's reward: `Rbar(s, a) + R_phi(s, a)`.

    R_phi follows, at `rate`, the mean log likelihood of a ranking over all pairs of the last episodes whose returns
    differ: `sigmoid(J_phi(better) - J_phi(worse))`, with the discounted sum J_phi of R_phi, whose entries stay
    within `limit`.
    """

    def give(phi: Array, episode: Episode) -> tuple[Array, Array]:
        at = episode.state, episode.action
        return tables.reward[at] + phi[at], phi

    def update(phi: Array, episodes: Episode) -> Array:
        achieved = returns(episodes.reward, tables.discount)[:, 0]
        played = episodes.alive[:, 0]
        better = (achieved[:, None] > achieved) & played[:, None] & played

        def likelihood(phi: Array) -> Array:
            at = episodes.state, episodes.action
            total = returns(jnp.where(episodes.alive, phi[at], 0.0), tables.discount)[:, 0]
            each = jax.nn.log_sigmoid(total[:, None] - total)
            return jnp.where(better, each, 0.0).sum() / jnp.maximum(better.sum(), 1)

        return jnp.clip(phi + rate * jax.grad(likelihood)(phi), -limit, limit)

    return Shaping(jnp.zeros_like(tables.reward), give, update)

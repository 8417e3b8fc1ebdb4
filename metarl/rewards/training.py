"""The common life of a tabular learner and of the reward that it is given (Devidze et al. 2022, algorithm 1)."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import COUNT, checked
from metarl.rewards.learners import Episode, Learner, play
from metarl.rewards.shaping import Shaping
from metarl.rewards.tables import Tables, check, expected_return
from metarl.types import Array, Key, PyTree


class Schedule(NamedTuple):
    """When what is updated, in episodes. Raises ValueError by `metarl.checks.fields` for counts below 1."""

    buffer: Annotated[int, COUNT] = 10  # the last episodes, which the reward learns from
    recent: Annotated[int, COUNT] = 5  # those of them that the learner learns from
    policy_every: Annotated[int, COUNT] = 2
    reward_every: Annotated[int, COUNT] = 5


class Life(NamedTuple):
    """A learner, its reward and the last episodes."""

    table: Array  # [S, A] of the learner
    shaping: PyTree
    episodes: Episode  # [B, H], from the newest on, then the oldest to the second newest


def begin(tables: Tables, shaping: Shaping, schedule: Schedule = Schedule()) -> Life:  # noqa: B008
    """A learner that knows nothing.

    Raises ValueError by `tables.check`, for counts below 1, and if `recent` is more than `buffer`. The tables must not
    be traced, because their numbers are looked at.
    """
    check(tables)
    checks.fields(schedule)
    if schedule.recent > schedule.buffer:
        raise ValueError(f"recent must be at most buffer = {schedule.buffer}, got {schedule.recent}")
    states, actions = tables.reward.shape
    shape = (schedule.buffer, tables.length)
    index, number = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
    empty = Episode(index, index, index, jnp.zeros(shape, bool), jnp.zeros((*shape, actions)), number, number)
    return Life(jnp.zeros((states, actions)), shaping.init, empty)


@checked
def live(
    tables: Tables,
    learner: Learner,
    shaping: Shaping,
    life: Life,
    key: Key,
    points: Annotated[int, COUNT],
    episodes: Annotated[int, COUNT],
    schedule: Schedule = Schedule(),  # noqa: B008
) -> tuple[Life, Array]:
    """Goes on with a life for `points * episodes` episodes. Returns it, and what the policy is worth at each point.

    That is the expected discounted return of an episode, exactly, before the point's `episodes`: [points]. The schedule
    begins anew. The function is pure: vmap it over keys, lives, and what `learner` and `shaping` close over.
    """
    cumulative = jnp.cumsum(tables.transition, -1)

    def one(life: Life, x: tuple[Key, Array]) -> tuple[Life, None]:
        key, count = x
        episode = play(tables, cumulative, learner.policy(life.table), key)
        given, state = shaping.give(life.shaping, episode)
        episode = episode._replace(given=jnp.where(episode.alive, given, 0.0))
        kept = jax.tree.map(lambda x, new: x.at[count % schedule.buffer].set(new), life.episodes, episode)
        latest = (count + 1 - schedule.recent + jnp.arange(schedule.recent)) % schedule.buffer
        state = _every(count, schedule.reward_every, shaping.update, state, kept)
        table = _every(
            count, schedule.policy_every, lambda x, kept: learner.update(x, _at(kept, latest)), life.table, kept
        )
        return Life(table, state, kept), None

    def point(life: Life, x: tuple[Key, Array]) -> tuple[Life, Array]:
        worth = expected_return(tables, learner.policy(life.table))
        return jax.lax.scan(one, life, x)[0], worth

    # counted outside of lives, so that under vmap an update that is not due is not computed
    counts = 1 + jnp.arange(points * episodes).reshape(points, episodes)
    life, worth = jax.lax.scan(point, life, (jax.random.split(key, (points, episodes)), counts))
    in_place = jax.tree.map(lambda x: jnp.roll(x, -points * episodes, 0), life.episodes)
    return life._replace(episodes=in_place), worth


def _at(episodes: Episode, places: Array) -> Episode:
    """Those in these places of the ring, in which the newest of `count` episodes is in place `count % B`."""
    found: Episode = jax.tree.map(lambda x: x[places], episodes)
    return found


def _every(count: Array, every: int, update: Any, state: PyTree, episodes: Episode) -> PyTree:
    """`update(state, episodes)` in each `every`-th episode."""
    return jax.lax.cond(count % every == 0, update, lambda state, _: state, state, episodes)

"""Prioritised level replay: lifetimes are spent again on the levels with the highest scores.

Jiang et al. 2021 (arXiv 2010.03934); as the buffer of GROOVE, Jackson et al. 2023 (arXiv 2310.02782); with mutation,
ACCEL, Parker-Holder et al. 2022 (arXiv 2203.01302). A level is a problem and a horizon, so both are replayed.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks, interface
from metarl.checks import COUNT, POSITIVE, SHARE, checked
from metarl.curricula.features import level_metrics
from metarl.curricula.scores import Score
from metarl.meta import Curriculum, InnerLoop, Lifetimes
from metarl.tree import select
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics, PyTree

Prioritisation = Literal["rank", "proportional"]
FRESH, REPLAYED, MUTATED = 0, 1, 2


class Priority(NamedTuple):
    """The probability with which each scored level is replayed: `(1 - staleness) P_score + staleness P_stale`.

    With "rank", P_score is proportional to `rank^(-1 / temperature)`, where the rank is 1 plus the number of higher
    scores. With "proportional" it is proportional to `max(score, 0)^(1 / temperature)`, or uniform if no score is
    positive. P_stale is proportional to the time since the level was last chosen.
    """

    by: Prioritisation = "rank"
    temperature: Annotated[Array | float, POSITIVE] = 1.0
    staleness: Annotated[Array | float, SHARE] = 0.0


class Buffer(NamedTuple):
    """Levels and their scores. A level without a score stays only while a lifetime is spent on it."""

    levels: Level  # leaves [capacity, ...]
    code: Array  # [capacity] uint32, `fingerprint` of the level
    score: Array  # [capacity], NaN where the level was never scored
    filled: Array  # [capacity] bool, there is a level
    active: Array  # [capacity] bool, a lifetime is being spent on the level
    last: Array  # [capacity] int32, the clock when the level was last chosen
    clock: Array  # () int32
    slot: Array  # [num_lifetimes] int32, the index of each lifetime's level; capacity if its score will not be recorded
    origin: Array  # [num_lifetimes] int32, FRESH, REPLAYED or MUTATED


class ReplayState(NamedTuple):
    """The state of the curriculum."""

    buffer: Buffer
    score: PyTree  # the state of `Score`, leaves [num_lifetimes, ...]


class _Options(NamedTuple):
    levels: Levels
    capacity: int
    score: Score
    probability: Array | float
    priority: Priority
    warm_up: int
    mutation_probability: Array | float


@checked
def replay(
    levels: Levels,
    capacity: Annotated[int, COUNT] = 4000,
    *,
    score: Score,
    probability: Annotated[Array | float, SHARE] = 0.5,
    priority: Priority = Priority(),  # noqa: B008
    warm_up: Annotated[int, COUNT] = 1,
    mutation_probability: Annotated[Array | float, SHARE] = 0.0,
) -> Curriculum:
    """With `probability`, replays a level from a buffer of `capacity` levels; otherwise draws a new one.

    `score` scores a level when a lifetime on it ends, and `priority` chooses among the scored levels on which no
    lifetime is being spent. Replay starts when `warm_up` levels have a score. A new level replaces the level of lowest
    score on which no lifetime is being spent. With `mutation_probability`, a new level is not drawn, but is an edit
    (`levels.mutate`) of a level that `priority` chooses among all scored ones.

    A level that is drawn twice is in the buffer once. Several lifetimes may be spent on it at the same time (a
    distribution may have few levels), but only the first one's score is recorded. Only finite scores of whole lifetimes
    are recorded; the first lifetimes are cut short (see `compose`).

    Raises ValueError if an option is out of range, for mutation of levels without `mutate`, and in `init` if there are
    more lifetimes than `capacity`.
    """
    interface.levels(levels)
    interface.part("score", score, Score)
    checks.fields(interface.part("priority", priority, Priority))
    if warm_up > capacity:
        raise ValueError(f"warm_up must be at most capacity = {capacity}, got {warm_up}")
    if levels.mutate is None and _positive(mutation_probability):
        raise ValueError("mutation_probability must be 0 for levels that have no mutation (`Levels.mutate`)")
    options = _Options(levels, capacity, score, probability, priority, warm_up, mutation_probability)
    return Curriculum(partial(_init, options), partial(_sample, options), partial(_update, options))


def _positive(share: Array | float) -> bool:
    """Whether a share may be above 0; always for arrays, whose values may be unknown."""
    return not isinstance(share, int | float) or share > 0.0


def _init(options: _Options, key: Key, num_lifetimes: int) -> ReplayState:
    capacity, levels = options.capacity, options.levels
    if capacity < num_lifetimes:
        raise ValueError(f"capacity must be at least num_lifetimes = {num_lifetimes}, got {capacity}")
    blank = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), jax.eval_shape(levels.sample, key))
    buffer = Buffer(
        levels=blank,
        code=jnp.zeros(capacity, jnp.uint32),
        score=jnp.full(capacity, jnp.nan),
        filled=jnp.zeros(capacity, bool),
        active=jnp.zeros(capacity, bool),
        last=jnp.zeros(capacity, jnp.int32),
        clock=jnp.int32(0),
        slot=jnp.full(num_lifetimes, capacity, jnp.int32),
        origin=jnp.full(num_lifetimes, FRESH, jnp.int32),
    )
    # only for the shapes: `sample` replaces this for every lifetime before anything is scored
    first = jax.vmap(levels.sample)(jax.random.split(key, num_lifetimes))
    return ReplayState(buffer, options.score.init(key, first))


def _sample(options: _Options, key: Key, state: ReplayState, needed: Array) -> tuple[Level, ReplayState]:
    keys = jax.random.split(key, 6)
    fresh_key, replay_key, order_key, *edit_keys = keys
    weights = log_priorities(state.buffer, options.priority)
    replays, slot = _replays(options, replay_key, order_key, state.buffer, weights, needed)
    new = jax.vmap(options.levels.sample)(jax.random.split(fresh_key, len(needed)))
    fresh, origin = needed & ~replays, jnp.where(replays, REPLAYED, FRESH)
    if _positive(options.mutation_probability):
        edited, new = _edits(options, edit_keys, state.buffer, weights, fresh, new)
        origin = jnp.where(edited, MUTATED, origin)
    levels, buffer = _insert(state.buffer, new, fresh, replays, slot)
    buffer = buffer._replace(
        last=buffer.last.at[jnp.where(needed, buffer.slot, options.capacity)].set(buffer.clock, mode="drop"),
        clock=buffer.clock + needed.any(),
        slot=jnp.where(needed, buffer.slot, state.buffer.slot),
        origin=jnp.where(needed, origin, buffer.origin),
    )
    score = options.score.init(jax.random.fold_in(key, 6), levels)
    return levels, ReplayState(buffer, select(needed, score, state.score))


def _replays(
    options: _Options, replay_key: Key, order_key: Key, buffer: Buffer, weights: Array, needed: Array
) -> tuple[Array, Array]:
    """Which lifetimes [n] get a level of the buffer, and its slot [n] (capacity for the other lifetimes).

    Levels that are not active are drawn without replacement, by log-priorities `weights` [capacity].
    """
    free = jnp.where(buffer.active, -jnp.inf, weights)
    order = jnp.argsort(-(free + jax.random.gumbel(order_key, free.shape)))  # the Gumbel trick
    wanted = needed & jax.random.bernoulli(replay_key, jnp.float32(options.probability), needed.shape)
    rank = jnp.cumsum(wanted) - 1
    replays = wanted & _ready(options, buffer) & (rank < jnp.isfinite(free).sum())
    return replays, jnp.where(replays, order[rank], options.capacity)


def _edits(
    options: _Options, keys: list[Key], buffer: Buffer, weights: Array, fresh: Array, new: Level
) -> tuple[Array, Level]:
    """Which of the `fresh` levels [n] are replaced by an edit of a level of the buffer, and `new` with these edits."""
    mutation_key, parent_key, edit_key = keys
    assert options.levels.mutate is not None
    parents = jax.random.categorical(parent_key, weights, shape=fresh.shape)
    chosen = jax.tree.map(lambda x: x[parents], buffer.levels)
    children = jax.vmap(options.levels.mutate)(jax.random.split(edit_key, len(fresh)), chosen)
    wanted = jax.random.bernoulli(mutation_key, jnp.float32(options.mutation_probability), fresh.shape)
    edited = fresh & _ready(options, buffer) & wanted
    return edited, select(edited, children, new)


def _insert(buffer: Buffer, new: Level, fresh: Array, replays: Array, slot: Array) -> tuple[Level, Buffer]:
    """Inserts those of the `fresh` [n] levels that the buffer does not have. Returns the levels [n] and the buffer.

    `slot` [n] are the slots of replays. A level takes an empty slot, or the inactive one of lowest score.
    """
    capacity, count = len(buffer.code), len(fresh)
    active = buffer.active.at[slot].set(True, mode="drop")
    code = fingerprint(new)
    same_code = buffer.filled & (code[:, None] == buffer.code)
    known, index = same_code.any(1), same_code.argmax(1)
    earlier = fresh & (code[:, None] == code) & (jnp.arange(count) < jnp.arange(count)[:, None])
    # only the first of several lifetimes on equal levels is recorded, and none whose code is that of another level
    recorded = fresh & ~earlier.any(1) & (~known | _equal(new, jax.tree.map(lambda x: x[index], buffer.levels)))
    redrawn = recorded & known & ~active[index]
    slot = jnp.where(redrawn, index, slot)
    active = active.at[jnp.where(redrawn, index, capacity)].set(True, mode="drop")

    inserted = recorded & ~known
    value = jnp.where(buffer.filled, buffer.score, -jnp.inf)
    lowest_first = jnp.argsort(jnp.where(active, jnp.inf, value))
    entry = jnp.where(inserted, lowest_first[jnp.cumsum(inserted) - 1], capacity)
    slot = jnp.where(inserted, entry, slot)
    stored = jax.tree.map(lambda x, y: x.at[entry].set(y, mode="drop"), buffer.levels, new)
    levels = select(replays, jax.tree.map(lambda x: x[slot], stored), new)
    return levels, buffer._replace(
        levels=stored,
        code=buffer.code.at[entry].set(code, mode="drop"),
        score=buffer.score.at[entry].set(jnp.nan, mode="drop"),
        filled=buffer.filled.at[entry].set(True, mode="drop"),
        active=active.at[entry].set(True, mode="drop"),
        slot=slot,
    )


def _update(
    options: _Options,
    inner: InnerLoop,
    meta_params: MetaParams,
    state: ReplayState,
    lifetimes: Lifetimes,
    ended: Array,
    key: Key,
) -> tuple[ReplayState, Metrics]:
    what, found = interface.title("Score.update", options.score.update), options.score.update
    scores, score_state = interface.values(
        what, found(inner, meta_params, state.score, lifetimes, ended, key), ("scores", "state")
    )
    interface.array(f"the scores that {what}", scores, ended.shape)
    buffer = record(state.buffer, lifetimes.level, scores, ended)
    metrics = {**replay_metrics(buffer), **level_metrics(options.levels, lifetimes.level)}
    return ReplayState(buffer, score_state), metrics


def record(buffer: Buffer, levels: Level, scores: Array, ended: Array) -> Buffer:
    """Records the `scores` [n] of the lifetimes that `ended` [n] on `levels`, and drops levels without a score."""
    capacity = len(buffer.code)
    whole = levels.horizon == buffer.levels.horizon.at[buffer.slot].get(mode="clip")
    valid = ended & whole & jnp.isfinite(scores)
    score = buffer.score.at[jnp.where(valid, buffer.slot, capacity)].set(scores, mode="drop")
    active = buffer.active.at[jnp.where(ended, buffer.slot, capacity)].set(False, mode="drop")
    return buffer._replace(
        score=score,
        active=active,
        filled=buffer.filled & (active | ~jnp.isnan(score)),
        slot=jnp.where(ended, capacity, buffer.slot),
    )


def _ready(options: _Options, buffer: Buffer) -> Array:
    return has_score(buffer).sum() >= options.warm_up


def has_score(buffer: Buffer) -> Array:
    """[capacity] bool, the levels with a score. They can be replayed when no lifetime is spent on them."""
    return buffer.filled & ~jnp.isnan(buffer.score)


def log_priorities(buffer: Buffer, priority: Priority = Priority()) -> Array:  # noqa: B008
    """Logarithm of the probability [capacity] of `Priority`, as if no level were active; -inf without a score."""
    scored = has_score(buffer)
    if priority.by == "rank":
        descending = jnp.where(scored, -buffer.score, jnp.inf)
        rank = jnp.searchsorted(jnp.sort(descending), descending) + 1  # equal scores share a rank
        logits = -jnp.log(rank) / priority.temperature
    else:
        positive = scored & (buffer.score > 0.0)  # uniform if there is none
        logits = jnp.where(positive, jnp.log(jnp.where(positive, buffer.score, 1.0)) / priority.temperature, -jnp.inf)
        logits = jnp.where(positive.any(), logits, 0.0)
    by_score = jax.nn.log_softmax(jnp.where(scored, logits, -jnp.inf))
    age = jnp.where(scored, buffer.clock - buffer.last, 0)
    by_age = jnp.log(age / jnp.maximum(age.sum(), 1))
    mixed = jnp.logaddexp(jnp.log1p(-priority.staleness) + by_score, jnp.log(priority.staleness) + by_age)
    return jnp.where(scored, mixed, -jnp.inf)


def _equal(levels: Level, others: Level) -> Array:
    """[n] bool, where `levels` and `others` (leaves [n, ...]) are equal."""
    leaves = jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).reshape(len(x), -1).all(1), levels, others))
    return jnp.stack(leaves).all(0)


def fingerprint(levels: Level) -> Array:
    """A hash [n] uint32 of levels with leaves [n, ...]: equal for equal levels, hardly ever for different ones."""
    code = jnp.uint32(0)
    for i, leaf in enumerate(jax.tree.leaves(levels)):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4:
            leaf = leaf.astype(jnp.float32)
        small = leaf.dtype.itemsize < 4
        words = leaf.astype(jnp.uint32) if small else jax.lax.bitcast_convert_type(leaf, jnp.uint32)
        words = words.reshape(len(leaf), -1)
        factors = jax.random.bits(jax.random.key(i), words.shape[1:], jnp.uint32) | 1
        mixed = (words ^ (words >> 16)) * factors
        code = code * 31 + (mixed ^ (mixed >> 15)).sum(1, dtype=jnp.uint32)
    return code


def replay_metrics(buffer: Buffer) -> Metrics:
    """Number of levels, quantiles of their scores, and the shares of lifetimes on replayed and on edited levels."""
    scored = has_score(buffer)
    scores = jnp.where(scored, buffer.score, jnp.nan)
    low, middle, high = jnp.nanquantile(scores, jnp.array([0.1, 0.5, 0.9]))
    return {
        "buffer_levels": buffer.filled.sum(),
        "score_low": low,
        "score_median": middle,
        "score_high": high,
        "replayed_share": (buffer.origin == REPLAYED).mean(),
        "mutated_share": (buffer.origin == MUTATED).mean(),
    }

"""Prioritised level replay: the levels that lifetimes have something to learn from are lived on again.

Jiang et al. 2021 (arXiv 2010.03934); as the buffer of GROOVE, Jackson et al. 2023 (arXiv 2310.02782); with mutation,
ACCEL, Parker-Holder et al. 2022 (arXiv 2203.01302). A level is a problem and a horizon, so both are chosen.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from metarl.curricula.features import level_metrics
from metarl.curricula.scores import Score
from metarl.meta import Curriculum, InnerLoop, Lifetimes
from metarl.tree import select
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics, PyTree

Prioritisation = Literal["rank", "proportional"]
FRESH, REPLAYED, MUTATED = 0, 1, 2


class Priority(NamedTuple):
    """How likely each scored level is to be replayed: `(1 - staleness) P_score + staleness P_stale`.

    P_score is proportional to `rank^(-1 / temperature)` ("rank": 1 plus how many scores are greater) or to
    `max(score, 0)^(1 / temperature)` ("proportional": all alike if no score is positive), P_stale to the time since a
    level was given out.
    """

    by: Prioritisation = "rank"
    temperature: Array | float = 1.0
    staleness: Array | float = 0.0


class Buffer(NamedTuple):
    """Levels, and how they were scored. A level without a score is there only while a lifetime is spent on it."""

    levels: Level  # leaves [capacity, ...]
    code: Array  # [capacity] uint32, of the level: equal levels have equal codes
    score: Array  # [capacity], NaN where the level was never scored
    filled: Array  # [capacity] bool
    active: Array  # [capacity] bool, a lifetime is being spent on it
    last: Array  # [capacity] int32, the clock when it was given out last
    clock: Array  # () int32
    slot: Array  # [num_lifetimes] int32, where the level of each lifetime is; capacity where it is not followed
    origin: Array  # [num_lifetimes] int32, FRESH, REPLAYED or MUTATED


class ReplayState(NamedTuple):
    """The state of the curriculum."""

    buffer: Buffer
    score: PyTree  # what the score remembers of the lifetimes, leaves [num_lifetimes, ...]


class _Options(NamedTuple):
    levels: Levels
    capacity: int
    score: Score
    probability: Array | float
    priority: Priority
    warm_up: int
    mutation_probability: Array | float


def replay(
    levels: Levels,
    capacity: int = 4000,
    *,
    score: Score,
    probability: Array | float = 0.5,
    priority: Priority = Priority(),  # noqa: B008
    warm_up: int = 1,
    mutation_probability: Array | float = 0.0,
) -> Curriculum:
    """Gives a newborn agent, with `probability`, a level of the buffer that nobody lives on, else a fresh one.

    Levels are scored by `score` when a lifetime on them ends, and chosen by `priority`. There is no replay before
    `warm_up` levels have a score. A fresh level takes the place of the lowest score among the levels that nobody lives
    on. With `mutation_probability`, a level that would be fresh is an edit (`levels.mutate`) of one that was chosen as
    if for replay (and that somebody may be living on).

    A level that is drawn twice is in the buffer once. While an agent lives on it, others may be given it (a
    distribution may have few levels), but only the first agent's score counts. Only finite scores of whole lifetimes
    count (the horizon of the first generation is cut, see `compose`).

    Raises ValueError if an option is out of range, for mutation of levels that cannot be mutated, or when `init` is
    asked for more lifetimes than `capacity`.
    """
    shares = {
        "probability": probability,
        "staleness": priority.staleness,
        "mutation_probability": mutation_probability,
    }
    for name, value in shares.items():
        if isinstance(value, int | float) and not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be from 0 to 1, got {value}")
    if isinstance(priority.temperature, int | float) and not 1e-30 < priority.temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {priority.temperature}")
    if priority.by not in get_args(Prioritisation):
        raise ValueError(f"prioritisation must be one of {get_args(Prioritisation)}, got {priority.by!r}")
    if not 1 <= warm_up <= capacity:
        raise ValueError(f"warm_up must be from 1 to capacity = {capacity}, got {warm_up}")
    if levels.mutate is None and _positive(mutation_probability):
        raise ValueError("mutation_probability must be 0 for levels that have no mutation (`Levels.mutate`)")
    options = _Options(levels, capacity, score, probability, priority, warm_up, mutation_probability)
    return Curriculum(partial(_init, options), partial(_sample, options), partial(_update, options))


def _positive(share: Array | float) -> bool:
    """Whether a share may be above 0, as far as can be told."""
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
    # `sample` replaces this for every lifetime before anything is scored
    first = jax.vmap(levels.sample)(jax.random.split(key, num_lifetimes))
    return ReplayState(buffer, options.score.init(key, first))


def _sample(options: _Options, key: Key, state: ReplayState, needed: Array) -> tuple[Level, ReplayState]:
    keys = jax.random.split(key, 6)
    fresh_key, replay_key, order_key, *edit_keys = keys
    weights = log_priorities(state.buffer, options.priority)
    replays, slot = _replays(options, replay_key, order_key, state.buffer, weights, needed)
    new = jax.vmap(options.levels.sample)(jax.random.split(fresh_key, len(needed)))
    born, origin = needed & ~replays, jnp.where(replays, REPLAYED, FRESH)
    if _positive(options.mutation_probability):
        edited, new = _edits(options, edit_keys, state.buffer, weights, born, new)
        origin = jnp.where(edited, MUTATED, origin)
    levels, buffer = _enter(state.buffer, new, born, replays, slot)
    buffer = buffer._replace(
        last=buffer.last.at[jnp.where(needed, buffer.slot, options.capacity)].set(buffer.clock, mode="drop"),
        clock=buffer.clock + needed.any(),
        slot=jnp.where(needed, buffer.slot, state.buffer.slot),
        origin=jnp.where(needed, origin, buffer.origin),
    )
    followed = options.score.init(jax.random.fold_in(key, 6), levels)
    return levels, ReplayState(buffer, select(needed, followed, state.score))


def _replays(
    options: _Options, replay_key: Key, order_key: Key, buffer: Buffer, weights: Array, needed: Array
) -> tuple[Array, Array]:
    """Which lifetimes [n] live on a level of the buffer, and the slot of it [n] (capacity for the others).

    Levels that nobody lives on are drawn without replacement, in an order by `weights` [capacity], log-priorities.
    """
    free = jnp.where(buffer.active, -jnp.inf, weights)
    order = jnp.argsort(-(free + jax.random.gumbel(order_key, free.shape)))
    wishes = needed & jax.random.bernoulli(replay_key, options.probability, needed.shape)
    turn = jnp.cumsum(wishes) - 1
    replays = wishes & _ready(options, buffer) & (turn < jnp.isfinite(free).sum())
    return replays, jnp.where(replays, order[turn], options.capacity)


def _edits(
    options: _Options, keys: list[Key], buffer: Buffer, weights: Array, born: Array, new: Level
) -> tuple[Array, Level]:
    """Which of the newborn lifetimes [n] get an edit of a level of the buffer, and `new` with these edits."""
    mutation_key, parent_key, edit_key = keys
    assert options.levels.mutate is not None
    parents = jax.random.categorical(parent_key, weights, shape=born.shape)
    chosen = jax.tree.map(lambda x: x[parents], buffer.levels)
    children = jax.vmap(options.levels.mutate)(jax.random.split(edit_key, len(born)), chosen)
    wishes = jax.random.bernoulli(mutation_key, options.mutation_probability, born.shape)
    edited = born & _ready(options, buffer) & wishes
    return edited, select(edited, children, new)


def _enter(buffer: Buffer, new: Level, born: Array, replays: Array, slot: Array) -> tuple[Level, Buffer]:
    """Puts what is new of the levels of `born` lifetimes [n] into the buffer; the levels given to all, and the buffer.

    `slot` [n] are those of replays. A new level takes an empty place, or that of the lowest score nobody lives on.
    """
    capacity, count = len(buffer.code), len(born)
    active = buffer.active.at[slot].set(True, mode="drop")
    code = fingerprint(new)
    alike = buffer.filled & (code[:, None] == buffer.code)
    known, where = alike.any(1), alike.argmax(1)
    earlier = born & (code[:, None] == code) & (jnp.arange(count) < jnp.arange(count)[:, None])
    # of those with the same level, the first is followed; and none whose level only has the code of another
    followed = born & ~earlier.any(1) & (~known | _equal(new, jax.tree.map(lambda x: x[where], buffer.levels)))
    resumes = followed & known & ~active[where]
    slot = jnp.where(resumes, where, slot)
    active = active.at[jnp.where(resumes, where, capacity)].set(True, mode="drop")

    enters = followed & ~known
    value = jnp.where(buffer.filled, buffer.score, -jnp.inf)
    places = jnp.argsort(jnp.where(active, jnp.inf, value))
    entry = jnp.where(enters, places[jnp.cumsum(enters) - 1], capacity)
    slot = jnp.where(enters, entry, slot)
    stored = jax.tree.map(lambda x, y: x.at[entry].set(y, mode="drop"), buffer.levels, new)
    given = select(replays, jax.tree.map(lambda x: x[slot], stored), new)
    return given, buffer._replace(
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
    scores, score_state = options.score.update(inner, meta_params, state.score, lifetimes, ended, key)
    metrics = {**replay_metrics(state.buffer), **level_metrics(options.levels, lifetimes.level)}
    return ReplayState(record(state.buffer, lifetimes.level, scores, ended), score_state), metrics


def record(buffer: Buffer, lived: Level, scores: Array, ended: Array) -> Buffer:
    """The buffer with the `scores` [n] of the lifetimes that `ended` [n] on levels `lived`; drops unscored levels."""
    capacity = len(buffer.code)
    whole = lived.horizon == buffer.levels.horizon.at[buffer.slot].get(mode="clip")
    counts = ended & whole & jnp.isfinite(scores)
    score = buffer.score.at[jnp.where(counts, buffer.slot, capacity)].set(scores, mode="drop")
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
    """[capacity] bool, the levels that may be replayed when nobody lives on them."""
    return buffer.filled & ~jnp.isnan(buffer.score)


def log_priorities(buffer: Buffer, priority: Priority = Priority()) -> Array:  # noqa: B008
    """Logarithm of the probability [capacity] with which a level would be chosen for replay if nobody lived on any.

    -inf for levels without a score; all of it if there is none.
    """
    scored = has_score(buffer)
    if priority.by == "rank":
        descending = jnp.where(scored, -buffer.score, jnp.inf)
        rank = jnp.searchsorted(jnp.sort(descending), descending) + 1  # equal scores have equal ranks
        logits = -jnp.log(rank) / priority.temperature
    else:
        positive = scored & (buffer.score > 0.0)  # all alike if there is none
        logits = jnp.where(positive, jnp.log(jnp.where(positive, buffer.score, 1.0)) / priority.temperature, -jnp.inf)
        logits = jnp.where(positive.any(), logits, 0.0)
    by_score = jax.nn.log_softmax(jnp.where(scored, logits, -jnp.inf))
    age = jnp.where(scored, buffer.clock - buffer.last, 0)
    by_age = jnp.log(age / jnp.maximum(age.sum(), 1))
    mixed = jnp.logaddexp(jnp.log1p(-priority.staleness) + by_score, jnp.log(priority.staleness) + by_age)
    return jnp.where(scored, mixed, -jnp.inf)


def _equal(levels: Level, others: Level) -> Array:
    """[n] bool, which of `levels` and `others` (leaves [n, ...]) are the same."""
    leaves = jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).reshape(len(x), -1).all(1), levels, others))
    return jnp.stack(leaves).all(0)


def fingerprint(levels: Level) -> Array:
    """A number [n] (uint32) that equal levels (leaves [n, ...]) share, and others hardly ever do."""
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
    """What the buffer is and does: its levels, their scores, and how many lifetimes are replays and edits."""
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

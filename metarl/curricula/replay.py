"""Prioritised level replay: the levels that lifetimes have something to learn from are lived on again.

Jiang et al. 2021 (arXiv 2010.03934); as the buffer of GROOVE, Jackson et al. 2023 (arXiv 2310.02782); with mutation,
ACCEL, Parker-Holder et al. 2022 (arXiv 2203.01302). A level is environment parameters and a lifetime, so both are
chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from metarl.meta import Curriculum, select
from metarl.types import Array, Key, Level, Levels, Metrics

Prioritisation = Literal["rank", "proportional"]
Mutation = Callable[[Key, Level], Level]
FRESH, REPLAYED, MUTATED = 0, 1, 2


class Buffer(NamedTuple):
    """Levels, and what lifetimes said of them. A level that no lifetime is spent on has a score, or is not there."""

    levels: Level  # leaves [capacity, ...]
    code: Array  # [capacity] uint32, of the level: equal levels have equal codes
    score: Array  # [capacity], NaN where the level was never scored
    filled: Array  # [capacity] bool
    active: Array  # [capacity] bool, a lifetime is being spent on it
    last: Array  # [capacity] int32, the clock when it was given out last
    clock: Array  # () int32
    slot: Array  # [num_lifetimes] int32, where the level of each lifetime is; capacity where it is not followed
    origin: Array  # [num_lifetimes] int32, FRESH, REPLAYED or MUTATED


def replay(
    levels: Levels,
    capacity: int = 4000,
    *,
    probability: Array | float = 0.5,
    prioritisation: Prioritisation = "rank",
    temperature: Array | float = 1.0,
    staleness: Array | float = 0.0,
    warm_up: int = 1,
    mutate: Mutation | None = None,
    mutation_probability: Array | float = 0.5,
) -> Curriculum:
    """Gives a newborn agent, with `probability`, a level of the buffer that nobody lives on, else a fresh one.

    Scored levels are chosen with probabilities `(1 - staleness) P_score + staleness P_stale`: P_score is proportional
    to `rank^(-1 / temperature)` ("rank": 1 plus how many scores are greater) or to `max(score, 0)^(1 / temperature)`
    ("proportional": all alike if no score is positive), P_stale to the time since a level was given out. There is no
    replay before `warm_up` levels have a score. A fresh level takes the place of the lowest score among the levels that
    nobody lives on. With `mutate`, a level that would be fresh is, with `mutation_probability`, an edit of one that was
    chosen as if for replay (and that somebody may be living on).

    A level that comes twice is in the buffer once. While an agent lives on it, others may be given it (a distribution
    may have few levels), but only the first agent's score counts. So do only scores of the whole lifetime of a level
    (that of the first generation is cut, see `compose`) and finite ones.

    Raises ValueError if an option is out of range, or when `init` is asked for more lifetimes than `capacity`.
    """
    shares = {"probability": probability, "staleness": staleness, "mutation_probability": mutation_probability}
    for name, value in shares.items():
        if isinstance(value, int | float) and not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be from 0 to 1, got {value}")
    if isinstance(temperature, int | float) and not 1e-30 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if prioritisation not in get_args(Prioritisation):
        raise ValueError(f"prioritisation must be one of {get_args(Prioritisation)}, got {prioritisation!r}")
    if not 1 <= warm_up <= capacity:
        raise ValueError(f"warm_up must be from 1 to capacity = {capacity}, got {warm_up}")

    def init(key: Key, num_lifetimes: int) -> Buffer:
        if capacity < num_lifetimes:
            raise ValueError(f"capacity must be at least num_lifetimes = {num_lifetimes}, got {capacity}")
        blank = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), jax.eval_shape(levels.sample, key))
        return Buffer(
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

    def sample(key: Key, buffer: Buffer, needed: Array) -> tuple[Level, Buffer]:
        fresh_key, replay_key, order_key, mutation_key, parent_key, edit_key = jax.random.split(key, 6)
        count = needed.shape[0]

        # 1. who lives on a level of the buffer: without replacement, in an order drawn by priority
        weights = log_priorities(buffer, prioritisation, temperature, staleness)
        free = jnp.where(buffer.active, -jnp.inf, weights)
        order = jnp.argsort(-(free + jax.random.gumbel(order_key, (capacity,))))
        wishes = needed & jax.random.bernoulli(replay_key, probability, (count,))
        turn = jnp.cumsum(wishes) - 1
        ready = has_score(buffer).sum() >= warm_up
        replays = wishes & ready & (turn < jnp.isfinite(free).sum())
        slot = jnp.where(replays, order[turn], capacity)
        active = buffer.active.at[slot].set(True, mode="drop")

        # 2. what the others live on, and whether it is new
        new = jax.vmap(levels.sample)(jax.random.split(fresh_key, count))
        born, origin = needed & ~replays, jnp.where(replays, REPLAYED, FRESH)
        if mutate is not None:
            parents = jax.random.categorical(parent_key, weights, shape=(count,))
            children = jax.vmap(mutate)(
                jax.random.split(edit_key, count), jax.tree.map(lambda x: x[parents], buffer.levels)
            )
            edited = born & ready & jax.random.bernoulli(mutation_key, mutation_probability, (count,))
            new, origin = select(edited, children, new), jnp.where(edited, MUTATED, origin)
        code = fingerprint(new)
        alike = buffer.filled & (code[:, None] == buffer.code)
        known, where = alike.any(1), alike.argmax(1)
        earlier = born & (code[:, None] == code) & (jnp.arange(count) < jnp.arange(count)[:, None])
        # of those with the same level, the first; and nobody whose level only has the code of another
        followed = born & ~earlier.any(1) & (~known | _equal(new, jax.tree.map(lambda x: x[where], buffer.levels)))
        resumes = followed & known & ~active[where]
        slot = jnp.where(resumes, where, slot)
        active = active.at[jnp.where(resumes, where, capacity)].set(True, mode="drop")

        # 3. room for what is new: empty places, then the lowest scores that nobody lives on
        enters = followed & ~known
        value = jnp.where(buffer.filled, buffer.score, -jnp.inf)
        places = jnp.argsort(jnp.where(active, jnp.inf, value))
        entry = jnp.where(enters, places[jnp.cumsum(enters) - 1], capacity)
        slot = jnp.where(enters, entry, slot)

        put = lambda x, y: x.at[entry].set(y, mode="drop")  # noqa: E731
        stored = jax.tree.map(put, buffer.levels, new)
        given = select(replays, jax.tree.map(lambda x: x[slot], stored), new)
        return given, buffer._replace(
            levels=stored,
            code=put(buffer.code, code),
            score=put(buffer.score, jnp.nan),
            filled=put(buffer.filled, True),
            active=put(active, True),
            last=buffer.last.at[jnp.where(needed, slot, capacity)].set(buffer.clock, mode="drop"),
            clock=buffer.clock + needed.any(),
            slot=jnp.where(needed, slot, buffer.slot),
            origin=jnp.where(needed, origin, buffer.origin),
        )

    def update(buffer: Buffer, lived: Level, scores: Array, ended: Array) -> Buffer:
        whole = lived.horizon == buffer.levels.horizon.at[buffer.slot].get(mode="clip")
        counts = ended & whole & jnp.isfinite(scores)
        score = buffer.score.at[jnp.where(counts, buffer.slot, capacity)].set(scores, mode="drop")
        active = buffer.active.at[jnp.where(ended, buffer.slot, capacity)].set(False, mode="drop")
        return buffer._replace(
            score=score,
            active=active,
            filled=buffer.filled & (active | ~jnp.isnan(score)),  # who has said nothing goes
            slot=jnp.where(ended, capacity, buffer.slot),
        )

    return Curriculum(init, sample, update)


def has_score(buffer: Buffer) -> Array:
    """[capacity] bool, the levels that may be replayed when nobody lives on them."""
    return buffer.filled & ~jnp.isnan(buffer.score)


def log_priorities(
    buffer: Buffer,
    prioritisation: Prioritisation = "rank",
    temperature: Array | float = 1.0,
    staleness: Array | float = 0.0,
) -> Array:
    """Logarithm of the probability [capacity] with which a level would be chosen for replay if nobody lived on any.

    -inf for levels without a score; all of it if there is none.
    """
    scored = has_score(buffer)
    if prioritisation == "rank":
        descending = jnp.where(scored, -buffer.score, jnp.inf)
        rank = jnp.searchsorted(jnp.sort(descending), descending) + 1  # equal scores have equal ranks
        logits = -jnp.log(rank) / temperature
    else:
        positive = scored & (buffer.score > 0.0)  # all alike if there is none
        logits = jnp.where(positive, jnp.log(jnp.where(positive, buffer.score, 1.0)) / temperature, -jnp.inf)
        logits = jnp.where(positive.any(), logits, 0.0)
    by_score = jax.nn.log_softmax(jnp.where(scored, logits, -jnp.inf))
    age = jnp.where(scored, buffer.clock - buffer.last, 0)
    by_age = jnp.log(age / jnp.maximum(age.sum(), 1))
    mixed = jnp.logaddexp(jnp.log1p(-staleness) + by_score, jnp.log(staleness) + by_age)
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

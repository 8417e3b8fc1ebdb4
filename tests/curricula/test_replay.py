"""The level buffer: what it may never do, whatever happens, and how often it does what it may."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.curricula.replay import (
    FRESH,
    MUTATED,
    REPLAYED,
    Priority,
    ReplayState,
    fingerprint,
    log_priorities,
    record,
    replay,
    replay_metrics,
)
from metarl.curricula.scores import uniformly_random
from metarl.tree import select
from metarl.types import Level, Levels

NAN = float("nan")


def numbered(count, horizon=5):
    """Levels with a number below `count`, each as likely, and a lifetime that depends on it."""

    def sample(key):
        number = jax.random.randint(key, (), 0, count)
        return Level({"number": number, "picture": jnp.full((2, 2), number, jnp.float32)}, horizon + number % 3)

    return Levels(sample)


MANY, FEW = numbered(2**30), numbered(6)


def edited(key, level):
    return level._replace(problem={**level.problem, "number": -jax.random.randint(key, (), 1, 2**30)})


def replaying(levels=MANY, capacity=5, **options):
    """Level replay in tests that record scores of their own."""
    return replay(levels, capacity, score=uniformly_random(), **options)


@partial(jax.jit, static_argnums=0)
def sample(curriculum, key, buffer, needed):
    """Levels and the buffer after they were given out."""
    levels, state = curriculum.sample(key, ReplayState(buffer, ()), needed)
    return levels, state.buffer


@cache
def compiled(few, num_lifetimes, capacity, mutation):
    levels = (FEW if few else MANY)._replace(mutate=edited)
    curriculum = replaying(levels, capacity, mutation_probability=0.5 if mutation else 0.0)
    init = jax.jit(lambda key: curriculum.init(key, num_lifetimes).buffer)
    return init, jax.jit(partial(sample, curriculum)), jax.jit(record)


def number_of(level):
    return np.asarray(level.problem["number"]).tolist()


def check(buffer, levels, needed, known, capacity):
    """The invariants; `known` is the score of every level that ever had one, by its number."""
    slots, origin = np.asarray(buffer.slot), np.asarray(buffer.origin)
    followed = slots < capacity
    assert len(set(slots[followed])) == followed.sum()  # nobody shares a place
    assert set(slots[followed]) == set(np.flatnonzero(buffer.active))  # who is lived on is known, and nobody else
    assert np.asarray(buffer.filled)[slots[followed]].all()  # and never evicted
    stored, lived = number_of(buffer.levels), number_of(levels)
    for i in np.flatnonzero(followed):
        assert stored[slots[i]] == lived[i]
        assert all(
            (np.asarray(x)[slots[i]] == np.asarray(y)[i]).all()
            for x, y in zip(jax.tree.leaves(buffer.levels), jax.tree.leaves(levels), strict=True)
        )
    filled = np.asarray(buffer.filled)
    held = [number for number, there in zip(stored, filled, strict=True) if there]
    assert len(set(held)) == len(held) <= capacity  # a level is there once
    for number, score, there, active in zip(stored, buffer.score.tolist(), filled, buffer.active.tolist(), strict=True):
        if there and not np.isnan(score):
            assert score == known[number]
        if there and not active:
            assert not np.isnan(score)  # who has said nothing is not kept
    for i in np.flatnonzero(needed & (origin == REPLAYED)):
        assert lived[i] in known and followed[i]
    assert (followed | needed | (origin != REPLAYED)).all()


@pytest.mark.parametrize(
    ("few", "num_lifetimes", "capacity", "mutation"),
    [
        (False, 3, 8, False),
        (False, 4, 4, True),
        (True, 8, 8, True),
    ],
)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_buffer_keeps_its_word(few, num_lifetimes, capacity, mutation, data):
    init, give, record = compiled(few, num_lifetimes, capacity, mutation)
    masks = st.lists(st.booleans(), min_size=num_lifetimes, max_size=num_lifetimes).map(np.array)
    scores = st.lists(
        st.sampled_from([-1.0, 0.0, 0.5, 2.0, 1e30, NAN, float("inf")]), min_size=num_lifetimes, max_size=num_lifetimes
    )
    seed, known = data.draw(st.integers(0, 2**31 - 1)), {}
    needed = np.ones(num_lifetimes, bool)
    levels, buffer = give(jax.random.key(seed), init(jax.random.key(0)), needed)
    check(buffer, levels, needed, known, capacity)
    for turn in range(data.draw(st.integers(1, 8))):
        ended, values = data.draw(masks), np.array(data.draw(scores), np.float32)
        slots, lived = np.asarray(buffer.slot), number_of(levels)
        cut = data.draw(st.booleans())  # lifetimes of the first generation may be
        horizon = levels.horizon - 1 if cut else levels.horizon
        for i in np.flatnonzero(ended & (slots < capacity) & np.isfinite(values) & (not cut)):
            known[lived[i]] = values[i]
        buffer = record(buffer, levels._replace(horizon=horizon), values, ended)
        assert (np.asarray(buffer.slot)[ended] == capacity).all()
        before = np.asarray(buffer.active & buffer.filled), number_of(buffer.levels)
        new, buffer = give(jax.random.fold_in(jax.random.key(seed), turn), buffer, ended)
        assert all(number_of(buffer.levels)[i] == before[1][i] for i in np.flatnonzero(before[0]))
        levels = select(jnp.asarray(ended), new, levels)
        check(buffer, levels, ended, known, capacity)


def scored(scores, num_lifetimes=1, active=(), **options):
    """A curriculum of probability 1 and its buffer, one place for each of `scores` and one empty."""
    curriculum = replaying(MANY, len(scores) + 1, probability=1.0, **options)
    places = jnp.arange(len(scores) + 1)
    buffer = curriculum.init(jax.random.key(0), num_lifetimes).buffer
    level = Level({"number": places, "picture": jnp.zeros((len(places), 2, 2))}, jnp.full(len(places), 5))
    return curriculum, buffer._replace(
        levels=level,
        code=fingerprint(level),
        score=jnp.array([*scores, NAN]),
        filled=places < len(scores),
        active=jnp.isin(places, jnp.array(active, int)),
        last=places,
        clock=jnp.int32(len(scores) + 3),
    )


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [1 / 3, 1 / 1, 1 / 4, 1 / 2]),
        ({"temperature": 0.5}, [1 / 9, 1 / 1, 1 / 16, 1 / 4]),
        ({"by": "proportional", "temperature": 2.0}, [1.0, 2.0, 0.0, 3.0**0.5]),
        (
            {"staleness": 0.5},
            0.5 * np.array([1 / 3, 1, 1 / 4, 1 / 2]) / (25 / 12) + 0.5 * np.array([7, 6, 5, 4]) / 22,
        ),
    ],
)
def test_levels_are_replayed_as_often_as_their_priorities_say(options, weights):
    scores = [1.0, 4.0, -2.0, 3.0]
    curriculum, buffer = scored(scores, priority=Priority(**options))
    expected = np.array(weights) / np.sum(weights)
    np.testing.assert_allclose(jnp.exp(log_priorities(buffer, Priority(**options)))[:4], expected, atol=2e-6)
    keys = jax.random.split(jax.random.key(1), 4000)
    slots = jax.jit(jax.vmap(lambda key: sample(curriculum, key, buffer, jnp.array([True]))[1].slot[0]))(keys)
    counts = np.bincount(slots, minlength=5)
    assert counts[4] == 0 and (counts[:4][expected == 0] == 0).all()
    likely = expected > 0
    assert scipy.stats.chisquare(counts[:4][likely], 4000 * expected[likely]).pvalue > 1e-3


def test_all_are_alike_if_no_score_is_positive():
    _, buffer = scored([0.0, -1.0, -5.0])
    np.testing.assert_allclose(
        jnp.exp(log_priorities(buffer, Priority(by="proportional"))), [1 / 3] * 3 + [0.0], atol=1e-6
    )


def test_equal_scores_are_alike():
    _, buffer = scored([0.0, 2.0, 0.0, 2.0])
    np.testing.assert_allclose(jnp.exp(log_priorities(buffer)), [1 / 8, 3 / 8, 1 / 8, 3 / 8, 0.0], atol=1e-6)


def test_options_may_be_swept():
    curriculum, buffer = scored([1.0, 4.0, -2.0, 3.0])

    def given(probability, temperature):
        curriculum = replaying(probability=probability, priority=Priority(temperature=temperature))
        return sample(curriculum, jax.random.key(0), buffer, jnp.array([True]))[1].origin

    origin = jax.jit(jax.vmap(given))(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.1]))
    np.testing.assert_array_equal(origin[:, 0], [FRESH, REPLAYED])


def test_edits_are_of_levels_that_are_chosen_as_for_replay():
    _, buffer = scored([1.0, 4.0, -2.0, 3.0])

    def marked(key, level):
        number = level.problem["number"] + 10 * jax.random.randint(key, (), 1, 2**20)
        return level._replace(problem={**level.problem, "number": number})

    curriculum = replaying(MANY._replace(mutate=marked), probability=0.0, mutation_probability=1.0)
    keys = jax.random.split(jax.random.key(5), 4000)
    given = jax.jit(jax.vmap(lambda key: sample(curriculum, key, buffer, jnp.array([True]))[0]))(keys)
    counts = np.bincount(np.asarray(given.problem["number"][:, 0]) % 10, minlength=4)
    assert scipy.stats.chisquare(counts, 4000 * np.array([1 / 3, 1, 1 / 4, 1 / 2]) / (25 / 12)).pvalue > 1e-3


def test_levels_of_few_bits_have_codes_of_their_own():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.int8, jnp.uint32):
        levels = {"x": jnp.arange(16).astype(dtype) / (32 if jnp.issubdtype(dtype, jnp.floating) else 1)}
        levels = jax.tree.map(lambda x: x.astype(dtype), levels)  # noqa: B023
        assert len(np.unique(fingerprint(levels))) == 16, dtype


def test_without_replacement_the_second_is_drawn_from_what_is_left():
    curriculum, buffer = scored([1.0, 4.0, -2.0, 3.0], num_lifetimes=2, active=[3])
    keys = jax.random.split(jax.random.key(2), 4000)
    pairs = np.asarray(
        jax.jit(jax.vmap(lambda k: sample(curriculum, k, buffer, jnp.array([True, True]))[1].slot))(keys)
    )
    weight = {0: 1 / 3, 1: 1.0, 2: 1 / 4}
    orders = [(a, b) for a in weight for b in weight if a != b]
    total = sum(weight.values())
    expected = [weight[a] / total * weight[b] / (total - weight[a]) for a, b in orders]
    counts = [(pairs == order).all(1).sum() for order in orders]
    assert sum(counts) == 4000 and scipy.stats.chisquare(counts, 4000 * np.array(expected)).pvalue > 1e-3


def test_the_share_of_replays_and_edits_is_the_probability():
    keys = jax.random.split(jax.random.key(3), 3000)
    _, buffer = scored([1.0, 4.0, -2.0, 3.0])
    curriculum = replaying(MANY._replace(mutate=edited), probability=0.3, mutation_probability=0.25)
    origin = jax.jit(jax.vmap(lambda k: sample(curriculum, k, buffer, jnp.array([True]))[1].origin[0]))(keys)
    counts = np.bincount(origin, minlength=3)
    expected = {FRESH: 0.7 * 0.75, REPLAYED: 0.3, MUTATED: 0.7 * 0.25}
    assert scipy.stats.chisquare(counts, [3000 * expected[i] for i in range(3)]).pvalue > 1e-3


def test_the_lowest_score_that_nobody_lives_on_makes_room():
    curriculum, buffer = scored([1.0, 4.0, -2.0, 3.0], num_lifetimes=3, active=[2])
    fresh = replaying(probability=0.0)
    _, after = sample(fresh, jax.random.key(0), buffer, jnp.array([True, True, True]))
    assert sorted(after.slot.tolist()) == [0, 3, 4]  # the empty place, then 1 and 3; -2 is being lived on
    assert np.isnan(after.score[jnp.array([0, 3, 4])]).all() and after.score[1] == 4.0 and after.score[2] == -2.0
    metrics = replay_metrics(after)
    assert metrics["buffer_levels"] == 5 and metrics["replayed_share"] == 0.0
    assert (metrics["score_low"], metrics["score_high"]) == (pytest.approx(-1.4), pytest.approx(3.4))


def test_there_is_no_replay_before_enough_levels_have_a_score():
    for warm_up, replays in ((4, True), (5, False)):
        _, buffer = scored([1.0, 4.0, -2.0, 3.0])
        curriculum = replaying(probability=1.0, warm_up=warm_up)
        _, after = sample(curriculum, jax.random.key(0), buffer, jnp.array([True]))
        assert (after.origin[0] == REPLAYED) == replays


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, "probability must be at most 1, got 1.5"),
        ({"probability": NAN}, "probability must be a number, not NaN, got nan"),
        ({"priority": Priority(staleness=-0.1)}, "staleness must be at least 0, got -0.1"),
        ({"mutation_probability": 0.5}, r"must be 0 for levels that have no mutation \(`Levels.mutate`\)"),
        ({"mutation_probability": 2}, "mutation_probability must be at most 1, got 2"),
        ({"priority": Priority(temperature=0.0)}, "temperature must be above 0, got 0.0"),
        ({"priority": Priority("top")}, "by must be one of .* got 'top'"),
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"capacity": 4, "warm_up": 0}, "warm_up must be at least 1, got 0"),
        ({"capacity": 4, "warm_up": 5}, "warm_up must be at most capacity = 4, got 5"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        replaying(**options)


def test_replay_without_a_score_is_refused():
    with pytest.raises(TypeError, match="score"):
        replay(MANY)


def test_a_buffer_smaller_than_the_number_of_lifetimes_is_refused():
    with pytest.raises(ValueError, match="capacity must be at least num_lifetimes = 5, got 4"):
        replaying(MANY, 4).init(jax.random.key(0), 5)

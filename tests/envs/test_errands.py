"""Errands: an episode by hand, levels, warm starts, and instructions in hindsight."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environments import check_types, quick_jit

import envs
from envs import errands
from envs.errands import DOWN, LEFT, PICK, RIGHT, UP, Errands, ErrandsParams, ErrandsState
from metarl.rl.environment import check_environment

ENV = Errands(side=3, num_kinds=3, length=2)
KEY = jax.random.key(0)
#  . 0 .
#  . . 2
#  1 . .
PARAMS = ErrandsParams(jnp.array([1, 6, 5]), jnp.array([2, 0]), jnp.int32(0), jnp.int32(9))


@quick_jit
def play(params, state, actions):
    """Of an episode from `state`: (state, reward, terminated, truncated, final observation, potential) at each step."""

    def step(state, action):
        _, state, *rest, info = ENV.step(KEY, state, action, params)
        return state, (state, *rest, info["final_observation"], info["potential"])

    return jax.lax.scan(step, state, actions)[1]


def at(cell, done=0):
    return ErrandsState(jnp.int32(0), jnp.int32(cell), jnp.int32(done))


def test_an_episode_by_hand():
    actions = jnp.array([PICK, UP, RIGHT, RIGHT, DOWN, PICK, PICK, UP, LEFT])
    state, reward, terminated, truncated, final, potential = play(PARAMS, at(0), actions)
    assert state.cell.tolist()[:8] == [0, 0, 1, 2, 5, 5, 5, 2]
    assert state.done.tolist()[:8] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert not reward.any() and not terminated.any()
    assert truncated.tolist() == [False] * 8 + [True] and state.time[-1] == 0  # after 9 steps
    assert potential.tolist() == [0.0] * 5 + [0.5] * 4
    cell, there, left = np.split(np.asarray(final[4]), [9, 12])
    assert cell.argmax() == 5 and cell.sum() == 1 and there.tolist() == [1, 1, 1]
    assert left.tolist() == [0, 0, 1, 1, 0, 0]
    cell, there, left = np.split(np.asarray(final[5]), [9, 12])
    assert there.tolist() == [1, 1, 0] and left.tolist() == [1, 0, 0, 0, 0, 0]  # item 0 is left


def test_only_the_last_item_pays():
    state, reward, terminated, _, final, potential = play(PARAMS, at(5), jnp.array([PICK, UP, LEFT, PICK]))
    assert reward.tolist() == [0, 0, 0, 1] and terminated.tolist() == [False, False, False, True]
    assert potential.tolist() == [0.5, 0.5, 0.5, 1.0] and state.done[-1] == state.time[-1] == 0
    assert not final[-1][12:].any() and final[-1][:12].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(("cell", "done"), [(1, 0), (6, 0), (6, 1)])
def test_a_wrong_item_ends_the_episode_without_a_reward(cell, done):
    _, reward, terminated, truncated, _, potential = play(PARAMS, at(cell, done), jnp.array([PICK]))
    assert terminated.all() and not reward.any() and not truncated.any() and potential[0] == done / 2


@pytest.mark.parametrize(("done", "cell"), [(0, 4), (1, 4), (0, 6), (1, 2)])
def test_routes_are_the_shortest(done, cell):
    """Against a search over all states with the environment's own steps."""
    params = PARAMS._replace(done=jnp.int32(done), max_steps=jnp.int32(99))
    cells, dones, actions = (jnp.array(x) for x in zip(*itertools.product(range(9), range(2), range(5)), strict=True))
    step = quick_jit(jax.vmap(ENV.step, (None, 0, 0, None)))
    _, after, reward, terminated, *_ = step(KEY, ErrandsState(0 * cells, cells, dones), actions, params)
    left = np.full((9, 2), 99)
    for _ in range(20):
        onwards = np.where(terminated, np.where(reward > 0, 0, 99), left[after.cell, after.done])
        left = np.minimum(1 + onwards.reshape(9, 2, 5).min(-1), 99)
    np.testing.assert_array_equal(errands.route(ENV, params), left[:, done])
    steps = left[cell, done]
    for limit in (steps - 1, steps):
        share = errands.optimal_return(ENV, params._replace(max_steps=jnp.int32(limit)))
        assert share == pytest.approx((left[:, done] <= limit).mean())


def sample(count=600, **options):
    levels = errands.distribution(**options)
    return quick_jit(jax.vmap(levels.sample))(jax.random.split(KEY, count))


def test_levels():
    level = sample(length=2, num_kinds=3, side=3, steps=7, horizon=20, layout=4)
    assert (level.horizon == 20).all() and (level.problem.max_steps == 14).all() and not level.problem.done.any()
    cells = np.asarray(level.problem.cells)
    assert (cells == cells[0]).all() and len(set(cells[0])) == 3 and 0 <= cells.min() and cells.max() < 9
    orders, counts = np.unique(level.problem.instruction, axis=0, return_counts=True)
    assert orders.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]] and counts.min() > 70
    others = sample(1, length=2, num_kinds=3, side=3, layout=5).problem.cells
    assert others.tolist() != cells[:1].tolist()


def test_one_instruction_in_four_is_held_out():
    """Those whose weighted sum is divisible by 4."""
    assert errands.held_out(np.array([[0, 2], [2, 1], [0, 1], [2, 0]])).tolist() == [True, True, False, False]
    train, test = (sample(length=3, split=split).problem.instruction for split in ("train", "test"))
    assert errands.held_out(test).all() and not errands.held_out(train).any()
    assert len(np.unique(train, axis=0)) + len(np.unique(test, axis=0)) == 120
    assert 20 <= len(np.unique(test, axis=0)) <= 40


def test_warm_starts_are_levels():
    done = np.asarray(sample(length=4, warm=0.75).problem.done)
    assert np.bincount(done, minlength=4) / 600 == pytest.approx([0.25] * 4, abs=0.07) and done.max() == 3
    assert not sample(length=1, warm=1.0).problem.done.any()  # where there is no first sub-goal without the last
    obs, state = ENV.reset(KEY, PARAMS._replace(done=jnp.int32(1)))
    assert state.done == 1 and obs[9:].tolist() == [1, 1, 0, 1, 0, 0, 0, 0, 0]


def test_hindsight_by_hand():
    walk = jnp.array([PICK, DOWN, DOWN, LEFT, PICK, PICK, UP, RIGHT, RIGHT, PICK])
    params = errands.hindsight(ENV, PARAMS, jnp.int32(1), walk)
    assert params.instruction.tolist() == [0, 1]  # the third item is one too many
    assert errands.hindsight(ENV, PARAMS, jnp.int32(1), walk[1:8]).instruction.tolist() == [1, -1]
    assert errands.hindsight(ENV, PARAMS, jnp.int32(1), walk[1:3]).instruction.tolist() == [-1, -1]
    assert errands.hindsight(ENV, PARAMS, jnp.int32(1), walk[:1]).instruction.tolist() == [0, -1]
    assert (params.cells == PARAMS.cells).all() and errands.potential(params, 1) == 0.5
    assert errands.potential(params._replace(instruction=jnp.array([1, -1])), 1) == 1


def test_a_walk_fulfils_its_own_instruction():
    params = PARAMS._replace(max_steps=jnp.int32(99))
    key, cell_key = jax.random.split(KEY)
    actions = jax.random.randint(key, (100, 20), 0, 5)
    cells = jax.random.randint(cell_key, (100,), 0, 9)
    goals = quick_jit(jax.vmap(lambda cell, actions: errands.hindsight(ENV, params, cell, actions)))(cells, actions)
    states = ErrandsState(0 * cells, cells, 0 * cells)
    _, reward, terminated, *_ = jax.vmap(play)(goals, states, actions)
    picks = (goals.instruction >= 0).any(1)
    assert 60 < picks.sum() < 100
    first = np.asarray(terminated).argmax(1)
    assert (np.asarray(reward)[np.arange(100), first][picks] == 1).all() and not terminated[~picks].any()


@pytest.mark.parametrize("name", ["errands/three", "errands/six"])
def test_they_are_environments(name):
    levels = envs.make(name)
    problem = levels.sample(KEY).problem
    check_types(levels)
    check_environment(levels.env, problem)
    assert levels.optimal_return(problem) == 1
    assert levels.optimal_return(levels.env.default_params) == 1


def test_what_cannot_be_is_refused():
    for call, message in (
        (lambda: Errands(side=2), "num_kinds must be at most side .* = 4, got 6"),
        (lambda: errands.distribution(length=7), "length must be at most num_kinds = 6, got 7"),
        (lambda: errands.distribution(warm=1.5), "warm must be at most 1"),
        (lambda: errands.distribution(split="held out"), "split must be one of all, train, test"),
        (
            lambda: errands.distribution(2, num_kinds=2, split="test"),
            "split must be .*: 'test' has none of 2 of 2",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()

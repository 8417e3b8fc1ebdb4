"""The gridworld family: transitions worked out by hand, well-formed levels, and exact returns against simulation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import gridworld
from envs.gridworld import Gridworld, GridworldState
from envs.gridworld.levels import _Random, _random_levels

UP, DOWN, LEFT, RIGHT, STAY = range(5)
ENV = Gridworld(max_side=3, max_objects=2, max_types=2)  # cells 0 1 2 / 3 4 5 / 6 7 8


def make_level(**changes):
    """A 3 x 3 level with the first object on cell 1 (reward 0.7) and no second one; nothing respawns or terminates."""
    base = ENV.default_params._replace(
        objects=jnp.array([1, -1]),
        types=jnp.array([0, 1]),
        reward=jnp.array([0.7, 0.0]),
        terminate=jnp.zeros(2),
        respawn=jnp.zeros(2),
        max_steps=jnp.int32(100),
    )
    return base._replace(**{k: jnp.asarray(v, getattr(base, k).dtype) for k, v in changes.items()})


@pytest.fixture(scope="module")
def play():
    """Follows a list of actions from reset; returns the observations, rewards, flags and final observations."""

    @jax.jit
    def scan(key, params, actions):
        def body(state, x):
            obs, state, *rest, info = ENV.step(x[0], state, x[1], params)
            return state, (obs, *rest, info["final_observation"])

        first, state = ENV.reset(key, params)
        return first, *jax.lax.scan(body, state, (jax.random.split(key, actions.size), actions))[1]

    def run(params, actions, seed=0):
        padded = jnp.array(actions + [STAY] * (8 - len(actions)))
        first, *outputs = scan(jax.random.key(seed), params, padded)
        return np.asarray(first), *[np.asarray(o)[: len(actions)] for o in outputs]

    return run


def index(cell, *present):
    return cell * 4 + sum(2**i for i in present)


# Tests compile more than they compute.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# --- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell, moves",
    [
        (0, [0, 3, 0, 1, 0]),  # up, down, left, right, stay: the corner
        (1, [1, 1, 0, 2, 1]),  # the wall below
        (2, [2, 5, 1, 2, 2]),  # no wrap-around to cell 3
        (3, [0, 6, 3, 3, 3]),
        (8, [5, 8, 7, 8, 8]),
    ],
)
def test_moves_stop_at_walls_and_borders(cell, moves):
    params = make_level(free=np.arange(9) != 4)
    assert [int(ENV.move(jnp.int32(cell), jnp.int32(a), params)) for a in range(5)] == moves


def test_a_level_smaller_than_the_maximum_has_its_own_border():
    params = make_level(free=np.isin(np.arange(9), [0, 1, 3, 4]))
    assert [int(ENV.move(jnp.int32(4), jnp.int32(a), params)) for a in range(5)] == [1, 4, 3, 4, 4]


def test_collecting_pays_once_and_removes(play):
    first, obs, reward, terminated, truncated, final = play(make_level(), [RIGHT, STAY, LEFT, RIGHT])
    assert first == index(0, 0)
    np.testing.assert_allclose(reward, [0.7, 0, 0, 0])
    assert obs.tolist() == final.tolist() == [index(1), index(1), index(0), index(1)]
    assert not terminated.any() and not truncated.any()


def test_certain_termination_resets_and_keeps_the_true_successor(play):
    _, obs, reward, terminated, truncated, final = play(make_level(terminate=[1, 0]), [RIGHT, STAY])
    assert terminated.tolist() == [True, False] and not truncated.any()
    assert obs[0] == index(0, 0) and final[0] == index(1)
    assert reward[0] == pytest.approx(0.7)


def test_certain_respawn_takes_one_step_and_staying_collects_again(play):
    _, obs, reward, *_ = play(make_level(respawn=[1, 0]), [RIGHT, STAY, STAY, LEFT])
    assert obs.tolist() == [index(1), index(1, 0), index(1), index(0, 0)]
    np.testing.assert_allclose(reward, [0.7, 0, 0.7, 0])


def test_truncation_resets_the_clock_and_keeps_the_true_successor(play):
    _, obs, _, terminated, truncated, final = play(make_level(max_steps=2), [DOWN, DOWN, DOWN, STAY])
    assert truncated.tolist() == [False, True, False, True] and not terminated.any()
    assert obs.tolist() == [index(3, 0), index(0, 0), index(3, 0), index(0, 0)]
    assert final.tolist() == [index(3, 0), index(6, 0), index(3, 0), index(3, 0)]


def test_terminated_and_truncated_may_both_be_true(play):
    _, _, _, terminated, truncated, _ = play(make_level(max_steps=1, terminate=[1, 0]), [RIGHT])
    assert terminated[0] and truncated[0]


def test_probabilities_are_frequencies():
    params, n = make_level(terminate=[0.3, 0], respawn=[0.2, 0], start=1), 4000
    state = GridworldState(jnp.int32(0), jnp.int32(1), jnp.array([True, False]), None)
    gone = state._replace(present=jnp.zeros(2, bool))
    step = jax.jit(jax.vmap(ENV.step, (0, None, None, None)))
    keys = jax.random.split(jax.random.key(0), n)
    terminated = step(keys, state, jnp.int32(STAY), params)[3]
    respawned = step(keys, gone, jnp.int32(STAY), params)[1].present[:, 0]
    assert abs(terminated.mean() - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5
    assert abs(respawned.mean() - 0.2) < 4 * (0.2 * 0.8 / n) ** 0.5


def test_tabular_index_is_a_bijection():
    params = make_level(objects=[-1, -1])
    cell, bits = jnp.meshgrid(jnp.arange(9), jnp.arange(4), indexing="ij")
    present = (bits.ravel()[:, None] >> jnp.arange(2)) & 1 == 1
    states = GridworldState(jnp.zeros(36, jnp.int32), cell.ravel(), present, None)
    step = jax.vmap(ENV.step, (None, 0, None, None))
    obs = step(jax.random.key(0), states, jnp.int32(STAY), params)[0]
    assert sorted(obs.tolist()) == list(range(ENV.num_states))


def test_same_key_same_result_and_other_keys_differ(play):
    params = make_level(respawn=[0.5, 0])
    actions = [RIGHT] + [STAY] * 7
    runs = [play(params, actions, seed)[2].tolist() for seed in (0, 0, 1, 2, 3)]
    assert runs[0] == runs[1] and any(r != runs[0] for r in runs[2:])


# --- levels ----------------------------------------------------------------------------------------------------------


@functools.cache
def sample(name, n=1500):
    levels = gridworld.distribution(name)
    return levels.env, jax.device_get(quick_jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(2), n)))


@functools.partial(quick_jit, static_argnums=0)
def rollouts(env, params, key):
    """Three random steps on each level: the first observations, then those of `step` with the final ones at the end."""

    def run(params, key):
        first, state = env.reset(key, params)

        def body(state, key):  # as the carry of a scan, the state must keep its tree, shapes and dtypes
            out = env.step(key, state, env.action_space().sample(key), params)
            return out[1], (out[0], *out[2:5], out[5]["final_observation"])

        return first, *jax.lax.scan(body, state, jax.random.split(key, 3))[1]

    return jax.vmap(run)(params, jax.random.split(key, params.start.size))


@pytest.mark.parametrize("name", ["small", "mazes", "longer", "hidden_goal", "ml1", "rand_small", "rand_very_dense"])
def test_distributions_sample_reset_and_step(name):
    env, level = sample(name)
    space = env.observation_space()
    params = jax.tree.map(lambda x: x[:16], level.problem)
    first, obs, reward, terminated, truncated, final = rollouts(env, params, jax.random.key(1))
    for x in (first, obs, final):
        assert x.dtype == space.dtype and x.shape[x.ndim - len(space.shape) :] == space.shape
        assert bool(jnp.all(space.contains(x)))
    assert reward.dtype == jnp.float32 and terminated.dtype == truncated.dtype == bool
    assert level.horizon.dtype == jnp.int32 and (level.horizon >= 10).all()
    assert hash(env) == hash(gridworld.distribution(name).env) and env == gridworld.distribution(name).env


@pytest.mark.parametrize("name", gridworld.names())
def test_every_distribution_has_levels_of_its_environment(name):
    levels = gridworld.distribution(name)
    env, space = levels.env, levels.env.observation_space()

    def step(key):
        level = levels.sample(key)
        _, state = env.reset(key, level.problem)
        return level.horizon, state, env.step(key, state, env.action_space().sample(key), level.problem)

    horizon, state, (obs, after, *_) = jax.eval_shape(step, jax.random.key(0))
    assert horizon.dtype == jnp.int32 and (obs.shape, obs.dtype) == (space.shape, space.dtype)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def positions(level):
    """Start and objects of each level `[n, 1 + O]`, with -1 where there is no object."""
    params = level.problem
    return np.concatenate([np.asarray(params.start)[:, None], np.asarray(params.objects)], 1)


@pytest.mark.parametrize("name", ["small", "all", "longer", "mazes"])
def test_starts_and_objects_are_on_distinct_free_cells(name):
    _, level = sample(name)
    cells, params = positions(level), level.problem
    for row, free, count in zip(cells, params.free, params.num_objects, strict=True):
        used = row[row >= 0]
        assert len(used) == 1 + count == len(set(used)) and free[used].all()
    exists = np.arange(params.objects.shape[1]) < params.num_objects[:, None]
    assert ((params.objects >= 0) == exists).all() and (params.respawn[~exists] == 0).all()


def test_every_free_cell_is_used():
    _, level = sample("dense")
    cells = positions(level)
    assert set(cells[:, 0]) == set(cells[:, 1:].ravel()) == set(range(121))
    _, level = sample("long_dense")
    assert set(positions(level).ravel()) == set(np.flatnonzero(level.problem.free[0]))


@pytest.mark.parametrize(
    "name, steps, objects, sides, walls, horizon",
    [
        ("small", (20, 100), (1, 3), (4, 6), 7, (250, 250)),
        ("medium", (100, 250), (2, 4), (6, 8), 10, (1000, 1000)),
        ("large", (250, 750), (2, 5), (8, 10), 15, (2500, 2500)),
        ("all_vrandlife", (20, 750), (1, 5), (4, 10), 15, (10, 250)),
    ],
)
def test_ranges_of_the_random_distributions(name, steps, objects, sides, walls, horizon):
    env, level = sample(name)
    params, n = level.problem, env.max_side
    assert env == Gridworld(sides[1], objects[1], objects[1])
    for values, (low, high) in ((params.max_steps, steps), (level.horizon, horizon)):
        assert low <= values.min() <= low * 1.1 and high * 0.93 <= values.max() <= high
        # Log-uniform: half of the mass lies below the geometric mean.
        assert low == high or abs(np.mean(values < (low * high) ** 0.5) - 0.5) < 0.06
    assert set(params.num_objects) == set(range(objects[0], objects[1] + 1))
    free = params.free.reshape(-1, n, n)
    side = 1 + np.maximum(np.max(free.any(1) * np.arange(n), 1), np.max(free.any(2) * np.arange(n), 1))
    assert set(side) == set(range(sides[0], sides[1] + 1)) or (set(side) | {sides[0]}) >= set(range(*sides))
    full = free.sum((1, 2))[side == sides[1]]
    assert full.min() >= n * n - walls and (full == n * n - walls).mean() > 0.9
    exists = params.objects >= 0
    assert (params.reward[:, 0] >= 0).all() and params.reward[:, 1:][exists[:, 1:]].min() < -0.9
    assert 0.01 <= params.terminate[exists].min() and params.terminate.max() <= 1
    assert 1e-3 * 0.999 <= params.respawn[exists].min() and params.respawn.max() <= 0.1 * 1.001


def test_walls_of_the_named_levels():
    def picture(name):
        env, level = sample(name)
        return ["".join("#."[int(c)] for c in row) for row in level.problem.free[0].reshape(env.max_side, -1)]

    wall, gap = "....#....", "........."
    assert picture("longer") == [wall, gap, *[wall] * 5, gap, wall]
    rows = ["...........", ".....#.....", "##.#####.##"]
    assert picture("long_dense") == [rows[0], *[rows[1]] * 3, rows[2], *[rows[1]] * 2, rows[0], *[rows[1]] * 3]
    assert picture("rand_small") == [".......", "..#....", ".......", "....#..", ".......", ".......", "......."]


def test_the_tabular_mixture_pads_the_named_levels():
    env, level = sample("tabular")
    assert env == Gridworld(13, 5, 3)
    assert {(int(m), int(f.sum())) for m, f in zip(level.problem.max_steps, level.problem.free, strict=True)} == {
        (500, 121),
        (50, 169),
        (1000, 121),
        (2000, 81 - 7),
        (2000, 121 - 17),
    }


def test_mazes_are_trees_that_reach_every_room():
    _, level = sample("mazes")
    mazes = level.problem.free[:20]
    assert len({maze.tobytes() for maze in mazes}) == 20
    for free in mazes.reshape(-1, 13, 13):
        passages = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
        reached = np.zeros_like(free)
        reached[0, 0] = True
        for _ in range(free.sum()):
            grown = np.pad(reached, 1)
            reached = (reached | grown[2:, 1:-1] | grown[:-2, 1:-1] | grown[1:-1, 2:] | grown[1:-1, :-2]) & free
        assert free[::2, ::2].all() and (reached == free).all() and passages == free.sum() - 1


def test_levels_with_hardly_any_free_cells_are_well_formed():
    levels = _random_levels(_Random((5, 5), (3, 3), (2, 2), walls=3, horizon=(1, 1)))
    level = quick_jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(0), 8))
    assert (level.problem.num_objects == 0).all() and (level.problem.objects == -1).all()
    assert bool(jax.vmap(lambda f, s: f[s])(level.problem.free, level.problem.start).all())


def test_random_positions_are_free_unoccupied_and_uniform():
    env = sample("rand_small")[0]
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), sample("rand_small")[1].problem)
    params = params._replace(respawn=jnp.full(4, 0.5), start=jnp.int32(0))

    @jax.jit
    @jax.vmap
    def run(key):
        def body(state, key):
            out = env.step(key, state, env.action_space().sample(key), params)
            return out[1], (state, out[1])

        return jax.lax.scan(body, env.reset(key, params)[1], jax.random.split(key, 500))[1]

    before, after = jax.device_get(run(jax.random.split(jax.random.key(3), 64)))
    free = np.asarray(params.free)
    assert free[after.cell].all() and free[after.objects[after.present]].all()
    assert not (after.present & (after.objects == after.cell[..., None])).any()
    for i in range(4):
        for j in range(i):
            both = after.present[..., i] & after.present[..., j]
            assert not (both & (after.objects[..., i] == after.objects[..., j])).any()
    # A new episode puts every object anew; except on the start, each free cell is equally likely.
    new = (before.time == 0) & (before.present.all(-1))
    counts = np.bincount(before.objects[new].ravel(), minlength=49)
    assert counts[~free].sum() == 0 and counts[0] == 0
    expected = counts.sum() / 46
    assert expected > 20 and np.abs(counts[free][1:] - expected).max() < 5 * expected**0.5


def test_random_reset_uses_every_free_cell_but_the_start():
    env = Gridworld(max_side=3, max_objects=2, max_types=2, tabular=False)
    params = make_level(start=8, free=np.arange(9) != 4)
    state = quick_jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 200), params)[1]
    assert set(state.objects[:, 0].tolist()) == {0, 1, 2, 3, 5, 6, 7} and not state.present[:, 1].any()


def test_planes_show_the_agent_and_each_type():
    env = Gridworld(max_side=3, max_objects=2, max_types=2, tabular=False)
    params = make_level(num_objects=2, objects=[-1, -1])
    state = GridworldState(jnp.int32(0), jnp.int32(8), jnp.array([False, True]), jnp.array([3, 5]))
    step = quick_jit(env.step)
    obs = np.asarray(step(jax.random.key(0), state, jnp.int32(UP), params)[0])
    assert obs.sum() == 1 and obs[1, 2, 0] == 1  # object 1 was on cell 5 and has been collected
    obs = np.asarray(step(jax.random.key(0), state, jnp.int32(LEFT), params)[0])
    assert obs.sum() == 2 and obs[2, 1, 0] == 1 and obs[1, 2, 2] == 1


# --- exact returns ---------------------------------------------------------------------------------------------------


def test_optimal_return_worked_out_by_hand():
    # Two steps to the object; it is back one step after each collection, so it is collected at steps 2, 4 and 6.
    params = make_level(objects=[2, 6], num_objects=2, reward=[1, -0.5], terminate=[0.25, 0], respawn=[1, 0])
    lengths = jnp.array([1, 2, 3, 4, 6])
    optimal = jax.vmap(lambda n: gridworld.optimal_return(ENV, params._replace(max_steps=n)))(lengths)
    np.testing.assert_allclose(optimal, [0, 1, 1, 1.75, 2.3125], rtol=1e-6)


def test_policy_return_worked_out_by_hand():
    params = make_level(max_steps=2)
    uniform = jnp.full((ENV.num_states, 5), 0.2)
    # Cell 1 is entered at the first step with 1/5; at the second from cell 0 after up, left or stay.
    assert float(gridworld.policy_return(ENV, params, uniform)) == pytest.approx(0.7 * (0.2 + 0.6 * 0.2))


@pytest.fixture(scope="module")
def simulated():
    """Exact and simulated returns of the greedy, the uniform and a random policy on sampled levels, `[levels, 3]`."""
    levels, steps, episodes = gridworld.distribution("small"), 100, 1500
    env = levels.env

    def random_policy(key):
        return jax.random.dirichlet(key, jnp.ones(5), (env.num_states,))

    def policies(key, params):
        def backup(values, _):
            q = gridworld.action_values(env, params, values)
            return q.max(1), jax.nn.one_hot(q.argmax(1), 5)

        greedy = jax.lax.scan(backup, jnp.zeros(env.num_states), length=steps)[1]  # by number of steps left, minus 1
        fixed = jnp.stack([jnp.full((env.num_states, 5), 0.2), random_policy(key)])
        return jnp.concatenate([greedy[None], jnp.broadcast_to(fixed[:, None], (2, *greedy.shape))])

    def episode(key, params, policy):
        def body(carry, key):
            obs, state, alive, total = carry
            action_key, step_key = jax.random.split(key)
            probabilities = policy[jnp.maximum(params.max_steps - 1 - state.time, 0), obs]
            action = jnp.sum(jax.random.uniform(action_key) >= jnp.cumsum(probabilities)[:-1])
            obs, state, reward, terminated, truncated, _ = env.step(step_key, state, action, params)
            return (obs, state, alive & ~(terminated | truncated), total + alive * reward), None

        start = (*env.reset(key, params), jnp.bool_(True), jnp.float32(0))
        return jax.lax.scan(body, start, jax.random.split(key, steps))[0][-1]

    @jax.jit
    @jax.vmap
    def run(key):
        params = levels.sample(key).problem
        # Frequent respawns make the values sensitive to the order of events.
        params = params._replace(respawn=jnp.where(params.respawn > 0, 4 * params.respawn, 0))
        table = policies(key, params)
        fixed = jax.vmap(lambda p: gridworld.policy_return(env, params, p[0]))(table[1:])
        exact = jnp.append(gridworld.optimal_return(env, params), fixed)
        keys = jax.random.split(key, episodes)
        returns = jax.vmap(lambda p: jax.vmap(episode, (0, None, None))(keys, params, p))(table)
        return exact, returns.mean(1), returns.std(1) / episodes**0.5

    return jax.device_get(run(jax.random.split(jax.random.key(4), 6)))


def test_exact_returns_agree_with_simulation(simulated):
    exact, mean, error = simulated
    assert (np.abs(exact - mean) < 4 * error + 1e-4).all(), (exact, mean, error)
    assert error.max() < 0.2 and (exact[:, 0] > 5 * error[:, 0]).any()


def test_the_optimum_is_at_least_as_good_as_any_policy(simulated):
    exact, _, _ = simulated
    assert (exact[:, :1] >= exact[:, 1:] - 1e-5).all()


@pytest.mark.parametrize(
    "name, levels, optimum, random, measured_on",
    [
        ("small", 512, 1.135, 0.246, 64),
        pytest.param("all_shortlife", 48, 1.949, 0.362, 32, marks=pytest.mark.slow),
    ],
)
def test_anchors(name, levels, optimum, random, measured_on):
    """Means over a reference's levels of the same distributions agree within the sampling error of both samples."""
    env, level = sample(name)
    params = jax.tree.map(lambda x: x[:levels], level.problem)
    uniform = jnp.full((env.num_states, 5), 0.2)

    @jax.jit
    @jax.vmap
    def exact(params):
        return gridworld.optimal_return(env, params), gridworld.policy_return(env, params, uniform)

    for values, anchor in zip(exact(params), (optimum, random), strict=True):
        error = float(jnp.std(values)) * (1 / levels + 1 / measured_on) ** 0.5
        assert abs(float(values.mean()) - anchor) < 3 * error


def test_errors_teach():
    with pytest.raises(ValueError, match="must be one of dense, .*small.* got 'smal'"):
        gridworld.distribution("smal")
    with pytest.raises(ValueError, match="tabular"):
        gridworld.optimal_return(Gridworld(3, 2, 2, tabular=False), make_level())
    with pytest.raises(ValueError, match=r"\(36, 5\)"):
        gridworld.policy_return(ENV, make_level(), jnp.ones((5, 36)))
    with pytest.raises(ValueError, match="max_side"):
        Gridworld(max_side=1)


# --- mutation -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edits():
    """Levels, each of them after one edit, and after ten."""
    levels = gridworld.distribution("small")

    @jax.jit
    def draw(key):
        keys = jax.random.split(key, 600)
        before = jax.vmap(levels.sample)(keys)
        return before, *(jax.vmap(functools.partial(gridworld.mutate, edits=n))(keys, before) for n in (1, 10))

    return draw(jax.random.key(0))


def test_edited_levels_are_levels(edits):
    for before, after in ((edits[0], edits[1]), (edits[0], edits[2])):
        old, new = before.problem, after.problem
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), before)
        for same in ("max_steps", "num_objects", "types", "terminate", "respawn"):
            np.testing.assert_array_equal(getattr(new, same), getattr(old, same))
        np.testing.assert_array_equal(after.horizon, before.horizon)
        exists = np.arange(new.objects.shape[1]) < new.num_objects[:, None]
        np.testing.assert_array_equal(new.objects >= 0, exists)
        assert np.take_along_axis(np.asarray(new.free), np.asarray(new.start)[:, None], 1).all()
        assert np.take_along_axis(np.asarray(new.free), np.asarray(new.objects), 1)[exists].all()
        for start, objects in zip(new.start.tolist(), np.asarray(new.objects), strict=True):
            cells = [start, *objects[objects >= 0].tolist()]
            assert len(set(cells)) == len(cells)
        assert (new.reward[:, 0] > 0).all() and (np.abs(new.reward) <= 1).all() and (new.reward[~exists] == 0).all()
        side = round(new.free.shape[1] ** 0.5)
        row, column = np.divmod(np.arange(new.free.shape[1]), side)
        largest = [np.where(free, np.maximum(row, column), 0).max(1) for free in (new.free, old.free)]
        assert (largest[0] <= largest[1]).all()  # no wall opens a way out of the grid


def test_one_edit_is_one_of_four_each_as_likely(edits):
    old, new = edits[0].problem, edits[1].problem
    changed = {
        "wall": (old.free != new.free).sum(1),
        "object": (old.objects != new.objects).sum(1),
        "reward": (old.reward != new.reward).sum(1),
        "start": old.start != new.start,
    }
    counts = np.stack(list(changed.values())).astype(int)
    assert counts.max() == 1 and (counts.sum(0) <= 1).all()  # one thing at a time
    np.testing.assert_allclose(counts.mean(1), 0.25, atol=0.06)


def test_edits_must_be_positive():
    with pytest.raises(ValueError, match="edits must be at least 1, got 0"):
        jax.eval_shape(
            lambda key: gridworld.mutate(key, gridworld.distribution("small").sample(key), edits=0), jax.random.key(0)
        )

"""Adapters of xminigrid, craftax, jumanji and brax, which come with the extra `envs`, and pictures of boards."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from environments import check_types, quick_jit

import envs
from envs import adapters
from metarl import Critic, Experience, networks, objectives, rl_inner_loop
from metarl.rl.environment import trace_environment

STEPS = 1000


def made(name):
    pytest.importorskip(name.partition("/")[0], reason="needs the extra: pip install -e '.[envs]'")
    return envs.make(name)


def aged(state, steps):
    """`state` of an episode that has lasted `steps` already."""
    if isinstance(state, adapters.Timed):
        return state._replace(time=state.time + steps)
    if hasattr(state, "timestep"):
        return state.replace(timestep=state.timestep + steps)
    return state.replace(state=state.state.replace(step_num=state.state.step_num + steps))


def play(levels, ages):
    """First observations, then those, final ones, rewards, and ends of random play [lanes, STEPS], from `ages` on."""
    env = levels.env

    def lane(key, age):
        problem = levels.sample(jax.random.key(0)).problem
        first, state = env.reset(key, problem)

        def step(state, key):
            action_key, key = jax.random.split(key)
            action = env.action_space(problem).sample(action_key)
            obs, state, reward, terminated, truncated, info = env.step(key, state, action, problem)
            return state, (obs, info["final_observation"], reward, terminated, truncated)

        return first, *jax.lax.scan(step, aged(state, age), jax.random.split(key, STEPS))[1]

    keys = jax.random.split(jax.random.key(1), len(ages))
    return jax.device_get(quick_jit(jax.vmap(lane))(keys, jnp.array(ages)))


@pytest.mark.parametrize(
    ("name", "limit", "dies"),
    [
        ("jumanji/Snake-v1", 4000, True),
        pytest.param("jumanji/SlidingTilePuzzle-v0", 500, False, marks=pytest.mark.slow),
        pytest.param("xminigrid/XLand-MiniGrid-R1-9x9", 243, False, marks=pytest.mark.slow),
        pytest.param("brax/inverted_pendulum", 1000, True, marks=pytest.mark.slow),
        pytest.param("craftax/classic", 10_000, True, marks=pytest.mark.slow),
    ],
)
def test_a_thousand_random_steps(name, limit, dies):
    """One lane is one step away from the time limit, at which its episode is cut."""
    levels = made(name)
    trace_environment(levels.env, levels.sample(jax.random.key(0)).problem)
    check_types(levels)
    space = levels.env.observation_space(levels.env.default_params)
    first, obs, final, reward, terminated, truncated = play(levels, [0, 0, limit - 1])
    assert first.shape == (3, *space.shape) and obs.shape == final.shape == (3, STEPS, *space.shape)
    assert first.dtype == obs.dtype == final.dtype == space.dtype
    assert reward.dtype == np.float32 and terminated.dtype == truncated.dtype == bool
    assert all(np.isfinite(x).all() for x in (first, obs, final, reward))
    assert all((x >= space.low).all() and (x <= space.high).all() for x in (first, obs, final))

    assert truncated[2, 0] and not terminated[2, 0]
    assert not (terminated & truncated).any() and terminated.any() == dies
    ended = terminated | truncated
    np.testing.assert_array_equal(obs[~ended], final[~ended])
    assert (obs[ended] != final[ended]).reshape(ended.sum(), -1).any(-1).mean() > 0.5  # a new episode
    # An episode after the first lasts no longer than the limit, and one that was cut lasted just as long.
    for done, cut in zip(ended[:2], truncated[:2], strict=True):
        lengths = np.diff(np.flatnonzero(done), prepend=-1)
        assert (lengths <= limit).all() and (lengths[cut[done]] == limit).all()
    assert dies or truncated[:2].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("brax/ant", "craftax/symbolic"),
        *(f"jumanji/{name}" for name in ("FlatPack-v0", "Game2048-v1", "Minesweeper-v0", "PacMan-v1")),
        *(f"xminigrid/MiniGrid-{name}" for name in ("LockedRoom", "MemoryS8", "UnlockPickUp")),
        "xminigrid/XLand-MiniGrid-R9-16x16",
    ],
)
def test_what_is_not_played_is_traced(name):
    """All names would take minutes: brax alone over 10 s each."""
    levels = made(name)
    trace_environment(levels.env, levels.sample(jax.random.key(0)).problem)
    check_types(levels)


@pytest.mark.slow
def test_a_meta_gradient_passes_restarts():
    """They are computed where they are needed, without a derivative in reverse mode, and none is asked of them."""
    levels, key = made("jumanji/Snake-v1"), jax.random.key(0)
    critic = Critic(optax.sgd(0.1))
    inner = rl_inner_loop(
        levels.env, networks.mlp((4,)), objectives.lpg(hidden=4), optax.sgd(0.1), Experience(4, 20), critic=critic
    )

    def meta_loss(meta_params, key):
        lifetime, _, metrics = inner.step(meta_params, inner.init(key, levels.sample(key)), key)
        return inner.loss(meta_params, lifetime, key).objective, metrics["episode_return"]

    meta_gradient = jax.vmap(jax.grad(meta_loss, has_aux=True), (None, 0))
    gradient, returns = quick_jit(meta_gradient)(inner.init_meta(key), jax.random.split(key, 2))
    assert not jnp.isnan(returns).any()  # in both lifetimes episodes ended
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert any((x != 0.0).any() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("package", ["brax", "craftax", "jumanji", "xminigrid"])
def test_a_missing_package_is_an_error_that_names_the_extra(package, monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    getattr(envs, package)._made.cache_clear()
    name = next(name for name in envs.extra_names() if name.startswith(package))
    envs.check(env=name)
    with pytest.raises(ImportError, match=rf"{package} is not installed: pip install 'metarl-jax\[envs\]'"):
        envs.make(name)


def test_the_goal_of_minigrid_ends_an_episode():
    """From the upper left corner of a room of 3 x 3, looking to the right, to the lower right one."""
    env, (native, settings) = made("xminigrid/MiniGrid-Empty-5x5").env, envs.xminigrid._made("MiniGrid-Empty-5x5")
    forwards, right = 0, 1
    path = [forwards, forwards, right, forwards, forwards]
    step, follow = quick_jit(env.step), quick_jit(lambda state, action: native.step(settings, state, action))
    obs, state = quick_jit(env.reset)(jax.random.key(0), ())
    start = np.asarray(obs)
    for time, action in enumerate(path):
        tiles = np.array(follow(state, jnp.int32(action)).observation)
        tiles[-1, 3] = 0  # it holds nothing
        successor = np.concatenate([np.eye(13)[tiles[..., 0]], np.eye(12)[tiles[..., 1]]], -1)
        obs, state, reward, terminated, truncated, info = step(jax.random.key(time), state, jnp.int32(action), ())
        assert bool(terminated) == (time == len(path) - 1) and not truncated
        np.testing.assert_array_equal(info["final_observation"], successor)
        np.testing.assert_array_equal(obs, start if terminated else successor)
        assert float(reward) == pytest.approx(1 - 0.9 * len(path) / settings.max_steps if terminated else 0.0)

    key = jnp.array([7, 5], jnp.uint8)  # a tile: kind, colour
    holding = state.replace(state=state.state.replace(agent=state.state.agent.replace(pocket=key)))
    shown = np.asarray(step(jax.random.key(0), holding, jnp.int32(right), ())[0][-1, 3])
    assert np.flatnonzero(shown).tolist() == [7, 13 + 5]


def test_names_are_those_of_the_packages():
    xminigrid = pytest.importorskip("xminigrid", reason="needs the extra envs")
    jumanji = pytest.importorskip("jumanji", reason="needs the extra envs")
    assert set(envs.xminigrid.NAMES) == set(xminigrid.registered_environments())
    assert set(envs.jumanji.NAMES) < set(jumanji.registered_environments())
    assert len(set(envs.extra_names())) == len(envs.extra_names()) and not set(envs.extra_names()) & set(envs.names())


def test_an_action_of_several_choices_is_one_number():
    levels = made("jumanji/Tetris-v0")
    env, native = levels.env, envs.jumanji._made("Tetris-v0")[0]
    assert env.action_space().n == 4 * 10
    _, state = env.reset(jax.random.key(0), ())
    ours = quick_jit(env.follow)(jax.random.key(1), state, jnp.int32(13), ())
    theirs = quick_jit(native.step)(state.inner, jnp.array([1, 3]))[0]  # the second rotation, the fourth column
    np.testing.assert_array_equal(ours[1].inner.grid_padded, theirs.grid_padded)
    assert theirs.grid_padded.any()


def test_tasks_of_xland_have_goals_that_differ():
    levels = made("xminigrid/XLand-MiniGrid-R1-9x9")
    rules = quick_jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(0), 200)).problem
    assert set(np.unique(rules.goal[:, 0]).tolist()) == {1, 3, 4} and rules.init_tiles.shape == (200, 5, 2)
    np.testing.assert_array_equal(rules.goal[:, 1:3], rules.init_tiles[:, 0])
    second = np.where(rules.goal[:, :1] == 4, rules.init_tiles[:, 1], 0)
    np.testing.assert_array_equal(rules.goal[:, 3:], second)
    assert all(len({tuple(x) for x in task}) == 5 for task in np.asarray(rules.init_tiles))


@pytest.mark.parametrize(
    "name", ["jumanji/Snake-v1", "xminigrid/XLand-MiniGrid-R1-9x9", "Breakout-MinAtar", "Catch-bsuite"]
)
def test_pictures(name):
    levels = envs.make(name) if "/" not in name else made(name)
    problem = levels.sample(jax.random.key(0)).problem
    start = levels.render(problem)
    reset = quick_jit(levels.env.reset)
    others = [levels.render(problem, jax.device_get(reset(jax.random.key(i), problem)[1])) for i in range(1, 6)]
    assert start.dtype == np.uint8 and start.shape == others[0].shape and start.shape[2] == 3
    assert len(np.unique(start.reshape(-1, 3), axis=0)) > 1 and any((start != other).any() for other in others)


def test_a_board_has_a_colour_for_each_channel():
    cells = np.zeros((2, 3, 2))
    cells[0, 0] = 1, 0
    cells[0, 1] = 0, 1
    cells[0, 2] = 1, 1
    picture = adapters.board(cells, 4)
    assert picture.shape == (8, 12, 3)
    first, second, both = picture[0, ::4]
    assert (both == first).all() and (first != second).any()
    assert (picture[4:] == [62, 68, 76]).all() and (picture[:4, :4] == first).all()
    np.testing.assert_array_equal(adapters.board(cells[..., 0], 4), adapters.board(cells[..., :1], 4))

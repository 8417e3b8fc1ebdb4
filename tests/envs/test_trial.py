import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
import metarl
from envs.bandit import Bandit, BanditParams
from envs.trial import TrialParams
from metarl.strategies import bandits as strategies
from metarl.types import Level, Levels

FIXED = TrialParams(BanditParams(jnp.array([0.0, 1.0]), jnp.float32(1.0), jnp.int32(3)), jnp.bool_(True))


def bandits(pulls=3):
    """Arms that pay always or never; the better one is drawn."""

    def sample(key):
        means = jnp.array([0.0, 1.0])
        means = jnp.where(jax.random.bernoulli(key), means, means[::-1])
        return Level(BanditParams(means, jnp.float32(1.0), jnp.int32(pulls)), jnp.int32(7))

    return Levels(sample, Bandit(2))


def play(levels, actions, params=None, key=None):
    """What `step` returns along `actions`: (obs, state, reward, terminated, truncated, info), leaves [T, ...]."""
    env = levels.env
    params = env.default_params if params is None else params

    @jax.jit
    def run(params, actions, key):
        def step(state, x):
            action, key = x
            result = env.step(key, state, action, params)
            return result[1], result

        _, state = env.reset(key, params)
        return jax.lax.scan(step, state, (actions, jax.random.split(key, len(actions))))[1]

    return run(params, jnp.asarray(actions), jax.random.key(0) if key is None else key)


def test_a_trial_shows_the_last_action_reward_and_end_of_an_episode():
    levels = envs.trials(bandits(), episodes=2)
    start, _ = levels.env.reset(jax.random.key(0), FIXED)
    np.testing.assert_array_equal(start, [1, 0, 0, 0, 0])
    obs, _, reward, terminated, truncated, info = play(levels, [1, 0, 1, 1, 0, 0, 1], FIXED)
    np.testing.assert_array_equal(reward, [1, 0, 1, 1, 0, 0, 1])
    after = np.array(
        [[1, 1, 0, 0, 1], [1, 0, 0, 1, 0], [1, 1, 1, 0, 1], [1, 1, 0, 0, 1], [1, 0, 0, 1, 0], [1, 0, 1, 1, 0]]
    )
    np.testing.assert_array_equal(info["final_observation"][:6], after)
    np.testing.assert_array_equal(obs[:5], after[:5])
    np.testing.assert_array_equal(obs[5], start)  # a new trial
    np.testing.assert_array_equal(terminated, [0, 0, 0, 0, 0, 1, 0])
    assert not truncated.any()
    np.testing.assert_array_equal(info["boundary"], [0, 0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(info["episode"], [0, 0, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(info["episode_return"], [np.nan, np.nan, 2, np.nan, np.nan, 1, np.nan])


def test_the_level_stays_for_a_trial_and_is_drawn_anew_for_the_next():
    _, state, *_, terminated, _, _ = play(envs.trials(bandits(), episodes=2), [0] * 600)
    best = np.asarray(state.problem.means[:, 1])  # after the step
    trial = np.cumsum(terminated)
    assert all(len(set(best[trial == n])) == 1 for n in range(100))
    share = np.mean([best[trial == n][0] for n in range(1, 100)])
    assert 0.35 < share < 0.65


@pytest.mark.parametrize(
    ("episodes", "steps", "terminated", "truncated"),
    [(None, 4, [0, 0, 0, 1, 0], [0] * 5), (2, 4, [0] * 5, [0, 0, 0, 1, 0]), (1, 3, [0, 0, 1, 0, 0], [0] * 5)],
    ids=["steps", "cut", "both at once"],
)
def test_how_a_trial_ends(episodes, steps, terminated, truncated):
    obs, _, _, ended, cut, info = play(envs.trials(bandits(), episodes, steps, share=True), [1] * 5, FIXED)
    np.testing.assert_array_equal(ended, terminated)
    np.testing.assert_array_equal(cut, truncated)
    np.testing.assert_allclose(info["final_observation"][:2, 3], [1 / steps, 2 / steps])
    assert not info["boundary"][ended | cut].any()
    assert obs[np.argmax(ended | cut), 3] == 0


@pytest.mark.parametrize("switch_after", [1, 2])
def test_a_trial_can_go_on_with_other_levels(switch_after):
    levels = envs.trials(bandits(pulls=2), steps=200, switch_after=switch_after)
    obs, state, *_, terminated, _, info = play(levels, [0] * 400)
    best = np.asarray(state.problem.means[:, 1])
    np.testing.assert_array_equal(np.flatnonzero(terminated), [199, 399])
    changes = np.flatnonzero(np.diff(best)) + 1
    assert (changes % (2 * switch_after) == 2 * switch_after - 1).all()  # with the step that ends the last episode
    assert 0.3 < len(changes) / (400 / (2 * switch_after)) < 0.7
    np.testing.assert_array_equal(obs[4:10:2, 2], [0, 0, 0])
    np.testing.assert_array_equal(obs[5:10:2, 2], [1, 1, 1])
    fixed = play(levels, [0] * 40, FIXED)[1].problem.means
    assert (fixed == FIXED.problem.means).all()


@pytest.mark.parametrize("name", ["Pendulum-v1", "mdp/random"])
def test_trials_follow_the_interface(name):
    levels = envs.trials(envs.make(name), episodes=2, steps=30)
    metarl.check_environment(levels.env)
    level = jax.jit(levels.sample)(jax.random.key(1))
    assert not level.problem.fixed
    assert level.horizon == envs.make(name).sample(jax.random.key(1)).horizon


def test_a_vector_is_shown_as_it_is():
    env = envs.trials(envs.make("Pendulum-v1"), steps=5).env
    params = env.default_params
    obs, state = env.reset(jax.random.key(0), params)
    assert obs.shape == env.observation_space().shape == (3 + 1 + 2,)
    obs, _, reward, *_ = env.step(jax.random.key(1), state, jnp.array([0.25]), params)
    np.testing.assert_allclose(obs[3:], [reward, 0.0, 0.25])


def test_batches_of_batches_draw_the_levels_of_single_trials():
    """New levels are computed where one of a batch needs them: that must not change which."""
    levels = envs.trials(bandits(pulls=2), episodes=1)
    actions = jnp.array([[0, 1, 1, 0, 1]] * 6).reshape(2, 3, 5)
    keys = jax.random.split(jax.random.key(3), (2, 3))
    run = jax.jit(lambda actions, key: play(levels, actions, key=key)[1].problem.means)
    together = jax.vmap(jax.vmap(run))(actions, keys)
    single = jnp.stack([jnp.stack([run(actions[i, j], keys[i, j]) for j in range(3)]) for i in range(2)])
    np.testing.assert_array_equal(together, single)
    assert len(np.unique(together[..., 0])) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: envs.trials(bandits()), "a trial needs its length: give episodes or steps"),
        (lambda: envs.trials(bandits(), episodes=0), "episodes must be at least 1 or None, got 0"),
        (lambda: envs.trials(bandits(), steps=0), "steps must be at least 1 or None, got 0"),
        (lambda: envs.trials(bandits(), episodes=2, share=True), "give steps"),
        (lambda: envs.trials(Levels(bandits().sample), episodes=2), "no environment"),
        (lambda: envs.trials(Bandit(2), episodes=2), "levels must be a Levels, got a Bandit"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("options", [{"episodes": 2}, {"switch_after": 1}])
def test_demonstrations_are_of_one_task(options):
    env = envs.trials(bandits(), steps=4, **options).env
    with pytest.raises(ValueError, match="demonstrations are of one task"):
        env.demonstrations(strategies.greedy(2))


def test_actions_that_cannot_be_shown():
    class Boards(Bandit):
        def action_space(self, params=None):
            return metarl.types.Box(0.0, 1.0, (2, 2))

    with pytest.raises(ValueError, match=r"shows actions of a Discrete space or of a Box of one axis, got Box.*Boards"):
        envs.trials(Levels(bandits().sample, Boards(2)), episodes=2)

"""Ways of adapting: curves by hand, and learners whose step sizes are tuned on tasks of training."""

import jax
import numpy as np
import optax
import pytest

import envs
from metarl import rules
from metarl.evaluation import adaptation
from metarl.evaluation.adaptation import Played, curves, draw_tasks, learn_tasks, over_seeds, play_tasks, scaled
from metarl.strategies import random

NAN = np.nan


def test_a_curve_is_the_mean_of_the_episodes_that_ended_in_each_part():
    ended = np.full((2, 20), NAN)
    ended[0, [4, 5, 7]] = 1.0, 3.0, 5.0  # in the third part two, in the fourth one
    ended[1, ::2] = np.arange(10.0)
    before, after = [2.0] * 3, [5.0] * 7  # the first parts have the value of the next one, and the last of the last one
    assert curves(ended).tolist() == [before + after, list(range(10))]


def test_a_task_without_an_end_of_an_episode_has_no_curve():
    with pytest.raises(ValueError, match="no episode ended in a task"):
        curves(np.array([[NAN] * 10, [1.0] * 10]))


def test_episodes_are_the_returns_at_their_ends():
    played = Played(np.zeros((2, 3)), np.ones((2, 3)), np.array([[NAN, 2.0, 1.0], [NAN, NAN, 3.0]]))
    np.testing.assert_array_equal(played.episodes, [[2.0, 1.0], [3.0, NAN]])


def test_strategies_are_told_what_their_episodes_returned():
    levels = envs.mdp.distribution(num_states=2, num_actions=2, max_steps=3)
    problems = draw_tasks(levels, jax.random.key(0), 4).problem
    players = {"random": random(levels.environment.action_space())}
    played = play_tasks(levels.environment, players, problems, jax.random.key(1), steps=7)["random"]
    np.testing.assert_array_equal(np.isfinite(played.ended), [[False, False, True] * 2 + [False]] * 4)
    np.testing.assert_allclose(played.episodes, played.reward[:, :6].reshape(4, 2, 3).sum(-1), rtol=1e-6)


def test_intervals_are_over_seeds_or_over_tasks_of_the_only_one():
    values = np.array([[0.0, 2.0], [2.0, 4.0]])
    assert over_seeds(values).mean == 2.0 and over_seeds(values).high == pytest.approx(2.0 + 12.706, rel=1e-3)
    assert over_seeds(values[:1]).high == pytest.approx(1.0 + 12.706, rel=1e-3)


def test_updates_are_scaled():
    learner = rules.Learner(None, None, optax.sgd(0.5), None)
    plain = scaled(learner, 3.0).optimizer.transform(())
    update, _ = plain.update(np.float32(2.0), plain.init(np.float32(0.0)), np.float32(0.0))
    assert update == -3.0


def test_learners_have_the_best_factor_on_tasks_of_training(monkeypatch):
    """Ten gradient steps learn nothing at one factor, and much at the other."""
    monkeypatch.setattr(adaptation, "FACTORS", (1e-6, 1.0))
    recipe = {
        "objective": {"name": "a2c"},
        "optimizer": {"name": "sgd", "learning_rate": 10.0},
        "network": {"name": "tabular"},
        "experience": {"num_envs": 8, "rollout_length": 2},
    }
    levels, learner = envs.make("bandit/five"), rules.build(recipe)
    training, tasks = (draw_tasks(levels, jax.random.key(i), 30).problem for i in range(2))
    found = learn_tasks(levels.environment, learner, [{}, {}], training, tasks, jax.random.key(2), updates=10)
    assert found.curves.shape == (2, 30, 10) and found.factors == [1.0, 1.0]
    np.testing.assert_array_equal(*found.curves)  # of equal meta-parameters
    assert found.curves[0, :, -1].mean() > found.curves[0, :, 0].mean() + 0.1

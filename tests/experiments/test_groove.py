"""Curricula as a user runs them: GROOVE from its command line, and scores in every experiment that replays levels."""

import json

import jax
import numpy as np
import pytest
from commands import PNG, columns, one_line, words
from PIL import Image

import metarl
from experiments import groove, lpg, lpo, ta_lpg
from metarl.evaluation import gallery
from metarl.run.options import replace

SIZE = {"num_envs": 2, "rollout_length": 4, "hidden": 4}
LIVES = {"num_lifetimes": 4, "longest_life": 12, "shortest_life": 4, "updates": 2}
REPLAY = {"warm_up": 1, "replay_probability": 0.8, "capacity": 16, "held_out_seeds": 0}


def first_frames(levels, learner, params, level):
    """A film without its agent, which tests of the gallery train."""
    picture = levels.render(level.problem)
    return [picture, np.zeros_like(picture)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 30 meta-steps with mutation, from the command line."""
    directory = tmp_path_factory.mktemp("groove") / "run"
    options = {"levels": "gridworld/small", "steps": 30, "mutation_probability": 0.5, "directory": directory}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "frames", first_frames)
        groove.main(words(**SIZE, **LIVES, **REPLAY, **options))
    return directory


def test_a_run_logs_what_its_curriculum_does(finished):
    log = columns(finished)
    assert log["replayed_share"][0] == 0 and log["replayed_share"].max() >= 0.5
    assert 0 < log["mutated_share"].max() <= 1
    assert 0 < log["buffer_levels"].max() <= 16
    scored = np.isfinite(log["score_low"])
    assert scored[-10:].all() and not scored[0]
    assert (log["score_low"][scored] <= log["score_median"][scored]).all()
    assert (log["score_median"][scored] <= log["score_high"][scored]).all()
    assert (1 <= log["level_horizon"]).all() and (log["level_horizon"] <= 12).all() and np.ptp(log["level_horizon"]) > 0
    assert (1 <= log["level_objects"]).all() and (log["level_objects"] <= 3).all()
    assert (9 <= log["level_size"]).all() and (log["level_size"] <= 36).all()


def test_a_run_leaves_its_gallery_and_an_animation(finished):
    files = {path.name for path in finished.iterdir()}
    assert {"curves.png", "results.json", "rule.safetensors", "checkpoints", "gallery.png", "agent.gif"} <= files
    assert (finished / "gallery.png").read_bytes().startswith(PNG)
    with Image.open(finished / "agent.gif") as film:
        assert film.size == (6 * 24, 6 * 24) and film.n_frames > 1
    assert json.loads((finished / "results.json").read_text())["experiment"] == "groove"
    assert metarl.load_rule(finished).card["config"]["score"] == "regret"


@pytest.mark.slow
def test_evolution_of_a_rule_that_sees_the_time_works_on_a_curriculum_too(tmp_path):
    lives = {"num_pairs": 3, "shortest_life": 2, "longest_life": 4, "eval_episodes": 2}
    options = {"levels": "mdp/random", "steps": 8, "score": "regret", "keep": 1, "directory": tmp_path / "run"}
    ta_lpg.main(words(**SIZE, **lives, **REPLAY, **options))
    log = columns(tmp_path / "run")
    assert log["replayed_share"].max() > 0 and np.isfinite(log["score_median"][-1])
    assert (2 <= log["level_horizon"]).all() and (log["level_horizon"] <= 4).all()
    assert not (tmp_path / "run" / "gallery.png").exists()  # no gridworlds, no pictures


@pytest.mark.parametrize(
    ("module", "score"),
    [
        # with an antagonist, with agents that play, with critics, with nothing; the others are of one of these kinds
        *((lpg, score) for score in ("regret", "learnability", "maxmc", "frozen")),
        (lpo, "regret"),
        (ta_lpg, "pvl"),  # agents of evolution have a critic only for a score that asks for one
    ],
)
def test_every_experiment_takes_every_kind_of_score(module, score):
    lives = {"num_lifetimes": 2} if module is lpg else {"num_pairs": 2, "longest_life": 10}
    small = {"levels": "gridworld/small", "num_envs": 2, "rollout_length": 2, "hidden": 4}
    config = replace(module.PRESETS["quick"], **small, **lives, score=score, batch_size=0)
    meta = module.EXPERIMENT.make(config if module is not lpo else replace(config, minibatches=2))
    state = jax.eval_shape(meta.init, jax.random.key(0))
    after, metrics = jax.eval_shape(meta.step, state, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert ("score_median" in metrics) == (score not in ("uniform", "frozen"))
    assert {"level_horizon", "level_size", "level_objects"} <= set(metrics)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"capacity": 3, "warm_up": 1}, "capacity must be at least num_lifetimes = 4, got 3"),
        ({"capacity": 0}, "capacity must be at least 1"),
        ({"replay_probability": 1.5}, "replay_probability must be at most 1, got 1.5"),
        ({"replay_probability": "nan"}, "replay_probability must be a number, not NaN, got nan"),
        ({"staleness": -0.1}, "staleness must be at least 0, got -0.1"),
        ({"mutation_probability": 2}, "mutation_probability must be at most 1, got 2"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"warm_up": 0}, "warm_up must be at least 1"),
        ({"score_batch": 0}, "score_batch must be at least 1"),
        ({"score": "regrets"}, "regret"),
        ({"score": "optimal", "levels": "CartPole-v1"}, "needs levels whose optimal return is known"),
        ({"score": "optimal", "levels": "gridworld/rand_dense"}, "needs levels whose optimal return is known"),
        ({"mutation_probability": 0.5, "levels": "mdp/random"}, "must be 0 for levels that have no mutation"),
        ({"mutation_probability": 0.5, "levels": "gridworld/rand_small"}, "must be 0 for levels that have no mutation"),
        ({"shortest_life": 13}, "shortest_life must be at most longest_life = 12, got 13"),
        ({"shortest_life": 4, "longest_life": 0}, "shortest_life needs longest_life, got 4 without it"),
        ({"capacity": 8}, "warm_up must be at most capacity = 8, got 32"),
        ({"score": "uniform", "mutation_probability": 0.5}, "mutation_probability has no effect with score uniform"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(options, says, tmp_path, capsys):
    argv = words(**{**SIZE, **LIVES, "directory": tmp_path / "run", **options})
    assert says in one_line(capsys, lambda: groove.main(argv))
    assert not (tmp_path / "run").exists()

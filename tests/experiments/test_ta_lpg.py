"""Meta-training by evolution as a user runs it: TA-LPG from its command line, and what it learns."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import PNG, assert_rule_is, columns, one_line, restored, words
from toy import assert_same

import metarl
from experiments import lpg, meta_training, ta_lpg
from metarl.estimators.pes import PESState
from metarl.evaluation.held_out import Judge, held_out_report, measure
from metarl.run.options import replace

TINY = {
    **{"levels": "mdp/random", "num_pairs": 2, "num_envs": 2, "rollout_length": 4, "hidden": 4},
    **{"shortest_life": 2, "longest_life": 4, "batch_size": 1, "eval_episodes": 2},
}
QUIET = {"held_out_seeds": 0}  # the report is that of LPG
CONFIG = replace(ta_lpg.PRESETS["quick"], **TINY, steps=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three meta-steps, from the command line."""
    directory = tmp_path_factory.mktemp("ta_lpg") / "run"
    ta_lpg.main(words(**TINY, **QUIET, directory=directory, steps=3, checkpoint_every=2))
    return directory


def test_a_run_leaves_everything_that_lpg_leaves_but_for_a_report(finished):
    files = {path.name for path in finished.iterdir()}
    figures = {"curves.png", "update.png"}
    assert figures | {"metrics.csv", "results.json", "rule.safetensors", "checkpoints", "log"} == files
    assert all((finished / name).read_bytes().startswith(PNG) for name in figures)
    results = json.loads((finished / "results.json").read_text())
    assert results["experiment"] == "ta_lpg" and results["config"]["temporal"]
    assert results["report"] == {}


def test_the_log_has_the_diagnostics_of_an_estimate(finished):
    log = columns(finished)
    assert log["step"].tolist() == [1, 2, 3]
    assert (log["fitness_min"] <= log["fitness"]).all() and (log["fitness"] <= log["fitness_max"]).all()
    assert (log["nonfinite_members"] == 0).all() and np.allclose(log["sigma"], 0.1)
    for name in ("meta_gradient_norm", "meta_gradient_variance", "meta_gradient_cosine"):
        assert np.isfinite(log[name]).all()
    assert (log["lifetimes_ended"] == 2).all()  # lifetimes are whole


def test_the_rule_of_a_run_loads_as_what_was_trained(finished):
    rule = metarl.load_rule(finished)
    state = restored(ta_lpg.EXPERIMENT, CONFIG, finished)
    assert_rule_is(rule, {"objective": state.params["objective"]}, lpg.OBJECTIVES.recipe(CONFIG))
    assert rule.card["experiment"] == "ta_lpg" and rule.card["recipe"]["objective"]["temporal"]


def test_coordinates_are_learned_saved_and_drawn(tmp_path):
    sizes = {**TINY, "hidden": 5, "steps": 2, "held_out_seeds": 0}
    ta_lpg.main(["--preset", "coordinates", *words(**sizes, directory=tmp_path / "run")])
    config = replace(ta_lpg.PRESETS["coordinates"], **sizes)
    state = restored(ta_lpg.EXPERIMENT, config, tmp_path / "run")
    learned = state.params["objective"]
    assert all((x != 0.0).any() for x in jax.tree.leaves(learned)) and learned["caution"].shape == ()
    assert_rule_is(metarl.load_rule(tmp_path / "run"), {"objective": learned}, lpg.OBJECTIVES.recipe(config))
    assert (tmp_path / "run" / "update.png").read_bytes().startswith(PNG)


def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(finished, tmp_path, capsys):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    (directory / "update.png").unlink()
    (directory / "checkpoints" / "3.npz").unlink()
    again = {**TINY, **QUIET, "directory": directory}
    ta_lpg.main(words(**again, steps=3, resume_from=2))
    assert (directory / "update.png").exists()
    assert columns(directory)["step"].tolist() == [1, 2, 3]
    assert_same(*(restored(ta_lpg.EXPERIMENT, CONFIG, x) for x in (directory, finished)))
    message = one_line(capsys, lambda: ta_lpg.main(words(**again, resume=True, steps=6, temporal=False)))
    assert "temporal" in message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_pairs": 0}, "num_pairs must be at least 1, got 0"),
        ({"sigma": 0}, "sigma must be above 0"),
        ({"sigma": "nan"}, "sigma must be a number, not NaN, got nan"),
        ({"shortest_life": 9}, "shortest_life must be at most longest_life = 4, got 9"),
        ({"estimator": "pes"}, "estimator pes needs truncation"),
        ({"estimator": "cma"}, "'es', 'pes'"),
        ({"shaping": "squash"}, "pair_rank"),
        ({"learning_rate_decay": 1.1}, "learning_rate_decay must be at most 1, got 1.1"),
        ({"devices": 3}, "devices must divide num_pairs = 2, got 3"),
        ({"devices": 2, "num_pairs": 64}, "devices must be at most 1, as many as are available, got 2"),
        ({"held_out_levels": 1}, "held_out_levels must be at least 2, got 1"),
        ({"held_out_horizons": 0}, "held_out_horizons[0] must be at least 1"),
        ({"levels": "gridworld/smal"}, "gridworld/small"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, capsys):
    assert says in one_line(capsys, lambda: ta_lpg.main(words(**{**TINY, **options})))


def test_presets_show_shorter_lives_than_trained_on_and_two_and_four_times_the_longest():
    for config in ta_lpg.PRESETS.values():
        over = [horizon / config.distribution.longest_life for horizon in config.held_out.held_out_horizons]
        assert min(over) < 1.0 and 1.0 in over and 2.0 in over and 4.0 in over
        assert config.rule.temporal


def test_pes_is_an_option_too():
    meta = ta_lpg.EXPERIMENT.make(replace(CONFIG, estimator="pes", truncation=2))
    key = jax.random.key(0)
    state, metrics = jax.eval_shape(meta.step, jax.eval_shape(meta.init, key), key)
    assert isinstance(state.estimator, PESState) and {"meta_gradient_variance", "sigma"} <= metrics.keys()


@pytest.mark.slow
def test_evolution_learns_a_rule_that_is_far_better_than_an_untrained_one():
    sizes = {"num_pairs": 24, "num_envs": 8, "hidden": 8, "longest_life": 40, "learning_rate": 0.05}
    config = replace(ta_lpg.AWARE, **sizes)
    levels = config.distribution.make()
    inner = meta_training.inner_loop(lpg.OBJECTIVES, config, levels)
    state, log = metarl.train(ta_lpg.EXPERIMENT.make(config), seed=0, steps=60)
    a2c = metarl.rules.build(meta_training.a2c(config)[1]).inner_loop(levels.environment)
    judge = Judge(levels, ("a2c", a2c), num_levels=24, num_seeds=4, batch_size=128)
    players = judge.players(inner, {"trained": lambda key: state.params, "untrained": inner.init_meta})
    report = held_out_report(measure(judge, {name: [x] for name, x in players.items()}))
    assert report["trained"]["low"] > report["untrained"]["high"]
    assert report["trained"]["mean"] > 0.2
    assert log["fitness"][-10:].mean() > log["fitness"][:5].mean() + 0.1

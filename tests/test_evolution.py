"""Meta-training by evolution as a user runs it: TA-LPG and LPO from their command lines, and what they learn."""

import json

import jax
import numpy as np
import pytest
from experiments.report import Judge, a2c_agent, held_out_report

import envs
import metarl
from experiments import evolution, horizons, lpo, ta_lpg
from metarl.estimators.pes import PESState
from metarl.pretrained import load_params

TINY = [
    *("--levels", "mdp/random", "--num-pairs", "2", "--num-envs", "2", "--rollout-length", "4", "--hidden", "4"),
    *("--shortest-life", "2", "--longest-life", "4", "--batch-size", "1", "--eval-episodes", "2"),
]
REPORT = ["--held-out-levels", "3", "--held-out-seeds", "2", "--held-out-horizons", "2", "8"]


@pytest.fixture(scope="module", params=["ta_lpg", "lpo"])
def finished(request, tmp_path_factory):
    """A run of four meta-steps with its reports, from the command line: its module and its directory."""
    module = {"ta_lpg": ta_lpg, "lpo": lpo}[request.param]
    directory = tmp_path_factory.mktemp(request.param) / "run"
    module.main([*TINY, *REPORT, "--directory", str(directory), "--steps", "4", "--temporal"])
    return module, directory


def test_a_run_leaves_everything_that_lpg_leaves_and_looks_inside(finished):
    module, directory = finished
    files = {path.name for path in directory.iterdir()}
    figures = {"curves.png", "report.png", "horizons.png", "update.png"}
    assert figures | {"metrics.csv", "results.json", "horizons.json", "rule.safetensors", "checkpoints"} <= files
    results = json.loads((directory / "results.json").read_text())
    plain = {"ta_lpg": "a2c", "lpo": "ppo"}[results["experiment"]]
    assert {"trained", "untrained", plain, "random", "optimal"} == set(results["report"])
    over_horizons = json.loads((directory / "horizons.json").read_text())
    assert {"trained", "untrained", plain, "trained minus untrained"} == set(over_horizons)
    assert all(set(row) == {"2", "8"} for row in over_horizons.values())
    _, origin = load_params(directory / "rule.safetensors")
    assert origin["experiment"] == results["experiment"] and origin["config"]["temporal"]


def test_the_log_has_the_diagnostics_of_an_estimate(finished):
    _, directory = finished
    header, *rows = (directory / "metrics.csv").read_text().splitlines()
    columns = dict(zip(header.split(","), np.array([row.split(",") for row in rows], float).T, strict=True))
    assert len(rows) == 4
    assert (columns["fitness_min"] <= columns["fitness"]).all() and (columns["fitness"] <= columns["fitness_max"]).all()
    assert (columns["nonfinite_members"] == 0).all() and np.allclose(columns["sigma"], 0.1)
    for name in ("meta_gradient_norm", "meta_gradient_variance", "meta_gradient_cosine"):
        assert np.isfinite(columns[name]).all()
    assert (columns["lifetimes_ended"] == 2).all()  # lifetimes are whole


@pytest.mark.parametrize("finished", ["lpo"], indirect=True)  # whose plain agent is not everybody's
def test_a_run_and_the_comparison_of_runs_judge_on_the_same_levels(finished, tmp_path):
    _, directory = finished
    horizons.main([str(directory), *REPORT, "--directory", str(tmp_path)])
    own, compared = (json.loads((d / "horizons.json").read_text()) for d in (directory, tmp_path))
    rule, plain = compared
    for horizon in ("2", "8"):
        assert compared[rule][horizon] == pytest.approx(own["trained"][horizon], rel=1e-4, abs=1e-5)
        assert compared[plain][horizon] == pytest.approx(own[plain][horizon], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("finished", ["ta_lpg"], indirect=True)
def test_a_finished_run_resumes(finished, capsys):
    module, directory = finished
    again = [*TINY, "--held-out-seeds", "0", "--directory", str(directory), "--resume"]
    for name in ("update.png", "report.png"):
        (directory / name).unlink()
    module.main([*again, "--steps", "5", "--temporal"])
    assert (directory / "update.png").exists() and not (directory / "report.png").exists()
    assert len((directory / "metrics.csv").read_text().splitlines()) == 6
    with pytest.raises(SystemExit) as stopped:
        module.main([*again, "--steps", "6", "--no-temporal"])
    assert stopped.value.code == 2 and "temporal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--num-pairs", 0), "num_pairs must be positive and finite, got 0"),
        (("--sigma", 0), "sigma must be positive"),
        (("--sigma", "nan"), "sigma must be positive"),
        (("--shortest-life", 9), "shortest_life must be at most longest_life = 4, got 9"),
        (("--estimator", "pes"), "estimator pes needs truncation"),
        (("--estimator", "cma"), "'es', 'pes'"),
        (("--shaping", "squash"), "pair_rank"),
        (("--learning-rate-decay", 1.1), "learning_rate_decay must be at most 1, got 1.1"),
        (("--devices", 3), "devices must divide num_pairs = 2, got 3"),
        (("--devices", 2, "--num-pairs", 64), "devices must be at most the 1 that there are, got 2"),
        (("--held-out-levels", 1), "held_out_levels must be at least 2, got 1"),
        (("--held-out-horizons", 0), "held_out_horizons must be at least 1"),
        (("--levels", "gridworld/smal"), "gridworld/small"),
    ],
)
@pytest.mark.parametrize("module", [ta_lpg, lpo])
def test_bad_input_is_one_clear_line(module, arguments, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main([*TINY, *map(str, arguments)])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip()
    assert says in message and len(message.splitlines()) == 1


def test_lifetimes_are_log_uniform():
    levels = envs.make("mdp/random", (10, 250))
    draw = jax.jit(lambda keys: jax.vmap(levels.sample)(keys).horizon)
    horizons = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert horizons.min() == 10 and horizons.max() == 250
    assert np.mean(horizons <= 50) == pytest.approx(np.log(51 / 10) / np.log(251 / 10), abs=0.03)
    assert jax.jit(envs.make("mdp/random", (7, 7)).sample)(jax.random.key(0)).horizon == 7
    with pytest.raises(ValueError, match=r"not end before it starts, got \(9, 3\)"):
        envs.make("mdp/random", (9, 3))


@pytest.mark.parametrize(
    ("decay", "last", "expected"),
    [(0.5, 0.3, [0.8, 0.4, 0.3, 0.3]), (1.0, 0.3, [0.8] * 4), (0.5, 0.9, [0.8] * 4)],
)
def test_the_learning_rate_falls_to_its_last_and_never_rises(decay, last, expected):
    config = ta_lpg.Config(learning_rate=0.8, learning_rate_decay=decay, last_learning_rate=last)
    rates = [float(evolution.learning_rate(config, step)) for step in range(4)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize("module", [ta_lpg, lpo])
def test_presets_show_shorter_lives_than_trained_on_and_two_and_four_times_the_longest(module):
    for config in module.PRESETS.values():
        over = [horizon / config.longest_life for horizon in config.held_out_horizons]
        assert min(over) < 1.0 and 1.0 in over and 2.0 in over and 4.0 in over


def test_pes_is_an_option_too():
    options = {"estimator": "pes", "truncation": 2}
    config = ta_lpg.Config(levels="mdp/random", longest_life=10, num_pairs=4, num_envs=2, hidden=4, **options)
    levels = envs.make(config.levels, config.lifetimes)
    meta = evolution.make(config, levels, ta_lpg.inner_loop(config, levels))
    key = jax.random.key(0)
    state, metrics = jax.eval_shape(meta.step, jax.eval_shape(meta.init, key), key)
    assert isinstance(state.estimator, PESState) and {"meta_gradient_variance", "sigma"} <= metrics.keys()


def test_evolution_learns_a_rule_that_is_far_better_than_an_untrained_one():
    config = ta_lpg.Config(
        num_pairs=24, num_envs=8, hidden=8, longest_life=40, learning_rate=0.05, held_out_levels=24, held_out_seeds=4
    )
    levels = envs.make(config.levels, config.lifetimes)
    inner = ta_lpg.inner_loop(config, levels)
    state, log = metarl.train(evolution.make(config, levels, inner), seed=0, steps=40)
    rules = {"trained": lambda key: state.params, "untrained": inner.init_meta}
    judge = Judge(config, levels, a2c_agent(config, levels))
    report = held_out_report(judge, judge.players(inner, rules))
    assert report["trained"]["low"] > report["untrained"]["high"]
    assert report["trained"]["mean"] > 0.2
    assert log["fitness"][-10:].mean() > log["fitness"][:5].mean() + 0.1

"""Curricula as a user runs them: GROOVE from its command line, pictures, transfer to other levels, and bad input."""

import dataclasses
import json
from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import envs
from envs import gridworld
from experiments import benchmark, curriculum, evolution, groove, horizons, lpg, lpo, ta_lpg, transfer
from experiments import scores as score_ranks
from metarl import plot
from metarl.pretrained import save_params

SIZE = ("--num-envs", "2", "--rollout-length", "4", "--hidden", "4")
LIVES = ("--num-lifetimes", "4", "--horizon", "12", "--shortest-life", "4", "--updates", "2")
REPLAY = ("--warm-up", "1", "--replay-probability", "0.8", "--capacity", "16", "--held-out-seeds", "0")
PNG = b"\x89PNG"


def columns_of(directory):
    header, *rows = (directory / "metrics.csv").read_text().splitlines()
    return dict(zip(header.split(","), np.array([row.split(",") for row in rows], float).T, strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 30 meta-steps with mutation, from the command line."""
    directory = tmp_path_factory.mktemp("groove") / "run"
    options = ("--levels", "gridworld/small", "--steps", "30", "--mutation-probability", "0.5")
    groove.main([*SIZE, *LIVES, *REPLAY, *options, "--directory", str(directory)])
    return directory


def test_a_run_logs_what_its_curriculum_does(finished):
    log = columns_of(finished)
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


def test_the_gallery_is_of_the_highest_and_the_lowest_scores(monkeypatch, tmp_path, capsys):
    config = groove.Config(levels="gridworld/small", hidden=4, num_envs=2)
    levels = envs.make(config.levels, 3)
    chosen, _ = curriculum.make(dataclasses.replace(config, capacity=40), levels)
    _, buffer = jax.jit(lambda key: chosen.sample(key, chosen.init(key, 32), jnp.ones(32, bool)))(jax.random.key(0))
    inner, drawn = lpg.inner_loop(config, levels), {}
    state = SimpleNamespace(params=inner.init_meta(jax.random.key(0)), curriculum=jax.device_get(buffer))
    curriculum.draw_gallery(config, levels, inner, lpg.objective(config), state, tmp_path)
    assert "no level has a score yet" in capsys.readouterr().err and not any(tmp_path.iterdir())

    score = np.where(buffer.filled, np.random.default_rng(0).permutation(40), np.nan).astype(np.float32)
    buffer = buffer._replace(score=jnp.asarray(score), active=jnp.zeros(40, bool))
    monkeypatch.setattr(plot, "pictures", lambda pictures, columns: drawn.update(pictures))
    monkeypatch.setattr(plot, "save", lambda figure, path: None)
    state.curriculum = jax.device_get(buffer)
    curriculum.draw_gallery(config, levels, inner, lpg.objective(config), state, tmp_path)
    ranked = np.argsort(-score)[:32]
    places = [0, 1, 2, 3, 4, 27, 28, 29, 30, 31]
    assert list(drawn) == [f"{place + 1} of 32: {score[ranked[place]]:.3g}\n3 updates" for place in places]
    for place, picture in zip(places, drawn.values(), strict=True):
        params = jax.tree.map(lambda x: x[ranked[place]], buffer.levels.env_params)  # noqa: B023
        np.testing.assert_array_equal(picture, gridworld.render(levels.env, params))
    with Image.open(tmp_path / "agent.gif") as film:
        np.testing.assert_allclose(np.asarray(film.convert("RGB"), int), next(iter(drawn.values())), atol=3)


def test_evolution_of_a_rule_that_sees_the_time_works_on_a_curriculum_too(tmp_path):
    lives = ("--num-pairs", "3", "--shortest-life", "2", "--longest-life", "4", "--eval-episodes", "2")
    options = ("--levels", "mdp/random", "--steps", "8", "--score", "regret", "--temporal", "--keep", "1")
    ta_lpg.main([*SIZE, *lives, *REPLAY, *options, "--directory", str(tmp_path / "run")])
    log = columns_of(tmp_path / "run")
    assert log["replayed_share"].max() > 0 and np.isfinite(log["score_median"][-1])
    assert (2 <= log["level_horizon"]).all() and (log["level_horizon"] <= 4).all()
    assert not (tmp_path / "run" / "gallery.png").exists()  # no gridworlds, no pictures


@pytest.mark.parametrize(
    ("module", "score"),
    [
        *((module, score) for module in (lpg, ta_lpg) for score in get_args(curriculum.ScoreName)),
        *((lpo, score) for score in ("regret", "pvl")),  # with an antagonist, and with a critic; the rest is ta_lpg's
    ],
)
def test_every_experiment_takes_every_score(module, score):
    lives = {"num_lifetimes": 2} if module is lpg else {"num_pairs": 2, "longest_life": 10}
    config = module.Config(levels="gridworld/small", score=score, num_envs=2, rollout_length=2, hidden=4, **lives)
    levels = envs.make(config.levels, config.lifetimes)
    meta = (
        lpg.make(config, levels) if module is lpg else evolution.make(config, levels, module.inner_loop(config, levels))
    )
    state = jax.eval_shape(meta.init, jax.random.key(0))
    after, metrics = jax.eval_shape(meta.step, state, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert ("score_median" in metrics) == (score not in curriculum.NO_REPLAY)
    assert {"level_horizon", "level_size", "level_objects"} <= set(metrics)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--capacity", 3, "--warm-up", 1), "capacity must be at least num_lifetimes = 4, got 3"),
        (("--capacity", 0), "capacity must be positive"),
        (("--replay-probability", 1.5), "replay_probability must be from 0 to 1, got 1.5"),
        (("--replay-probability", "nan"), "replay_probability must be from 0 to 1, got nan"),
        (("--staleness", -0.1), "staleness must be from 0 to 1, got -0.1"),
        (("--mutation-probability", 2), "mutation_probability must be from 0 to 1, got 2.0"),
        (("--temperature", 0), "temperature must be positive"),
        (("--warm-up", 0), "warm_up must be positive"),
        (("--score-batch", 0), "score_batch must be positive"),
        (("--score", "regrets"), "regret"),
        (
            ("--score", "optimal", "--levels", "CartPole-v1"),
            "needs levels whose optimal return is known, got",
        ),
        (("--score", "optimal", "--levels", "gridworld/rand_dense"), "got 'gridworld/rand_dense'"),
        (("--mutation-probability", 0.5, "--levels", "mdp/random"), "no tabular gridworlds: 'mdp/random'"),
        (("--mutation-probability", 0.5, "--levels", "gridworld/rand_small"), "no tabular gridworlds"),
        (("--shortest-life", 13), "shortest_life must be at most horizon = 12, got 13"),
        (("--shortest-life", 4, "--horizon", 0), "shortest_life needs horizon, the longest life, got 4 without it"),
        (("--capacity", 8), "warm_up must be at most capacity = 8, got 32"),
        (("--score", "uniform", "--mutation-probability", 0.5), "must be 0 with score uniform"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(arguments, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        groove.main([*SIZE, *LIVES, "--directory", str(tmp_path / "run"), *map(str, arguments)])
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()


# rules of finished runs on other levels


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    """Directories of rules of two kinds and two seeds, as runs leave them."""
    parent = tmp_path_factory.mktemp("rules")
    for score, seed in (("regret", 0), ("regret", 1), ("uniform", 0), ("uniform", 1)):
        levels = "mdp/random" if score == "uniform" else "gridworld/small"  # rules of any training are compared
        config = groove.Config(levels=levels, score=score, seed=seed, num_envs=2, rollout_length=4, hidden=4)
        params = lpg.inner_loop(config, envs.make("mdp/random")).init_meta(jax.random.key(seed))
        origin = {"experiment": "groove", "config": dataclasses.asdict(config)}
        save_params(parent / f"{score}-{seed}" / "rule.safetensors", params, origin)
    return [str(parent / name) for name in ("regret-0", "regret-1", "uniform-0", "uniform-1")]


def test_rules_are_compared_on_levels_that_they_were_not_trained_on(rules, tmp_path, capsys):
    small = ("--horizon", "2", "--held-out-levels", "3", "--held-out-seeds", "2", "--directory", str(tmp_path / "out"))
    transfer.main([*rules, "--levels", "mdp/random", "Catch-bsuite", *small])
    report = json.loads((tmp_path / "out" / "transfer.json").read_text())
    kinds = [
        "groove score=regret levels=gridworld/small",
        "groove score=uniform levels=mdp/random",
    ]
    assert set(report) == {*kinds, "a2c", f"{kinds[0]} minus {kinds[1]}"}
    for row in report.values():
        assert list(row) == ["mdp/random", "Catch-bsuite"]
        assert all(x["low"] <= x["mean"] <= x["high"] for x in row.values())
    for place in ("mdp/random", "Catch-bsuite"):
        one, other, difference = (report[x][place]["mean"] for x in (*kinds, f"{kinds[0]} minus {kinds[1]}"))
        assert difference == pytest.approx(one - other, abs=1e-5)
    assert (tmp_path / "out" / "transfer.png").read_bytes().startswith(PNG)
    assert "Catch-bsuite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "runs must name at least one"),
        (("x", "--levels"), "levels must name at least one"),
        (("x", "--horizon", "0"), "horizon must be positive"),
        (("x", "--held-out-levels", "1"), "held_out_levels must be at least 2"),
        (("nowhere", "--levels", "mdp/random"), "no parameters at"),
        (("nowhere", "--levels", "gridworld/smal"), "gridworld/small"),
    ],
)
def test_comparisons_that_cannot_be_are_one_clear_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        transfer.main(list(arguments))
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1


def test_the_lifetimes_of_a_run_are_those_of_its_options(rules):
    whole = horizons.load(rules[0])
    assert whole.config.lifetimes is None and horizons._trained_range([whole]) is None
    many = whole._replace(config=dataclasses.replace(whole.config, shortest_life=2, horizon=7))
    assert many.config.lifetimes == (2, 7) and horizons._trained_range([many, many]) == (2, 7)
    assert dataclasses.replace(whole.config, horizon=7).lifetimes == 7


# how scores rank levels


def test_scores_of_a_rule_are_ranked_against_regret_against_the_optimum(rules, tmp_path, capsys):
    small = ("--horizon", "4", "--num-levels", "8", "--levels", "mdp/random", "--directory", str(tmp_path))
    score_ranks.main([rules[0], *small])
    result = json.loads((tmp_path / "scores.json").read_text())
    names = {"algorithmic regret", "positive value loss", "L1 value loss", "MaxMC"}
    assert set(result["rho"]) == names and set(result["scores"]) == {*names, score_ranks.TRUTH}
    truth = result["scores"][score_ranks.TRUTH]
    assert len(truth) == 8 and min(truth) > -1e-6
    assert "algorithmic regret" in capsys.readouterr().out and (tmp_path / "scores.png").exists()


def test_rank_correlations_are_spearmans():
    truth = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])
    other = np.array([1.0, 3.0, 2.0, 4.0, 5.0, np.nan])
    rho = score_ranks.correlations({score_ranks.TRUTH: truth, "same": 2 * other, "less": -other})
    assert list(rho) == ["same", "less"]
    assert rho["same"]["mean"] == pytest.approx(0.8) and rho["less"]["mean"] == pytest.approx(-0.8)  # 1 - 6 * 2 / 60
    assert -1 <= rho["same"]["low"] < 0.8 < rho["same"]["high"] <= 1
    with pytest.raises(ValueError, match="got 0 of 3"):
        score_ranks.correlations({score_ranks.TRUTH: truth[:3], "none": np.full(3, np.nan)})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--levels", "CartPole-v1"), "levels must be some whose optimal return is known, got 'CartPole-v1'"),
        (("--num-levels", "2"), "num_levels must be at least 3, got 2"),
        (("--score-batch", "0"), "score_batch must be positive"),
    ],
)
def test_ranks_that_cannot_be_are_one_clear_line(arguments, says, rules, capsys):
    with pytest.raises(SystemExit) as stopped:
        score_ranks.main([rules[0], *arguments])
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1


def test_the_benchmark_of_scores_prints_its_figures_as_json(capsys):
    small = "--num-lifetimes 2 --num-envs 2 --rollout-length 2 --hidden 4 --meta-steps 2 --repeats 2 --scores regret"
    benchmark.main(["groove", *small.split(), "--levels", "mdp/random"])
    (figures,) = json.loads(capsys.readouterr().out)["benchmarks"]
    assert list(figures["ratios"]) == ["regret / uniform"] and figures["ratios"]["regret / uniform"] > 0
    assert {"compile_seconds", "min_seconds", "median_seconds"} == set(figures["uniform"])

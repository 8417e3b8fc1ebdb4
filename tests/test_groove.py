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
from metarl import curricula, plot
from metarl.curricula.replay import fingerprint
from metarl.pretrained import save_params

SIZE = ("--num-envs", "2", "--rollout-length", "4", "--hidden", "4")
LIVES = ("--num-lifetimes", "4", "--horizon", "12", "--shortest-life", "4", "--updates", "2")
REPLAY = ("--warm-up", "1", "--replay-probability", "0.8", "--capacity", "16", "--held-out-seeds", "0")
PNG = b"\x89PNG"


def test_a_frozen_buffer_has_so_many_levels_and_all_of_them_are_lived_on():
    levels = envs.make("gridworld/small")
    frozen = curricula.fixed(levels, 5)
    state = frozen.init(jax.random.key(0), 64)
    given, after = frozen.sample(jax.random.key(1), state, jnp.ones(64, bool))
    jax.tree.map(np.testing.assert_array_equal, state, after)
    codes, set_of = (np.asarray(fingerprint(x)) for x in (given, state))
    assert len(set(set_of)) == 5 and set(codes) == set(set_of)
    with pytest.raises(ValueError, match="num_levels must be at least 1, got 0"):
        curricula.fixed(levels, 0)


def test_features_are_means_over_levels():
    levels = jax.vmap(envs.make("gridworld/small", (3, 9)).sample)(jax.random.split(jax.random.key(0), 6))
    seen = curriculum.features(levels)
    params = levels.env_params
    np.testing.assert_allclose(seen["level_horizon"], np.mean(levels.horizon), rtol=1e-6)
    np.testing.assert_allclose(seen["level_size"], np.asarray(params.free).sum() / 6, rtol=1e-6)
    np.testing.assert_allclose(seen["level_objects"], (np.asarray(params.objects) >= 0).sum() / 6, rtol=1e-6)
    np.testing.assert_allclose(seen["level_max_steps"], np.mean(params.max_steps), rtol=1e-6)
    bandits = jax.vmap(envs.make("bandit/bernoulli").sample)(jax.random.split(jax.random.key(0), 2))
    assert list(curriculum.features(bandits)) == ["level_horizon"]


# pictures


def test_a_picture_shows_walls_objects_start_and_agent():
    env = gridworld.Gridworld(max_side=3, max_objects=3, max_types=3)
    params = env.default_params._replace(
        free=jnp.ones(9, bool).at[4].set(False),
        num_objects=jnp.int32(2),
        objects=jnp.array([8, 2, 5], jnp.int32),  # the last does not exist
        reward=jnp.array([1.0, -1.0, 1.0]),
        terminate=jnp.array([1.0, 0.0, 1.0]),
    )
    render = gridworld.render
    picture = render(env, params, pixels=16)
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
    centre = picture[8::16, 8::16].astype(int)
    blue, wall, floor, red, green = (31, 111, 180), (62, 68, 76), (247, 247, 244), (194, 69, 93), (47, 158, 119)
    expected = [[blue, floor, red], [floor, wall, floor], [floor, floor, wall]]  # the good object ends the episode
    np.testing.assert_array_equal(centre, expected)
    np.testing.assert_array_equal(picture[2 * 16 + 3, 2 * 16 + 8], green)  # around its dark core

    _, state = env.reset(jax.random.key(0), params)
    moved = state._replace(cell=jnp.int32(6), present=state.present.at[0].set(False))
    later = render(env, params, moved, pixels=16)
    np.testing.assert_array_equal(later[2 * 16 + 8, 8], blue)
    np.testing.assert_array_equal(later[8, 8], floor)  # within the ring of the start
    np.testing.assert_array_equal(later[2 * 16 + 8, 2 * 16 + 8], floor)  # within the outline of what is absent
    np.testing.assert_array_equal(later[2 * 16 + 2, 2 * 16 + 8], green)
    with pytest.raises(ValueError, match="pixels must be at least 8 per cell, got 7"):
        render(env, params, pixels=7)


def test_objects_that_move_are_where_the_episode_has_them():
    levels = envs.make("gridworld/rand_sparse")
    level = levels.sample(jax.random.key(0))
    _, state = levels.env.reset(jax.random.key(1), level.env_params)
    picture = gridworld.render(levels.env, level.env_params, state, pixels=16)
    for cell in state.objects:
        row, column = divmod(int(cell), 7)
        tile = picture[row * 16 + 3, column * 16 + 8]
        assert tuple(tile) in {(47, 158, 119), (194, 69, 93)}
    bare = gridworld.render(levels.env, level.env_params, pixels=16).reshape(-1, 3)
    assert not {(47, 158, 119), (194, 69, 93)} & {tuple(x) for x in bare}


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

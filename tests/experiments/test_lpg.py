"""LPG as a user runs it: the command line from end to end, what it learns, and what it says of bad input."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import PNG, assert_agents_are_alike, columns, one_line, restored, returns_are_noise, words
from toy import assert_same

import envs
import metarl
from experiments import launch, lpg, meta_training
from metarl.evaluation.held_out import Judge, held_out_report, measure
from metarl.run.options import replace
from metarl.run.train import train

TINY = {"levels": "mdp/random", "num_lifetimes": 4, "num_envs": 2, "rollout_length": 4, "hidden": 4, "updates": 2}
TINY["last_learning_rate"] = 1e-3  # it stays, so that a run of more meta-steps begins as one of fewer does
REPORT = {"held_out_levels": 2, "held_out_seeds": 1, "held_out_horizons": (2, 4)}
CONFIG = replace(lpg.PRESETS["quick"], **TINY, steps=4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 4 meta-steps with its report, from the command line."""
    directory = tmp_path_factory.mktemp("lpg") / "run"
    with pytest.MonkeyPatch.context() as patch:
        returns_are_noise(patch)
        lpg.main(words(**TINY, **REPORT, directory=directory, steps=4, checkpoint_every=2))
    return directory


def test_a_run_leaves_curves_checkpoints_and_results(finished):
    files = {path.name for path in finished.iterdir()}
    figures = {"curves.png", "report.png", "update.png", "horizons.png"}
    others = {"metrics.csv", "results.json", "rule.safetensors", "horizons.json", "checkpoints", "log"}
    assert files == others | figures
    assert all((finished / name).read_bytes().startswith(PNG) for name in figures)
    results = json.loads((finished / "results.json").read_text())
    assert results["experiment"] == "lpg" and results["config"]["hidden"] == 4
    assert set(results["report"]) == {"trained", "untrained", "a2c", "random", "optimal"}
    assert all(row["low"] <= row["mean"] <= row["high"] for row in results["report"].values())
    over_horizons = json.loads((finished / "horizons.json").read_text())
    assert {"trained", "untrained", "a2c", "trained minus untrained"} == set(over_horizons)
    assert all(set(row) == {"2", "4"} for row in over_horizons.values())
    log = columns(finished)
    assert log["step"].tolist() == [1, 2, 3, 4] and set(lpg.CURVES) <= log.keys()
    # the last rollout of each estimate judges the updated agent
    assert log["env_steps"][-1] == 4 * 4 * (2 + 1) * 2 * 4 and log["agent_updates"][-1] == 4 * 4 * 2


def test_the_rule_of_a_run_loads_as_what_was_trained(finished):
    rule = metarl.load_rule(finished)
    state = restored(lpg.EXPERIMENT, CONFIG, finished)
    jax.tree.map(np.testing.assert_array_equal, rule.params, {"objective": state.params["objective"]})
    assert rule.card["config"]["hidden"] == 4 and rule.card["recipe"]["objective"]["name"] == "lpg"
    assert rule.card["recipe"]["experience"] == {"num_envs": 2, "rollout_length": 4, "reward_scale": 1.0}
    levels = envs.make("mdp/random")
    inner = meta_training.inner_loop(lpg.OBJECTIVES, CONFIG, levels)
    assert_agents_are_alike((inner, state.params), (rule.inner_loop(levels.environment), {}), levels)


def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    more = {**TINY, "directory": tmp_path / "run", "held_out_seeds": 0}
    (tmp_path / "run" / "checkpoints" / "4.npz").unlink()
    lpg.main(words(**more, steps=4, resume_from=2))
    assert_same(*(restored(lpg.EXPERIMENT, CONFIG, x) for x in (tmp_path / "run", finished)))
    assert_same(
        *({name: x for name, x in columns(x).items() if name != "seconds"} for x in (tmp_path / "run", finished))
    )
    message = one_line(capsys, lambda: lpg.main(words(**more, resume=True, steps=9, bins=5)))
    assert "bins: 8 there, 5 here" in message


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_lifetime(tmp_path):
    """One of four levels pays NaN: the third of the first generation."""
    meta = lpg.EXPERIMENT.make(CONFIG)

    def poisoned(key):
        state = meta.init(key)
        level = state.lifetimes.level
        nowhere = level.problem._replace(reward=level.problem.reward.at[2].set(np.nan))
        return state._replace(lifetimes=state.lifetimes._replace(level=level._replace(problem=nowhere)))

    with pytest.raises(FloatingPointError, match=r"lifetime_loss is not finite in meta-step 1 in lifetimes \[2\]"):
        train(meta._replace(init=poisoned), seed=0, steps=9, directory=tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": "gridworld/smal"}, "gridworld/small"),
        ({"levels": "CartPole-v9"}, "CartPole-v1"),
        ({"levels": "supervised/digits"}, "supervised/digits"),
        ({"num_lifetimes": 0}, "num_lifetimes must be at least 1, got 0"),
        ({"num_envs": -1}, "num_envs must be at least 1, got -1"),
        ({"rollout_length": 0}, "rollout_length must be at least 1"),
        ({"updates": 0}, "updates must be at least 1"),
        ({"bins": 1}, "bins must be at least 2, got 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": "nan"}, "learning_rate must be a number, not NaN, got nan"),
        ({"max_gradient_norm": 0}, "max_gradient_norm must be above 0"),
        ({"policy_entropy_coef": -1}, "policy_entropy_coef must be at least 0, got -1"),
        ({"longest_life": -1}, "longest_life must be at least 0, got -1"),
        ({"batch_size": 3}, "batch_size must divide num_lifetimes = 4, got 3"),
        ({"devices": 3}, "devices must divide num_lifetimes = 4, got 3"),
        ({"devices": 2}, "devices must be at most 1, as many as are available, got 2"),
        ({"batch_size": 2, "devices": 4}, "devices must divide num_lifetimes = 4 / batch_size = 2, got 4"),
        ({"distributed": True}, "distributed needs the directory"),
        ({"held_out_levels": 1}, "held_out_levels must be at least 2, got 1"),
        ({"steps": "many"}, "steps"),
        ({"preset": "huge"}, "quick"),
        ({"directory": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, capsys):
    assert says in one_line(capsys, lambda: lpg.main(words(**{**TINY, **options})))


def test_presets_grow():
    quick, small, paper = lpg.PRESETS.values()
    for part, name in (("estimator", "num_lifetimes"), ("rule", "hidden"), ("run", "steps")):
        sizes = [getattr(getattr(x, part), name) for x in (quick, small, paper)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert launch.what_is_trained(quick)["levels"] == "gridworld/small"


# --- what it learns -----------------------------------------------------------------------------------------

LEARNS = {"num_lifetimes": 16, "num_envs": 8, "hidden": 16, "updates": 4, "longest_life": 50, "steps": 120}
LEARNS |= {"learning_rate": 3e-3, "learning_rate_warm_up": 5}


@pytest.fixture(scope="module")
def learned():
    """A short meta-training on gridworlds, and its report."""
    config = replace(lpg.Config(), **LEARNS)
    levels = config.distribution.make()
    state, log = train(lpg.EXPERIMENT.make(config), seed=0, steps=120)
    inner = meta_training.inner_loop(lpg.OBJECTIVES, config, levels)
    a2c = metarl.rules.build(meta_training.a2c(config)[1]).inner_loop(levels.environment)
    judge = Judge(levels, ("a2c", a2c), num_levels=24, num_seeds=4, batch_size=256)
    players = judge.players(inner, {"trained": lambda key: state.params, "untrained": inner.init_meta})
    return held_out_report(measure(judge, {name: [x] for name, x in players.items()})), log


@pytest.mark.slow
def test_the_learned_rule_trains_agents_far_better_than_an_untrained_one(learned):
    report, _ = learned
    assert report["trained"]["low"] > report["untrained"]["high"]
    # on these 24 levels: .49, .71 and .74 with seeds 0 to 2
    assert report["trained"]["mean"] > report["untrained"]["mean"] + 0.3


@pytest.mark.slow
def test_the_report_has_its_references(learned):
    report, _ = learned
    assert set(report) == {"trained", "untrained", "a2c", "random", "optimal"}
    assert (report["random"]["mean"], report["optimal"]["mean"]) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert report["untrained"]["mean"] < 0.2 < 0.75 < report["a2c"]["mean"] < 1.0
    assert all(row["low"] <= row["mean"] <= row["high"] for row in report.values())


@pytest.mark.slow
def test_agents_improve_while_the_rule_learns(learned):
    _, log = learned
    returns = log["episode_return"]
    assert returns[-20:].mean() > returns[:10].mean() + 0.1
    assert log["lifetime_loss"].shape == (120, 16)

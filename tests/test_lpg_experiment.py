"""LPG as a user runs it: the command line from end to end, what it learns, and what it says of bad input."""

import json

import numpy as np
import pytest
from experiments.report import Judge, a2c_agent, held_out_report

import envs
from experiments import benchmark, lpg
from metarl.pretrained import load_params
from metarl.run.train import train

TINY = ("--levels", "mdp/random", "--num-lifetimes", "4", "--num-envs", "2", "--rollout-length", "4", "--hidden", "4")
MDPS = lpg.Config(levels="mdp/random", num_lifetimes=4, num_envs=2, rollout_length=4, hidden=4)
SMALL = lpg.Config(num_lifetimes=16, num_envs=8, hidden=16, updates=4, held_out_levels=24, held_out_seeds=4)


@pytest.fixture(scope="module")
def learned():
    """A short meta-training on gridworlds, and its report."""
    levels = envs.make(SMALL.levels)
    state, log = train(lpg.make(SMALL, levels), seed=0, steps=80)
    inner = lpg.inner_loop(SMALL, levels)
    rules = {"trained": lambda key: state.params, "untrained": inner.init_meta}
    judge = Judge(SMALL, levels, a2c_agent(SMALL, levels))
    return held_out_report(judge, judge.players(inner, rules)), log


def test_the_learned_rule_trains_agents_far_better_than_an_untrained_one(learned):
    report, _ = learned
    assert report["trained"]["low"] > report["untrained"]["high"]
    assert report["trained"]["mean"] > 0.3


def test_the_report_has_its_references(learned):
    report, _ = learned
    assert set(report) == {"trained", "untrained", "a2c", "random", "optimal"}
    assert (report["random"]["mean"], report["optimal"]["mean"]) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert report["untrained"]["mean"] < 0.2 < 0.75 < report["a2c"]["mean"] < 1.0
    assert all(row["low"] <= row["mean"] <= row["high"] for row in report.values())


def test_agents_improve_while_the_rule_learns(learned):
    _, log = learned
    returns = log["episode_return"]
    assert returns[-20:].mean() > returns[:10].mean() + 0.1
    assert log["lifetime_loss"].shape == (80, 16)


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        lpg.main([*TINY, *map(str, arguments)])
    return stopped.value.code


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 6 meta-steps with its report, from the command line."""
    directory = tmp_path_factory.mktemp("lpg") / "run"
    report = ("--held-out-levels", "3", "--held-out-seeds", "2")
    lpg.main([*TINY, "--directory", str(directory), "--steps", "6", "--checkpoint-every", "3", *report])
    return directory


def test_a_run_leaves_curves_checkpoints_and_results(finished):
    files = {path.name for path in finished.iterdir()}
    assert {"metrics.csv", "curves.png", "report.png", "results.json", "checkpoints"} <= files
    results = json.loads((finished / "results.json").read_text())
    assert set(results["report"]) == {"trained", "untrained", "a2c", "random", "optimal"}
    params, metadata = load_params(finished / "rule.safetensors")
    assert metadata["config"]["hidden"] == 4 and "y_hat" in params["objective"]
    assert len((finished / "metrics.csv").read_text().splitlines()) == 7


def test_resuming_another_configuration_names_the_field(finished, capsys):
    assert run("--directory", finished, "--steps", 9, "--resume", "--bins", 5, "--held-out-levels", 3) == 2
    assert "bins" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_lifetime(tmp_path):
    """One of four levels pays NaN: the third of the first generation."""
    meta = lpg.make(MDPS, envs.make(MDPS.levels, 12))

    def poisoned(key):
        state = meta.init(key)
        level = state.lifetimes.level
        nowhere = level.env_params._replace(reward=level.env_params.reward.at[2].set(np.nan))
        return state._replace(lifetimes=state.lifetimes._replace(level=level._replace(env_params=nowhere)))

    with pytest.raises(FloatingPointError, match=r"lifetime_loss is not finite in meta-step 1 in lifetimes \[2\]"):
        train(meta._replace(init=poisoned), seed=3, steps=9, directory=tmp_path, chunk=3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--levels", "gridworld/smal"), "gridworld/small"),
        (("--levels", "CartPole-v9"), "CartPole-v1"),
        (("--num-lifetimes", 0), "num_lifetimes"),
        (("--num-envs", -1), "num_envs"),
        (("--rollout-length", 0), "rollout_length"),
        (("--updates", 0), "updates"),
        (("--bins", 1), "bins"),
        (("--hidden", 0), "hidden"),
        (("--learning-rate", 0), "learning_rate"),
        (("--learning-rate", "nan"), "learning_rate"),
        (("--policy-entropy-coef", -1), "policy_entropy_coef"),
        (("--horizon", -1), "horizon"),
        (("--batch-size", 3), "num_lifetimes = 4"),
        (("--devices", 3), "devices must divide num_lifetimes = 4, got 3"),
        (("--batch-size", 2, "--devices", 4), "num_lifetimes = 4 / batch_size = 2, got 4"),
        (("--distributed",), "distributed needs a directory"),
        (("--held-out-levels", 1), "held_out_levels"),
        (("--steps", "many"), "steps"),
        (("--preset", "huge"), "quick"),
        (("--directory", "/proc/nowhere"), "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, says, capsys):
    assert run(*arguments) == 2
    message = capsys.readouterr().err.strip()
    assert says in message and len(message.splitlines()) == 1


def test_the_benchmark_prints_its_figures_as_json(capsys):
    small = "--num-lifetimes 2 --num-envs 2 --rollout-length 2 --updates 2 --hidden 4 --meta-steps 1 --repeats 2"
    benchmark.main(["lpg", *small.split(), "--levels", "mdp/random"])
    result = json.loads(capsys.readouterr().out)
    assert result["configuration"]["num_lifetimes"] == 2
    (figures,) = result["benchmarks"]
    assert {"compile_seconds", "min_seconds", "median_seconds", "env_steps_per_second"} <= set(figures["meta_step"])
    assert figures["ratios"]["meta_step / environments_and_policy"] > 1
    assert figures["peak_memory_mib"] > 0


def test_the_benchmark_of_evolution_prints_its_figures_as_json(capsys):
    small = "--num-pairs 2 --num-envs 2 --rollout-length 2 --hidden 4 --batch-size 1 --devices 1 --repeats 2"
    benchmark.main(["es", *small.split(), "--levels", "mdp/random"])
    (figures,) = json.loads(capsys.readouterr().out)["benchmarks"]
    ratios = figures["ratios"]
    assert {
        f"population / {x}" for x in ("plain_lifetimes", "plain_lifetimes_in_one_batch", "forward_products")
    } == set(ratios)
    assert all(ratio > 0 for ratio in ratios.values()) and figures["gflop_per_second"] > 0

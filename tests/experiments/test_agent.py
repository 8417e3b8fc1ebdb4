"""The experiment that trains plain agents: its files, its statistics, and that agents do not touch each other."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import envs
import metarl
from experiments import agent, cli

TINY = agent.Config(
    env="mdp/random",
    objective="ppo",
    steps=6,
    chunk=3,
    num_seeds=3,
    learning_rate=0.3,
    num_envs=4,
    rollout_length=8,
    epochs=2,
    minibatches=2,
    eval_episodes=64,
)

LEVELS = envs.make(TINY.env)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory and the results of a small run from the command line's entry."""
    directory = tmp_path_factory.mktemp("agent")
    argv = ["--directory", str(directory), "--updates", "6", "--learning-rate", "0.3"]
    for name in ("env", "num_seeds", "num_envs", "rollout_length", "epochs", "minibatches", "eval_episodes", "chunk"):
        argv += [f"--{name.replace('_', '-')}", str(getattr(TINY, name))]
    agent.main(argv)
    return directory, json.loads((directory / "results.json").read_text())


def test_a_run_leaves_returns_and_its_curves(finished):
    directory, results = finished
    report = results["report"]
    assert set(report) == {"trained", "newborn", "optimal"}
    for row in report.values():
        assert row["worst"] <= row["low"] <= row["mean"] <= row["high"] <= row["best"]
    assert report["trained"]["mean"] > report["newborn"]["mean"]
    assert np.isfinite(results["final_metrics"]["episode_return"])
    header, *rows = (directory / "metrics.csv").read_text().splitlines()
    assert {*agent.CURVES, "lifetime_loss"} <= set(header.split(","))
    last = dict(zip(header.split(","), map(float, rows[-1].split(",")), strict=True))
    assert (last["agent_updates"], last["env_steps"]) == (6 * 3, 6 * 3 * 4 * 8) and last["seconds"] > 0.0
    assert (directory / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_rates_side_by_side_are_runs_of_their_own(finished):
    _, results = finished
    found = metarl.sweep(lambda config: agent.make(config, LEVELS), TINY, {"learning_rate": [0.01, 0.3]})
    assert found.scores("episode_return")[1] == pytest.approx(results["final_metrics"]["episode_return"], rel=1e-3)
    assert found.log["env_steps"][0, -1] == 6 * 3 * 4 * 8


@pytest.mark.parametrize("preset", agent.PRESETS)
def test_presets_are_valid_and_fit_their_environments(preset):
    config = cli.parse(agent.Config, agent.PRESETS, ["--preset", preset])
    assert config == agent.PRESETS[preset]
    state = jax.eval_shape(agent.make(config, envs.make(config.env)).init, jax.random.key(0))
    assert state.lifetimes.episode_return.shape == (config.num_seeds,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"num_envs": 0}, "num_envs must be positive and finite, got 0"),
        ({"clip": 0.0}, "clip must be positive and finite, got 0.0"),
        ({"discount": 1.5}, "discount must be between 0 and 1, got 1.5"),
        ({"entropy_coef": -1.0}, "entropy_coef must be finite and not negative, got -1.0"),
        ({"num_seeds": 1}, "num_seeds must be at least 2 for an interval, got 1"),
        ({"learning_rate": -0.1}, "learning_rate must be positive and finite, got -0.1"),
    ],
)
def test_bad_configurations_are_named_with_their_values(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **options)


def test_what_does_not_fit_the_environment_fails_before_it_compiles():
    config = dataclasses.replace(TINY, env="CartPole-v1", network="tabular")
    with pytest.raises(ValueError, match="tabular network needs a Discrete observation space"):
        agent.make(config, envs.make(config.env))

"""The experiment that trains plain agents: its files, its statistics, and that agents do not touch each other."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import envs
from experiments import agent, cli

TINY = agent.Config(
    env="mdp/random",
    objective="ppo",
    steps=6,
    chunk=3,
    num_seeds=3,
    learning_rate=(0.01, 0.3),
    num_envs=4,
    rollout_length=8,
    epochs=2,
    minibatches=2,
    eval_episodes=64,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory and the results of a small run from the command line's entry."""
    directory = tmp_path_factory.mktemp("agent")
    argv = ["--directory", str(directory), "--updates", "6", "--learning-rate", "0.01", "0.3"]
    for name in ("env", "num_seeds", "num_envs", "rollout_length", "epochs", "minibatches", "eval_episodes", "chunk"):
        argv += [f"--{name.replace('_', '-')}", str(getattr(TINY, name))]
    agent.main(argv)
    return directory, json.loads((directory / "results.json").read_text())


def test_a_run_leaves_returns_per_learning_rate_and_its_curves(finished):
    directory, results = finished
    report = results["report"]
    assert set(report) == {"learning rate 0.01", "learning rate 0.3", "newborn", "optimal"}
    for row in report.values():
        assert row["worst"] <= row["low"] <= row["mean"] <= row["high"] <= row["best"]
    assert report["learning rate 0.3"]["mean"] > report["newborn"]["mean"]
    assert np.isfinite(results["final_metrics"]["episode_return/0.3"])
    header = (directory / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"episode_return/0.01", "episode_return/0.3", "policy_entropy/0.3", "lifetime_loss"} <= set(header)
    assert (directory / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_each_learning_rate_is_a_run_of_its_own(finished):
    """And the curve of its own run has the plain names."""
    _, results = finished
    config = dataclasses.replace(TINY, learning_rate=(0.3,))
    levels = envs.make(config.env)
    meta = agent.make(config, levels)
    init_key, key = jax.random.split(jax.random.key(0))  # as metarl.train makes them of the seed
    state = jax.jit(meta.init)(init_key)
    step = jax.jit(meta.step)
    for i in range(6):
        state, metrics = step(state, jax.random.fold_in(key, i))
    expected = results["final_metrics"]["episode_return/0.3"]
    assert float(metrics["episode_return"].mean()) == pytest.approx(expected, rel=1e-3)
    assert set(agent.curves(config)) <= set(metrics)
    report = agent.report(config, levels, state)
    assert report["learning rate 0.3"] == pytest.approx(results["report"]["learning rate 0.3"], rel=1e-3)


@pytest.mark.parametrize("preset", agent.PRESETS)
def test_presets_are_valid_and_fit_their_environments(preset):
    config = cli.parse(agent.Config, agent.PRESETS, ["--preset", preset])
    assert config == agent.PRESETS[preset]
    state = jax.eval_shape(agent.make(config, envs.make(config.env)).init, jax.random.key(0))
    assert state.lifetimes.episode_return.shape == (len(config.learning_rate), config.num_seeds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"num_envs": 0}, "num_envs must be positive and finite, got 0"),
        ({"clip": 0.0}, "clip must be positive and finite, got 0.0"),
        ({"discount": 1.5}, "discount must be between 0 and 1, got 1.5"),
        ({"entropy_coef": -1.0}, "entropy_coef must be finite and not negative, got -1.0"),
        ({"num_seeds": 1}, "num_seeds must be at least 2 for an interval, got 1"),
        ({"learning_rate": (0.1, 0.1)}, r"learning_rate must be positive numbers, each given once, got \(0.1, 0.1\)"),
        ({"learning_rate": (-0.1,)}, r"learning_rate must be positive numbers, each given once, got \(-0.1,\)"),
    ],
)
def test_bad_configurations_are_named_with_their_values(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **options)


def test_what_does_not_fit_the_environment_fails_before_it_compiles():
    config = dataclasses.replace(TINY, env="CartPole-v1", network="tabular")
    with pytest.raises(ValueError, match="tabular network needs a Discrete observation space"):
        agent.make(config, envs.make(config.env))

"""The experiment that trains plain agents: its files, its statistics, and that agents do not touch each other."""

import json

import jax
import numpy as np
import pytest
from commands import PNG, columns, one_line, restored, words
from PIL import Image

import envs
import metarl
from experiments import agent, cli, launch
from metarl.run.options import replace

OPTIONS = {
    **{"env": "mdp/random", "num_seeds": 3, "num_envs": 4, "rollout_length": 8, "epochs": 2, "minibatches": 2},
    **{"steps": 6, "chunk": 3, "learning_rate": 0.3, "eval_episodes": 64},
}
TINY = replace(agent.PRESETS["quick"], **OPTIONS)
LEVELS = envs.make("mdp/random")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory and the results of a small run from the command line's entry."""
    directory = tmp_path_factory.mktemp("agent") / "run"
    agent.main(words(**OPTIONS, directory=directory))
    return directory, json.loads((directory / "results.json").read_text())


def test_a_run_leaves_returns_and_its_curves(finished):
    directory, results = finished
    report = results["report"]
    assert set(report) == {"trained", "newborn", "optimal"}
    for row in report.values():
        assert row["worst"] <= row["low"] <= row["mean"] <= row["high"] <= row["best"]
    assert report["trained"]["mean"] > report["newborn"]["mean"]
    assert np.isfinite(results["final_metrics"]["episode_return"])
    log = columns(directory)
    assert {*agent.EXPERIMENT.curves, "lifetime_loss"} <= set(log)
    assert (log["agent_updates"][-1], log["env_steps"][-1]) == (6 * 3, 6 * 3 * 4 * 8) and log["seconds"][-1] > 0.0
    files = {path.name for path in directory.iterdir()}
    assert files == {
        *("metrics.csv", "results.json", "curves.png", "report.png", "agent.safetensors", "checkpoints", "log"),
    }
    assert (directory / "curves.png").read_bytes().startswith(PNG)


def test_the_best_agent_plays_on(finished):
    directory, results = finished
    loaded = metarl.load_agent(directory / "agent.safetensors")
    assert loaded.card["experiment"] == "agent" and loaded.card["config"]["learning_rate"] == 0.3
    state = restored(agent.EXPERIMENT, TINY, directory)
    key, fitness = jax.random.key(TINY.run.seed), agent.inner_loop(TINY, LEVELS).fitness
    keys = jax.random.split(key, 3)
    returns = jax.jit(jax.vmap(lambda one, key: fitness({}, one, key)))(state.agents, keys)
    best = int(returns.argmax())
    assert results["report"]["trained"]["best"] == pytest.approx(float(returns[best]), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[best]), loaded.params, state.agents.params)
    problem = jax.tree.map(lambda x: x[best], state.agents.level.problem)
    play = jax.jit(lambda key: loaded.play(LEVELS.environment, key, problem, num_episodes=64))
    episodes = play(keys[best])
    assert float(episodes.episode_return.mean()) == pytest.approx(float(returns[best]), rel=1e-5)


def test_a_resumed_run_may_go_on_longer(finished, tmp_path):
    directory = tmp_path / "run"
    agent.main(words(**OPTIONS | {"steps": 3}, directory=directory))
    agent.main(words(**OPTIONS, directory=directory, resume=True))
    np.testing.assert_array_equal(columns(directory)["episode_return"], columns(finished[0])["episode_return"])


def test_a_sweep_of_agents_compares_runs_of_their_own_and_saves_no_rule(finished, tmp_path, capsys):
    options = {name: x for name, x in OPTIONS.items() if name != "learning_rate"}
    agent.main(words(**options, sweep=("learning_rate=0.01,0.3",), directory=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["score"] == "episode_return"
    assert [row["values"]["learning_rate"] for row in results["configurations"]] == [0.3, 0.01]  # the best first
    alone = finished[1]["final_metrics"]["episode_return"]
    assert results["configurations"][0]["scores"] == [pytest.approx(alone, rel=1e-3)]
    assert not list(tmp_path.glob("*.safetensors"))
    assert "learning_rate=0.3" in capsys.readouterr().out


@pytest.mark.parametrize("preset", agent.PRESETS)
def test_presets_are_valid_and_fit_their_environments(preset):
    config = cli.parse(agent.Config, agent.PRESETS, ["--preset", preset])
    assert config == agent.PRESETS[preset]
    state = jax.eval_shape(agent.make(config).init, jax.random.key(0))
    assert state.episode_return.shape == (config.population.num_seeds,)


@pytest.mark.parametrize("name", ["CartPole-v1", "gridworld/small", "Breakout-MinAtar", "Pendulum-v1"])
def test_agents_are_those_of_the_family_unless_a_network_is_named(name):
    levels = envs.make(name)
    network = agent.recipe(replace(agent.Config(), env=name), levels)["network"]
    expected = {"CartPole-v1": "mlp", "gridworld/small": "tabular", "Breakout-MinAtar": "mlp", "Pendulum-v1": "mlp"}
    assert network["name"] == expected[name]
    assert agent.recipe(replace(agent.Config(), env=name, network="gru"), levels)["network"] == {"name": "gru"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"discount": 1.5}, "discount must be at most 1, got 1.5"),
        ({"entropy_coef": -1.0}, "entropy_coef must be at least 0, got -1.0"),
        ({"num_seeds": 1}, "num_seeds must be at least 2, got 1"),
        ({"learning_rate": -0.1}, "learning_rate must be above 0, got -0.1"),
        ({"objective": "a2c", "clip": 0.1}, "clip has no effect with objective a2c: leave it at 0.2, got 0.1"),
        ({"env": "CartPole-v1", "network": "tabular"}, "tabular network needs a Discrete observation space"),
        ({"env": "CartPole-v9"}, "CartPole-v1"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, capsys):
    assert says in one_line(capsys, lambda: agent.main(words(**{**OPTIONS, **options})))


def test_what_is_resumed_includes_what_the_agents_are_made_of():
    known = launch.what_is_trained(TINY)
    assert {"env", "num_seeds", "network", "num_envs", "epochs", "objective", "learning_rate"} <= set(known)


def test_agents_are_not_shared_by_processes(tmp_path, capsys):
    with pytest.raises(SystemExit):
        agent.main(["--distributed", "--directory", str(tmp_path / "run")])
    assert "distributed must be off: agent does not shard its work over devices" in capsys.readouterr().err


@pytest.mark.slow
def test_the_best_agent_of_a_run_is_drawn(tmp_path):
    tiny = ("--num-seeds", "2", "--num-envs", "1", "--rollout-length", "4", "--eval-episodes", "1", "--steps", "1")
    agent.main(["--preset", "catch", *tiny, "--epochs", "1", "--minibatches", "1", "--directory", str(tmp_path)])
    with Image.open(tmp_path / "agent.gif") as film:
        assert film.n_frames > 1


def test_a_renderer_that_fails_is_one_line(finished, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("no screen")

    monkeypatch.setattr(agent.gallery, "watch", fail)
    best = jax.tree.map(lambda x: x[0], restored(agent.EXPERIMENT, TINY, finished[0]).agents)
    played = metarl.load_agent(finished[0]).model
    agent.draw(LEVELS, played, best, tmp_path)
    assert not capsys.readouterr().err
    agent.draw(LEVELS._replace(render=fail), played, best, tmp_path)
    assert capsys.readouterr().err == "no agent.gif: RuntimeError: no screen\n" and not any(tmp_path.iterdir())

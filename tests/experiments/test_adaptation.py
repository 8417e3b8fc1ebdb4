"""The table of all ways of adapting: its numbers by hand, a run that resumes, and what it refuses."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import PNG, one_line, words

import envs
from experiments import adaptation as experiment
from experiments import learned_optimizer, lpg, maml
from experiments.adaptation import Config, Found, Place
from metarl.evaluation.suites import BINS

SUITE = """
steps = 40
rollout_length = 4
[environments]
"mdp/random" = { test = ["mdp/random", "mdp/noisy"] }
"""
TINY = {"training_steps": 1, "test_tasks": 3}


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


# environment steps of one meta-step; the first lives of MAML are shorter
STEPS = {"rl2": 32 * 40, "maml": 25 * (3 + 1) * 4, "a2c": 0}


@pytest.mark.parametrize("methods", [("maml",), pytest.param(("rl2", "a2c"), marks=pytest.mark.slow)])
def test_a_run_compares_methods_and_resumes(methods, suite, tmp_path, monkeypatch):
    learned, learn = [], experiment.learn_tasks

    def learn_once(env, learner, params, *rest):
        """The second run must ask for what the first has found."""
        if not any(jax.tree.all(jax.tree.map(np.array_equal, params, seen)) for seen, _ in learned):
            learned.append((params, learn(env, learner, params, *rest)))
        return learned[-1][1]

    if methods == ("maml",):
        monkeypatch.setattr(experiment, "learn_tasks", learn_once)
    directory = tmp_path / "run"
    argv = words(**TINY, methods=methods, suite=suite, directory=directory)
    experiment.main(argv)
    found = json.loads((directory / "results.json").read_text())["on"]["mdp/random"]
    assert list(found["table"]) == [*methods, "random", "optimum"]
    assert {name: len(x) for name, x in found["seeds"].items() if len(x) > 1} == dict.fromkeys({*methods} - {"a2c"}, 2)
    assert found["table"]["optimum"]["success"]["mean"] == 1.0
    assert all(float(found["table"][name]["training steps"]) == STEPS[name] for name in methods)
    assert {name: len(x) for name, x in found["factors"].items()} == {
        name: 2 if name == "maml" else 1 for name in {*methods} - {"rl2"}
    }
    assert (directory / "adaptation.png").read_bytes().startswith(PNG)

    checkpoints = {path: path.stat().st_mtime_ns for path in directory.rglob("checkpoints/*")}
    experiment.main([*argv, "--resume"])
    assert checkpoints == {path: path.stat().st_mtime_ns for path in directory.rglob("checkpoints/*")} != {}
    assert json.loads((directory / "results.json").read_text())["on"]["mdp/random"] == found
    assert len(learned) == (methods == ("maml",))


def test_the_table_by_hand(capsys):
    tasks = envs.adaptation("quick")["bandit/five"]
    early, late = np.zeros(BINS), np.zeros(BINS)
    early[:5], late[-2:] = 1.0, 1.0

    def found(*tasks_of_seeds):
        return Found(np.array(tasks_of_seeds))

    ways = {
        "trained": found([late, early], [late, late], [late, late]),
        "classical": found([early, early]),
        "optimum": found([np.ones(BINS), np.ones(BINS)]),
    }
    rows = experiment.report("bandit/five", tasks, ways)["table"]
    assert rows["trained"]["whole task"]["mean"] == pytest.approx((0.35 + 0.2 + 0.2) / 3)  # of the seeds
    assert rows["trained"]["last fifth"]["mean"] == pytest.approx((0.5 + 1.0 + 1.0) / 3)
    assert rows["trained"]["lead on the best other"]["mean"] == pytest.approx(0.25 - 0.5)
    assert rows["classical"]["lead on the best other"]["mean"] == pytest.approx(0.5 - 0.25)
    assert rows["optimum"]["lead on the best other"] == "-"
    assert rows["trained"]["success"]["mean"] == pytest.approx((0.5 + 1.0 + 1.0) / 3)  # of three, none is left out
    assert rows["classical"]["success"]["mean"] == 0.0
    assert "return of episodes in 100 steps" in capsys.readouterr().out


def test_an_interquartile_mean_is_over_seeds_and_test_distributions():
    solved, not_solved = np.ones(BINS), np.zeros(BINS)
    rates = [(1.0, 1.0), (1.0, 1.0), (1.0, 0.0), (1.0, 0.0)]  # of four seeds on two tests, a quarter is 0
    values = np.array([[solved, solved, *([solved, solved] if rate else [not_solved] * 2)] for _, rate in rates])
    assert experiment.success(values, np.ones((1, 4, BINS)), tests=2).mean == 1.0


@pytest.mark.parametrize(
    ("module", "options", "name"),
    [
        (maml, experiment.of_maml, "cartpole/varied"),
        (lpg, partial(experiment.of_lpg, True), "mdp/noisy"),
        (learned_optimizer, experiment.of_open, "cartpole/varied"),
    ],
)
def test_methods_are_trained_on_tables_and_networks(module, options, name, tmp_path):
    place = Place(name, envs.adaptation("full")[name], tmp_path)
    own = options(Config(training_steps=10**7), place)
    state = jax.eval_shape(module.EXPERIMENT.make(own).init, jax.random.key(0))
    assert ("initial" in getattr(state, "params", ())) == (module in (maml, lpg))
    assert own.run.steps * own.run.chunk > 0 and own.run.steps % own.run.chunk == 0


def test_memories_of_long_tasks_are_cut(tmp_path):
    """And where every step pays alike, each episode is learned by itself."""
    place = Place("cartpole/varied", envs.adaptation("full")["cartpole/varied"], tmp_path)
    own = experiment.of_rl2("transformer", Config(), place)
    assert (own.tasks.trial_steps, own.learners.window, own.agents.rollout_length) == (5120, 100, 100)
    assert own.tasks.episode_discount == 0.0


def test_methods_have_one_entry_each():
    assert set(experiment.METHODS) == set(experiment.Name.__args__) == set(experiment.PRESETS["full"].methods)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": ("rl2", "mamml")}, "methods"),
        ({"suite": "quik"}, "no suite 'quik'; did you mean quick"),
        ({"num_seeds": 1}, "num_seeds must be at least 2, got 1"),
        ({"training_steps": 0}, "training_steps must be at least 1, got 0"),
        ({"seed": 2**32 - 1}, "seed + num_seeds - 1"),
    ],
)
def test_bad_input_is_one_line(options, says, tmp_path, capsys):
    argv = words(**options, directory=tmp_path / "run")
    assert says in one_line(capsys, lambda: experiment.main(argv))
    assert not (tmp_path / "run").exists()


def test_tasks_of_another_environment_are_refused_before_training(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(SUITE.replace("mdp/noisy", "gridworld/small"))
    argv = words(suite=tmp_path / "mine.toml", directory=tmp_path / "run")
    message = one_line(capsys, lambda: experiment.main(argv))
    assert "gridworld/small must be of the environment" in message and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "methods", "column", "margin"),
    [
        ("bandit/five", ("a2c", "ppo"), "last fifth", 0.05),
        ("gridworld/hidden_goal", ("maml",), "whole task", 0.0),
    ],
)
def test_quick_adapts(problem, methods, column, margin, tmp_path):
    """All that is trained is better than the random policy on bandits; on the hidden goal an initialisation is."""
    quick = (Path(envs.__file__).parent / "suites/adaptation/quick.toml").read_text()
    (line,) = [line for line in quick.splitlines() if problem in line]
    (tmp_path / "one.toml").write_text(f"[environments]\n{line}\n")
    experiment.main(words(suite=tmp_path / "one.toml", methods=methods, directory=tmp_path / "run"))
    table = json.loads((tmp_path / "run" / "results.json").read_text())["on"][problem]["table"]
    for method in methods:
        assert table[method][column]["mean"] > table["random"][column]["mean"] + margin

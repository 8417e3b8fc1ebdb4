"""RL²: its files and its table, that it learns to learn, and what it refuses."""

import json

import jax
import numpy as np
import pytest
from commands import PNG, columns, one_line, restored, words

import metarl
from experiments import exploitation, rl2
from metarl.evaluation.adaptation import Played
from metarl.run.options import replace
from metarl.saved_agents import AGENT_FILE

OPTIONS = {
    **{"trial_steps": 6, "arms": 3, "num_seeds": 2, "num_envs": 8, "rollout_length": 6, "width": 8},
    **{"steps": 4, "chunk": 2, "minibatches": 2, "epochs": 1, "held_out_tasks": 20, "held_out_batch": 10},
}
IMITATES = {"epochs": 4, "minibatches": 4, "num_seeds": 1, "rollout_length": 10}  # what imitation leaves as it is


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory and the results of a small run from the command line's entry."""
    directory = tmp_path_factory.mktemp("rl2") / "run"
    rl2.main(words(**OPTIONS, directory=directory))
    return directory, json.loads((directory / "results.json").read_text())


def test_a_run_compares_with_classical_learners_on_new_tasks(finished):
    directory, results = finished
    report = results["report"]
    assert {"rl2", "random", "gittins", "thompson", "ucb1"} <= set(report)
    for row in report.values():
        assert row["low"] <= row["mean"] <= row["high"] and 0.0 <= row["mean"] <= 6.0
    assert report["rl2"]["worst"] <= report["rl2"]["mean"] <= report["rl2"]["best"]
    log = columns(directory)
    assert {"episode_return", "policy_entropy", "value_loss"} <= set(log) and log["env_steps"][-1] == 4 * 2 * 8 * 6
    assert (directory / "episodes.png").read_bytes().startswith(PNG)


def test_the_best_agent_plays_on_in_trials(finished):
    directory, _ = finished
    agent = metarl.load_agent(directory / "agent.safetensors")
    assert agent.card["experiment"] == "rl2"
    config = replace(rl2.Config(), **OPTIONS)
    episodes = jax.jit(lambda key: agent.play(rl2.trials(config), key, num_episodes=5))(jax.random.key(0))
    np.testing.assert_array_equal(episodes.length, 6)


def test_the_table_has_a_row_per_learner_and_one_of_all_seeds():
    def played(*totals):
        return Played(np.zeros(1), np.array(totals, float)[:, None], np.zeros((1, 1)))

    table = rl2.rows({"random": played(1, 3), "rl2-0": played(4, 8), "rl2-1": played(6, 6)})
    assert list(table) == ["random", "rl2"]
    assert table["random"]["mean"] == 2.0
    assert table["rl2"]["mean"] == 6.0 and table["rl2"]["worst"] == table["rl2"]["best"] == 6.0
    assert table["rl2"]["high"] - 6.0 == pytest.approx(12.706 * 1.0, rel=1e-3)  # of the means 5, 7 over seeds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": "mdp/random", "arms": 3}, "arms has no effect with levels mdp/random"),
        ({"network": "gru", "window": 5}, "window has no effect with network gru"),
        ({"network": "transformer", "window": 11}, "window must be at most trial_steps = 10, got 11"),
        ({"trial_steps": 0}, "trial_steps must be at least 1, got 0"),
        ({"trial_steps": 2001}, "trial_steps must be at most 2000 for Gittins' index, got 2001"),
        ({"held_out_tasks": 1}, "held_out_tasks must be 0 or at least 2, got 1"),
        ({"levels": "bandit/bernouli"}, "did you mean"),
        ({"imitate": "psrl", **OPTIONS, **IMITATES}, "imitate must be one of"),
        ({"imitate": "gittins", "rollout_length": 6}, "rollout_length has no effect with imitate"),
        ({"imitate": "gittins", "reward_scale": 1.0}, "reward_scale has no effect with imitate"),
        ({"imitate": "gittins", "entropy_coef": 0.1}, "entropy_coef has no effect with imitate"),
        ({"imitate": "gittins", "epochs": 2}, "epochs has no effect with imitate"),
        ({"imitate": "gittins", "episode_discount": 0.5}, "episode_discount has no effect with imitate"),
        ({"imitate": "gittins", "num_seeds": 2}, "num_seeds has no effect with imitate"),
        ({"start_from": "nowhere"}, "nowhere"),
    ],
)
def test_bad_options(capsys, options, message):
    assert message in one_line(capsys, lambda: rl2.main(words(**options)))


def test_imitation_trains_the_policy_that_plays(tmp_path):
    options = {**OPTIONS, **IMITATES, "num_envs": 64, "steps": 60, "chunk": 30}
    options["held_out_tasks"] = 0
    rl2.main(words(**options, imitate="gittins", directory=tmp_path / "run"))
    log = columns(tmp_path / "run")
    assert log["accuracy"][-1] > log["accuracy"][0] + 0.2
    agent = metarl.load_agent(tmp_path / "run")
    state = restored(rl2.EXPERIMENT, replace(rl2.Config(), **options, imitate="gittins"), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, dict(agent.params["policy"]), state.params["logits"])


def test_training_goes_on_from_an_agent(finished, tmp_path):
    directory, _ = finished
    agent = metarl.load_agent(directory / "agent.safetensors")
    for start in (directory, directory / AGENT_FILE):
        config = replace(rl2.Config(), **OPTIONS, start_from=str(start))
        task = config.tasks.trials().sample(jax.random.key(0))
        newborn = jax.jit(rl2.inner_loop(config).init)(jax.random.key(1), task)
        jax.tree.map(np.testing.assert_array_equal, newborn.params, dict(agent.params))
    with pytest.raises(ValueError, match="initial"):
        rl2.inner_loop(replace(rl2.Config(), **{**OPTIONS, "width": 9}, start_from=str(directory)))


@pytest.mark.slow
def test_quick_comes_near_the_best_learners(tmp_path):
    """The paper has 6.7 for RL² and for UCB1, 6.6 for Gittins indices and 5.0 for the random policy."""
    rl2.main(words(directory=tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "results.json").read_text())["report"]
    assert report["rl2"]["mean"] > 6.45
    assert report["rl2"]["mean"] > report["gittins"]["mean"] - 0.15


def test_the_cells_of_the_ablation(tmp_path):
    config, cells = exploitation.PRESETS["quick"], exploitation.Cell
    none, whole = (cell.config(config, tmp_path) for cell in (cells(False, False, False), cells(True, True, True)))
    assert (none.tasks.switch_after, none.learners.window, none.tasks.episode_discount) == (1, 1, 0.0)
    assert (whole.tasks.switch_after, whole.learners.window, whole.tasks.episode_discount) == (0, 0, 0.95)
    assert none.run.directory != whole.run.directory
    assert str(cells(True, False, True)) == "recurring, credit" and str(cells(False, False, False)) == "none"


def test_measures_of_exploration():
    config = replace(exploitation.PRESETS["quick"], arms=2)
    action = np.array([[0] * 12, [0, 1] * 6])  # of ten pulls on two tasks: one arm, two arms
    found = exploitation.measures(config, Played(action, np.ones((2, 12)), np.ones((2, 12))))
    assert found["sum of rewards"] == 12.0 and found["arms tried"] == 1.5
    assert found["entropy of arms"] == pytest.approx(np.log(2) / 2)  # every second pull is half and half


@pytest.mark.slow
def test_the_ablation_runs_and_resumes(tmp_path, monkeypatch):
    needed = [cell for cell in exploitation.CELLS if sum(cell) > 1]  # each is a program
    monkeypatch.setattr(exploitation, "CELLS", needed)
    options = {
        **{"trial_steps": 3, "arms": 2, "num_seeds": 2, "num_envs": 4, "rollout_length": 3, "width": 8, "heads": 2},
        **{"layers": 1, "steps": 1, "minibatches": 1, "epochs": 1, "held_out_tasks": 4, "directory": tmp_path / "run"},
    }
    exploitation.main(words(**options))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["seeds"]) == 4 == len(exploitation.CELLS) and "gittins" in results["rows"]
    first = (tmp_path / "run" / "results.json").read_text()
    exploitation.main(words(**options, resume=True))
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert again["seeds"] == json.loads(first)["seeds"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "gru"}, "network must be transformer"),
        ({"window": 5}, "sets switch_after and window itself"),
        ({"num_seeds": 1}, "must be at least 2"),
        ({"episode_discount": 0.0}, "episode_discount must be above 0"),
    ],
)
def test_what_the_ablation_refuses(capsys, options, message):
    assert message in one_line(capsys, lambda: exploitation.main(words(**options)))

"""Sweeps from the command line."""

import csv
import json

import jax
import numpy as np
import pytest
from commands import one_line, words
from sweep_example import Config, compilations, descend

import metarl
from experiments import agent, lpg, sweeps
from metarl.run.options import replace


def test_a_member_that_diverges_leaves_the_figures_of_the_others(tmp_path, capsys):
    """In every configuration there may be one; where nothing is left, nothing is drawn."""
    found = metarl.sweep(descend, Config(steps=2), {"learning_rate": [0.5, 1e30]}, seeds=2)
    found.diverged[0] = 1
    rows = sweeps.summary(found, "fitness")
    assert [(row["scored"], row["diverged"]) for row in rows] == [(1, 1), (0, 2)] and np.isfinite(rows[0]["mean"])
    sweeps.draw(rows, {"learning_rate": [0.5, 1e30]}, "fitness", tmp_path)
    assert (tmp_path / "parallel.png").exists()
    sweeps.draw(rows[1:], {"learning_rate": [1e30]}, "fitness", tmp_path)
    assert "no member has a finite fitness" in capsys.readouterr().err


def test_the_rule_of_a_sweep_is_of_a_member_that_did_not_diverge(tmp_path, monkeypatch, capsys):
    saved = []
    monkeypatch.setattr(sweeps, "save_rule", lambda path, params, recipe, about: saved.append((params, about)))
    members = [{"learning_rate": 1e-3, "seed": seed} for seed in (0, 1)]
    params = [{"objective": np.array(seed)} for seed in (0, 1)]
    found = sweeps.Found(members, {"fitness": np.ones((2, 4))}, np.array([3, 0]), params)
    config = replace(lpg.PRESETS["quick"], sweep=("learning_rate=1e-3",), sweep_seeds=2)
    sweeps._save_best(lpg.EXPERIMENT, config, found, "fitness", tmp_path)
    assert [(x["objective"], about["config"]["seed"]) for x, about in saved] == [(1, 1)]
    sweeps._save_best(lpg.EXPERIMENT, config, found._replace(diverged=np.array([3, 2])), "fitness", tmp_path)
    assert len(saved) == 1 and "no rule is saved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sweep": ("learning_rate=0.1,0.2",), "sweep_by": "luck"}, "sweep_by must be a metric that is logged"),
        ({"sweep": ("network=mlp,tabular",)}, "tabular network needs a Discrete observation space"),
        ({"sweep": ("learning_rate=0.1",), "tensorboard": True}, "tensorboard and wandb must be off"),
        ({"sweep": ("learning_rate=0.1,-1",)}, "learning_rate must be above 0, got -1.0"),
        ({"sweep": ("learning_rate=nan",)}, "learning_rate must be a number, not NaN, got nan"),
        ({"sweep": ("learning_rate=1e-3,1e-3",)}, "sweep must have different values of learning_rate, got 1e-3,1e-3"),
        ({"sweep": ("learning_rate=0.1,0.2",), "learning_rate": 1}, "learning_rate has no effect in this sweep"),
        ({"sweep": ()}, "sweep has no effect without FIELD=VALUE,VALUE,..."),
        ({"sweep": ("epochs=2.5",)}, "epochs must be of type int, got '2.5'"),
        ({"sweep": ("epochs=1",), "sweep_seeds": 10**6}, "sweep must have at most 10000 members, got 1000000"),
        ({"sweep": ("clip=0.1,0.2", "objective=ppo,dpo")}, "clip has no effect with objective dpo"),
    ],
)
def test_what_is_not_logged_or_cannot_be_made_fails_before_anything_is_trained(options, says, tmp_path, capsys):
    assert says in one_line(capsys, lambda: agent.main(words(**options, directory=tmp_path / "run")))
    assert not list(tmp_path.glob("run/0/*"))


def test_a_directory_of_other_runs_is_kept(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    argv = words(sweep=("learning_rate=0.1,0.2",), directory=tmp_path)
    assert "is not empty: give resume" in one_line(capsys, lambda: agent.main(argv))


def test_the_option_reads_values_as_the_fields_types():
    texts = ("learning-rate=1e-3,1", "epochs=1,2", "network=mlp,gru", "normalise_advantage=true,false")
    config = replace(agent.PRESETS["quick"], sweep=texts)
    assert sweeps.parse(config) == {
        "learning_rate": [1e-3, 1.0],
        "epochs": [1, 2],
        "network": ["mlp", "gru"],
        "normalise_advantage": [True, False],
    }
    for text, message in [
        ("epochs=1.5", "epochs must be of type int, got '1.5'"),
        ("epochs", "sweep must be FIELD=VALUE,VALUE,... with each field once, got 'epochs'"),
        ("objective=ppo,dop", "objective must be one of a2c, ppo, dpo, got 'dop'"),
        ("chunk=5,10", "'chunk' is no field that can be swept; did you mean"),
        ("learning_rat=1", r"'learning_rat' is no field that can be swept; did you mean \['learning_rate'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            sweeps.parse(replace(config, sweep=(text,)))
    with pytest.raises(ValueError, match="held_out_horizons"):
        sweeps.parse(replace(lpg.Config(), sweep=("held_out_horizons=3",)))


@pytest.mark.slow
def test_two_axes_and_eight_seeds_of_lpg_compile_once(tmp_path, monkeypatch, caplog, capsys):
    options = {"sweep": ("learning_rate=1e-3,1e-2", "y_coef=0.5,1"), "sweep_seeds": 8, "directory": tmp_path}
    sizes = dict(num_lifetimes=2, num_envs=2, rollout_length=4, updates=2, hidden=4, steps=4, chunk=2)
    argv = words(**options, **sizes, levels="mdp/random")
    with jax.log_compiles(), caplog.at_level("WARNING"):
        lpg.main(argv)
    assert len(compilations(caplog)) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["configurations"]) == 4 and results["score"] == "episode_return"
    assert all(len(row["scores"]) == 8 and row["diverged"] == 0 for row in results["configurations"])
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32 * 4 and {"learning_rate", "y_coef", "seed", "step", "env_steps", "seconds"} <= set(rows[0])
    assert {row["env_steps"] for row in rows if row["step"] == "4"} == {str(4 * 2 * (2 + 1) * 2 * 4)}
    assert (tmp_path / "grid.png").stat().st_size > 5000 and (tmp_path / "parallel.png").stat().st_size > 5000
    assert "learning_rate=0.01, y_coef=1.0" in capsys.readouterr().out
    best = results["configurations"][0]["values"]
    rule = metarl.load_rule(tmp_path)
    assert rule.card["config"] | best == rule.card["config"] and rule.card["recipe"]["objective"]["hidden"] == 4
    assert rule.card["config"]["sweep"] == [] and rule.card["sweep"] == ["learning_rate=1e-3,1e-2", "y_coef=0.5,1"]
    monkeypatch.setattr(sweeps, "_metric", lambda *_: "episode_return")  # which is known by now
    lpg.main([*argv, "--resume"])  # everything is there

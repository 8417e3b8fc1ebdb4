"""Distillation from the command line."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from commands import PNG, one_line, returns_are_noise
from finished_runs import RECIPE, write_run

import envs
import metarl
from experiments import distil
from metarl.evaluation import compare
from metarl.objectives.hand_made import UNITS

TINY = {"lifetime": 2, "lives": 2, "points": 40, "every": 1, "hidden": 2, "fit_steps": 3, "evaluations": 600}
TINY |= {"held_out_levels": 2, "held_out_seeds": 2, "max_length": 7, "levels": "mdp/random"}
LPO = {
    **RECIPE,
    "objective": {"name": "lpo", "hidden": 4, "start": "scratch", "entropy_coef": 0.02},
    "optimizer": {"name": "adam", "learning_rate": 0.1},
    "experience": {"num_envs": 2, "rollout_length": 4, "epochs": 2, "minibatches": 2},
}


@pytest.mark.parametrize(
    ("name", "recipe", "says"),
    [("lpo", LPO, "drift = max(0, where("), pytest.param("lpg", RECIPE, "pi_hat", marks=pytest.mark.slow)],
)
def test_a_rule_is_distilled_into_rules_that_are_judged_beside_it(name, recipe, says, tmp_path, monkeypatch, capsys):
    returns_are_noise(monkeypatch)
    run = compare.load(write_run(tmp_path / "run", name, recipe))
    found = distil.carry_out(dataclasses.replace(distil.Config(), **TINY), run, tmp_path)
    assert list(found["report"])[:3] == ["rule", "network", "formula"]
    assert {"rule minus network", "rule minus formula"} < set(found["report"])
    assert all(x["low"] <= x["mean"] <= x["high"] for x in found["report"].values())
    assert json.loads((tmp_path / "summary.json").read_text())["formulas"] == found["formulas"]
    assert all((tmp_path / file).read_bytes().startswith(PNG) for file in ("front.png", "worst.png"))
    assert says in capsys.readouterr().out
    small, formula = (metarl.load_rule(tmp_path / f"{title}.safetensors") for title in ("network", "formula"))
    assert small.card["recipe"]["objective"]["hidden"] == 2
    text = formula.card["recipe"]["objective"]["drift" if name == "lpo" else "pi_hat"]
    assert any(text in shown for shown in found["formulas"].values())
    levels = envs.make("mdp/random", 2)
    inner = formula.inner_loop(levels.environment)
    live = jax.jit(lambda key: metarl.train_agent(inner, {}, levels.sample(key), key, 2)[0].params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(live(jax.random.key(0))))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rule", "lpo-cartpol"), "did you mean lpo-cartpole"),
        (("--rule", "adafac-digits"), "has no agents to compare"),
        (("--levels", "gridworld/smal"), "gridworld/small"),
        (("--held-out-seeds", "1"), "held_out_seeds must be at least 2"),
        (("--lives", "1"), "lives must be at least 2"),
        (("--every", "2"), "every has no effect for a rule of LPO"),
    ],
)
def test_what_cannot_be_distilled_is_one_clear_line(arguments, says, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyoperon", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pyoperon.sklearn", SimpleNamespace(SymbolicRegressor=None))
    assert says in one_line(capsys, lambda: distil.main(list(arguments)))


def test_a_missing_extra_is_named_before_anything_is_computed(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyoperon", None)
    assert "pip install 'metarl-jax[distil]'" in one_line(capsys, lambda: distil.main([]))


def test_rules_of_another_kind_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyoperon", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pyoperon.sklearn", SimpleNamespace(SymbolicRegressor=None))
    plain = {**RECIPE, "objective": {"name": "a2c"}}
    metarl.save_rule(tmp_path / "rule.safetensors", {}, plain, {"experiment": "x", "config": {"seed": 0}})
    said = one_line(capsys, lambda: distil.main(["--rule", str(tmp_path)]))
    assert "rule must be one of LPO or LPG" in said and "which is of a2c" in said
    lpg = {"name": "lpg", "learned": "coordinates", "start": "actor_critic", "hidden": UNITS, "discount": 0.9}
    recipe = {**RECIPE, "objective": lpg}
    params = {"objective": metarl.objectives.lpg(**{x: lpg[x] for x in lpg if x != "name"}).init(jax.random.key(0))}
    metarl.save_rule(tmp_path / "rule.safetensors", params, recipe, {"experiment": "x", "config": {"seed": 0}})
    assert "rule must have learned weights" in one_line(capsys, lambda: distil.main(["--rule", str(tmp_path)]))

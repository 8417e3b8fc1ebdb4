"""Learned rules, saved and loaded to be used in one's own code."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
import metarl
from experiments import ship
from metarl import networks, objectives, optimizers, rules
from metarl.pretrained import save_params

LPG = {"objective": {"name": "lpg", "bins": 4, "hidden": 4}}
OPEN = {"optimizer": {"name": "open_rl", "hidden": 2, "width": 4, "without": ("noise",)}}


def born(recipe, seed=0):
    return {kind: part.init(jax.random.key(seed)) for kind, part in rules.cook(recipe).items()}


def test_a_saved_rule_trains_agents_as_it_did(tmp_path):
    """LPG's agents, with the objective as it was learned and with the one that is loaded."""
    params = born(LPG)
    metarl.save_rule(tmp_path / "rule.safetensors", {**params, "optimizer": ()}, LPG, {"seed": 3})
    rule = metarl.load_rule(tmp_path / "rule.safetensors")
    assert rule.optimizer is None and rule.card["seed"] == 3 and rule.card["recipe"] == LPG
    levels = envs.make("gridworld/small", horizon=5)
    level, key = levels.sample(jax.random.key(1)), jax.random.key(2)

    def agent(objective, params):
        inner = metarl.rl_inner_loop(
            levels.env, networks.tabular, objective, optax.sgd(1.0), num_envs=2, rollout_length=3
        )
        return jax.jit(lambda: metarl.train_agent(inner, params, level, key, 3)[0].params)()

    before, after = agent(objectives.lpg(bins=4, hidden=4), {**params, "optimizer": ()}), agent(rule.objective, {})
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_saved_optimizer_is_one_of_optax(tmp_path):
    params = jax.tree.map(lambda x: x + 0.1, born(OPEN))
    metarl.save_rule(tmp_path / "rule.safetensors", params, OPEN)
    rule = metarl.load_rule(str(tmp_path / "rule.safetensors"))
    weights = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}
    made = optimizers.open_rl(2, 4, without=("noise",)).transform(params["optimizer"])
    moves = [t.update(weights, t.init(weights), weights)[0] for t in (optax.chain(rule.optimizer), optax.chain(made))]
    jax.tree.map(np.testing.assert_array_equal, *moves)
    assert rule.objective is None and float(jnp.abs(moves[0]["w"]).max()) > 0.0


@pytest.mark.parametrize("name", rules.shipped())
def test_what_is_shipped_loads_and_has_a_card(name):
    rule = metarl.load_rule(name)
    card = (rules._SHIPPED / f"{name}.md").read_text()
    assert rule.card["content_hash"][:16] in card and f"python -m experiments.{rule.card['experiment']} " in card
    assert rule.objective or rule.optimizer
    assert importlib.import_module(f"experiments.{rule.card['experiment']}").recipe


def test_a_finished_run_is_shipped_with_a_card(tmp_path):
    from experiments import learned_optimizer

    run = tmp_path / "run"
    small = "--levels supervised/quadratic --steps 2 --chunk 1 --num-pairs 2 --width 4 --held-out-seeds 0"
    lives = "--shortest-life 2 --longest-life 2"
    learned_optimizer.main([*small.split(), *lives.split(), "--directory", str(run)])
    assert metarl.load_rule(run / "rule.safetensors").optimizer
    results = json.loads((run / "results.json").read_text())
    results["report"] = {"trained": {"mean": 1.0, "low": 0.5, "high": 1.5}}
    (run / "results.json").write_text(json.dumps(results))
    ship.main([str(run), "--name", "mine", "--note", "A test.", "--directory", str(tmp_path)])
    rule, card = metarl.load_rule(tmp_path / "mine.safetensors"), (tmp_path / "mine.md").read_text()
    assert "A test." in card and "| trained | 1.000 [0.500, 1.500] |" in card and "--width 4 " in card
    assert rule.card["seed"] == 0 and len(rule.card["curve"]["fitness"]) == 2


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda d: metarl.load_rule("nothing-like-it"), FileNotFoundError, "no rule at 'nothing-like-it', and none is"),
        (lambda d: metarl.load_rule(save_params(d / "x", {"a": jnp.ones(1)}, {}) or d / "x"), ValueError, "no recipe"),
        (lambda d: metarl.save_rule(d / "x", born(LPG), {"colour": {}}), ValueError, "objective and optimizer, got"),
        (lambda d: metarl.save_rule(d / "x", {}, {"objective": {"name": "lpq"}}), ValueError, "got 'lpq'"),
        (lambda d: metarl.save_rule(d / "x", {}, {"objective": {"name": "lpg", "bin": 4}}), ValueError, "'bin'"),
        (lambda d: metarl.save_rule(d / "x", born(LPG), OPEN), ValueError, "not those of its recipe"),
        (lambda d: ship.Options("run", "a/b"), ValueError, "name must be a plain name"),
    ],
)
def test_what_cannot_be_is_refused(act, error, says, tmp_path):
    with pytest.raises(error, match=says):
        act(tmp_path)

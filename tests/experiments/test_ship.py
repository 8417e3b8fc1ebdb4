"""Shipping the rule of a finished run."""

import importlib
import json
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
import metarl
from experiments import cli, ship
from metarl import networks, objectives, rules, saved_agents
from metarl.run.options import flatten

RECIPE = {"optimizer": {"name": "adafac", "width": 4}}
RUN = {
    "experiment": "learned_optimizer",
    "config": {"directory": "x", "seed": 0, "steps": 2, "levels": "supervised/digits", "width": 4, "more_levels": []},
    "hardware": {"device": "cpu"},
    "date": "2026-01-01",
    "report": {"trained": {"mean": 1.0, "low": 0.5, "high": 1.5}},
}


def test_a_finished_run_is_shipped_with_a_card(tmp_path):
    run = tmp_path / "run"
    params = {"optimizer": rules.build(RECIPE).optimizer.init(jax.random.key(0))}
    metarl.save_rule(run / "rule.safetensors", params, RECIPE, {"experiment": "learned_optimizer"})
    (run / "results.json").write_text(json.dumps(RUN))
    (run / "metrics.csv").write_text("step,fitness\n1,0.5\n2,0.75\n")
    ship.main([str(run), "--name", "mine", "--note", "A test.", "--directory", str(tmp_path)])
    rule, card = metarl.load_rule(tmp_path / "mine.safetensors"), (tmp_path / "mine.md").read_text()
    assert "A test." in card and "| trained | 1.000 [0.500, 1.500] |" in card
    assert "`python -m experiments.learned_optimizer --seed 0 --steps 2 --levels supervised/digits --width 4`" in card
    assert "Licence: Apache-2.0" in card and "Training data: scikit-learn's handwritten digits" in card
    assert rule.card["seed"] == 0 and rule.card["curve"]["fitness"] == [0.5, 0.75]
    assert rule.card["recipe"] == RECIPE
    jax.tree.map(lambda x, y: None if (jnp.asarray(x) == y).all() else pytest.fail("changed"), params, rule.params)


def test_an_agent_is_shipped_with_a_card(tmp_path):
    run, env = tmp_path / "run", envs.make("mdp/random").environment
    inner = metarl.rl_inner_loop(env, networks.tabular, objectives.a2c(), optax.sgd(1.0), metarl.Experience(1, 1))
    params = inner.init(jax.random.key(0), envs.make("mdp/random").sample(jax.random.key(0))).params
    metarl.save_agent(run / "agent.safetensors", params, env, {"name": "tabular"}, {"value": 1})
    (run / "results.json").write_text(json.dumps({**RUN, "experiment": "agent"}))
    (run / "metrics.csv").write_text("step,episode_return\n1,0.5\n2,0.75\n")
    (tmp_path / "agents").mkdir()
    ship.main([str(run), "--name", "mine", "--note", "A test.", "--directory", str(tmp_path)])
    agent, card = (
        metarl.load_agent(tmp_path / "agents" / "mine.safetensors"),
        (tmp_path / "agents" / "mine.md").read_text(),
    )
    assert "A test." in card and "Licence: Apache-2.0" in card and "tabular" in card
    jax.tree.map(np.testing.assert_array_equal, agent.params, dict(params))


def test_shipped_agents_play():
    for name in saved_agents.shipped_agents():
        assert metarl.load_agent(name).card["seed"] >= 0
    with pytest.raises(FileNotFoundError, match="no agent at 'rl3-bandits'"):
        metarl.load_agent("rl3-bandits")


def test_generated_levels_are_no_data_set():
    assert ship.training_data({"levels": "mdp/random"}) == ship.GENERATED
    both = ship.training_data({"levels": "mdp/random", "more_levels": ["supervised/digits", "bandit/bernoulli"]})
    assert both == f"{ship.GENERATED}; {ship.DIGITS}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["run", "--name", "a/b"], "name must be a plain name"), (["nowhere", "--name", "x"], "no rule at 'nowhere'")],
)
def test_what_cannot_be_shipped_is_named(arguments, says, capsys):
    with pytest.raises(SystemExit) as end:
        ship.main(arguments)
    assert end.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize("card", sorted(Path(metarl.pretrained.__file__).parent.rglob("*.md")), ids=lambda x: x.stem)
def test_the_command_of_a_shipped_card_is_one(card):
    """Its options are those of its experiment."""
    card = card.read_text()
    experiment, options = re.search(r"`python -m experiments\.(\w+) (.*)`", card).groups()
    module = importlib.import_module(f"experiments.{experiment}")
    config = cli.parse(type(module.PRESETS["quick"]), module.PRESETS, shlex.split(options))
    assert f"--levels {flatten(config)['levels']} " in options

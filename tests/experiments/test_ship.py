"""Shipping the rule of a finished run."""

import importlib
import json
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import metarl
from experiments import cli, ship
from metarl import rules

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


@pytest.mark.parametrize("name", rules.shipped())
def test_the_command_of_a_shipped_card_is_one(name):
    """Its options are those of its experiment."""
    card = Path(metarl.pretrained.__file__).with_name(f"{name}.md").read_text()
    experiment, options = re.search(r"`python -m experiments\.(\w+) (.*)`", card).groups()
    module = importlib.import_module(f"experiments.{experiment}")
    config = cli.parse(type(module.PRESETS["quick"]), module.PRESETS, shlex.split(options))
    assert f"--levels {config.distribution.levels} " in options

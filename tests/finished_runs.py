"""Directories as finished runs leave them, without any training."""

import functools
import json

import jax

import metarl
from metarl import rules

RECIPE = {
    "objective": {"name": "lpg", "bins": 4, "hidden": 4},
    "optimizer": {"name": "per_output", "policy": {"name": "sgd", "learning_rate": 40.0, "max_norm": 0.5}},
    "network": {"name": "tabular"},
    "policy": {"name": "by_action_space"},
    "experience": {"num_envs": 2, "rollout_length": 4},
}
RECIPE["optimizer"]["y"] = {"name": "sgd", "learning_rate": 4.0, "max_norm": 0.5}
CONFIG = {
    **{"levels": "mdp/random", "seed": 0, "steps": 2, "temporal": False, "eval_episodes": 2, "directory": "x"},
    **{"shortest_life": 2, "longest_life": 4, "held_out_horizons": [25, 100]},
}


@functools.cache
def _born(recipe):
    """The compiled initialisation of the objective of a recipe, as JSON."""
    return jax.jit(rules.build(json.loads(recipe)).objective.init)


def write_run(directory, /, experiment="ta_lpg", recipe=RECIPE, report=None, **config):
    """A rule at its birth, and what a run says of it; `config` are its options."""
    config = {**CONFIG, **config}
    if config["temporal"]:
        recipe = {**recipe, "objective": {**recipe["objective"], "temporal": True}}
    params = {"objective": _born(json.dumps(recipe))(jax.random.key(config["seed"]))}
    origin = {"experiment": experiment, "config": config}
    metarl.save_rule(directory / rules.RULE_FILE, params, recipe, origin)
    (directory / "results.json").write_text(json.dumps({**origin, "report": report or {}}))
    return str(directory)

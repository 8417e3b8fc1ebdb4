"""The agents of each family of environments, as parts of recipes: networks and optimizers of the papers' settings.

An environment that no family claims gets the classic-control agents, or tables if its observations are integers.
"""

from __future__ import annotations

from typing import NamedTuple

from metarl.optimizers.learned import LearnedOptimizer
from metarl.pretrained import tuples
from metarl.rules import Part, Recipe, build
from metarl.types import Environment


class Family(NamedTuple):
    """What an agent is made of, and how it learns by a learned rule and by A2C: parts for `metarl.rules.build_part`."""

    network: Part
    optimizer: Part  # under a learned objective with the outputs "policy" and "y"
    a2c: Part  # optimizer
    critic: Part  # optimizer of the critic of a meta-objective
    learning_rate: float  # of Adam, where nothing is learned and nothing was tuned


def family(name: str, env: Environment) -> Family:
    """The agents for the environment called `name`."""
    if hasattr(env.observation_space(env.default_params), "n"):
        return TABULAR
    if name.startswith("gridworld/"):
        return GRIDWORLD
    if name.endswith("-MinAtar"):
        return MINATAR
    return CLASSIC


def in_family(recipe: Recipe, kind: Family) -> Recipe:
    """The agents of `recipe` with the network of `kind`.

    If that is another than their own, an objective without a value gets other step sizes as well, because those for
    tables are not those for dense layers: the optimizer of `kind` if y is its only output (LPG), else the learning rate
    of `kind`, for Adam if it had none. A learned optimizer stays.
    Raises ValueError for a recipe of no agents.
    """
    learner = build(recipe)
    if learner.objective is None:
        raise ValueError("the rule has no agents: its recipe has an optimizer only")
    other = tuples(recipe["network"]) != tuples(kind.network)
    hand_made = not isinstance(learner.optimizer, LearnedOptimizer)
    optimizer = recipe["optimizer"]
    if other and hand_made and "value" not in learner.objective.outputs:
        only_y = learner.objective.outputs.keys() == {"y"}
        adam = optimizer if "learning_rate" in optimizer else {"name": "adam"}
        optimizer = kind.optimizer if only_y else {**adam, "learning_rate": kind.learning_rate}
    return {**recipe, "network": kind.network, "optimizer": optimizer}


def a2c(kind: Family, recipe: Recipe) -> Recipe:
    """A2C agents of a family, whom those of `recipe` are compared with: they update once per rollout as long as theirs.

    Their discount is that of the recipe's objective, if it has one, and they learn from rewards of the same scale.
    """
    discount = recipe["objective"].get("discount")
    return {
        "objective": {"name": "a2c", "normalise_advantage": True, "discount": 0.99 if discount is None else discount},
        "optimizer": kind.a2c,
        "network": kind.network,
        "experience": {name: x for name, x in recipe["experience"].items() if name not in ("epochs", "minibatches")},
    }


def _adam(learning_rate: float, max_norm: float) -> Part:
    return {"name": "adam", "learning_rate": learning_rate, "max_norm": max_norm}


def _sgd(learning_rate: float) -> Part:
    return {"name": "sgd", "learning_rate": learning_rate, "max_norm": 0.5}


def _dense(sizes: tuple[int, ...], learning_rate: float, max_norm: float) -> Family:
    adam = _adam(learning_rate, max_norm)
    return Family(
        network={"name": "mlp", "sizes": sizes},
        optimizer={"name": "per_output", "policy": adam, "y": adam},
        a2c={**_adam(learning_rate, 0.5), "eps": 1e-5},
        critic={"name": "adam", "learning_rate": 1e-3},
        learning_rate=learning_rate,
    )


# Rates for tables are the best of sweeps on training levels of gridworld/small (docs/results/meta-gradients.md).
TABULAR = Family(
    network={"name": "tabular"},
    optimizer={"name": "per_output", "policy": _adam(0.3, 0.5), "y": _sgd(40.0)},
    a2c=_adam(0.1, 0.5),
    critic={"name": "adam", "learning_rate": 0.1},
    learning_rate=0.1,
)
GRIDWORLD = _dense((32,), 1e-3, 0.5)
MINATAR = _dense((256, 256), 5e-4, 1.0)
CLASSIC = _dense((64, 64), 5e-4, 1.0)

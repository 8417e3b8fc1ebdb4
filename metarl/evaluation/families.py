"""The agents of each family of environments, as parts of recipes: networks and optimizers of the papers' settings.

An environment that no family claims gets the classic-control agents, or tables if its observations are integers.
"""

from __future__ import annotations

from typing import NamedTuple

from metarl.rules import Part
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


def _adam(learning_rate: float, max_norm: float) -> Part:
    return {"name": "adam", "learning_rate": learning_rate, "max_norm": max_norm}


def _sgd(learning_rate: float) -> Part:
    return {"name": "sgd", "learning_rate": learning_rate, "max_norm": 0.5}


def _dense(sizes: tuple[int, ...], learning_rate: float, max_norm: float) -> Family:
    adam = _adam(learning_rate, max_norm)
    return Family(
        network={"name": "mlp", "sizes": sizes},
        optimizer={"name": "per_output", "policy": adam, "y": adam},
        a2c=adam,
        critic={"name": "adam", "learning_rate": 1e-3},
        learning_rate=learning_rate,
    )


# A2C's rate for tables is the best of a sweep over {.03, .1, .3, 1} on training levels of gridworld/small.
TABULAR = Family(
    network={"name": "tabular"},
    optimizer={"name": "per_output", "policy": _sgd(40.0), "y": _sgd(4.0)},
    a2c=_adam(0.1, 0.5),
    critic={"name": "adam", "learning_rate": 0.1},
    learning_rate=0.1,
)
GRIDWORLD = _dense((32,), 1e-3, 0.5)
MINATAR = _dense((256, 256), 5e-4, 1.0)
CLASSIC = _dense((64, 64), 5e-4, 1.0)

"""The agents of each family of environments: networks and optimizers of section 1 of the papers' settings.

An environment that no family claims gets the classic-control agents, or tables if its observations are integers.
"""

from __future__ import annotations

from typing import NamedTuple

import optax

from metarl import networks, optimizers
from metarl.types import Environment


class Family(NamedTuple):
    """What an agent is made of, and how it learns by a learned rule and by A2C."""

    network: networks.NetworkFactory
    optimizer: optax.GradientTransformation  # under a learned objective with the outputs "policy" and "y"
    a2c: optax.GradientTransformation
    critic: optax.GradientTransformation
    learning_rate: float  # of Adam, where nothing is learned and nothing was tuned


def _adam(learning_rate: float, max_norm: float) -> optax.GradientTransformation:
    return optax.chain(optimizers.clip_by_global_norm(max_norm), optimizers.adam(learning_rate))


def _sgd(learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(optimizers.clip_by_global_norm(0.5), optax.sgd(learning_rate))


def _dense(sizes: tuple[int, ...], learning_rate: float, max_norm: float) -> Family:
    adam = _adam(learning_rate, max_norm)
    return Family(
        networks.mlp(sizes), optimizers.per_output(policy=adam, y=adam), adam, optax.adam(1e-3), learning_rate
    )


# A2C's rate for tables is the best of a sweep over {.03, .1, .3, 1} on training levels of gridworld/small.
TABULAR = Family(
    networks.tabular,
    optimizers.per_output(policy=_sgd(40.0), y=_sgd(4.0)),
    _adam(0.1, 0.5),
    optax.adam(0.1),
    0.1,
)
GRIDWORLD = _dense((32,), 1e-3, 0.5)
MINATAR = _dense((256, 256), 5e-4, 1.0)
CLASSIC = _dense((64, 64), 5e-4, 1.0)


def family(name: str, env: Environment) -> Family:
    """The agents for the environment called `name`."""
    if hasattr(env.observation_space(env.default_params), "n"):
        return TABULAR
    if name.startswith("gridworld/"):
        return GRIDWORLD
    if name.endswith("-MinAtar"):
        return MINATAR
    return CLASSIC

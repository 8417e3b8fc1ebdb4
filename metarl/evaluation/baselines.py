"""A2C and PPO, and the settings that sweeps try for them in each environment."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal, NamedTuple

from metarl.evaluation.families import TABULAR, Family
from metarl.evaluation.trials import Settings
from metarl.inner.rl import Experience
from metarl.rules import Recipe


class Baseline(NamedTuple):
    """A hand-made objective, and the rollouts that it learns from."""

    objective: Literal["a2c", "ppo"]
    experience: Experience


# The batches of "a2c" and "ppo" are the usual ones; the other two have the batch that learned rules have by default, so
# that "a2c-16x20" makes as many updates as they do, of as large batches.
BASELINES: Mapping[str, Baseline] = {
    "a2c": Baseline("a2c", Experience(16, 8)),
    "a2c-16x20": Baseline("a2c", Experience(16, 20)),
    "ppo": Baseline("ppo", Experience(8, 64, 4, 4)),
    "ppo-16x20": Baseline("ppo", Experience(16, 20, 4, 4)),
}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TABULAR_RATES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)  # tables start at zero, and must come to logits of order one
# on the rates of a learned rule's agents; the best ones for networks are often 5 to 30 times those of their family
FACTORS = (0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0)
TABULAR_FACTORS = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
DISCOUNTS = (0.95, 0.99)
LAMBDAS = (0.8, 0.95, 1.0)
ENTROPY_COEFS = (0.0, 0.01, 0.1)
REWARD_SCALES = (1.0, 0.1, 0.01)  # for agents with networks: returns of their environments may be in the hundreds


def grid(kind: Family) -> list[Settings]:
    """The first stage of a sweep: all learning rates and discounts for agents of this family."""
    return [Settings(*pair) for pair in itertools.product(_rates(kind), DISCOUNTS)]


def refined(kind: Family, chosen: Settings) -> list[Settings]:
    """The second stage: lambdas and entropy coefficients, with the rate `chosen` in the first and its neighbours.

    Agents with networks try scales of rewards with these rates, too.
    """
    rates = _rates(kind)
    at = rates.index(chosen.learning_rate)
    near = rates[max(at - 1, 0) : at + 2]
    triples = itertools.product(near, LAMBDAS, ENTROPY_COEFS)
    plain = [Settings(rate, chosen.discount, gae_lambda, entropy) for rate, gae_lambda, entropy in triples]
    scaled = itertools.product(near, _reward_scales(kind)[1:])
    return plain + [chosen._replace(learning_rate=rate, reward_scale=scale) for rate, scale in scaled]


def grid_of_rules(kind: Family) -> list[Settings]:
    """The only stage of a sweep of a learned rule: factors on the learning rates and the rewards of its agents."""
    factors = TABULAR_FACTORS if kind is TABULAR else FACTORS
    return [Settings(x, None, None, None, scale) for x, scale in itertools.product(factors, _reward_scales(kind))]


def untuned(kind: Family) -> Settings:
    """The settings of a baseline in an environment that no sweep knows: those of its family."""
    return Settings(kind.learning_rate)


def baseline(name: str, kind: Family, settings: Settings) -> Recipe:
    """The agents of one of `BASELINES`, with the network of their environment's family and the optimizer of its A2C.

    Settings may be traced.
    """
    objective, experience = BASELINES[name]
    options = settings._asdict()
    rate, reward_scale = options.pop("learning_rate"), options.pop("reward_scale")
    return {
        "objective": {"name": objective, **options, "normalise_advantage": True},
        "optimizer": {**kind.a2c, "learning_rate": rate},
        "network": kind.network,
        "experience": {**experience._asdict(), "reward_scale": reward_scale},
    }


def _rates(kind: Family) -> tuple[float, ...]:
    return TABULAR_RATES if kind is TABULAR else RATES


def _reward_scales(kind: Family) -> tuple[float, ...]:
    return REWARD_SCALES[:1] if kind is TABULAR else REWARD_SCALES

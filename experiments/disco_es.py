"""Meta-train a DiscoRL rule (Oh et al. 2025) by evolution over whole lifetimes.

python -m experiments.disco_es                   # small gridworlds and agents on tables, 40 minutes on one core
"""

from __future__ import annotations

import dataclasses

from experiments import disco, launch, meta_training, parts
from experiments.parts import EVOLUTION_CURVES
from metarl.rules import Recipe
from metarl.run.options import replace

SMALL_RULE = {"predictions": 4, "hidden": 16, "lifetime_hidden": 8, "largest_value": 5, "discount": 0.99}


@dataclasses.dataclass(frozen=True)
class Config:
    """DiscoRL, meta-trained by evolution strategies."""

    run: parts.Run = parts.Run()
    sweep: parts.Sweep = parts.Sweep()
    distribution: parts.Distribution = parts.Distribution("gridworld/small", longest_life=50)
    agents: parts.Agents = parts.Agents(num_envs=8, rollout_length=20)
    rule: disco.Rule = replace(disco.Rule(), **SMALL_RULE, target_size_coef=0.0, policy_change_coef=0.0)
    agent_network: disco.AgentNetwork = replace(disco.AgentNetwork(), **disco.TABLES)
    # a new rule's targets are so near to uniform that a sigma of 0.1 leaves all agents at the random policy
    estimator: parts.Evolution = parts.Evolution(num_pairs=64, sigma=0.5, batch_size=8)
    optimizer: parts.DecayedAdam = parts.DecayedAdam(learning_rate=0.03)
    replay: parts.Replay = parts.Replay()
    held_out: parts.HeldOut = parts.HeldOut(64, 4, 128, (10, 25, 50, 100))

    def __post_init__(self) -> None:
        parts.check_whole_lifetimes(self)


PRESETS = {"quick": replace(Config(), steps=300)}


def recipe(config: Config) -> Recipe:
    """Agents whose objective is learned; fitness asks for no entropy."""
    return disco.agents(config, {**config.rule.recipe(), "policy_entropy_coef": 0.0, "prediction_entropy_coef": 0.0})


EXPERIMENT = meta_training.experiment(
    "disco_es", meta_training.Objectives(recipe, meta_training.a2c), EVOLUTION_CURVES, shards=True
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

"""Meta-train a DiscoRL rule (Oh et al. 2025) by evolution over whole lifetimes.

python -m experiments.disco_es                   # Catch
"""

from __future__ import annotations

import dataclasses

from experiments import disco, launch, meta_training, parts
from experiments.parts import EVOLUTION_CURVES
from metarl.rules import Recipe
from metarl.run.options import replace

SMALL_RULE = {"predictions": 16, "hidden": 64, "lifetime_hidden": 32, "largest_value": 10}
SMALL_AGENT = {"torso": (64,), "model_width": 32, "agent_learning_rate": 5e-3}


@dataclasses.dataclass(frozen=True)
class Config:
    """DiscoRL, meta-trained by evolution strategies."""

    run: parts.Run = parts.Run()
    sweep: parts.Sweep = parts.Sweep()
    distribution: parts.Distribution = parts.Distribution("Catch-bsuite", longest_life=100)
    agents: parts.Agents = parts.Agents(num_envs=16, rollout_length=16)
    rule: disco.Rule = replace(disco.Rule(), **SMALL_RULE, target_size_coef=0.0, policy_change_coef=0.0)
    agent_network: disco.AgentNetwork = replace(disco.AgentNetwork(), **SMALL_AGENT)
    estimator: parts.Evolution = parts.Evolution(batch_size=4)
    optimizer: parts.DecayedAdam = parts.DecayedAdam()
    replay: parts.Replay = parts.Replay()
    held_out: parts.HeldOut = parts.HeldOut(16, 4, 128, (25, 50, 100, 200))

    def __post_init__(self) -> None:
        parts.check_whole_lifetimes(self)


PRESETS = {"quick": replace(Config(), steps=200)}


def recipe(config: Config) -> Recipe:
    """Agents with a one-step model, whose objective is learned; fitness asks for no entropy."""
    return disco.agents(config, {**config.rule.recipe(), "policy_entropy_coef": 0.0, "prediction_entropy_coef": 0.0})


EXPERIMENT = meta_training.experiment(
    "disco_es", meta_training.Objectives(recipe, meta_training.a2c), EVOLUTION_CURVES, shards=True
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

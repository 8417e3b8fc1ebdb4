"""Meta-train PPO's drift, learned policy optimisation (Lu et al. 2022), by evolution over whole lifetimes.

python -m experiments.lpo                        # about ten minutes on a laptop CPU
python -m experiments.lpo --temporal             # TA-LPO: the drift may change as the agent ages (Jackson et al. 2024)
python -m experiments.lpo --start scratch
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from experiments import launch, meta_training, parts
from experiments.parts import EVOLUTION_CURVES
from metarl import checks
from metarl.checks import NOT_NEGATIVE, POSITIVE, RATE, SHARE, WIDTH
from metarl.evaluation.families import family
from metarl.evaluation.surfaces import draw_lpo
from metarl.objectives.lpo import Start
from metarl.rules import Part, Recipe
from metarl.run.options import replace
from metarl.types import MetaParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Rule:
    """The learned drift."""

    temporal: bool = False
    """Let the drift change with the agent's age (TA-LPO)."""
    start: Start = "ppo"
    """What the drift is before its training: PPO's, or a random network's."""
    hidden: Annotated[int, WIDTH] = 128
    """Width of the drift network."""
    clip: Annotated[float, POSITIVE] = 0.2
    """How far PPO's probability ratio may move before its drift sets in."""
    entropy_coef: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight of the agents' policy entropy in their loss."""
    discount: Annotated[float, SHARE] = 0.99
    """Discount of the agents' returns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.start == "scratch":
            parts.refuse_inert(self, ("clip",), "with start scratch, whose drift has no clipping")

    def recipe(self) -> Part:
        return {"name": "lpo", **vars(self)}

    def draw(self, params: MetaParams, longest_life: int) -> Figure:
        """What the rule computes, of its meta-parameters."""
        return draw_lpo(params, longest_life, self.start, self.clip)


@dataclasses.dataclass(frozen=True)
class AgentOptimizer:
    """How agents follow their gradient."""

    agent_learning_rate: Annotated[float, RATE] = 1e-3
    """Adam's learning rate for the agents."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """Learned policy optimisation, meta-trained by evolution strategies."""

    run: parts.Run = parts.Run()
    sweep: parts.Sweep = parts.Sweep()
    distribution: parts.Distribution = parts.Distribution("cartpole/varied", longest_life=40, shortest_life=10)
    agents: parts.Agents = parts.Agents(num_envs=4, rollout_length=32)
    passes: parts.Passes = parts.Passes(epochs=10, minibatches=4)
    agent_optimizer: AgentOptimizer = AgentOptimizer()
    rule: Rule = Rule()
    estimator: parts.Evolution = parts.Evolution()
    optimizer: parts.DecayedAdam = parts.DecayedAdam()
    replay: parts.Replay = parts.Replay()
    held_out: parts.HeldOut = parts.HeldOut(64, 4, 128, (10, 20, 40, 80, 160))

    def __post_init__(self) -> None:
        parts.check_whole_lifetimes(self)


GRIDWORLD = replace(
    Config(),
    levels="gridworld/all_vrandlife",
    longest_life=250,
    agent_learning_rate=0.03,
    held_out_horizons=(25, 100, 250, 500, 1000),
)
PRESETS = {
    "quick": replace(Config(), steps=100, num_pairs=16, batch_size=4, learning_rate_decay=0.98),
    "small": replace(GRIDWORLD, steps=1_000, num_pairs=64),
    "paper": replace(GRIDWORLD, steps=2_500, num_pairs=512, num_envs=64, held_out_levels=256),
}


SHARED = ("clip", "entropy_coef", "discount")  # fields of the rule that are PPO's


def recipe(config: Config) -> Recipe:
    """PPO agents of the family of the levels, with a learned drift."""
    return _agents(config, config.rule.recipe())


def plain(config: Config) -> tuple[str, Recipe]:
    """The same agents with PPO's own drift."""
    return "ppo", _agents(config, {"name": "ppo", **{x: getattr(config.rule, x) for x in SHARED}})


def _agents(config: Config, objective: Part) -> Recipe:
    rate = config.agent_optimizer.agent_learning_rate
    return {
        "objective": objective,
        "optimizer": {"name": "adam", "learning_rate": rate, "max_norm": 0.5, "eps": 1e-5},
        "network": family(config.distribution.levels, config.distribution.make().environment).network,
        "policy": {"name": "by_action_space"},
        "experience": {**vars(config.agents), **vars(config.passes)},
    }


EXPERIMENT = meta_training.experiment("lpo", meta_training.Objectives(recipe, plain), EVOLUTION_CURVES, shards=True)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

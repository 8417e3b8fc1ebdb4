"""Meta-train a Learned Policy Gradient (Oh et al. 2020) by truncated meta-gradients, and report on held-out levels.

python -m experiments.lpg                        # a few minutes on a laptop CPU
python -m experiments.lpg --preset small
python -m experiments.lpg --directory runs/lpg --resume

`experiments.ta_lpg` and `experiments.groove` are presets of what is here.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from experiments import launch, meta_training, parts
from metarl import checks
from metarl.checks import NOT_NEGATIVE, POSITIVE, SEVERAL, SHARE, WIDTH
from metarl.evaluation.families import Family, family
from metarl.evaluation.surfaces import draw_lpg
from metarl.objectives.hand_made import ActorCritic
from metarl.objectives.lpg import UNREGULARISED, Learned, Start, coordinate_weights
from metarl.rules import Part, Recipe
from metarl.run.options import replace
from metarl.types import MetaParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Rule:
    """The learned rule."""

    hidden: Annotated[int, WIDTH] = 64
    """Width of the meta-network's GRU (the paper's 256)."""
    bins: Annotated[int, SEVERAL] = 8
    """Size of the agent's prediction y."""
    temporal: bool = False
    """Let the rule see the agent's age and how long it will live (TA-LPG)."""
    discount: Annotated[float, SHARE] = 0.99
    """Discount of the advantages in a differentiable meta-objective (fitness has none), which the rule sees."""
    gate_bias: Annotated[float, NOT_NEGATIVE] = 2.0
    """Initial bias of the GRU's update gate: how much it remembers at birth. Helps meta-gradients, hurts evolution."""
    start: Start = "scratch"
    """What the rule is before its training: a random network, or an actor-critic."""
    gae_lambda: Annotated[float, SHARE] = 0.95
    """How long the advantages of that actor-critic look ahead."""
    largest_value: Annotated[float, POSITIVE] = 4.0
    """Values up to which that actor-critic predicts."""
    caution: Annotated[float, NOT_NEGATIVE] = 0.0
    """How much that actor-critic holds back probable actions, less and less over each agent's life if it is temporal.
    """
    learned: Learned = "weights"
    """What is learned: the network's weights, or a few numbers of that actor-critic (with `--hidden 5`)."""
    y_coef: Annotated[float, NOT_NEGATIVE] = 0.5
    """Weight of the prediction in the agent's loss."""
    policy_entropy_coef: Annotated[float, NOT_NEGATIVE] = 5e-2
    """Weight of the agents' policy entropy in the meta-objective."""
    y_entropy_coef: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the agents' prediction entropy in the meta-objective (the paper's 1e-3)."""
    pi_hat_coef: Annotated[float, NOT_NEGATIVE] = 5e-3
    """Weight of the squared policy targets, which regularise the meta-objective."""
    y_hat_coef: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the squared prediction targets, which regularise the meta-objective (the paper's 1e-3)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.start == "scratch":
            parts.refuse_inert(self, ("gae_lambda", "largest_value", "caution"), "with start scratch")

    def recipe(self) -> Part:
        return {"name": "lpg", **vars(self)}

    def draw(self, params: MetaParams, longest_life: int) -> Figure:
        """What the rule computes, of its meta-parameters."""
        if self.learned == "coordinates":
            start = ActorCritic(self.discount, self.gae_lambda, self.caution)
            params = coordinate_weights(params, start, self.bins, self.largest_value)
        return draw_lpg(params, longest_life, self.discount)


@dataclasses.dataclass(frozen=True)
class AgentOptimizer:
    """How agents follow their gradient."""

    agent_learning_rate: Annotated[float, NOT_NEGATIVE] = 0.0
    """Adam's learning rate for the agents' policies (0: that of their family of environments)."""
    y_learning_rate: Annotated[float, NOT_NEGATIVE] = 0.0
    """Learning rate of the agents' predictions, SGD's for tables and Adam's for networks (0: that of their family)."""
    learned_initial: bool = False
    """Learn the agents' initial parameters together with the rule."""

    def __post_init__(self) -> None:
        checks.fields(self)

    def recipe(self, kind: Family) -> Part:
        """The optimizer of agents of this family."""
        rates = {"policy": self.agent_learning_rate, "y": self.y_learning_rate}
        return {
            name: {**part, "learning_rate": rates[name] or part["learning_rate"]} if name in rates else part
            for name, part in kind.optimizer.items()
        }


@dataclasses.dataclass(frozen=True)
class Config:
    """Learned Policy Gradient, meta-trained by backpropagation through a few agent updates."""

    run: parts.Run = parts.Run()
    sweep: parts.Sweep = parts.Sweep()
    distribution: parts.Distribution = parts.Distribution()
    agents: parts.Agents = parts.Agents()
    rule: Rule = Rule()
    agent_optimizer: AgentOptimizer = AgentOptimizer()
    estimator: parts.Backprop = parts.Backprop()
    optimizer: parts.ClippedAdam = parts.ClippedAdam()
    replay: parts.Replay = parts.Replay()
    held_out: parts.HeldOut = parts.HeldOut()


@dataclasses.dataclass(frozen=True)
class EvolutionConfig:
    """Learned Policy Gradient, meta-trained by evolution strategies over lifetimes of many lengths."""

    run: parts.Run = parts.Run()
    sweep: parts.Sweep = parts.Sweep()
    distribution: parts.Distribution = parts.Distribution(longest_life=250, shortest_life=10)
    agents: parts.Agents = parts.Agents()
    rule: Rule = replace(Rule(hidden=32, gate_bias=0.0), **UNREGULARISED)
    agent_optimizer: AgentOptimizer = AgentOptimizer()
    estimator: parts.Evolution = parts.Evolution()
    optimizer: parts.DecayedAdam = parts.DecayedAdam()
    replay: parts.Replay = parts.Replay()
    held_out: parts.HeldOut = parts.HeldOut(32, 4, 128, (25, 100, 250, 500, 1000))

    def __post_init__(self) -> None:
        parts.check_whole_lifetimes(self)


PRESETS = {
    "quick": replace(
        Config(), steps=600, longest_life=50, num_lifetimes=64, held_out_seeds=4, held_out_horizons=(10, 50, 250)
    ),
    "small": replace(
        Config(), levels="gridworld/all_shortlife", steps=5_000, num_lifetimes=64, hidden=128, learning_rate=5e-4
    ),
    "paper": replace(
        Config(),
        levels="gridworld/all",
        steps=5_000,
        num_lifetimes=512,
        num_envs=64,
        hidden=256,
        learning_rate=1e-4,
        held_out_levels=256,
    ),
}


def recipe(config: Any) -> Recipe:
    """Agents of the family of the levels, which learn by a learned policy gradient."""
    kind = family(config.distribution.levels, config.distribution.make().environment)
    learned = {"initial": {"name": "learned"}} if config.agent_optimizer.learned_initial else {}
    return {
        "objective": config.rule.recipe(),
        "optimizer": config.agent_optimizer.recipe(kind),
        "network": kind.network,
        "policy": {"name": "by_action_space"},
        "experience": vars(config.agents),
        **learned,
    }


OBJECTIVES = meta_training.Objectives(recipe, meta_training.a2c)


def experiment(name: str, curves: tuple[str, ...], shards: bool = False) -> launch.Experiment:
    """An experiment on learned policy gradients."""
    return meta_training.experiment(name, OBJECTIVES, curves, shards)


CURVES = ("episode_return", "meta_loss", "critic_loss", "policy_entropy", "y_entropy", "meta_gradient_norm")
EXPERIMENT = experiment("lpg", CURVES)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

"""Meta-train a DiscoRL rule (Oh et al. 2025) by truncated meta-gradients, and report on held-out levels.

python -m experiments.disco                      # small gridworlds and agents on tables, minutes on one core
python -m experiments.disco --preset paper       # the sizes of Disco103, on the levels of your choice

`experiments.disco_es` trains it by evolution. `metarl.load_rule` reads the published rule: docs/how-to/disco.md.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from experiments import launch, meta_training, parts
from metarl import checks
from metarl.checks import COUNT, COUNT_OR_ZERO, NOT_NEGATIVE, RATE, SEVERAL, SHARE, WIDTH
from metarl.evaluation.surfaces import draw_disco
from metarl.objectives.disco import DiscoLosses
from metarl.rules import Part, Recipe
from metarl.run.options import replace
from metarl.types import MetaParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Rule:
    """The learned rule."""

    predictions: Annotated[int, SEVERAL] = 600
    """Size of the agent's predictions y of states and z of actions."""
    hidden: Annotated[int, WIDTH] = 256
    """Width of the meta-network's LSTM over rollouts."""
    lifetime_hidden: Annotated[int, WIDTH] = 128
    """Width of the meta-network's LSTM over lifetimes."""
    largest_value: Annotated[int, COUNT] = 300
    """Action values have bins from minus this to this, in a space that brings large values closer together."""
    discount: Annotated[float, SHARE] = 0.997
    """Discount of the returns that action values learn, and of the advantages in a differentiable meta-objective."""
    retrace_lambda: Annotated[float, SHARE] = 0.95
    """How long these returns look ahead (1: to the end of the rollout)."""
    value_coef: Annotated[float, NOT_NEGATIVE] = 0.2
    """Weight of the action values in the agent's loss."""
    target_rate: Annotated[float, SHARE] = 0.1
    """How far the target network moves to the agent's with every update."""
    target_size_coef: Annotated[float, NOT_NEGATIVE] = 1e-3
    """Weight of the squared means of the rule's targets in the meta-objective."""
    policy_change_coef: Annotated[float, NOT_NEGATIVE] = 1e-2
    """Weight of the divergence of the policy targets from the target network's policy in the meta-objective."""

    def __post_init__(self) -> None:
        checks.fields(self)

    def recipe(self) -> Part:
        return {"name": "disco", **vars(self)}

    def draw(self, params: MetaParams, longest_life: int) -> Figure:
        """What the rule computes, of its meta-parameters."""
        return draw_disco(params)


@dataclasses.dataclass(frozen=True)
class Entropy:
    """How a differentiable meta-objective keeps agents random."""

    policy_entropy_coef: Annotated[float, NOT_NEGATIVE] = 1e-2
    """Weight of the updated agents' policy entropy in the meta-objective."""
    prediction_entropy_coef: Annotated[float, NOT_NEGATIVE] = 1e-3
    """Weight of the updated agents' prediction entropy in the meta-objective."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class AgentNetwork:
    """The network of agents, and how it learns."""

    network: Literal["action_model", "mlp", "tabular"] = "action_model"
    """One network with a model that looks one action ahead, or a network of dense layers or a table (for integer
    observations) for each output."""
    torso: tuple[Annotated[int, WIDTH], ...] = (512, 512)
    """Widths of the dense layers."""
    channels: Annotated[int, COUNT_OR_ZERO] = 0
    """Channels of a 3x3 convolution before them, for boards (0: none)."""
    model_width: Annotated[int, WIDTH] = 128
    """Width of the model that looks one action ahead."""
    agent_learning_rate: Annotated[float, RATE] = 5e-4
    """Adam's learning rate for the agents."""
    agent_eps: Annotated[float, NOT_NEGATIVE] = 1e-8
    """Added to the denominator of the agents' Adam. It bounds meta-gradients where the gradients of agents vanish."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.network == "tabular":
            parts.refuse_inert(self, ("torso", "channels", "model_width"), "on tables")
        if self.network == "mlp":
            parts.refuse_inert(self, ("channels", "model_width"), "without a model that looks one action ahead")

    def recipe(self) -> Part:
        """The network as a part of a recipe."""
        if self.network == "tabular":
            return {"name": "tabular"}
        if self.network == "mlp":
            return {"name": "mlp", "sizes": self.torso}
        return {
            "name": "action_model",
            "sizes": self.torso,
            "hidden": self.model_width,
            "channels": self.channels or None,
        }


@dataclasses.dataclass(frozen=True)
class Config:
    """DiscoRL, meta-trained by backpropagation through a few agent updates."""

    run: parts.Run = parts.Run()
    sweep: parts.Sweep = parts.Sweep()
    distribution: parts.Distribution = parts.Distribution("Catch-bsuite", longest_life=1000)
    agents: parts.Agents = parts.Agents(num_envs=32, rollout_length=16)
    rule: Rule = Rule()
    entropy: Entropy = Entropy()
    agent_network: AgentNetwork = AgentNetwork()
    estimator: parts.Backprop = parts.Backprop(updates=2)
    optimizer: parts.ClippedAdam = parts.ClippedAdam(learning_rate=5e-4)
    replay: parts.Replay = parts.Replay()
    held_out: parts.HeldOut = parts.HeldOut()


SMALL_RULE = {"predictions": 8, "hidden": 32, "lifetime_hidden": 16, "largest_value": 5}
TABLES = {"network": "tabular", "agent_learning_rate": 0.3, "agent_eps": 1e-3}
UNREGULARISED = dict.fromkeys(
    ("target_size_coef", "policy_change_coef", "policy_entropy_coef", "prediction_entropy_coef"), 0.0
)
PRESETS = {
    "quick": replace(
        Config(),
        **SMALL_RULE,
        **TABLES,
        **UNREGULARISED,
        levels="gridworld/small",
        longest_life=50,
        num_envs=16,
        rollout_length=20,
        discount=0.99,
        steps=200,
        num_lifetimes=16,
        updates=5,
        learning_rate=3e-3,
        held_out_seeds=4,
    ),
    "paper": replace(Config(), levels="gridworld/all", steps=10_000, num_lifetimes=128, updates=20),
}


def recipe(config: Config) -> Recipe:
    """Agents with a one-step model, whose objective is learned."""
    return agents(config, {**config.rule.recipe(), **vars(config.entropy)})


def agents(config: Any, objective: Part) -> Recipe:
    """The agents of `config`, with this objective."""
    network = config.agent_network
    return {
        "objective": objective,
        "optimizer": {
            "name": "adam",
            "learning_rate": network.agent_learning_rate,
            "max_update": 1.0,
            "eps": network.agent_eps,
        },
        "network": network.recipe(),
        "policy": {"name": "by_action_space"},
        "experience": vars(config.agents),
    }


LOSSES = tuple(f"{name}_loss" for name in DiscoLosses._fields)
CURVES = ("episode_return", "meta_loss", "critic_loss", *LOSSES, "policy_entropy", "meta_gradient_norm")
EXPERIMENT = meta_training.experiment("disco", meta_training.Objectives(recipe, meta_training.a2c), CURVES)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

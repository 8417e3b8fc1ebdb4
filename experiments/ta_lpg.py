"""Meta-train a (temporally-aware) Learned Policy Gradient by evolution over whole lifetimes (Jackson et al. 2024).

python -m experiments.ta_lpg                     # about ten minutes on a laptop CPU
python -m experiments.ta_lpg --no-temporal       # its blind twin
python -m experiments.ta_lpg --preset small
"""

from __future__ import annotations

import dataclasses

import metarl
from experiments import cli, curriculum, evolution, inside
from experiments.agents import family
from experiments.report import a2c_agent as plain_agent
from metarl.meta import InnerLoop, Objective
from metarl.rules import Recipe, cook
from metarl.types import Levels


@dataclasses.dataclass(frozen=True)
class Config(evolution.Evolution):
    """Learned Policy Gradient, aware of the agents' lifetimes, meta-trained by evolution strategies."""

    hidden: int = 32
    """Width of the meta-network's GRU (the paper's 256)."""
    bins: int = 8
    """Size of the agent's prediction y."""
    y_coef: float = 0.5
    """Weight of the prediction in the agent's loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, positive=("hidden",), not_negative=("y_coef",))
        if self.bins < 2:
            raise ValueError(f"bins must be at least 2, got {self.bins}")


PRESETS = {
    "quick": Config(steps=250, num_pairs=64, num_envs=8, batch_size=4, learning_rate_decay=0.99),
    "small": Config(levels="gridworld/all_vrandlife", steps=2_500, num_pairs=64, hidden=64, batch_size=4),
    "paper": Config(
        levels="gridworld/all_vrandlife", steps=2_500, num_pairs=512, num_envs=64, hidden=256, held_out_levels=256
    ),
}


def recipe(config: Config) -> Recipe:
    """A learned policy gradient."""
    options = {name: getattr(config, name) for name in ("bins", "hidden", "temporal", "y_coef")}
    return {"objective": {"name": "lpg", **options}}


def objective(config: Config) -> Objective:
    """That of `recipe`."""
    return cook(recipe(config))["objective"]


def inner_loop(config: Config, levels: Levels) -> InnerLoop:
    """Agents of the kind that `config.levels` asks for, learning by a learned policy gradient."""
    kind = family(config.levels, levels.env)
    return metarl.rl_inner_loop(
        levels.env,
        kind.network,
        objective(config),
        kind.optimizer,
        num_envs=config.num_envs,
        rollout_length=config.rollout_length,
        critic=curriculum.critic(config, kind.critic),
        num_eval_episodes=config.eval_episodes,
    )


def main(argv: list[str] | None = None) -> None:
    evolution.main(
        evolution.Experiment(inner_loop, recipe, plain_agent, inside.draw_lpg), cli.parse(Config, PRESETS, argv)
    )


if __name__ == "__main__":
    main()

"""Meta-train PPO's drift, learned policy optimisation (Lu et al. 2022), by evolution over whole lifetimes.

python -m experiments.lpo                        # about ten minutes on a laptop CPU
python -m experiments.lpo --temporal             # TA-LPO: the drift may change as the agent ages (Jackson et al. 2024)
python -m experiments.lpo --start scratch
"""

from __future__ import annotations

import dataclasses

import optax

import metarl
from experiments import cli, curriculum, evolution, inside
from experiments.agents import family
from metarl.meta import InnerLoop, Objective
from metarl.objectives.lpo import Start
from metarl.rules import Recipe, cook
from metarl.types import Levels


@dataclasses.dataclass(frozen=True)
class Config(evolution.Evolution):
    """Learned policy optimisation, meta-trained by evolution strategies."""

    temporal: bool = False
    """Let the drift change with the agent's age (TA-LPO)."""
    levels: str = "cartpole/varied"
    """Distribution of levels to meta-train on: any name of envs.names()."""
    longest_life: int = 40
    """... to here."""
    num_envs: int = 4
    """Environments of each agent."""
    rollout_length: int = 32
    """Environment steps between two agent updates."""
    start: Start = "ppo"
    """What the drift is before its training: PPO's, or a random network's."""
    hidden: int = 128
    """Width of the drift network."""
    clip: float = 0.2
    """How far PPO's probability ratio may move before its drift sets in."""
    epochs: int = 10
    """Passes over each rollout."""
    minibatches: int = 4
    """Parts that each pass is cut into, with a gradient step for each."""
    agent_learning_rate: float = 1e-3
    """Adam's learning rate for the agents."""
    entropy_coef: float = 0.01
    """Weight of the agents' policy entropy in their loss."""
    held_out_levels: int = 64
    """Levels of the reports at the end, never trained on."""
    held_out_horizons: tuple[int, ...] = (10, 20, 40, 80, 160)
    """Lifetimes at which the horizon plot compares rules, in agent updates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("hidden", "clip", "epochs", "minibatches", "agent_learning_rate")
        cli.check(self, positive=positive, not_negative=("entropy_coef",))


# what `plain_agent` reads
PLAIN_FIELDS = ("clip", "epochs", "minibatches", "agent_learning_rate", "entropy_coef", "eval_episodes")

LONG = (25, 100, 250, 500, 1000)
PRESETS = {
    "quick": Config(steps=100, num_pairs=16, batch_size=4, learning_rate_decay=0.98),
    "small": Config(
        levels="gridworld/all_vrandlife",
        longest_life=250,
        steps=1_000,
        num_pairs=64,
        agent_learning_rate=0.03,
        held_out_horizons=LONG,
    ),
    "paper": Config(
        levels="gridworld/all_vrandlife",
        longest_life=250,
        steps=2_500,
        num_pairs=512,
        num_envs=64,
        agent_learning_rate=0.03,
        held_out_levels=256,
        held_out_horizons=LONG,
    ),
}


def recipe(config: Config) -> Recipe:
    """PPO's objective, with a learned drift."""
    options = {name: getattr(config, name) for name in ("clip", "entropy_coef", "temporal", "start", "hidden")}
    return {"objective": {"name": "lpo", **options}}


def objective(config: Config) -> Objective:
    """That of `recipe`."""
    return cook(recipe(config))["objective"]


def inner_loop(config: Config, levels: Levels) -> InnerLoop:
    """PPO agents of the kind that `config.levels` asks for, with a learned drift."""
    return _agent(config, levels, objective(config))


def plain_agent(config: Config, levels: Levels) -> tuple[str, InnerLoop]:
    """The same agents with PPO's own drift."""
    return "ppo", _agent(config, levels, metarl.objectives.ppo(clip=config.clip, entropy_coef=config.entropy_coef))


def _agent(config: Config, levels: Levels, objective: Objective) -> InnerLoop:
    kind = family(config.levels, levels.env)
    return metarl.rl_inner_loop(
        levels.env,
        kind.network,
        objective,
        optax.chain(optax.clip_by_global_norm(0.5), optax.adam(config.agent_learning_rate, eps=1e-5)),
        num_envs=config.num_envs,
        rollout_length=config.rollout_length,
        epochs=config.epochs,
        minibatches=config.minibatches,
        critic=curriculum.critic(config, kind.critic),
        num_eval_episodes=config.eval_episodes,
    )


def main(argv: list[str] | None = None) -> None:
    experiment = evolution.Experiment(inner_loop, recipe, plain_agent, inside.draw_lpo)
    evolution.main(experiment, cli.parse(Config, PRESETS, argv))


if __name__ == "__main__":
    main()

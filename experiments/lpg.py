"""Meta-train a Learned Policy Gradient (Oh et al. 2020) by truncated meta-gradients, and report on held-out levels.

python -m experiments.lpg                        # a few minutes on a laptop CPU
python -m experiments.lpg --preset small
python -m experiments.lpg --directory runs/lpg --resume
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import optax

import envs
import metarl
from experiments import cli, curriculum, sweeps
from experiments.agents import family
from experiments.report import Judge, a2c_agent, check_held_out, held_out_report
from metarl.run.checkpoint import Log
from metarl.meta import InnerLoop, Meta, MetaState, Objective
from metarl.rules import Recipe, cook
from metarl.types import Levels


@dataclasses.dataclass(frozen=True)
class Config(curriculum.Options):
    """Learned Policy Gradient, meta-trained by backpropagation through a few agent updates."""

    levels: str = "gridworld/small"
    """Distribution of levels to meta-train on: any name of envs.names()."""
    horizon: int = 0
    """Lifetime of an agent in updates (0: the distribution's own)."""
    shortest_life: int = 0
    """Lifetimes are log-uniform from here to `horizon` (0: all of them are `horizon`)."""
    num_lifetimes: int = 32
    """Agents that live side by side."""
    num_envs: int = 16
    """Environments of each agent."""
    rollout_length: int = 20
    """Environment steps between two agent updates."""
    updates: int = 5
    """Agent updates that the meta-gradient flows through (K)."""
    batch_size: int = 0
    """Lifetimes that go through the meta-gradient at a time on each device (0: all); less memory, more time."""
    devices: int = 1
    """Devices (of each process) that lifetimes are dealt out to (0: all that divide their number; on CPU, each core is
    one). A run resumes bit for bit on as many, and up to rounding on others."""
    remat: bool = False
    """Recompute agent updates backwards instead of storing them; less memory, more time."""
    hidden: int = 64
    """Width of the meta-network's GRU (the paper's 256)."""
    bins: int = 8
    """Size of the agent's prediction y."""
    learning_rate: float = 1e-3
    """Adam's learning rate for the meta-parameters."""
    max_gradient_norm: float = 0.5
    """Meta-gradients are scaled down to this global norm."""
    y_coef: float = 0.5
    """Weight of the prediction in the agent's loss."""
    policy_entropy_coef: float = 5e-2
    """Weight of the agents' policy entropy in the meta-objective."""
    y_entropy_coef: float = 1e-3
    """Weight of the agents' prediction entropy in the meta-objective."""
    pi_hat_coef: float = 5e-3
    """Weight of the squared policy targets, a penalty of the meta-objective."""
    y_hat_coef: float = 1e-3
    """Weight of the squared prediction targets, a penalty of the meta-objective."""
    held_out_levels: int = 64
    """Levels of the report at the end, never trained on."""
    held_out_seeds: int = 10
    """Agents per rule and held-out level in the report; 0 for no report."""
    held_out_batch: int = 256
    """Agents of one seed that live side by side on each device in the report."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = (
            "num_lifetimes",
            "num_envs",
            "rollout_length",
            "updates",
            "hidden",
            "learning_rate",
            "max_gradient_norm",
        )
        coefficients = tuple(field.name for field in dataclasses.fields(self) if field.name.endswith("_coef"))
        cli.check(
            self, positive=positive, not_negative=("horizon", "shortest_life", "batch_size", "devices", *coefficients)
        )
        check_held_out(self)
        if self.shortest_life and not self.horizon:
            raise ValueError(f"shortest_life needs horizon, the longest life, got {self.shortest_life} without it")
        if self.shortest_life > self.horizon:
            raise ValueError(f"shortest_life must be at most horizon = {self.horizon}, got {self.shortest_life}")
        if self.bins < 2:
            raise ValueError(f"bins must be at least 2, got {self.bins}")
        if self.batch_size and self.num_lifetimes % self.batch_size:
            raise ValueError(f"batch_size must divide num_lifetimes = {self.num_lifetimes}, got {self.batch_size}")
        if self.devices and self.num_lifetimes // (self.batch_size or 1) % self.devices:
            batches = f" / batch_size = {self.batch_size}" if self.batch_size else ""
            raise ValueError(f"devices must divide num_lifetimes = {self.num_lifetimes}{batches}, got {self.devices}")

    @property
    def lifetimes(self) -> int | tuple[int, int] | None:
        """Of agents, as `envs.make` takes them."""
        return (self.shortest_life, self.horizon) if self.shortest_life else self.horizon or None


PRESETS = {
    "quick": Config(steps=600, checkpoint_every=100),
    "small": Config(levels="gridworld/all_shortlife", steps=5_000, num_lifetimes=64, hidden=128, learning_rate=5e-4),
    "paper": Config(
        levels="gridworld/all",
        steps=5_000,
        num_lifetimes=512,
        num_envs=64,
        hidden=256,
        learning_rate=1e-4,
        held_out_levels=256,
    ),
}

CURVES = ("episode_return", "meta_loss", "critic_loss", "policy_entropy", "y_entropy", "meta_gradient_norm")


def recipe(config: Config) -> Recipe:
    """A learned policy gradient."""
    names = (
        *("bins", "hidden", "y_coef"),
        *("policy_entropy_coef", "y_entropy_coef", "pi_hat_coef", "y_hat_coef"),
    )
    return {"objective": {"name": "lpg", **{name: getattr(config, name) for name in names}}}


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
        critic=metarl.Critic(kind.critic),
    )


def make(config: Config, levels: Levels) -> Meta:
    """The meta-training run that `config` describes."""
    chosen, score = curriculum.make(config, levels)
    size = config.batch_size or None
    devices = cli.training_devices(config.num_lifetimes // (size or 1), config.devices)
    return curriculum.logged(
        metarl.compose(
            inner_loop(config, levels),
            metarl.estimators.backprop(config.updates, batch_size=size, remat=config.remat, devices=devices),
            optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(config.learning_rate)),
            chosen,
            config.num_lifetimes,
            score,
        )
    )


def run(config: Config) -> None:
    """Trains, draws what the curriculum chose, and reports on held-out levels."""
    with cli.clean_exit():
        if config.devices != 1:
            cli.one_device_per_core()
        cli.join(config)

        def report(state: MetaState, log: Log, directory: Path) -> cli.Report:
            levels = envs.make(config.levels, config.lifetimes)
            inner = inner_loop(config, levels)
            curriculum.draw_gallery(config, levels, inner, objective(config), state, directory)
            if not config.held_out_seeds:
                return {}
            judge = Judge(config, levels, a2c_agent(config, levels))
            rules = {"trained": lambda key: state.params, "untrained": inner.init_meta}
            return held_out_report(judge, judge.players(inner, rules))

        def rule(config: Config) -> Meta:
            return make(config, envs.make(config.levels, config.lifetimes))

        sweeps.launch(rule, config, curves=(*CURVES, *curriculum.CURVES), report=report, recipe=recipe)


def main(argv: list[str] | None = None) -> None:
    run(cli.parse(Config, PRESETS, argv))


if __name__ == "__main__":
    main()

"""Train plain A2C, PPO and DPO agents, many at once, and report how well they play: the baselines of everything else.

python -m experiments.agent                        # PPO on CartPole, about a minute on a laptop CPU
python -m experiments.agent --preset breakout
python -m experiments.agent --preset pendulum --objective dpo   # against --objective ppo
python -m experiments.agent --env Acrobot-v1 --objective a2c --sweep learning_rate=1e-3,3e-4 entropy_coef=0,0.01

Agents of all seeds live side by side in one compiled program, each on a level of its own. One meta-step of the run is
one update of every agent.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from tyro.conf import arg

import envs
import metarl
from experiments import cli, sweeps
from experiments.agents import family
from metarl.run.checkpoint import Log
from metarl.evaluation.measure import normalised_return
from metarl.meta import InnerLoop, Lifetimes, Meta, MetaState, Objective
from metarl.rl.networks import NetworkFactory
from metarl.types import Array, Key, Levels, Metrics

FOREVER = 2**31 - 1  # the agents' horizon: no objective here looks at it, and a resumed run may go on longer


@dataclasses.dataclass(frozen=True)
class Config(cli.Run):
    """A2C, PPO or DPO agents without anything meta-learned, one per seed."""

    steps: Annotated[int, arg(aliases=("--updates",))] = 500
    """Updates of each agent, those before a resume included."""
    env: str = "CartPole-v1"
    """Environment or distribution of levels: any name of envs.names()."""
    objective: Literal["a2c", "ppo", "dpo"] = "ppo"
    """What the agents minimise (dpo: PPO with the drift that was discovered in place of its clipping)."""
    num_seeds: int = 8
    """Agents, each with its own seed and level."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    num_envs: int = 8
    """Environments of each agent."""
    rollout_length: int = 128
    """Environment steps between two agent updates."""
    epochs: int = 4
    """Passes over each rollout."""
    minibatches: int = 4
    """Parts that each pass is cut into, with a gradient step for each."""
    network: Literal["auto", "tabular", "mlp", "conv", "gru"] = "auto"
    """What agents are made of (auto: what experiments.agents gives this family of environments)."""
    discount: float = 0.99
    """Weight of the next step's reward."""
    gae_lambda: float = 0.95
    """Weight of the next step's advantage (1: returns as sampled, 0: one-step differences)."""
    clip: float = 0.2
    """How far PPO's probability ratio may move (only PPO has it)."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    entropy_coef: float = 0.01
    """Weight of the policy's entropy."""
    normalise_advantage: bool = True
    """Scale advantages to zero mean and unit deviation over each minibatch."""
    max_gradient_norm: float = 0.5
    """Gradients are scaled down to this global norm."""
    eval_episodes: int = 32
    """Episodes of each agent in the evaluation at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("num_envs", "rollout_length", "epochs", "minibatches", "eval_episodes")
        positive = (*counts, "learning_rate", "clip", "max_gradient_norm")
        cli.check(self, positive=positive, not_negative=("value_coef", "entropy_coef"))
        for name in ("discount", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.num_seeds < 2:
            raise ValueError(f"num_seeds must be at least 2 for an interval, got {self.num_seeds}")


PRESETS = {
    "quick": Config(steps=300, num_envs=16),
    "catch": Config(env="Catch-bsuite", steps=200, rollout_length=36),
    "gridworld": Config(
        env="gridworld/small",
        objective="a2c",
        steps=250,
        num_seeds=32,
        learning_rate=0.1,
        num_envs=16,
        rollout_length=20,
        epochs=1,
        minibatches=1,
    ),
    "breakout": Config(
        env="Breakout-MinAtar",
        steps=60,
        num_seeds=2,
        num_envs=32,
        rollout_length=64,
        minibatches=8,
        network="conv",
    ),
    "pendulum": Config(
        env="Pendulum-v1",
        steps=150,
        rollout_length=256,
        epochs=10,
        minibatches=16,
        discount=0.95,
        entropy_coef=0.0,
    ),
}


class Agent(NamedTuple):
    """One agent, and the mean return of the episodes that it ended last: a short rollout may see none end."""

    lifetime: Any
    episode_return: Array  # ()


def inner_loop(config: Config, levels: Levels) -> InnerLoop:
    """How an agent learns."""
    options: dict[str, Any] = {
        "discount": config.discount,
        "gae_lambda": config.gae_lambda,
        "value_coef": config.value_coef,
        "entropy_coef": config.entropy_coef,
        "normalise_advantage": config.normalise_advantage,
    }
    objectives: dict[str, Objective] = {
        "a2c": metarl.objectives.a2c(**options),
        "ppo": metarl.objectives.ppo(clip=config.clip, **options),
        "dpo": metarl.objectives.dpo(**options),
    }
    networks: dict[str, NetworkFactory] = {
        "auto": family(config.env, levels.env).network,
        "tabular": metarl.networks.tabular,
        "mlp": metarl.networks.mlp(),
        "conv": metarl.networks.minatar_conv(),
        "gru": metarl.networks.gru(),
    }
    return metarl.rl_inner_loop(
        levels.env,
        networks[config.network],
        objectives[config.objective],
        optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(config.learning_rate, eps=1e-5)),
        num_envs=config.num_envs,
        rollout_length=config.rollout_length,
        epochs=config.epochs,
        minibatches=config.minibatches,
        num_eval_episodes=config.eval_episodes,
    )


def make(config: Config, levels: Levels) -> Meta:
    """All agents of `config` as one run, with state and metrics [seeds]; no agent's step depends on another."""
    inner = inner_loop(config, levels)

    def init(key: Key) -> MetaState:
        def newborn(key: Key) -> Agent:
            level_key, agent_key = jax.random.split(key)
            level = levels.sample(level_key)._replace(horizon=jnp.int32(FOREVER))
            return Agent(inner.init(agent_key, level), jnp.float32(jnp.nan))

        agents = jax.vmap(newborn)(jax.random.split(key, config.num_seeds))
        none: dict[str, Any] = dict(params=(), opt_state=(), estimator=(), curriculum=(), score=())
        return MetaState(step=jnp.int32(0), lifetimes=agents, **none)

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        def live(agent: Agent, key: Key) -> tuple[Agent, Metrics]:
            older, _, metrics = inner.step(inner.init_meta(key), agent.lifetime, key)
            recent = metrics["episode_return"]
            recent = jnp.where(jnp.isnan(recent), agent.episode_return, recent)
            return Agent(older, recent), {**metrics, "episode_return": recent}

        agents, metrics = jax.vmap(live)(state.lifetimes, jax.random.split(key, config.num_seeds))
        metrics["lifetime_loss"] = metrics["policy_loss"] + metrics["value_loss"]  # training stops if it is not finite
        metrics["agent_updates"] = jnp.int32(config.num_seeds)
        metrics["env_steps"] = jnp.int32(config.num_seeds * inner.env_steps)
        return state._replace(step=state.step + 1, lifetimes=agents), metrics

    return Meta(init, step)


CURVES = ("episode_return", "policy_entropy", "value_loss")


def report(config: Config, levels: Levels, state: MetaState) -> dict[str, dict[str, float]]:
    """Evaluation returns of the agents: mean over seeds, 95 % interval, worst and best seed.

    Beside them newborn agents, whose policy is uniform or nearly so, and the optimum where it is known.
    """
    inner = inner_loop(config, levels)

    @jax.jit
    def play(lifetimes: Lifetimes, key: Key) -> Array:
        keys = jax.random.split(key, config.num_seeds)
        return jax.vmap(partial(inner.fitness, inner.init_meta(key)))(lifetimes, keys)

    def score(returns: Array) -> dict[str, float]:
        ones = jnp.ones(config.num_seeds)  # on the scale from 0 to 1: returns as they are, resampled over seeds
        interval = normalised_return(returns[None], 0.0 * ones, ones)
        return {**interval._asdict(), "worst": float(returns.min()), "best": float(returns.max())}

    key = jax.random.key(config.seed)
    trained = state.lifetimes.lifetime
    newborn = jax.vmap(inner.init)(jax.random.split(key, config.num_seeds), trained.level)
    results = {"trained": score(play(trained, key)), "newborn": score(play(newborn, key))}
    if optimum := envs.optimal_return(levels.env):
        results["optimal"] = score(jax.lax.map(optimum, trained.level.env_params))
    return results


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit():

        def evaluation(state: MetaState, log: Log, directory: Path) -> cli.Report:
            return report(config, envs.make(config.env), state)

        score = f"evaluation return on {config.env}"

        def agents(config: Config) -> Meta:
            return make(config, envs.make(config.env))

        sweeps.launch(agents, config, curves=CURVES, report=evaluation, score=score)


if __name__ == "__main__":
    main()

"""Train plain A2C, PPO and DPO agents, many at once, and report how well they play: the baselines of everything else.

python -m experiments.agent                        # PPO on CartPole, about a minute on a laptop CPU
python -m experiments.agent --preset breakout
python -m experiments.agent --preset pendulum --objective dpo   # against --objective ppo
python -m experiments.agent --env Acrobot-v1 --objective a2c --sweep learning_rate=1e-3,3e-4 entropy_coef=0,0.01

Agents of all seeds live side by side in one compiled program, each on a level of its own. One meta-step of the run is
one update of every agent. `agent.safetensors` is the best of them, for `metarl.load_agent`, and `agent.gif` shows it
play, where the environment can be drawn.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

import envs
import metarl
from experiments import launch, parts
from metarl import checks, plot
from metarl.checks import COUNT, NOT_NEGATIVE, POSITIVE, RATE, SEVERAL, SHARE
from metarl.evaluation import gallery
from metarl.evaluation.families import family
from metarl.evaluation.scales import normalised_return
from metarl.inner.rl import Agent
from metarl.meta import InnerLoop, Meta
from metarl.rl.rollout import Model, model
from metarl.rules import Part, Recipe, build, build_part
from metarl.run.checkpoint import Log
from metarl.run.options import replace
from metarl.saved_agents import AGENT_FILE
from metarl.types import Array, Key, Levels, Metrics

FOREVER = 2**31 - 1  # the agents' horizon: no objective here looks at it, and a resumed run may go on longer


@dataclasses.dataclass(frozen=True)
class Population:
    """The agents."""

    env: str = "CartPole-v1"
    """Environment or distribution of levels: any name that envs.make accepts."""
    num_seeds: Annotated[int, SEVERAL] = 8
    """Agents, each with its own seed and level."""
    network: Literal["auto", "tabular", "mlp", "minatar_conv", "gru", "lstm", "transformer"] = "auto"
    """Their network (auto: that of the papers for this family of environments)."""
    eval_episodes: Annotated[int, COUNT] = 32
    """Episodes of each agent in the evaluation at the end."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(env=self.env)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the agents learn."""

    objective: Literal["a2c", "ppo", "dpo"] = "ppo"
    """What they minimise (dpo: PPO with the drift that was discovered in place of its clipping)."""
    learning_rate: Annotated[float, RATE] = 1e-3
    """Adam's learning rate."""
    max_gradient_norm: Annotated[float, POSITIVE] = 0.5
    """Gradients are scaled down to this global norm."""
    discount: Annotated[float, SHARE] = 0.99
    """Weight of the next step's reward."""
    gae_lambda: Annotated[float, SHARE] = 0.95
    """Weight of the next step's advantage (1: returns as sampled, 0: one-step differences)."""
    clip: Annotated[float, POSITIVE] = 0.2
    """How far PPO's probability ratio may move (only PPO has it)."""
    value_coef: Annotated[float, NOT_NEGATIVE] = 0.5
    """Weight of the value loss."""
    entropy_coef: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight of the policy's entropy."""
    normalise_advantage: bool = True
    """Scale advantages to zero mean and unit deviation over each minibatch."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.objective != "ppo":
            parts.refuse_inert(self, ("clip",), f"with objective {self.objective}")

    def recipe(self) -> Part:
        shared = ("discount", "gae_lambda", "value_coef", "entropy_coef", "normalise_advantage")
        names = (*shared, "clip") if self.objective == "ppo" else shared
        return {"name": self.objective, **{name: getattr(self, name) for name in names}}

    def optimizer(self) -> Part:
        """How agents follow its gradient."""
        return {"name": "adam", "learning_rate": self.learning_rate, "max_norm": self.max_gradient_norm, "eps": 1e-5}


@dataclasses.dataclass(frozen=True)
class Config:
    """A2C, PPO or DPO agents without anything meta-learned, one per seed."""

    run: parts.Run = parts.Run(steps=300)
    sweep: parts.Sweep = parts.Sweep()
    population: Population = Population()
    agents: parts.Agents = parts.Agents(num_envs=8, rollout_length=128)
    passes: parts.Passes = parts.Passes(epochs=4, minibatches=4)
    rule: Rule = Rule()


PRESETS = {
    "quick": replace(Config(), num_envs=16),
    "catch": replace(Config(), env="Catch-bsuite", steps=200, rollout_length=36),
    "gridworld": replace(
        Config(),
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
    "breakout": replace(
        Config(),
        env="Breakout-MinAtar",
        steps=60,
        num_seeds=2,
        num_envs=32,
        rollout_length=64,
        minibatches=8,
        network="minatar_conv",
    ),
    "pendulum": replace(
        Config(),
        env="Pendulum-v1",
        steps=150,
        rollout_length=256,
        epochs=10,
        minibatches=16,
        discount=0.95,
        entropy_coef=0.0,
    ),
}


class State(NamedTuple):
    """The state of the run: agents of all seeds. Leaves [seeds, ...]."""

    agents: Agent
    episode_return: Array  # [seeds], of the episodes that ended last: a short rollout may see none end


def recipe(config: Config, levels: Levels) -> Recipe:
    """The agents."""
    kind, rule = family(config.population.env, levels.environment), config.rule
    return {
        "objective": rule.recipe(),
        "optimizer": rule.optimizer(),
        "network": kind.network if config.population.network == "auto" else {"name": config.population.network},
        "policy": {"name": "by_action_space"},
        "experience": {**vars(config.agents), **vars(config.passes)},
    }


def inner_loop(config: Config, levels: Levels) -> InnerLoop:
    """How an agent learns."""
    learner = build(recipe(config, levels))
    return learner.inner_loop(levels.environment, num_eval_episodes=config.population.eval_episodes)


def make(config: Config, levels: Levels | None = None) -> Meta:
    """All agents of `config` as one run, on `levels`, or those called `config.population.env`: see `side_by_side`."""
    levels = envs.make(config.population.env) if levels is None else levels
    return side_by_side(inner_loop(config, levels), levels, config.population.num_seeds)


def side_by_side(inner: InnerLoop, levels: Levels, count: int) -> Meta:
    """`count` agents as one run, each on a level of its own, with state and metrics [count].

    No agent's step depends on another.
    """

    def init(key: Key) -> State:
        def newborn(key: Key) -> Agent:
            level_key, agent_key = jax.random.split(key)
            return inner.init(agent_key, levels.sample(level_key)._replace(horizon=jnp.int32(FOREVER)))

        return State(jax.vmap(newborn)(jax.random.split(key, count)), jnp.full(count, jnp.nan, jnp.float32))

    def step(state: State, key: Key) -> tuple[State, Metrics]:
        agents, _, metrics = jax.vmap(inner.step, (None, 0, 0))({}, state.agents, jax.random.split(key, count))
        recent = metrics["episode_return"]
        recent = jnp.where(jnp.isnan(recent), state.episode_return, recent)
        watched = metrics["policy_loss"] + metrics["value_loss"]  # training stops if it is not finite
        costs = {"agent_updates": jnp.int32(count), "env_steps": metrics["env_steps"].sum()}
        return State(agents, recent), {**metrics, "episode_return": recent, "lifetime_loss": watched, **costs}

    return Meta(init, step)


def report(config: Config, state: State, log: Log, directory: Path) -> launch.Report:
    """Evaluation returns of the agents: mean over seeds, 95 % interval, worst and best seed.

    Beside them newborn agents, whose policy is uniform or nearly so, and the optimum where it is known. Saves the best
    agent, and writes `agent.gif` of it where levels have pictures.
    """
    levels, count = envs.make(config.population.env), config.population.num_seeds
    inner = inner_loop(config, levels)
    fitness = inner.fitness
    assert fitness is not None

    @jax.jit
    def play(agents: Agent, key: Key) -> Array:
        return jax.vmap(partial(fitness, {}))(agents, jax.random.split(key, count))

    def score(returns: Array) -> dict[str, float]:
        ones = jnp.ones(count)  # on the scale from 0 to 1: returns as they are, resampled over seeds
        interval = normalised_return(returns[None], 0.0 * ones, ones)
        return {**interval._asdict(), "worst": float(returns.min()), "best": float(returns.max())}

    key, trained = jax.random.key(config.run.seed), state.agents
    newborn = jax.vmap(inner.init)(jax.random.split(key, count), trained.level)
    returns = play(trained, key)
    results = {"trained": score(returns), "newborn": score(play(newborn, key))}
    if optimum := levels.optimal_return:
        results["optimal"] = score(jax.lax.map(optimum, trained.level.problem))
    place = jnp.where(jnp.isfinite(returns), returns, -jnp.inf).argmax()
    best: Agent = jax.tree.map(lambda x: x[place], trained)
    about = recipe(config, levels)
    outputs, card = build_part("objective", about["objective"]).outputs, launch.origin(EXPERIMENT, config)
    metarl.save_agent(directory / AGENT_FILE, best.params, levels.environment, about["network"], outputs, card)
    draw(levels, model(levels.environment, build_part("network", about["network"]), outputs), best, directory)
    return results


def draw(levels: Levels, played: Model, agent: Agent, directory: Path) -> None:
    """Writes `agent.gif` of an agent at play, if levels have pictures. A failure is one line on the error stream."""
    if levels.render is None:
        return
    try:
        frames = gallery.watch(levels, played, agent.params, agent.level.problem)
        plot.save_animation(frames, directory / "agent.gif")
    except Exception as error:  # each renderer fails in its own way, and the returns are worth more than a picture
        print(f"no agent.gif: {type(error).__name__}: {error}", file=sys.stderr)


EXPERIMENT = launch.Experiment(
    "agent",
    make,
    curves=("episode_return", "policy_entropy", "value_loss"),
    report=report,
    score="evaluation return",
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()

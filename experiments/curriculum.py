"""What experiments share that choose the levels they meta-train on: options, what is logged of it, and pictures."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import envs
import metarl
from envs import gridworld
from experiments import cli
from experiments.agents import family
from experiments.report import a2c_agent
from metarl import curricula, plot
from metarl.rl import rollout
from metarl.curricula import scores
from metarl.curricula.replay import Buffer, Prioritisation, replay_metrics
from metarl.meta import Curriculum, InnerLoop, Meta, MetaState, Objective, Score, no_score
from metarl.types import Key, Level, Levels, Metrics, Params

ScoreName = Literal["uniform", "frozen", "random", "regret", "optimal", "pvl", "l1", "maxmc"]
NO_REPLAY = ("uniform", "frozen")
PICTURES = 5  # of each kind in the gallery
FRAMES = 200  # of the animation


@dataclasses.dataclass(frozen=True)
class Options(cli.Run):
    """Which levels are trained on."""

    score: ScoreName = "uniform"
    """What makes a level worth another agent: regret against A2C or against the optimum, positive or absolute value
    loss, MaxMC, or a random number. Or no replay: fresh levels only (uniform), or `capacity` levels for ever (frozen).
    """
    capacity: int = 1000
    """Levels that the buffer holds."""
    replay_probability: float = 0.5
    """How often a newborn agent gets a level of the buffer."""
    prioritisation: Prioritisation = "rank"
    """Levels are replayed by the rank of their score, or in proportion to it."""
    temperature: float = 1.0
    """The higher, the more alike are the probabilities of levels."""
    staleness: float = 0.0
    """Share of replays that go by how long ago a level was lived on."""
    warm_up: int = 32
    """No replay before so many levels have a score."""
    mutation_probability: float = 0.0
    """How often a level that would be fresh is an edit of one in the buffer (tabular gridworlds only)."""
    score_batch: int = 4
    """Lifetimes that are scored at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, positive=("capacity", "temperature", "warm_up", "score_batch"))
        for name in ("replay_probability", "staleness", "mutation_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.score in NO_REPLAY:
            if self.mutation_probability:
                raise ValueError(f"mutation_probability must be 0 with score {self.score}, which has no buffer to edit")
        elif self.warm_up > self.capacity:
            raise ValueError(f"warm_up must be at most capacity = {self.capacity}, got {self.warm_up}")


def critic(config: Any, optimizer: optax.GradientTransformation) -> metarl.Critic | None:
    """A critic of each lifetime, if the score of `config` asks for one."""
    return metarl.Critic(optimizer) if config.score in ("pvl", "l1", "maxmc") else None


CURVES = ("score_median", "score_high", "replayed_share", "level_horizon", "level_size", "level_objects")


def make(config: Any, levels: Levels) -> tuple[Curriculum, Score]:
    """The curriculum that `config` describes, and the score that it asks for.

    Raises ValueError for the optimum where it is not known, and for mutation of levels that are no tabular gridworlds.
    """
    if config.score == "uniform":
        return curricula.uniform(levels), no_score()
    if config.score == "frozen":
        return curricula.fixed(levels, config.capacity), no_score()
    optimum = envs.optimal_return(levels.env)
    if config.score == "optimal" and optimum is None:
        raise ValueError(f"score optimal needs levels whose optimal return is known, got {config.levels!r}")
    if config.mutation_probability and not (isinstance(levels.env, gridworld.Gridworld) and levels.env.tabular):
        raise ValueError(f"mutation_probability must be 0 for levels that are no tabular gridworlds: {config.levels!r}")
    curriculum = curricula.replay(
        levels,
        config.capacity,
        probability=config.replay_probability,
        prioritisation=config.prioritisation,
        temperature=config.temperature,
        staleness=config.staleness,
        warm_up=config.warm_up,
        mutate=gridworld.mutate if config.mutation_probability else None,
        mutation_probability=config.mutation_probability,
    )
    score = {
        "random": lambda: scores.of_ended(lambda inner, meta_params, lifetime, key: jax.random.uniform(key)),
        "regret": lambda: scores.algorithmic_regret(a2c_agent(config, levels)[1], config.score_batch),
        "optimal": lambda: scores.optimal_regret(optimum, config.score_batch),
        "pvl": lambda: scores.positive_value_loss(config.score_batch),
        "l1": lambda: scores.l1_value_loss(config.score_batch),
        "maxmc": scores.max_monte_carlo,
    }[config.score]()
    return curriculum, score


def features(levels: Level) -> Metrics:
    """Means over levels [n]: of their lifetimes, and of gridworlds' free cells, objects and longest episodes."""
    params, means = levels.env_params, {"level_horizon": levels.horizon.mean(dtype=jnp.float32)}
    if isinstance(params, gridworld.GridworldParams):
        means["level_size"] = params.free.sum(1).mean(dtype=jnp.float32)
        means["level_objects"] = params.num_objects.mean(dtype=jnp.float32)
        means["level_max_steps"] = params.max_steps.mean(dtype=jnp.float32)
    return means


def chosen(state: MetaState) -> Metrics:
    """What levels the agents live on, and what the buffer, if there is one, is and does."""
    buffer = replay_metrics(state.curriculum) if isinstance(state.curriculum, Buffer) else {}
    return {**buffer, **features(state.lifetimes.level)}


def logged(meta: Meta) -> Meta:
    """`meta`, whose metrics also have `chosen`."""

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        state, metrics = meta.step(state, key)
        return state, {**metrics, **chosen(state)}

    return Meta(meta.init, step)


def draw_gallery(
    config: Any, levels: Levels, inner: InnerLoop, objective: Objective, state: MetaState, directory: Path
) -> None:
    """Pictures of the levels with the highest and the lowest scores, and an agent that the rule has trained on one.

    Writes `gallery.png` and, of the agent's first steps after a whole life on the highest level, `agent.gif`; nothing
    if there is no buffer or its levels are no gridworlds. `objective` is that of the agents of `inner`.
    """
    buffer, env = state.curriculum, levels.env
    if not isinstance(buffer, Buffer) or not isinstance(env, gridworld.Gridworld):
        return
    score = np.where(buffer.filled, buffer.score, np.nan)
    order = np.argsort(-score)[: np.isfinite(score).sum()]  # NaN comes last
    if not len(order):
        print("no level has a score yet: no gallery", file=sys.stderr)
        return
    count = min(PICTURES, -(-len(order) // 2))
    pictures = {}
    for place in [*range(count), *range(len(order) - count, len(order))]:
        level = jax.tree.map(lambda x: np.asarray(x[order[place]]), buffer.levels)  # noqa: B023
        name = f"{place + 1} of {len(order)}: {score[order[place]]:.3g}\n{int(level.horizon)} updates"
        pictures[name] = gridworld.render(env, level.env_params)
    plot.save(plot.pictures(pictures, columns=count), directory / "gallery.png")

    level = jax.tree.map(lambda x: jnp.asarray(x[order[0]]), buffer.levels)
    live = jax.jit(metarl.train_agent, static_argnums=(0, 4))
    agent, _ = live(inner, state.params, level, jax.random.key(0), int(level.horizon))
    model = rollout.model(env, family(config.levels, env).network, dict(objective.outputs))
    states = _episodes(env, model, agent.params, level.env_params)
    frames = [
        gridworld.render(env, level.env_params, jax.tree.map(lambda x: x[t], states))  # noqa: B023
        for t in range(FRAMES)
    ]
    plot.save_animation(frames, directory / "agent.gif")


def _episodes(env: gridworld.Gridworld, model: rollout.Model, params: Params, env_params: Any) -> Any:
    """The states (leaves [FRAMES, ...]) that an agent goes through from the start of an episode."""
    start = rollout.reset(env, model, env_params, jax.random.key(1), 1)

    def act(actors: rollout.Actors, key: Key) -> tuple[rollout.Actors, Any]:
        after, _ = rollout.act(env, model, params, actors, env_params, jax.random.split(key))
        return after, jax.tree.map(lambda x: x[0], actors.state)

    scan = jax.jit(lambda actors: jax.lax.scan(act, actors, jax.random.split(jax.random.key(2), FRAMES)))
    return jax.device_get(scan(start)[1])

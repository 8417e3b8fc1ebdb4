"""Pictures of the levels that a curriculum replays, and of an agent that the rule has trained on one of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl import plot
from metarl.curricula.replay import Buffer, ReplayState
from metarl.inner.initial import parameters
from metarl.inner.rl import train_agent
from metarl.meta import MetaState
from metarl.rl.rollout import Actors, Model, act, model, reset
from metarl.rules import Learner
from metarl.types import Environment, Key, Level, Levels, Params, PyTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = 5  # of each kind
FRAMES = 200


def write(levels: Levels, learner: Learner, state: MetaState, directory: Path) -> None:
    """Writes `gallery.png`, and `agent.gif` of an agent that the rule has trained on the level of the highest score.

    Writes nothing if the run did not replay levels, or if they have no picture.
    """
    if not isinstance(state.curriculum, ReplayState) or levels.render is None:
        return
    buffer = state.curriculum.buffer
    order = _by_score(buffer)
    if not len(order):
        print("no level has a score yet: no gallery", file=sys.stderr)
        return
    plot.save(draw(levels, buffer), directory / "gallery.png")
    level = jax.tree.map(lambda x: jnp.asarray(x[order[0]]), buffer.levels)
    plot.save_animation(frames(levels, learner, state.params, level), directory / "agent.gif")


def draw(levels: Levels, buffer: Buffer) -> Figure:
    """Pictures of the levels of `buffer` with the highest and the lowest scores.

    Raises ValueError for levels that have no picture (`Levels.render`), and if none has a score.
    """
    order, score = _by_score(buffer), np.asarray(buffer.score)
    if levels.render is None or not len(order):
        raise ValueError("a gallery needs levels with pictures (Levels.render) and with scores")
    count = min(PICTURES, -(-len(order) // 2))
    pictures = {}
    for place in [*range(count), *range(len(order) - count, len(order))]:
        level = _at(buffer.levels, order[place])
        name = f"{place + 1} of {len(order)}: {score[order[place]]:.3g}\n{int(level.horizon)} updates"
        pictures[name] = levels.render(level.problem)
    return plot.pictures(pictures, columns=count)


def frames(levels: Levels, learner: Learner, params: Any, level: Level) -> list[Any]:
    """Pictures of the first steps of an agent of `learner`, after a whole life on `level` by the rule `params`.

    Raises ValueError for levels that have no picture.
    """
    env = levels.environment
    if levels.render is None or learner.network is None or learner.objective is None:
        raise ValueError("frames need levels with pictures (Levels.render) and the learner of an agent")
    live = jax.jit(train_agent, static_argnums=(0, 4))
    agent, _ = live(learner.inner_loop(env), params, level, jax.random.key(0), int(level.horizon))
    played = model(env, learner.network, learner.objective.outputs)
    return watch(levels, played, parameters(params, agent), level.problem)


def watch(levels: Levels, agent: Model, params: Params, problem: PyTree) -> list[Any]:
    """Pictures [height, width, 3] uint8 of the first steps of an agent with the parameters `params`.

    `metarl.plot.save_animation` makes a file of them. Raises ValueError for levels that have no picture.
    """
    if levels.render is None:
        raise ValueError("an agent can be watched on levels with pictures (Levels.render) only")
    states = _episodes(levels.environment, agent, params, problem)
    return [levels.render(problem, _at(states, t)) for t in range(FRAMES)]


def _by_score(buffer: Buffer) -> np.ndarray:
    """The places of the levels that have a score, the highest first."""
    score = np.where(buffer.filled, buffer.score, np.nan)
    return np.argsort(-score)[: np.isfinite(score).sum()]  # NaN comes last


def _at(tree: PyTree, place: int) -> PyTree:
    return jax.tree.map(lambda x: x[place], tree)


def _episodes(env: Environment, agent: Model, params: Params, problem: PyTree) -> PyTree:
    """The states (leaves [FRAMES, ...]) that an agent goes through from the start of an episode."""

    def step(actors: Actors, key: Key) -> tuple[Actors, PyTree]:
        after, _ = act(env, agent, params, actors, problem, jax.random.split(key))
        return after, jax.tree.map(lambda x: x[0], actors.state)

    start = reset(env, agent, problem, jax.random.key(1), 1)
    scan = jax.jit(lambda actors: jax.lax.scan(step, actors, jax.random.split(jax.random.key(2), FRAMES)))
    return jax.device_get(scan(start)[1])

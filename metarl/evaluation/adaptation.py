"""Ways of adapting compared on the same tasks: what each earns while it plays tasks that it does not know.

Strategies change their memory at every step, and learners follow gradients. The tasks are equal for all of them, and
so are the keys of the environments that strategies play in: differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.checks import COUNT, checked
from metarl.evaluation.statistics import Interval, over_runs
from metarl.evaluation.suites import BINS
from metarl.inner.rl import train_agent
from metarl.optimizers.learned import LearnedOptimizer, as_learned
from metarl.rules import Learner
from metarl.strategies import Strategy, play, returns
from metarl.types import Array, Environment, Key, Level, Levels, MetaParams, PyTree

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # on the updates of learners, to tune their step sizes


class Played(NamedTuple):
    """What one strategy earned on n tasks of T steps."""

    action: np.ndarray  # [n, T, ...]
    reward: np.ndarray  # [n, T]
    ended: np.ndarray  # [n, T] return of the episode that ended at this step; NaN where none did

    @property
    def total(self) -> np.ndarray:
        """The sum of all rewards [n]."""
        return self.reward.sum(-1)

    @property
    def episodes(self) -> np.ndarray:
        """Returns [n, most episodes of a task] of the episodes that ended, then NaN."""
        unfinished = np.isnan(self.ended)
        order = unfinished.argsort(1, kind="stable")[:, : max(1, (~unfinished).sum(1).max())]
        return np.take_along_axis(self.ended, order, 1)


@checked
def play_tasks(
    env: Environment,
    strategies: Mapping[str, Strategy],
    problems: PyTree,
    key: Key,
    steps: Annotated[int, COUNT],
    batch_size: Annotated[int, COUNT] = 100,
) -> dict[str, Played]:
    """Every strategy plays `steps` steps of each task: `env` with one of `problems`, leaves [n, ...].

    `batch_size` tasks go side by side. Raises ValueError if a count is below 1.
    """
    keys = jax.random.split(key, len(jax.tree.leaves(problems)[0]))

    def one(strategy: Strategy, task: tuple[PyTree, Key]) -> tuple[Array, Array, Array]:
        found = play(env, strategy, *task, steps)
        episode = jnp.cumsum(found.done) - found.done
        return found.action, found.reward, jnp.where(found.done, returns(found, steps)[episode], jnp.nan)

    def played(strategy: Strategy) -> Played:
        found = jax.jit(lambda tasks: jax.lax.map(partial(one, strategy), tasks, batch_size=batch_size))
        return Played(*(np.asarray(x) for x in found((problems, keys))))

    return {name: played(strategy) for name, strategy in strategies.items()}


def draw_tasks(levels: Levels, key: Key, count: int) -> Level:
    """`count` levels, leaves [count, ...]."""
    return jax.jit(jax.vmap(levels.sample))(jax.random.split(key, count))


def per_episode(played: Played) -> list[Interval]:
    """Mean return of each episode over the tasks that ended it, with its 95 % interval; those of at least two tasks.

    Where episodes differ in length, late ones are of the tasks in which episodes are short.
    """
    columns = (column[np.isfinite(column)] for column in played.episodes.T)
    return [over_runs(column) for column in columns if len(column) > 1]


class Learned(NamedTuple):
    """What learners earned on n tasks, one for each of some seeds and each task."""

    curves: np.ndarray  # [seeds, n, BINS], see `curves`
    factors: list[float]  # on the updates of each seed's learners


@checked
def learn_tasks(
    env: Environment,
    learner: Learner,
    params: Sequence[MetaParams],
    training: PyTree,
    tasks: PyTree,
    key: Key,
    updates: Annotated[int, COUNT],
    batch_size: Annotated[int, COUNT] = 100,
) -> Learned:
    """Newborn learners make `updates` updates on each of `tasks`: `env` with these problems, leaves [n, ...].

    `params` are the meta-parameters of each seed. All updates of a seed's learners are multiplied by the best of
    `FACTORS` for its meta-parameters, by the mean over the n problems `training`, on which they learn as on the tasks.
    """
    keys = jax.random.split(key, len(jax.tree.leaves(tasks)[0]))

    @jax.jit  # one program for all seeds and factors: a loop over them within it would be compiled for each number
    def learn(params: MetaParams, factor: Array, problems: PyTree) -> Array:
        def one(task: tuple[PyTree, Key]) -> Array:
            problem, key = task
            inner, level = scaled(learner, factor).inner_loop(env), Level(problem, jnp.int32(updates))
            return train_agent(inner, params, level, key, updates)[1]["episode_return"]

        return jax.lax.map(one, (problems, keys), batch_size=batch_size)

    def earned(params: MetaParams, factor: float, problems: PyTree) -> np.ndarray:
        return curves(np.asarray(learn(params, jnp.float32(factor), problems)))

    def tuned(params: MetaParams) -> float:
        values = [earned(params, factor, training).mean() for factor in FACTORS]
        return FACTORS[int(np.argmax(values))]

    factors = [tuned(each) for each in params]
    return Learned(np.stack([earned(x, factor, tasks) for x, factor in zip(params, factors, strict=True)]), factors)


def scaled(learner: Learner, factor: Array | float) -> Learner:
    """`learner` with all of its updates times `factor`."""
    plain = as_learned(learner.optimizer)

    def transform(params: MetaParams) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optax.chain(plain.transform(params), optax.scale(factor)))

    return learner._replace(optimizer=LearnedOptimizer(plain.init, transform))


def curves(ended: np.ndarray) -> np.ndarray:
    """[n, BINS] of returns [n, T] of episodes that ended, NaN where none did: their means over parts of the T points.

    A part in which no episode ended has the value of the part before, or of the next one if there is none. Raises
    ValueError for a task in which no episode ended.
    """
    parts = ended.reshape(len(ended), BINS, -1)
    counts = np.isfinite(parts).sum(-1)
    if not counts.any(1).all():
        raise ValueError("no episode ended in a task: give tasks more steps")
    means = np.nansum(parts, -1) / np.maximum(counts, 1)
    index = np.maximum.accumulate(np.where(counts, np.arange(BINS), -1), 1)
    return np.take_along_axis(means, np.where(index < 0, counts.astype(bool).argmax(1)[:, None], index), 1)


def over_seeds(values: np.ndarray) -> Interval:
    """Mean of `values` [seeds, n] on n tasks, with a 95 % interval over seeds; over tasks where there is one seed."""
    return over_runs(values.mean(1) if len(values) > 1 else values[0])

"""Scores of levels, by which `metarl.curricula.replay` chooses: each function here returns a `Score`.

They are that of GROOVE (Jackson et al. 2023, arXiv 2310.02782) and those that GROOVE is compared with. Any function of
one lifetime makes a score: `of_ended(lambda inner, meta_params, lifetime, key: ...)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import interface
from metarl.checks import COUNT, SEVERAL, SHARE, checked
from metarl.inner.rl import ValueJudge
from metarl.meta import InnerLoop, Lifetimes, advance
from metarl.tree import select
from metarl.types import Array, Key, Level, MetaParams, PyTree


class Score(NamedTuple):
    """Estimates from lifetimes how much there is to learn on their levels."""

    init: Callable[[Key, Level], PyTree]  # (key, levels of new lifetimes) -> state; leaves [n, ...] of both
    # (inner, meta_params, state, lifetimes, ended [n] bool, key) -> scores [n] (used where `ended`), state.
    # Called in every meta-step, so that a score can follow lifetimes before they end.
    update: Callable[[InnerLoop, MetaParams, PyTree, Lifetimes, Array, Key], tuple[Array, PyTree]]


@checked
def of_ended(
    function: Callable[[InnerLoop, MetaParams, Any, Key], Array], batch_size: Annotated[int, COUNT] = 4
) -> Score:
    """The score `function(inner, meta_params, lifetime, key)` (), computed only for lifetimes that ended.

    `batch_size` of them are scored at a time, so the time depends on how many ended, although no shape does.
    Raises ValueError if `batch_size` is not positive, or for what is no function.
    """

    def update(
        inner: InnerLoop, meta_params: MetaParams, state: PyTree, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[Array, PyTree]:
        keys = jax.random.split(key, len(ended))
        return _where(ended, lambda x: function(inner, meta_params, *x), (lifetimes, keys), batch_size), state

    return Score(lambda key, levels: (), update)


def uniformly_random(batch_size: int = 4) -> Score:
    """A random number, for comparison: replay then prefers no level."""
    return of_ended(lambda inner, meta_params, lifetime, key: jax.random.uniform(key), batch_size)


@checked
def algorithmic_regret(antagonist: InnerLoop, batch_size: Annotated[int, COUNT] = 4) -> Score:
    """The fitness of a learner of `antagonist` (such as A2C) on the level, minus that of the lifetime's learner.

    Each lifetime has an antagonist, which is trained on the same level for as many updates, at the same time. Both are
    tested with the same random numbers when the lifetime ends (Jackson et al. 2023, section 4). Under evolution the
    lifetime's learner is the one that the estimator keeps: with `es` the better one of a pair, both of which learned
    with perturbed meta-parameters.

    Raises ValueError if `batch_size` is not positive, or if an inner loop has no fitness.
    """
    interface.part("antagonist", antagonist, InnerLoop)
    antagonist_fitness = _fitness(antagonist, "an antagonist")
    antagonist_params = antagonist.init_meta(jax.random.key(0))  # empty for a hand-made agent

    def init(key: Key, levels: Level) -> PyTree:
        return jax.vmap(antagonist.init)(jax.random.split(key, len(levels.horizon)), levels)

    def update(
        inner: InnerLoop, meta_params: MetaParams, agents: PyTree, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[Array, PyTree]:
        learn_key, test_key = jax.random.split(key)

        def learn(loop: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            t, agents = loop
            keys = jax.random.split(jax.random.fold_in(learn_key, t), len(ended))
            after = jax.vmap(advance, (None, None, 0, 0))(antagonist, antagonist_params, agents, keys).lifetime
            return t + 1, select(agents.step < lifetimes.step, after, agents)

        def behind(loop: tuple[Array, PyTree]) -> Array:
            return (loop[1].step < lifetimes.step).any()

        _, agents = jax.lax.while_loop(behind, learn, (jnp.int32(0), agents))

        def regret(x: tuple[Any, Any, Key]) -> Array:
            lifetime, agent, key = x
            return antagonist_fitness(antagonist_params, agent, key) - _fitness(inner)(meta_params, lifetime, key)

        return _where(ended, regret, (lifetimes, agents, jax.random.split(test_key, len(ended))), batch_size), agents

    return Score(init, update)


def optimal_regret(optimum: Callable[[PyTree], Array] | None, batch_size: int = 4) -> Score:
    """The optimal return on the level, `optimum(problem)` (), minus the fitness of the lifetime's agent.

    `optimum` is usually `Levels.optimal_return`. Raises ValueError if it is None, which means that it is unknown.
    """
    if optimum is None:
        raise ValueError("optimal_regret needs levels whose optimal return is known, such as tabular ones; got None")
    best = optimum

    def regret(inner: InnerLoop, meta_params: MetaParams, lifetime: Any, key: Key) -> Array:
        return best(lifetime.level.problem) - _fitness(inner)(meta_params, lifetime, key)

    return of_ended(regret, batch_size)


@checked
def learnability(
    player: InnerLoop,
    succeeds: Callable[[PyTree, Array], Array],
    num_episodes: Annotated[int, SEVERAL] = 16,
    batch_size: Annotated[int, COUNT] = 4,
) -> Score:
    """p (1 - p), where p is the rate at which the lifetime's agent succeeds (Rutherford et al. 2024, arXiv 2408.15099).

    It is highest, 0.25, on levels that the agent masters every other time, and 0 where it always or never succeeds. p
    is the share of `num_episodes` episodes; the score is NaN if the return of one is. `player` is the inner loop of the
    agents with `num_eval_episodes=1`, whose fitness is the return of one episode. `succeeds(problem, return)` () bool
    says whether an episode of this return was a success: see `success`.

    Raises ValueError if there are fewer than 2 episodes (of one, p (1 - p) is always 0), if `batch_size` is not
    positive, or if `player` has no fitness.
    """
    episode = interface.part("player", player, InnerLoop).fitness
    if episode is None:
        raise ValueError("learnability plays episodes, but `player` has no fitness")

    def score(inner: InnerLoop, meta_params: MetaParams, lifetime: Any, key: Key) -> Array:
        keys = jax.random.split(key, num_episodes)
        returns = jax.vmap(episode, (None, None, 0))(meta_params, lifetime, keys)
        rate = jax.vmap(succeeds, (None, 0))(lifetime.level.problem, returns).mean()
        return jnp.where(jnp.isnan(returns).any(), jnp.nan, rate * (1.0 - rate))

    return of_ended(score, batch_size)


@checked
def success(
    optimum: Callable[[PyTree], Array] | None, share: Annotated[Array | float, SHARE] = 0.5
) -> Callable[[PyTree, Array], Array]:
    """What counts as success where environments do not say so: a function (problem, return) -> () bool.

    The return must be at least `share` of the optimal one, `optimum(problem)` (usually `Levels.optimal_return`). Of a
    negative optimum x it must be at least `x - (1 - share) |x|`, which for positive ones is the same. Where the optimum
    is not known (None), the return must be positive. Raises ValueError if `share` is not from 0 to 1.
    """
    if optimum is None:
        return lambda problem, episode_return: episode_return > 0.0
    best = optimum

    def succeeds(problem: PyTree, episode_return: Array) -> Array:
        highest = best(problem)
        return episode_return >= highest - (1.0 - share) * jnp.abs(highest)

    return succeeds


@checked
def positive_value_loss(judge: ValueJudge, batch_size: int = 4) -> Score:
    """PVL: the mean of `max(A, 0)` over a rollout, where A is the advantage (GAE) under the lifetime's own critic.

    `judge` is `metarl.inner.rl.value_judge(...)` with the same parts as the agents. Raises ValueError for any other.
    """
    return of_ended(
        lambda inner, meta_params, lifetime, key: jnp.maximum(judge(meta_params, lifetime, key)[1].advantage, 0).mean(),
        batch_size,
    )


@checked
def l1_value_loss(judge: ValueJudge, batch_size: int = 4) -> Score:
    """The mean of `|A|` over a rollout, with A and `judge` as in `positive_value_loss`."""
    return of_ended(
        lambda inner, meta_params, lifetime, key: jnp.abs(judge(meta_params, lifetime, key)[1].advantage).mean(),
        batch_size,
    )


@checked
def max_monte_carlo(judge: ValueJudge) -> Score:
    """MaxMC: the highest return of an episode on the level, minus the mean value under the lifetime's own critic.

    Returns are those of a new rollout of the lifetime at the end of each meta-step; the score is NaN if no episode
    ended in them. Returns of earlier lifetimes on the same level are not used. `judge` as in `positive_value_loss`.
    """

    def init(key: Key, levels: Level) -> Array:
        return jnp.full(len(levels.horizon), -jnp.inf)

    def update(
        inner: InnerLoop, meta_params: MetaParams, best: Array, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[Array, Array]:
        def look(lifetime: Any, key: Key) -> tuple[Array, Array]:
            data, targets = judge(meta_params, lifetime, key)
            returns = jnp.where(jnp.isnan(data.episode_return), -jnp.inf, data.episode_return)
            return returns.max(), targets.value.mean()

        highest, value = jax.vmap(look)(lifetimes, jax.random.split(key, len(ended)))
        best = jnp.maximum(best, highest)
        return jnp.where(jnp.isfinite(best), best - value, jnp.nan), best

    return Score(init, update)


def _fitness(inner: InnerLoop, what: str = "the inner loop") -> Callable[[MetaParams, Any, Key], Array]:
    if inner.fitness is None:
        raise ValueError(f"regret compares fitness, but {what} has none")
    return inner.fitness


def _where(wanted: Array, function: Callable[[Any], Array], xs: PyTree, batch_size: int) -> Array:
    """`function` of those entries of `xs` (leaves [n, ...]) that are `wanted` [n], in batches; NaN for the others."""
    count = len(wanted)

    def some(loop: tuple[Array, Array]) -> tuple[Array, Array]:
        left, values = loop
        index = jnp.argsort(~left)[:batch_size]  # those that are left come first
        new = jax.vmap(function)(jax.tree.map(lambda x: x[index], xs))
        values = values.at[jnp.where(left[index], index, count)].set(new, mode="drop")
        return left.at[index].set(False), values

    return jax.lax.while_loop(lambda loop: loop[0].any(), some, (wanted, jnp.full(count, jnp.nan)))[1]

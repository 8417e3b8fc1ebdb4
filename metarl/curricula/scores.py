"""How much a lifetime that ended says for training on its level again: each function here returns a `Score`.

For GROOVE (Jackson et al. 2023, arXiv 2310.02782), and what it is compared with. Any function of one lifetime is a
score, too: `of_ended(lambda inner, meta_params, lifetime, key: ...)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.inner.rl import ValueJudge
from metarl.meta import InnerLoop, Lifetimes, advance
from metarl.tree import select
from metarl.types import Array, Key, Level, MetaParams, PyTree


class Score(NamedTuple):
    """How much there is to learn on a level, told by the lifetimes that are spent on it."""

    init: Callable[[Key, Level], PyTree]  # of newborn lifetimes on levels with leaves [n, ...]; leaves [n, ...]
    # (inner, meta_params, state, lifetimes, ended [n] bool, key) -> scores [n] (of those that ended), state.
    # Called in every meta-step, so that a score may follow lifetimes while they last.
    update: Callable[[InnerLoop, MetaParams, PyTree, Lifetimes, Array, Key], tuple[Array, PyTree]]


def of_ended(function: Callable[[InnerLoop, MetaParams, Any, Key], Array], batch_size: int = 4) -> Score:
    """`function(inner, meta_params, lifetime, key)` () of the lifetimes that ended, and of no other.

    `batch_size` of them are scored at a time: the time it takes depends on how many ended, and no shape does.
    Raises ValueError if `batch_size` is not positive.
    """
    _check(batch_size)

    def update(
        inner: InnerLoop, meta_params: MetaParams, state: PyTree, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[Array, PyTree]:
        keys = jax.random.split(key, len(ended))
        return _where(ended, lambda x: function(inner, meta_params, *x), (lifetimes, keys), batch_size), state

    return Score(lambda key, levels: (), update)


def uniformly_random(batch_size: int = 4) -> Score:
    """A random number: replay that prefers no level, for comparison."""
    return of_ended(lambda inner, meta_params, lifetime, key: jax.random.uniform(key), batch_size)


def algorithmic_regret(antagonist: InnerLoop, batch_size: int = 4) -> Score:
    """What a learner of `antagonist` (such as A2C) earns on the level, less what the lifetime's learner does.

    Antagonists are born with the lifetimes, keep pace with them, all side by side, and live as long, on the same level.
    Both are tested with the same random numbers when they end (Jackson et al. 2023, section 4). Under evolution the
    lifetime's learner is one that the estimator hands on: of `es` the better of a pair, both of which learned by
    perturbed rules.

    Raises ValueError if `batch_size` is not positive, or if an inner loop has no fitness.
    """
    _check(batch_size)
    earned = _fitness(antagonist, "an antagonist")
    meta_params = antagonist.init_meta(jax.random.key(0))  # of a hand-made agent: nothing

    def init(key: Key, levels: Level) -> PyTree:
        return jax.vmap(antagonist.init)(jax.random.split(key, len(levels.horizon)), levels)

    def update(
        inner: InnerLoop, rule: MetaParams, agents: PyTree, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[Array, PyTree]:
        learn_key, test_key = jax.random.split(key)

        def learn(loop: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            t, agents = loop
            keys = jax.random.split(jax.random.fold_in(learn_key, t), len(ended))
            older = jax.vmap(advance, (None, None, 0, 0))(antagonist, meta_params, agents, keys).lifetime
            return t + 1, select(agents.step < lifetimes.step, older, agents)

        def behind(loop: tuple[Array, PyTree]) -> Array:
            return (loop[1].step < lifetimes.step).any()

        _, agents = jax.lax.while_loop(behind, learn, (jnp.int32(0), agents))

        def regret(x: tuple[Any, Any, Key]) -> Array:
            lifetime, agent, key = x
            return earned(meta_params, agent, key) - _fitness(inner)(rule, lifetime, key)

        return _where(ended, regret, (lifetimes, agents, jax.random.split(test_key, len(ended))), batch_size), agents

    return Score(init, update)


def optimal_regret(optimum: Callable[[PyTree], Array] | None, batch_size: int = 4) -> Score:
    """The best return that there is on a level, `optimum(problem)` (), less what the lifetime's agent earns.

    Raises ValueError if `optimum` is None, as `Levels.optimal_return` is where the best return is not known.
    """
    if optimum is None:
        raise ValueError("optimal_regret needs levels whose optimal return is known, such as tabular ones; got None")
    best = optimum

    def regret(inner: InnerLoop, meta_params: MetaParams, lifetime: Any, key: Key) -> Array:
        return best(lifetime.level.problem) - _fitness(inner)(meta_params, lifetime, key)

    return of_ended(regret, batch_size)


def positive_value_loss(judge: ValueJudge, batch_size: int = 4) -> Score:
    """PVL: the mean of `max(A, 0)` over a rollout, with advantages A (GAE) under the lifetime's own critic.

    `judge` is `metarl.inner.rl.value_judge(...)` of the parts that the agents are made of.
    """
    return of_ended(
        lambda inner, meta_params, lifetime, key: jnp.maximum(judge(lifetime, key)[1].advantage, 0.0).mean(), batch_size
    )


def l1_value_loss(judge: ValueJudge, batch_size: int = 4) -> Score:
    """The mean of `|A|` over a rollout, with advantages A (GAE) under the lifetime's own critic; `judge` as for PVL."""
    return of_ended(
        lambda inner, meta_params, lifetime, key: jnp.abs(judge(lifetime, key)[1].advantage).mean(), batch_size
    )


def max_monte_carlo(judge: ValueJudge) -> Score:
    """MaxMC: the greatest return seen on the level, less the mean value that the lifetime's own critic expects.

    Seen in one further rollout of the lifetime at the end of each meta-step. NaN if no episode ended in any of them.
    (A level that is lived on again starts anew: earlier agents' returns are not remembered.) `judge` as for PVL.
    """

    def init(key: Key, levels: Level) -> Array:
        return jnp.full(len(levels.horizon), -jnp.inf)

    def update(
        inner: InnerLoop, meta_params: MetaParams, best: Array, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[Array, Array]:
        def look(lifetime: Any, key: Key) -> tuple[Array, Array]:
            data, targets = judge(lifetime, key)
            finished = jnp.where(jnp.isnan(data.episode_return), -jnp.inf, data.episode_return)
            return finished.max(), targets.value.mean()

        seen, value = jax.vmap(look)(lifetimes, jax.random.split(key, len(ended)))
        best = jnp.maximum(best, seen)
        return jnp.where(jnp.isfinite(best), best - value, jnp.nan), best

    return Score(init, update)


def _fitness(inner: InnerLoop, what: str = "the inner loop") -> Callable[[MetaParams, Any, Key], Array]:
    if inner.fitness is None:
        raise ValueError(f"regret compares fitness, but {what} has none")
    return inner.fitness


def _where(wanted: Array, function: Callable[[Any], Array], xs: PyTree, batch_size: int) -> Array:
    """`function` of the `wanted` [n] entries of `xs` (leaves [n, ...]), `batch_size` at a time; NaN for the others."""
    count = len(wanted)

    def some(loop: tuple[Array, Array]) -> tuple[Array, Array]:
        left, values = loop
        index = jnp.argsort(~left)[:batch_size]  # stable: those that are left come first
        new = jax.vmap(function)(jax.tree.map(lambda x: x[index], xs))
        values = values.at[jnp.where(left[index], index, count)].set(new, mode="drop")
        return left.at[index].set(False), values

    return jax.lax.while_loop(lambda loop: loop[0].any(), some, (wanted, jnp.full(count, jnp.nan)))[1]


def _check(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 lifetime, got {batch_size}")

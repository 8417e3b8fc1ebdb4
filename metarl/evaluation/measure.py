"""Measuring agents: their returns at the end of their lives, and while they learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, checked
from metarl.meta import InnerLoop, advance, done
from metarl.parallel import Placement
from metarl.types import Array, Key, Level, MetaParams, PyTree


@checked
def final_returns(
    inner: InnerLoop,
    meta_params: MetaParams,
    levels: Level,
    key: Key,
    *,
    num_seeds: Annotated[int, COUNT],
    placement: Placement = Placement(),  # noqa: B008
) -> Array:
    """Fitness [num_seeds, n] of agents that have lived on each of `levels` (leaves [n, ...]), one per seed.

    Every agent is a newborn that lives to its level's horizon; with a horizon of 0 it stays a newborn.
    `placement` is that of agents. Pure: jit it. Raises ValueError for an inner loop without fitness.
    """
    fitness = _fitness(inner)
    num_levels = levels.horizon.shape[0]

    def lifetime(common: tuple[MetaParams, Level], x: tuple[Array, Array]) -> Array:
        meta_params, levels = common
        key, index = x
        train_key, test_key = jax.random.split(key)
        agent = live(inner, meta_params, jax.tree.map(lambda leaf: leaf[index], levels), train_key)
        return fitness(meta_params, agent, test_key)

    keys = jax.random.split(key, num_seeds * num_levels)
    indices = jnp.tile(jnp.arange(num_levels), num_seeds)
    returns = placement.balanced_map(lifetime, (meta_params, levels), (keys, indices), levels.horizon[indices])
    return returns.reshape(num_seeds, num_levels)


def live(inner: InnerLoop, meta_params: MetaParams, level: Level, key: Key) -> Any:
    """The lifetime of a newborn that has lived on `level` to its horizon; with a horizon of 0 it stays a newborn."""
    init_key, step_key = jax.random.split(key)

    def update(loop: tuple[Array, Any]) -> tuple[Array, Any]:
        t, agent = loop
        return t + 1, advance(inner, meta_params, agent, jax.random.fold_in(step_key, t)).lifetime

    start = jnp.int32(0), inner.init(init_key, level)
    return jax.lax.while_loop(lambda loop: ~done(loop[1]), update, start)[1]


def learning_curves(
    make: Callable[[PyTree], InnerLoop],
    hypers: PyTree,
    levels: Level,
    keys: Key,
    ends: Sequence[int],
    placement: Placement = Placement(),  # noqa: B008
) -> Array:
    """Fitness [n, points] of n newborn agents after each of `ends` (updates, ascending), NaN of one that diverged.

    Each has its own of `levels`, `keys` and `hypers` (leaves [n, ...]; `()` for none) and lives by `make(hypers)`, in
    which nothing is left to learn; to temporal rules its life ends at the last of `ends`. Pure: jit it.
    """

    def life(_: PyTree, x: tuple[PyTree, Level, Key]) -> Array:
        hypers, level, key = x
        init_key, step_key, test_key = jax.random.split(key, 3)
        inner = make(hypers)
        meta_params = inner.init_meta(init_key)

        def update(t: Array, agent: Any) -> Any:
            return advance(inner, meta_params, agent, jax.random.fold_in(step_key, t)).lifetime

        def segment(agent: Any, span: tuple[Array, Array]) -> tuple[Any, Array]:
            start, end = span
            agent = jax.lax.fori_loop(start, end, update, agent)
            return agent, _fitness(inner)(meta_params, agent, jax.random.fold_in(test_key, end))

        newborn = inner.init(init_key, level._replace(horizon=jnp.int32(ends[-1])))
        return jax.lax.scan(segment, newborn, (jnp.array([0, *ends[:-1]]), jnp.array(ends)))[1]

    return placement.map(life, (), (hypers, levels, keys))


def _fitness(inner: InnerLoop) -> Callable[[MetaParams, Any, Key], Array]:
    if inner.fitness is None:
        raise ValueError("this inner loop has no fitness, so what it learns cannot be measured")
    return inner.fitness

"""What both distillations share: lives by a rule, whose metrics are watched, and descent of a loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.inner.rl import train_agent
from metarl.rl.objective import Objective
from metarl.rules import Learner
from metarl.types import Array, Environment, Key, Level, MetaParams, Metrics, PyTree


def watched_lives(
    learner: Learner,
    watched: Callable[[Objective], Objective],
    meta_params: MetaParams,
    env: Environment,
    levels: Level,
    key: Key,
    updates: int,
    kept: Callable[[Metrics], PyTree],
) -> PyTree:
    """What is `kept` of the metrics of one life of `updates` updates on each of `levels`; leaves [lives, ...].

    `watched` adds metrics to the learner's objective, and `kept` is given metrics with leaves [updates, ...]. Raises
    ValueError for a learner without an objective.
    """
    objective = interface.part("learner.objective", learner.objective, Objective)
    inner = learner._replace(objective=watched(objective)).inner_loop(env)
    levels = levels._replace(horizon=jnp.full_like(levels.horizon, updates))
    live = jax.jit(jax.vmap(lambda level, key: kept(train_agent(inner, meta_params, level, key, updates)[1])))
    return live(levels, jax.random.split(key, len(levels.horizon)))


def descended(
    loss: Callable[[MetaParams, Key], Array], params: MetaParams, optimizer: optax.GradientTransformation, keys: Key
) -> MetaParams:
    """The parameters after one step down `loss`, which returns (), for each of `keys` [n]."""

    def step(state: tuple[MetaParams, PyTree], key: Key) -> tuple[tuple[MetaParams, PyTree], None]:
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(loss)(params, key), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.jit(partial(jax.lax.scan, step))((params, optimizer.init(params)), keys)[0][0]

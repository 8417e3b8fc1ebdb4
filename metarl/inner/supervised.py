"""Supervised learning as an inner loop: what optimizers are meta-trained on before, or beside, agents."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.meta import InnerLoop, Update
from metarl.optimizers.learned import LearnedOptimizer, as_learned, born, check_fits, transform
from metarl.tree import all_finite
from metarl.types import Array, Key, Level, Levels, MetaParams, Params, Progress, PyTree, Task


class Training(NamedTuple):
    """Parameters that are being trained on one problem."""

    params: Params
    opt_state: PyTree
    level: Level
    step: Array  # () int32, updates so far


def supervised_inner_loop(task: Task, optimizer: optax.GradientTransformation | LearnedOptimizer) -> InnerLoop:
    """One problem of `task` per lifetime: a gradient step on a fresh minibatch, again and again.

    The meta-parameters are `{"objective": (), "optimizer": ...}`, the latter `()` unless the optimizer is learned.
    Beyond the gradient, an update is given `progress`, `epoch_progress` (0: there are no epochs), `layers` (on the
    minibatch; `()` of a task without) and a fresh `key`.
    Its `loss` is `task.test` at the parameters as they are, its `fitness` minus that, or NaN if they are not finite.

    Raises ValueError for an optimizer that does not fit the task's parameters.
    """
    learned = as_learned(optimizer)
    check_fits(learned, lambda key: task.init(key, task.sample(key)), "the task's parameters")

    def init_meta(key: Key) -> MetaParams:
        return {"objective": (), "optimizer": learned.init(key)}

    def init(key: Key, level: Level) -> Training:
        param_key, optimizer_key = jax.random.split(key)
        params, opt_state = born(learned, partial(_init, task, level), param_key, optimizer_key)
        return Training(params, opt_state, level, jnp.int32(0))

    def step(meta_params: MetaParams, training: Training, key: Key) -> Update:
        batch_key, optimizer_key = jax.random.split(key)
        params, problem = training.params, training.level.problem
        value, gradient = jax.value_and_grad(task.loss)(params, problem, batch_key)
        updates, opt_state = transform(learned, meta_params).update(
            gradient,
            training.opt_state,
            params,
            progress=Progress(training.step, training.level.horizon),
            epoch_progress=jnp.zeros(()),
            layers=task.layers(params, problem, batch_key) if task.layers else (),
            key=optimizer_key,
        )
        older = Training(optax.apply_updates(params, updates), opt_state, training.level, training.step + 1)
        return Update(older, jnp.zeros(()), {"loss": value})

    def loss(meta_params: MetaParams, training: Training, key: Key) -> Update:
        return Update(training, task.test(training.params, training.level.problem), {})

    def fitness(meta_params: MetaParams, training: Training, key: Key) -> Array:
        value = task.test(training.params, training.level.problem)
        return jnp.where(all_finite(training.params), -value, jnp.nan)

    return InnerLoop(init_meta, init, step, loss, fitness)


def _init(task: Task, level: Level, key: Key) -> Params:
    return task.init(key, level.problem)


def task_levels(task: Task, horizon: int) -> Levels:
    """Problems of `task`, with lifetimes of `horizon` updates. There is no environment.

    Raises ValueError if `horizon` is not positive.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 update, got {horizon}")
    return Levels(lambda key: Level(task.sample(key), jnp.int32(horizon)))

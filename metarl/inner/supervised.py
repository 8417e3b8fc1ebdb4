"""Supervised learning as an inner loop: what optimizers are meta-trained on before, or beside, agents."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.meta import InnerLoop, LearnedOptimizer, Update, all_finite, as_learned, select
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics, Params, Progress, PyTree, Task


class Training(NamedTuple):
    """Parameters that are being trained on one problem."""

    params: Params
    opt_state: PyTree
    level: Level  # its env_params are the problem
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

    def init_learner(param_key: Key, optimizer_key: Key, problem: PyTree) -> tuple[Params, PyTree]:
        params = task.init(param_key, problem)
        # an optimizer's first state depends on the shapes of its meta-parameters only
        return params, learned.transform(learned.init(optimizer_key)).init(params)

    key = jax.random.key(0)
    try:
        jax.eval_shape(lambda key: init_learner(key, key, task.sample(key)), key)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"the optimizer does not fit the task's parameters: {error}") from error

    def init_meta(key: Key) -> MetaParams:
        return {"objective": (), "optimizer": learned.init(key)}

    def init(key: Key, level: Level) -> Training:
        param_key, optimizer_key = jax.random.split(key)
        return Training(*init_learner(param_key, optimizer_key, level.env_params), level, jnp.int32(0))

    def done(training: Training) -> Array:
        return training.step >= training.level.horizon

    def step(meta_params: MetaParams, training: Training, key: Key) -> Update:
        batch_key, optimizer_key = jax.random.split(key)
        params, problem = training.params, training.level.env_params
        value, gradient = jax.value_and_grad(task.loss)(params, problem, batch_key)
        # meta-parameters that were saved leave out what is not learned
        updates, opt_state = learned.transform(meta_params.get("optimizer", ())).update(
            gradient,
            training.opt_state,
            params,
            progress=Progress(training.step, training.level.horizon),
            epoch_progress=jnp.zeros(()),
            layers=task.layers(params, problem, batch_key) if task.layers else (),
            key=optimizer_key,
        )
        params = optax.apply_updates(params, updates)
        older = training._replace(params=params, opt_state=opt_state, step=training.step + 1)
        return Update(select(done(training), training, older), jnp.zeros(()), {"loss": value})

    def loss(meta_params: MetaParams, training: Training, key: Key) -> tuple[Array, tuple[Training, Metrics]]:
        return task.test(training.params, training.level.env_params), (training, {})

    def fitness(meta_params: MetaParams, training: Training, key: Key) -> Array:
        value = task.test(training.params, training.level.env_params)
        return jnp.where(all_finite(training.params), -value, jnp.nan)

    return InnerLoop(init_meta, init, step, loss, fitness, done)


def levels(task: Task, horizon: int) -> Levels:
    """Problems of `task`, with lifetimes of `horizon` updates. There is no environment.

    Raises ValueError if `horizon` is not positive.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 update, got {horizon}")
    return Levels(None, lambda key: Level(task.sample(key), jnp.int32(horizon)))  # type: ignore[arg-type]

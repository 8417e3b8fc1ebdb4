"""Supervised learning as an inner loop, to meta-train optimizers on."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.checks import COUNT, checked
from metarl.gradients import GradientOf, forward_over_reverse, reverse_over_reverse
from metarl.inner.initial import Initial, start, with_initial
from metarl.meta import InnerLoop, Update
from metarl.optimizers.learned import LearnedOptimizer, as_learned, check_fits, init_learner, transform
from metarl.tree import all_finite
from metarl.types import Array, Key, Level, Levels, MetaParams, Params, Progress, PyTree, Task


class Training(NamedTuple):
    """The lifetime of a supervised learner: parameters that are trained on one problem."""

    params: Params
    opt_state: PyTree
    level: Level
    step: Array  # () int32, updates so far


@checked
def supervised_inner_loop(
    task: Task, optimizer: optax.GradientTransformation | LearnedOptimizer, *, initial: Initial = "random"
) -> InnerLoop:
    """One problem of `task` per lifetime. Every update is a gradient step on a new minibatch.

    The meta-parameters are `{"objective": (), "optimizer": ...}`, with `()` unless the optimizer is learned.
    `initial` may be parameters, for all learners to begin with. If it is "learned" (`metarl.inner.initial`) the
    meta-parameters have a third part, `"initial"`, and `Training.params` is the distance from it.
    The optimizer gets the gradient and the extra arguments `progress`, `epoch_progress` (always 0), `layers` (on the
    minibatch; `()` if the task has none) and a new `key`.
    `loss` is `task.test` of the present parameters. `fitness` is minus that, and NaN if they are not finite.

    Raises ValueError for what is no `Task`, and for an optimizer that does not fit the task's parameters.
    """
    interface.part("task", task, Task)
    learned = as_learned(optimizer)

    def init_params(key: Key) -> Params:
        return task.init(key, task.sample(key))

    begin = start(initial, init_params, "the task's parameters")
    if begin is not init_params:
        task = task._replace(init=lambda key, problem: begin(key))
    check_fits(learned, init_params, "the task's parameters")

    def measured(problem: PyTree, key: Key, params: Params) -> tuple[Array, Array]:
        """The loss, and the loss again as what else is of interest."""
        found = interface.array(interface.title("Task.loss", task.loss), task.loss(params, problem, key), ())
        return found, found

    def init_meta(key: Key) -> MetaParams:
        return {"objective": (), "optimizer": learned.init(key)}

    def init(key: Key, level: Level) -> Training:
        param_key, optimizer_key = jax.random.split(key)
        params, opt_state = init_learner(learned, lambda key: task.init(key, level.problem), param_key, optimizer_key)
        return Training(params, opt_state, level, jnp.int32(0))

    def step(gradient_of: GradientOf, meta_params: MetaParams, training: Training, key: Key) -> Update:
        batch_key, optimizer_key = jax.random.split(key)
        params, problem = training.params, training.level.problem
        gradient, value = gradient_of(partial(measured, problem, batch_key))(params)
        updates, opt_state = interface.follow(
            "optimizer",
            transform(learned, meta_params).update,
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

    def born(meta_params: MetaParams, training: Training, params: Params) -> Training:
        return training._replace(params=params, opt_state=transform(learned, meta_params).init(params))

    inner = InnerLoop(
        init_meta,
        init,
        step=partial(step, reverse_over_reverse),
        loss=loss,
        fitness=fitness,
        mixed_step=partial(step, forward_over_reverse),
    )
    return with_initial(inner, initial, init_params, born)


@checked
def task_levels(task: Task, horizon: Annotated[Array | int, COUNT]) -> Levels:
    """Levels whose problems are those of `task`, with lifetimes of `horizon` updates. They have no environment.

    Raises ValueError if `horizon` is not positive, or for what is no `Task`.
    """
    interface.part("task", task, Task)
    return Levels(lambda key: Level(task.sample(key), jnp.int32(horizon)))

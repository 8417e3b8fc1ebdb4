"""The seams of meta-training, and the one function in which they meet.

`InnerLoop` says how one learner learns during one lifetime, `Curriculum` which levels lifetimes are spent on,
`Estimator` how a meta-gradient is obtained from a batch of lifetimes, and an optax optimizer follows it.
Every member of a seam is a NamedTuple of pure functions, and all state is arrays, so all of it jits, vmaps and resumes.
This module knows nothing of reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from metarl.tree import select
from metarl.types import Array, Key, Level, MetaParams, Metrics, PyTree

COUNTED = ("agent_updates", "env_steps")  # metrics that are summed over updates and lifetimes; others are averaged
WATCHED = ("lifetime_loss", "meta_loss")  # metrics that must stay finite


class Lifetime(Protocol):
    """A learner in the middle of its life: a NamedTuple of arrays with at least these fields."""

    @property
    def level(self) -> Level: ...

    @property
    def step(self) -> Array:
        """() int32, updates so far; `InnerLoop.step` adds 1."""
        ...


Lifetimes = Any  # a `Lifetime` whose leaves have a leading axis [n, ...]


class Update(NamedTuple):
    """What `InnerLoop.step` and `InnerLoop.loss` return."""

    lifetime: Any  # the `Lifetime` afterwards
    # () what is added to the meta-objective, which is minimised. Differentiable in the meta-parameters. Of an update:
    # its regularisers, or the whole loss of an in-context learner; every estimator honours the mean over updates.
    objective: Array
    metrics: Metrics  # `env_steps`, if there is one, is what this update has cost


class InnerLoop(NamedTuple):
    """How one learner learns during one lifetime. Every function takes the meta-parameters explicitly.

    A loop need not look at the horizon: `advance` freezes a lifetime that has reached it.
    """

    init_meta: Callable[[Key], MetaParams]
    init: Callable[[Key, Level], Any]  # a newborn `Lifetime` on its level
    step: Callable[[MetaParams, Any, Key], Update]  # one inner update
    # the differentiable meta-objective of the learner as it is; None if there is none, `no_loss` if `Update.objective`
    # of its steps is all of it
    loss: Callable[[MetaParams, Any, Key], Update] | None
    fitness: Callable[[MetaParams, Any, Key], Array] | None  # () the black-box meta-objective, higher is better


def no_loss(meta_params: MetaParams, lifetime: Any, key: Key) -> Update:
    """The `InnerLoop.loss` of a loop whose meta-objective is the `Update.objective` of its steps and nothing else."""
    return Update(lifetime, jnp.zeros(()), {})


class Curriculum(NamedTuple):
    """Which levels the next lifetimes are spent on."""

    init: Callable[[Key, int], PyTree]  # state, for so many lifetimes n
    # (key, state, needed [n] bool) -> levels with leaves [n, ...]; only the entries that are needed are given out
    sample: Callable[[Key, PyTree, Array], tuple[Level, PyTree]]
    # (inner, meta_params, state, lifetimes [n], ended [n] bool, key) -> state, metrics. Called in every meta-step, so
    # that a score may follow lifetimes while they last.
    update: Callable[[InnerLoop, MetaParams, PyTree, Lifetimes, Array, Key], tuple[PyTree, Metrics]]


class Estimator(NamedTuple):
    """How a gradient of the meta-objective (to be minimised) is obtained from a batch of lifetimes."""

    init: Callable[[MetaParams, Lifetimes], PyTree]  # lifetimes with leaves [n, ...]
    # (inner, meta_params, state, lifetimes, key) -> gradient, state, lifetimes, metrics (`COUNTED` are sums)
    estimate: Callable[[InnerLoop, MetaParams, PyTree, Lifetimes, Key], tuple[MetaParams, PyTree, Lifetimes, Metrics]]
    needs: Literal["loss", "fitness"]  # which of the inner loop's meta-objectives it follows


class MetaState(NamedTuple):
    """Everything a meta-training run is: arrays only, so that it saves, vmaps and resumes exactly."""

    step: Array  # () int32, meta-steps so far
    params: MetaParams
    opt_state: PyTree
    estimator: PyTree
    curriculum: PyTree
    lifetimes: Lifetimes  # leaves [num_lifetimes, ...]


class Meta(NamedTuple):
    """A run as `metarl.train` and sweeps see it. The state is any pytree of arrays."""

    init: Callable[[Key], Any]
    step: Callable[[Any, Key], tuple[Any, Metrics]]


def done(lifetime: Any) -> Array:
    """Whether a lifetime has reached its horizon, () bool; of lifetimes with leaves [n, ...], [n] bool."""
    return lifetime.step >= lifetime.level.horizon


def advance(inner: InnerLoop, meta_params: MetaParams, lifetime: Any, key: Key) -> Update:
    """One update of a lifetime, which is frozen once it is `done`: it stays as it is, adds nothing, costs nothing.

    The metrics also have `agent_updates`, 1 or 0.
    """
    update = inner.step(meta_params, lifetime, key)
    alive = ~done(lifetime)
    costs = {name: jnp.where(alive, x, jnp.zeros_like(x)) for name, x in update.metrics.items() if name in COUNTED}
    return Update(
        select(alive, update.lifetime, lifetime),
        jnp.where(alive, update.objective, 0.0),
        {**update.metrics, **costs, "agent_updates": alive.astype(jnp.int32)},
    )


def summary(metrics: Metrics) -> Metrics:
    """Sums of the metrics that are `COUNTED`, means of the others over what is no NaN. Leaves [...] become ()."""
    return {name: x.sum() if name in COUNTED else jnp.nanmean(x) for name, x in metrics.items()}


def compose(
    inner: InnerLoop,
    estimator: Estimator,
    optimizer: optax.GradientTransformation,
    curriculum: Curriculum,
    num_lifetimes: int,
) -> Meta:
    """One meta-training algorithm out of four parts; `init` and `step` are pure, so jit, vmap and scan them.

    A meta-step estimates a meta-gradient on `num_lifetimes` lifetimes, follows it, and replaces every lifetime that
    reached its horizon by a newborn one on a new level. The horizons of the first generation are cut evenly (the i-th
    of n lives (i + 1) / n of its horizon): otherwise all learners would be of the same age for ever.

    Raises ValueError if `num_lifetimes` is not positive, or if the inner loop lacks what the estimator needs.
    """
    if num_lifetimes < 1:
        raise ValueError(f"num_lifetimes must be at least 1, got {num_lifetimes}")
    if getattr(inner, estimator.needs) is None:
        other = "estimators.backprop" if estimator.needs == "fitness" else "es, pes or ask_tell of metarl.estimators"
        critic = "give rl_inner_loop a critic, or " if estimator.needs == "loss" else ""
        raise ValueError(f"the estimator needs `{estimator.needs}`, which this inner loop lacks: {critic}use {other}")

    def newborn(key: Key, levels: Level) -> Lifetimes:
        return jax.vmap(inner.init)(jax.random.split(key, num_lifetimes), levels)

    def init(key: Key) -> MetaState:
        meta_key, curriculum_key, level_key, lifetime_key = jax.random.split(key, 4)
        params = inner.init_meta(meta_key)
        curriculum_state = curriculum.init(curriculum_key, num_lifetimes)
        levels, curriculum_state = curriculum.sample(level_key, curriculum_state, jnp.ones(num_lifetimes, bool))
        lifetimes = newborn(lifetime_key, _staggered(levels))
        return MetaState(
            step=jnp.int32(0),
            params=params,
            opt_state=optimizer.init(params),
            estimator=estimator.init(params, lifetimes),
            curriculum=curriculum_state,
            lifetimes=lifetimes,
        )

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        estimate_key, update_key, level_key, lifetime_key = jax.random.split(key, 4)

        # 1. follow an estimate of the meta-gradient, in which every lifetime grows older
        gradient, estimator_state, lifetimes, metrics = estimator.estimate(
            inner, state.params, state.estimator, state.lifetimes, estimate_key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        # 2. tell the curriculum which lifetimes ended, and how
        ended = done(lifetimes)
        curriculum_state, level_metrics = curriculum.update(
            inner, params, state.curriculum, lifetimes, ended, update_key
        )

        # 3. replace them by newborn learners on new levels
        levels, curriculum_state = curriculum.sample(level_key, curriculum_state, ended)
        lifetimes = select(ended, newborn(lifetime_key, levels), lifetimes)

        following = MetaState(state.step + 1, params, opt_state, estimator_state, curriculum_state, lifetimes)
        return following, {**metrics, **level_metrics, "lifetimes_ended": ended.sum()}

    return Meta(init, step)


def _staggered(levels: Level) -> Level:
    """The i-th of n levels with (i + 1) / n of its horizon, rounded up."""
    count = len(levels.horizon)
    # in integers and without the product of horizon and index, which may overflow
    turn, (whole, rest) = jnp.arange(count) + 1, jnp.divmod(levels.horizon, count)
    staggered = whole * turn + (rest * turn + count - 1) // count
    return levels._replace(horizon=staggered.astype(levels.horizon.dtype))

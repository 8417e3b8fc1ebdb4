"""The seams of meta-training, and the one function in which they meet.

`InnerLoop` says how one learner learns during one lifetime. `Curriculum` chooses the levels of lifetimes. `Estimator`
estimates the meta-gradient from a batch of lifetimes, and an optax optimizer follows it.
Each of these is a NamedTuple of pure functions, and all state is arrays, so a run jits, vmaps and resumes.
This module knows nothing of reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from metarl.checks import COUNT, checked
from metarl.tree import select
from metarl.types import Array, Key, Level, MetaParams, Metrics, PyTree

COUNTED = ("agent_updates", "env_steps")  # metrics that are summed over updates and lifetimes; others are averaged
WATCHED = ("lifetime_loss", "meta_loss")  # metrics that must stay finite


class Lifetime(Protocol):
    """The state of one learner during its lifetime: a NamedTuple of arrays with at least these fields."""

    @property
    def level(self) -> Level:
        """The level that the learner is trained on."""
        ...

    @property
    def step(self) -> Array:
        """() int32, updates so far. `InnerLoop.step` adds 1."""
        ...


Lifetimes = Any  # a `Lifetime` whose leaves have a leading axis [n, ...]


class Update(NamedTuple):
    """What `InnerLoop.step` and `InnerLoop.loss` return."""

    lifetime: Any  # the `Lifetime` afterwards
    # () a term of the meta-objective, which is minimised; differentiable in the meta-parameters. `step` returns
    # regularisers, or the whole loss of an in-context learner: every estimator adds their mean over updates.
    objective: Array
    metrics: Metrics  # `env_steps`, if present, counts the environment steps of this update


class InnerLoop(NamedTuple):
    """How one learner learns during one lifetime. Every function takes the meta-parameters explicitly.

    A loop can ignore the horizon: `advance` freezes a lifetime that has reached it.
    """

    init_meta: Callable[[Key], MetaParams]
    init: Callable[[Key, Level], Any]  # the `Lifetime` at its start, on this level
    step: Callable[[MetaParams, Any, Key], Update]  # one inner update
    # the differentiable meta-objective of the present learner. None if there is none; `no_loss` if the
    # `Update.objective` of `step` is the whole meta-objective
    loss: Callable[[MetaParams, Any, Key], Update] | None
    fitness: Callable[[MetaParams, Any, Key], Array] | None  # () the black-box meta-objective, higher is better


def no_loss(meta_params: MetaParams, lifetime: Any, key: Key) -> Update:
    """`InnerLoop.loss` for a loop whose whole meta-objective is the `Update.objective` of its steps. Returns 0."""
    return Update(lifetime, jnp.zeros(()), {})


class Curriculum(NamedTuple):
    """Chooses the levels of new lifetimes."""

    init: Callable[[Key, int], PyTree]  # (key, number of lifetimes n) -> state
    # (key, state, needed [n] bool) -> levels with leaves [n, ...], state. Only the entries in `needed` are used.
    sample: Callable[[Key, PyTree, Array], tuple[Level, PyTree]]
    # (inner, meta_params, state, lifetimes [n], ended [n] bool, key) -> state, metrics. Called in every meta-step, so
    # that a score can follow lifetimes before they end.
    update: Callable[[InnerLoop, MetaParams, PyTree, Lifetimes, Array, Key], tuple[PyTree, Metrics]]


class Estimator(NamedTuple):
    """Estimates the gradient of the meta-objective, which is minimised, from a batch of lifetimes."""

    init: Callable[[MetaParams, Lifetimes], PyTree]  # lifetimes with leaves [n, ...]
    # (inner, meta_params, state, lifetimes, key) -> gradient, state, lifetimes, metrics (sums of the `COUNTED` ones)
    estimate: Callable[[InnerLoop, MetaParams, PyTree, Lifetimes, Key], tuple[MetaParams, PyTree, Lifetimes, Metrics]]
    needs: Literal["loss", "fitness"]  # the function of the inner loop that it calls


class MetaState(NamedTuple):
    """The whole state of a meta-training run: arrays only, so it saves, vmaps and resumes exactly."""

    step: Array  # () int32, meta-steps so far
    params: MetaParams
    opt_state: PyTree
    estimator: PyTree
    curriculum: PyTree
    lifetimes: Lifetimes  # leaves [num_lifetimes, ...]


class Meta(NamedTuple):
    """A run for `metarl.train` and `metarl.sweep`. The state is any pytree of arrays."""

    init: Callable[[Key], Any]
    step: Callable[[Any, Key], tuple[Any, Metrics]]


def done(lifetime: Any) -> Array:
    """Whether a lifetime has reached its horizon: () bool, or [n] bool for lifetimes with leaves [n, ...]."""
    return lifetime.step >= lifetime.level.horizon


def advance(inner: InnerLoop, meta_params: MetaParams, lifetime: Any, key: Key) -> Update:
    """One update of a lifetime. A lifetime that is `done` is frozen: its state stays, its objective and costs are 0.

    Adds the metric `agent_updates`, 1 or 0.
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
    """Sums of the `COUNTED` metrics, means of the others without NaN. Leaves [...] become ()."""
    return {name: x.sum() if name in COUNTED else jnp.nanmean(x) for name, x in metrics.items()}


@checked
def compose(
    inner: InnerLoop,
    estimator: Estimator,
    optimizer: optax.GradientTransformation,
    curriculum: Curriculum,
    num_lifetimes: Annotated[int, COUNT],
) -> Meta:
    """Builds a meta-training algorithm from four parts. `init` and `step` are pure: jit, vmap or scan them.

    A meta-step estimates a meta-gradient on `num_lifetimes` lifetimes, follows it, and replaces every lifetime that
    reached its horizon by a new one on a new level. The first lifetimes are cut short at evenly spaced ages (the i-th
    of n ends at (i + 1) / n of its horizon), because otherwise all learners would always have the same age.

    Raises ValueError if `num_lifetimes` is not positive, or if the inner loop lacks what the estimator needs.
    """
    if getattr(inner, estimator.needs) is None:
        remedy = {
            "loss": "give rl_inner_loop a critic, or use es, pes or ask_tell of metarl.estimators",
            "fitness": "use metarl.estimators.backprop",
        }[estimator.needs]
        raise ValueError(f"the estimator needs `{estimator.needs}`, which this inner loop lacks: {remedy}")

    def start(key: Key, levels: Level) -> Lifetimes:
        return jax.vmap(inner.init)(jax.random.split(key, num_lifetimes), levels)

    def init(key: Key) -> MetaState:
        meta_key, curriculum_key, level_key, lifetime_key = jax.random.split(key, 4)
        params = inner.init_meta(meta_key)
        curriculum_state = curriculum.init(curriculum_key, num_lifetimes)
        levels, curriculum_state = curriculum.sample(level_key, curriculum_state, jnp.ones(num_lifetimes, bool))
        lifetimes = start(lifetime_key, _staggered(levels))
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

        # 1. estimate the meta-gradient, which advances every lifetime, and follow it
        gradient, estimator_state, lifetimes, metrics = estimator.estimate(
            inner, state.params, state.estimator, state.lifetimes, estimate_key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        # 2. tell the curriculum which lifetimes ended
        ended = done(lifetimes)
        curriculum_state, level_metrics = curriculum.update(
            inner, params, state.curriculum, lifetimes, ended, update_key
        )

        # 3. replace these by new lifetimes on new levels
        levels, curriculum_state = curriculum.sample(level_key, curriculum_state, ended)
        lifetimes = select(ended, start(lifetime_key, levels), lifetimes)

        following = MetaState(state.step + 1, params, opt_state, estimator_state, curriculum_state, lifetimes)
        return following, {**metrics, **level_metrics, "lifetimes_ended": ended.sum()}

    return Meta(init, step)


def _staggered(levels: Level) -> Level:
    """The i-th of n levels with (i + 1) / n of its horizon, rounded up."""
    count = len(levels.horizon)
    # in integers, and without the product of horizon and index, which may overflow
    rank, (whole, rest) = jnp.arange(count) + 1, jnp.divmod(levels.horizon, count)
    staggered = whole * rank + (rest * rank + count - 1) // count
    return levels._replace(horizon=staggered.astype(levels.horizon.dtype))

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

from metarl import interface
from metarl.checks import COUNT, checked
from metarl.tree import select
from metarl.types import Array, Key, Level, MetaParams, Metrics, PyTree

COUNTED = ("agent_updates", "env_steps")  # metrics that are summed over updates and lifetimes; others are averaged
# Metrics that must stay finite. The loss of huge rewards may be finite while the square of a gradient or of a critic's
# error is not: an optimizer that divides by it would stand still unnoticed. Fine-tuning may have no meta-objective.
WATCHED = ("lifetime_loss", "meta_loss", "meta_gradient_norm", "critic_loss", "imitation_loss", "reward_loss")


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
    # `step` with the same values, whose derivative goes forward over reverse (`metarl.gradients`); None without one
    mixed_step: Callable[[MetaParams, Any, Key], Update] | None = None


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
    mixed: bool = False  # whether it calls `InnerLoop.mixed_step` instead of `step`


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
    update = checked_update("InnerLoop.step", inner.step, inner.step(meta_params, lifetime, key), lifetime)
    alive = ~done(lifetime)
    costs = {name: jnp.where(alive, x, jnp.zeros_like(x)) for name, x in update.metrics.items() if name in COUNTED}
    return Update(
        select(alive, update.lifetime, lifetime),
        jnp.where(alive, update.objective, 0.0),
        interface.merged(inner_loop={**update.metrics, **costs}, run={"agent_updates": alive.astype(jnp.int32)}),
    )


def checked_update(seam: str, function: Callable[..., Any], found: Any, lifetime: Any) -> Update:
    """`found` if it is an `Update` that `lifetime` may go on from. Raises ValueError that names `function` if not.

    `seam` is "InnerLoop.step" or "InnerLoop.loss".
    """
    what = interface.title(seam, function)
    if not isinstance(found, Update):
        raise ValueError(f"{what} returned {interface.shown(found)}, wanted an Update(lifetime, objective, metrics)")
    interface.same(f"the lifetime that {what}", found.lifetime, lifetime)
    interface.array(f"the objective that {what}", found.objective, ())
    interface.metrics(f"the metrics that {what}", found.metrics)
    return found


def summary(metrics: Metrics) -> Metrics:
    """Sums of the `COUNTED` metrics, means of the others without NaN. Leaves [...] become ()."""
    return {name: x.sum() if name in COUNTED else jnp.nanmean(x) for name, x in metrics.items()}


def needed(inner: InnerLoop, name: Literal["loss", "fitness", "mixed_step"]) -> Callable[..., Any]:
    """The function `name` of `inner`, which an estimator needs. Raises ValueError if `inner` lacks it."""
    function: Callable[..., Any] | None = getattr(inner, name)
    if function is None:
        raise ValueError(f"the estimator needs `{name}`, which this inner loop lacks: {_REMEDIES[name]}")
    return function


_REMEDIES = {
    "loss": "give rl_inner_loop a critic, or use es, pes or ask_tell of metarl.estimators",
    "fitness": "use metarl.estimators.backprop",
    "mixed_step": "use backprop without mixed=True, or give the loop one with metarl.gradients.forward_over_reverse",
}


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

    Raises ValueError if `num_lifetimes` is not positive, if the inner loop lacks what the estimator needs, if a part is
    not what it should be, and for horizons that are no integers or below 1. `init` and `step` raise ValueError when
    they are traced if a part returns something else than its interface says.
    """
    interface.part("inner", inner, InnerLoop)
    interface.part("estimator", estimator, Estimator)
    interface.part("curriculum", curriculum, Curriculum, {"Levels": "give metarl.curricula.uniform(levels)"})
    interface.optimizer("optimizer", optimizer)
    needed(inner, estimator.needs)
    if estimator.mixed:
        needed(inner, "mixed_step")

    def draw(key: Key, state: PyTree, needed: Array) -> tuple[Level, PyTree]:
        what = interface.title("Curriculum.sample", curriculum.sample)
        levels, state = interface.values(what, curriculum.sample(key, state, needed), ("levels", "state"))
        return _checked_levels(what, levels, num_lifetimes), state

    def start(key: Key, levels: Level) -> Lifetimes:
        return jax.vmap(inner.init)(jax.random.split(key, num_lifetimes), levels)

    def init(key: Key) -> MetaState:
        meta_key, curriculum_key, level_key, lifetime_key = jax.random.split(key, 4)
        params = inner.init_meta(meta_key)
        curriculum_state = curriculum.init(curriculum_key, num_lifetimes)
        levels, curriculum_state = draw(level_key, curriculum_state, jnp.ones(num_lifetimes, bool))
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
        gradient, estimator_state, lifetimes, metrics = _checked_estimate(
            interface.title("Estimator.estimate", estimator.estimate),
            estimator.estimate(inner, state.params, state.estimator, state.lifetimes, estimate_key),
            state,
        )
        updates, opt_state = interface.follow("optimizer", optimizer.update, gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        # 2. tell the curriculum which lifetimes ended
        ended = done(lifetimes)
        what = interface.title("Curriculum.update", curriculum.update)
        curriculum_state, level_metrics = interface.values(
            what,
            curriculum.update(inner, params, state.curriculum, lifetimes, ended, update_key),
            ("state", "metrics"),
        )

        # 3. replace these by new lifetimes on new levels
        levels, curriculum_state = draw(level_key, curriculum_state, ended)
        interface.same("the state that Curriculum.update and sample", curriculum_state, state.curriculum)
        lifetimes = select(ended, start(lifetime_key, levels), lifetimes)

        following = MetaState(state.step + 1, params, opt_state, estimator_state, curriculum_state, lifetimes)
        return following, interface.merged(
            estimator=metrics,
            curriculum=interface.metrics(f"the metrics that {what}", level_metrics),
            run={"lifetimes_ended": ended.sum()},
        )

    return Meta(init, step)


@checked
def alternate(every: Annotated[int, COUNT], rare: Meta, usual: Meta) -> Meta:
    """`rare` in the first of every `every` meta-steps and `usual` in the others, such as one that measures less.

    Both have states of the same structure, with the field `step`, and the same metrics. Raises ValueError if `every` is
    not positive, and TypeError when it is traced if states or metrics differ.
    """
    if every == 1:
        return rare

    def step(state: Any, key: Key) -> tuple[Any, Metrics]:
        found: tuple[Any, Metrics] = jax.lax.cond(state.step % every == 0, rare.step, usual.step, state, key)
        return found

    return Meta(rare.init, step)


def _checked_levels(what: str, levels: Any, count: int) -> Level:
    """`levels` if they are `count` levels with an integer horizon each, at least 1 where it is known."""
    interface.level(what, levels, (count,))
    for path, leaf in jax.tree_util.tree_leaves_with_path(levels.problem):
        if jnp.shape(leaf)[:1] != (count,):
            place = jax.tree_util.keystr(path)
            raise ValueError(f"{what} returned problems with {interface.shown(leaf)}{place}, wanted [{count}, ...]")
    return levels


def _checked_estimate(what: str, found: Any, state: MetaState) -> tuple[MetaParams, PyTree, Lifetimes, Metrics]:
    """`found` if it is what `Estimator.estimate` has to return in this `state`."""
    gradient, estimator_state, lifetimes, metrics = interface.values(
        what, found, ("gradient", "state", "lifetimes", "metrics")
    )
    interface.same(f"the gradient that {what}", gradient, state.params, dtypes=False)
    interface.same(f"the state that {what}", estimator_state, state.estimator)
    interface.same(f"the lifetimes that {what}", lifetimes, state.lifetimes)
    return gradient, estimator_state, lifetimes, interface.metrics(f"the metrics that {what}", metrics)


def _staggered(levels: Level) -> Level:
    """The i-th of n levels with (i + 1) / n of its horizon, rounded up."""
    count = len(levels.horizon)
    # in integers, and without the product of horizon and index, which may overflow
    rank, (whole, rest) = jnp.arange(count) + 1, jnp.divmod(levels.horizon, count)
    staggered = whole * rank + (rest * rank + count - 1) // count
    return levels._replace(horizon=staggered.astype(levels.horizon.dtype))

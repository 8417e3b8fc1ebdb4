"""The four seams and the one function in which they meet.

`InnerLoop` says how one agent learns during one lifetime, `Curriculum` which levels lifetimes are spent on,
`Estimator` how a meta-gradient is obtained from a batch of lifetimes, and an optax optimizer follows it.
Every member of a seam is a pure function; all state is arrays, so everything jits, vmaps and resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.types import Array, Key, Level, MetaParams, Metrics, Params, Progress, PyTree

if TYPE_CHECKING:
    from metarl.objectives.actor_critic import Targets
    from metarl.rollout import Model, Rollout

Lifetime = Any  # an agent, its environments and its level: a NamedTuple of arrays with at least the field `level`
Lifetimes = Any  # the same with a leading axis


class Update(NamedTuple):
    """The result of one inner update."""

    lifetime: Lifetime
    penalty: Array  # () meta-regulariser of this update, differentiable; gradient estimators add its mean
    metrics: Metrics


class InnerLoop(NamedTuple):
    """How one agent learns during one lifetime. Every function takes the meta-parameters explicitly.

    A lifetime that has reached its horizon is frozen: `step` returns it unchanged.
    """

    init_meta: Callable[[Key], MetaParams]
    init: Callable[[Key, Level], Lifetime]  # a newborn agent on its level
    step: Callable[[MetaParams, Lifetime, Key], Update]
    loss: Callable[[MetaParams, Lifetime, Key], tuple[Array, tuple[Lifetime, Metrics]]]  # differentiable
    fitness: Callable[[MetaParams, Lifetime, Key], Array]  # () black-box objective, higher is better
    done: Callable[[Lifetime], Array]  # () bool, horizon reached
    # one more rollout, and its advantages under the lifetime's own critic; None for loops without one
    judge: Callable[[Lifetime, Key], tuple[Rollout, Targets]] | None = None
    env_steps: int = 0  # environment steps that one update learns from
    loss_env_steps: int = 0  # those that one `loss` is measured on


class Objective(NamedTuple):
    """What an RL agent minimises: the part of its learning that an update rule may replace."""

    init: Callable[[Key], MetaParams]  # () for a hand-made objective
    outputs: Mapping[str, int]  # what the agent's network must give beyond the policy: {"value": 1}, {"y": 8}
    # (meta_params, params, model, rollout, progress) -> targets with leaves [T, E, ...] and a penalty ().
    # Computed once per rollout and outside the agent's own gradient: constant to the agent, while the
    # meta-gradient flows through both. The penalty regularises the update rule (0 if it has none).
    targets: Callable[[MetaParams, Params, Model, Rollout, Progress], tuple[PyTree, Array]]
    # (meta_params, params, model, rollout, targets, progress): the agent follows its gradient in `params`
    loss: Callable[[MetaParams, Params, Model, Rollout, PyTree, Progress], tuple[Array, Metrics]]


class LearnedOptimizer(NamedTuple):
    """How an agent follows its gradient, with meta-parameters; any optax transformation serves in its place."""

    init: Callable[[Key], MetaParams]
    transform: Callable[[MetaParams], optax.GradientTransformationExtraArgs]


def as_learned(optimizer: optax.GradientTransformation | LearnedOptimizer) -> LearnedOptimizer:
    """`optimizer` as one that is learned: the meta-parameters of an optax transformation are `()`."""
    if isinstance(optimizer, LearnedOptimizer):
        return optimizer
    return LearnedOptimizer(lambda key: (), lambda meta_params: optax.with_extra_args_support(optimizer))


class Curriculum(NamedTuple):
    """Which levels the next lifetimes are spent on."""

    init: Callable[[Key, int], PyTree]  # for so many lifetimes
    # (key, state, needed [n] bool) -> levels with leaves [n, ...]; only the entries that are needed are given out
    sample: Callable[[Key, PyTree, Array], tuple[Level, PyTree]]
    # (state, levels [n], scores [n], ended [n] bool): what the lifetimes that just ended say of their levels
    update: Callable[[PyTree, Level, Array, Array], PyTree]


class Estimator(NamedTuple):
    """How a gradient of the meta-objective (to be minimised) is obtained from a batch of lifetimes."""

    init: Callable[[MetaParams, Lifetimes], PyTree]  # lifetimes with leaves [n, ...]
    # (inner, meta_params, state, lifetimes, key) -> gradient, state, lifetimes, metrics, which have `agent_updates` and
    # `env_steps`: what all lifetimes together have cost
    estimate: Callable[[InnerLoop, MetaParams, PyTree, Lifetimes, Key], tuple[MetaParams, PyTree, Lifetimes, Metrics]]


class Score(NamedTuple):
    """How much a lifetime that ended says for training on its level again."""

    init: Callable[[Key, Lifetimes], PyTree]  # of newborn lifetimes [n]; leaves [n, ...]
    # (inner, meta_params, state, lifetimes, ended [n] bool, key) -> scores [n] (of those that ended), state.
    # Called in every meta-step, so that a score may follow lifetimes while they last.
    update: Callable[[InnerLoop, MetaParams, PyTree, Lifetimes, Array, Key], tuple[Array, PyTree]]


def no_score() -> Score:
    """NaN, for curricula that do not ask: nothing is known of any level."""
    return Score(
        lambda key, lifetimes: (),
        lambda inner, meta_params, state, lifetimes, ended, key: (jnp.full(len(ended), jnp.nan), state),
    )


class MetaState(NamedTuple):
    """Everything a meta-training run is: arrays only, so that it saves, vmaps and resumes exactly."""

    step: Array  # () int32, meta-steps so far
    params: MetaParams
    opt_state: PyTree
    estimator: PyTree
    curriculum: PyTree
    score: PyTree
    lifetimes: Lifetimes  # leaves [num_lifetimes, ...]


class Meta(NamedTuple):
    """All that training, sweeps, checkpoints and plots ever see."""

    init: Callable[[Key], MetaState]
    step: Callable[[MetaState, Key], tuple[MetaState, Metrics]]


def select(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where `condition` holds, `old` elsewhere; `condition` [...] leads the axes of every leaf."""

    def leaf(new: Array, old: Array) -> Array:
        mask = condition.reshape(condition.shape + (1,) * (jnp.ndim(new) - condition.ndim))
        return jnp.where(mask, new, old)

    return jax.tree.map(leaf, new, old)


def all_finite(tree: PyTree) -> Array:
    """() bool."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def compose(
    inner: InnerLoop,
    estimator: Estimator,
    optimizer: optax.GradientTransformation,
    curriculum: Curriculum,
    num_lifetimes: int,
    score: Score = no_score(),  # noqa: B008
) -> Meta:
    """One meta-training algorithm out of four parts; `init` and `step` are pure, so jit, vmap and scan them.

    A meta-step estimates a meta-gradient on `num_lifetimes` lifetimes, follows it, and replaces every
    lifetime that reached its horizon by a newborn agent on a new level. The horizons of the first
    generation are cut evenly (the i-th of n lives (i + 1) / n of its horizon): otherwise all agents
    would be the same age for ever.

    Raises ValueError if `num_lifetimes` is not positive.
    """
    if num_lifetimes < 1:
        raise ValueError(f"num_lifetimes must be at least 1, got {num_lifetimes}")

    def newborn(key: Key, levels: Level) -> Lifetimes:
        return jax.vmap(inner.init)(jax.random.split(key, num_lifetimes), levels)

    def init(key: Key) -> MetaState:
        meta_key, curriculum_key, level_key, lifetime_key = jax.random.split(key, 4)
        params = inner.init_meta(meta_key)
        curriculum_state = curriculum.init(curriculum_key, num_lifetimes)
        levels, curriculum_state = curriculum.sample(level_key, curriculum_state, jnp.ones(num_lifetimes, bool))
        # ceil(horizon * (i + 1) / n), in integers and without their product, which may overflow
        turn, (whole, rest) = jnp.arange(num_lifetimes) + 1, jnp.divmod(levels.horizon, num_lifetimes)
        staggered = whole * turn + (rest * turn + num_lifetimes - 1) // num_lifetimes
        lifetimes = newborn(lifetime_key, levels._replace(horizon=staggered.astype(levels.horizon.dtype)))
        return MetaState(
            step=jnp.int32(0),
            params=params,
            opt_state=optimizer.init(params),
            estimator=estimator.init(params, lifetimes),
            curriculum=curriculum_state,
            score=score.init(jax.random.fold_in(key, 4), lifetimes),
            lifetimes=lifetimes,
        )

    def step(state: MetaState, key: Key) -> tuple[MetaState, Metrics]:
        estimate_key, score_key, level_key, lifetime_key = jax.random.split(key, 4)

        # 1. follow an estimate of the meta-gradient, in which every lifetime grows older
        gradient, estimator_state, lifetimes, metrics = estimator.estimate(
            inner, state.params, state.estimator, state.lifetimes, estimate_key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        # 2. tell the curriculum how the lifetimes that ended went
        ended = jax.vmap(inner.done)(lifetimes)
        scores, score_state = score.update(inner, params, state.score, lifetimes, ended, score_key)
        curriculum_state = curriculum.update(state.curriculum, lifetimes.level, scores, ended)

        # 3. replace them by newborn agents on new levels
        levels, curriculum_state = curriculum.sample(level_key, curriculum_state, ended)
        lifetimes = select(ended, newborn(lifetime_key, levels), lifetimes)
        score_state = select(ended, score.init(jax.random.fold_in(key, 4), lifetimes), score_state)

        following = MetaState(
            state.step + 1, params, opt_state, estimator_state, curriculum_state, score_state, lifetimes
        )
        return following, {**metrics, "lifetimes_ended": ended.sum()}

    return Meta(init, step)

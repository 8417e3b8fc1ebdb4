"""Which of several sources of levels to train on for the sake of a target: weights that are learned by REINFORCE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.checks import COUNT, SHARE, checked
from metarl.curricula.features import level_metrics
from metarl.inner.initial import parameters
from metarl.meta import Curriculum, InnerLoop, Lifetimes, advance, needed
from metarl.tree import select
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics, PyTree

# (inner, meta_params, lifetime that ended, key) -> () how good its source is for the target
Reward = Callable[[InnerLoop, MetaParams, Any, Key], Array]


class SourceState(NamedTuple):
    """The state of the curriculum, of K sources and n lifetimes."""

    logits: Array  # [K] of the sources' weights
    opt_state: PyTree
    baseline: Array  # () moving average of the rewards
    source: Array  # [n] int32, that of each lifetime's level


@checked
def weighted(
    sources: Sequence[Levels],
    reward: Reward,
    optimizer: optax.GradientTransformation = optax.adam(0.03),  # noqa: B008
    *,
    decay: Annotated[Array | float, SHARE] = 0.9,
) -> Curriculum:
    """Draws each level from one of `sources`, with probabilities that earn the most `reward`.

    The probabilities, at first equal, are a softmax whose logits follow `optimizer` up REINFORCE's gradient: a lifetime
    that ends has a reward, less a moving average with weight `decay` of the past. After Meta-RTL, which weighs the
    learners of all sources in every meta-step, by the weights of an LSTM; here they are drawn by their weights, so the
    mean over lifetimes is the weighted sum in expectation.

    All sources must have problems of the same shapes. Raises ValueError if they do not, for no source, and for what is
    no `Levels`.
    """
    pooled(sources)  # checks them
    interface.optimizer("optimizer", optimizer)

    def init(key: Key, num_lifetimes: int) -> SourceState:
        logits = jnp.zeros(len(sources))
        return SourceState(logits, optimizer.init(logits), jnp.zeros(()), jnp.zeros(num_lifetimes, jnp.int32))

    def sample(key: Key, state: SourceState, needed: Array) -> tuple[Level, SourceState]:
        source_key, level_key = jax.random.split(key)
        drawn = jax.random.categorical(source_key, state.logits, shape=needed.shape)
        found = jax.vmap(partial(_of_source, sources))(drawn, jax.random.split(level_key, len(needed)))
        return found, state._replace(source=jnp.where(needed, drawn, state.source))

    def update(
        inner: InnerLoop, meta_params: MetaParams, state: SourceState, lifetimes: Lifetimes, ended: Array, key: Key
    ) -> tuple[SourceState, Metrics]:
        rewards = jax.vmap(lambda *x: reward(inner, meta_params, *x))(lifetimes, jax.random.split(key, len(ended)))
        count, any_ended = jnp.maximum(ended.sum(), 1), ended.any()
        mean = jnp.where(ended, rewards, 0.0).sum() / count
        advantages = jnp.where(ended, rewards - state.baseline, 0.0)

        def loss(logits: Array) -> Array:
            return -(advantages * jax.nn.log_softmax(logits)[state.source]).sum() / count

        updates, opt_state = optimizer.update(jax.grad(loss)(state.logits), state.opt_state, state.logits)
        baseline = decay * state.baseline + (1.0 - decay) * mean
        after = SourceState(optax.apply_updates(state.logits, updates), opt_state, baseline, state.source)
        after = select(any_ended, after, state)
        weights = jax.nn.softmax(after.logits)
        seen = level_metrics(sources[0], lifetimes.level)
        return after, {**seen, "source_reward": mean, **{f"weight_{i}": x for i, x in enumerate(weights)}}

    return Curriculum(init, sample, update)


def pooled(levels: Sequence[Levels]) -> Levels:
    """One distribution of levels, each of which is drawn from one of `levels`; all of these are as likely.

    Raises ValueError if their problems differ in shape, if there are none, and for what is no `Levels`.
    """
    if not levels:
        raise ValueError("levels must be at least one distribution of levels, got none")
    shapes = [jax.eval_shape(interface.levels(each).sample, jax.random.key(0)) for each in levels]
    for i, other in enumerate(shapes):
        interface.same(f"levels[{i}].sample", other, shapes[0])

    def sample(key: Key) -> Level:
        return _of_source(levels, jax.random.randint(jax.random.fold_in(key, 1), (), 0, len(levels)), key)

    return levels[0]._replace(sample=sample)


def _of_source(levels: Sequence[Levels], source: Array, key: Key) -> Level:
    """A level of the distribution with the index `source` ()."""
    return jax.lax.switch(source, [each.sample for each in levels], key)


@checked
def improvement(
    target: Levels, steps: Annotated[int, COUNT], *, share: Annotated[Array | float, SHARE] = 0.1
) -> Reward:
    """What an ended lifetime is worth for `target`: how much better a learner of a target level does after it.

    That learner makes `steps` updates, once from the initialisation, and once from the initialisation moved by `share`
    of the lifetime's distance; the reward is the difference of their fitness. For loops whose initialisation is
    learned. Raises ValueError for what is no `Levels`, and when it is traced for a loop without fitness.
    """
    interface.levels(target)

    def reward(inner: InnerLoop, meta_params: MetaParams, lifetime: Any, key: Key) -> Array:
        fitness, moved = needed(inner, "fitness"), _moved(meta_params, lifetime, share)
        test_key = jax.random.fold_in(key, 1)
        old, new = (
            fitness(start, _learner(inner, start, target, steps, key), test_key) for start in (meta_params, moved)
        )
        return new - old

    return reward


@checked
def similarity(target: Levels, steps: Annotated[int, COUNT]) -> Reward:
    """The cosine between the distance that an ended lifetime has moved and that of a learner of a `target` level.

    That learner makes `steps` updates. For loops whose initialisation is learned. Raises ValueError for what is no
    `Levels`.
    """
    interface.levels(target)

    def reward(inner: InnerLoop, meta_params: MetaParams, lifetime: Any, key: Key) -> Array:
        _moved(meta_params, lifetime, 0.0)  # checks that there is a distance
        other = _learner(inner, meta_params, target, steps, key)
        norms = optax.tree.norm(lifetime.params) * optax.tree.norm(other.params)
        return optax.tree.vdot(lifetime.params, other.params) / jnp.maximum(norms, 1e-12)

    return reward


def _moved(meta_params: MetaParams, lifetime: Any, share: Array | float) -> MetaParams:
    """The meta-parameters whose initialisation is nearer to the learner. Raises ValueError if none is learned."""
    if "initial" not in meta_params:
        raise ValueError(
            'the reward of a source needs learned initial parameters: give the inner loop initial="learned"'
        )
    distance = jax.tree.map(lambda x: share * x, lifetime.params)
    return {**meta_params, "initial": parameters(meta_params, lifetime._replace(params=distance))}


def _learner(inner: InnerLoop, meta_params: MetaParams, target: Levels, steps: int, key: Key) -> Any:
    """A learner of a level of `target`, after `steps` updates."""
    level_key, birth_key, step_key = jax.random.split(key, 3)
    level = target.sample(level_key)
    newborn = inner.init(birth_key, level._replace(horizon=jnp.full_like(level.horizon, steps)))

    def update(lifetime: Any, key: Key) -> tuple[Any, None]:
        return advance(inner, meta_params, lifetime, key).lifetime, None

    return jax.lax.scan(update, newborn, jax.random.split(step_key, steps))[0]

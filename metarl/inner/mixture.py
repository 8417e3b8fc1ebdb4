"""Several inner loops as one, to meta-train an update rule on several kinds of learners at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks, interface
from metarl.checks import POSITIVE
from metarl.meta import COUNTED, InnerLoop, Update
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics


class MixedLifetime(NamedTuple):
    """One lifetime of each inner loop, all of the same age."""

    parts: tuple[Any, ...]  # the lifetimes
    level: Level  # the problem is the tuple of the problems of the parts
    step: Array  # () int32, updates so far


def mixture(inners: Sequence[InnerLoop], scales: Sequence[Array | float]) -> InnerLoop:
    """An inner loop whose lifetimes contain one lifetime of each of `inners`, on a level of `mixed_levels`.

    All parts have the same meta-parameters. Fitness is the mean of the parts' fitness, each divided by its scale, and
    so are the loss and `Update.objective`; OPEN (Goldie et al. 2024) divides by the return of agents with Adam. There
    is no loss, or no fitness, if a part has none. The metric `name` of part i is `name_i`, and costs are summed.

    Raises ValueError unless there are inner loops, each with a positive scale, and all with the same meta-parameters.
    """
    _check(inners, scales)

    def init(key: Key, level: Level) -> MixedLifetime:
        places = zip(inners, jax.random.split(key, len(inners)), level.problem, strict=True)
        parts = tuple(inner.init(key, Level(problem, level.horizon)) for inner, key, problem in places)
        return MixedLifetime(parts, level, jnp.int32(0))

    def with_keys(lifetime: MixedLifetime, key: Key) -> Iterator[tuple[InnerLoop, Any, Key]]:
        return zip(inners, lifetime.parts, jax.random.split(key, len(inners)), strict=True)

    def step(step_of: Callable[[InnerLoop], Any], meta_params: MetaParams, lifetime: MixedLifetime, key: Key) -> Update:
        updates = [step_of(inner)(meta_params, part, key) for inner, part, key in with_keys(lifetime, key)]
        following = MixedLifetime(tuple(x.lifetime for x in updates), lifetime.level, lifetime.step + 1)
        return Update(
            following, _scaled_mean([x.objective for x in updates], scales), _named([x.metrics for x in updates])
        )

    def loss(meta_params: MetaParams, lifetime: MixedLifetime, key: Key) -> Update:
        updates = [inner.loss(meta_params, part, key) for inner, part, key in with_keys(lifetime, key) if inner.loss]
        value = _scaled_mean([x.objective for x in updates], scales)
        lifetime = lifetime._replace(parts=tuple(x.lifetime for x in updates))
        return Update(lifetime, value, _named([x.metrics for x in updates]))

    def fitness(meta_params: MetaParams, lifetime: MixedLifetime, key: Key) -> Array:
        places = with_keys(lifetime, key)
        values = [inner.fitness(meta_params, part, key) for inner, part, key in places if inner.fitness]
        return _scaled_mean(values, scales)

    return InnerLoop(
        inners[0].init_meta,
        init,
        partial(step, attrgetter("step")),
        loss if all(inner.loss for inner in inners) else None,
        fitness if all(inner.fitness for inner in inners) else None,
        partial(step, attrgetter("mixed_step")) if all(inner.mixed_step for inner in inners) else None,
    )


def mixed_levels(levels: Sequence[Levels]) -> Levels:
    """Levels whose problem is a tuple of one problem of each of `levels`. The horizon is that of the first.

    They have no environment: each part has its own. Raises ValueError if there are none, or for what is no `Levels`.
    """
    if not levels:
        raise ValueError("levels must be at least one distribution of levels, got none")
    for each in levels:
        interface.levels(each)

    def sample(key: Key) -> Level:
        drawn = [each.sample(key) for each, key in zip(levels, jax.random.split(key, len(levels)), strict=True)]
        return Level(tuple(level.problem for level in drawn), drawn[0].horizon)

    return Levels(sample)


def _check(inners: Sequence[InnerLoop], scales: Sequence[Array | float]) -> None:
    if not inners or len(inners) != len(scales):
        raise ValueError(f"need one scale for each inner loop, got {len(scales)} for {len(inners)}")
    for i, inner in enumerate(inners):
        interface.part(f"inners[{i}]", inner, InnerLoop)
    shapes = {str(jax.tree.map(jnp.shape, jax.eval_shape(inner.init_meta, jax.random.key(0)))) for inner in inners}
    if len(shapes) > 1:
        raise ValueError("inner loops of a mixture must have the same meta-parameters")
    checks.within(float, POSITIVE, **{f"scales[{i}]": scale for i, scale in enumerate(scales)})


def _scaled_mean(values: Sequence[Array], scales: Sequence[Array | float]) -> Array:
    return jnp.stack([x / scale for x, scale in zip(values, scales, strict=True)]).mean()


def _named(metrics: Sequence[Metrics]) -> Metrics:
    named = {f"{name}_{i}": x for i, part in enumerate(metrics) for name, x in part.items() if name not in COUNTED}
    costs = {name: sum(part[name] for part in metrics if name in part) for name in COUNTED}
    return {**named, **{name: jnp.asarray(x) for name, x in costs.items() if any(name in part for part in metrics)}}

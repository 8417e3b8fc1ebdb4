"""Several inner loops as one: an update rule that is meta-trained on learners of different kinds at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.meta import COUNTED, InnerLoop, Update
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics


class Together(NamedTuple):
    """One lifetime of each kind, side by side; all are of one age."""

    parts: tuple[Any, ...]
    level: Level  # its problem is the tuple of those of the parts
    step: Array  # () int32


def mixture(inners: Sequence[InnerLoop], scales: Sequence[Array | float]) -> InnerLoop:
    """A lifetime is one of each of `inners`, all under the same meta-parameters, on a level of `mixed_levels`.

    Its fitness is the mean of theirs, each divided by its scale (in OPEN, what agents with Adam return there), and so
    is its loss. It has no loss, or no fitness, if one of its parts has none. Metrics have the number of their part
    behind their name; costs are summed.

    Raises ValueError unless there is one positive scale for each of at least one inner loop, and all have the same
    meta-parameters.
    """
    _check(inners, scales)

    def init(key: Key, level: Level) -> Together:
        places = zip(inners, jax.random.split(key, len(inners)), level.problem, strict=True)
        parts = tuple(inner.init(key, Level(problem, level.horizon)) for inner, key, problem in places)
        return Together(parts, level, jnp.int32(0))

    def with_keys(lifetime: Together, key: Key) -> Iterator[tuple[InnerLoop, Any, Key]]:
        return zip(inners, lifetime.parts, jax.random.split(key, len(inners)), strict=True)

    def step(meta_params: MetaParams, lifetime: Together, key: Key) -> Update:
        updates = [inner.step(meta_params, part, key) for inner, part, key in with_keys(lifetime, key)]
        older = Together(tuple(x.lifetime for x in updates), lifetime.level, lifetime.step + 1)
        return Update(older, jnp.stack([x.objective for x in updates]).mean(), _named([x.metrics for x in updates]))

    def loss(meta_params: MetaParams, lifetime: Together, key: Key) -> Update:
        losses = [(inner.loss, part, key) for inner, part, key in with_keys(lifetime, key)]
        updates = [loss(meta_params, part, key) for loss, part, key in losses if loss is not None]
        value = _scaled_mean([x.objective for x in updates], scales)
        lifetime = lifetime._replace(parts=tuple(x.lifetime for x in updates))
        return Update(lifetime, value, _named([x.metrics for x in updates]))

    def fitness(meta_params: MetaParams, lifetime: Together, key: Key) -> Array:
        measures = [(inner.fitness, part, key) for inner, part, key in with_keys(lifetime, key)]
        values = [fitness(meta_params, part, key) for fitness, part, key in measures if fitness is not None]
        return _scaled_mean(values, scales)

    return InnerLoop(
        inners[0].init_meta,
        init,
        step,
        loss if all(inner.loss for inner in inners) else None,
        fitness if all(inner.fitness for inner in inners) else None,
    )


def mixed_levels(levels: Sequence[Levels]) -> Levels:
    """Levels of each of `levels`, with the lifetime that the first says. There is no one environment."""

    def sample(key: Key) -> Level:
        drawn = [each.sample(key) for each, key in zip(levels, jax.random.split(key, len(levels)), strict=True)]
        return Level(tuple(level.problem for level in drawn), drawn[0].horizon)

    return Levels(sample)


def _check(inners: Sequence[InnerLoop], scales: Sequence[Array | float]) -> None:
    if not inners or len(inners) != len(scales):
        raise ValueError(f"need one scale for each inner loop, got {len(scales)} for {len(inners)}")
    shapes = {str(jax.tree.map(jnp.shape, jax.eval_shape(inner.init_meta, jax.random.key(0)))) for inner in inners}
    if len(shapes) > 1:
        raise ValueError("inner loops of a mixture must have the same meta-parameters")
    for scale in scales:
        if isinstance(scale, int | float) and not 0.0 < scale < math.inf:
            raise ValueError(f"scales must be positive and finite, got {scale}")


def _scaled_mean(values: Sequence[Array], scales: Sequence[Array | float]) -> Array:
    return jnp.stack([x / scale for x, scale in zip(values, scales, strict=True)]).mean()


def _named(metrics: Sequence[Metrics]) -> Metrics:
    named = {f"{name}_{i}": x for i, part in enumerate(metrics) for name, x in part.items() if name not in COUNTED}
    costs = {name: sum(part[name] for part in metrics if name in part) for name in COUNTED}
    return {**named, **{name: jnp.asarray(x) for name, x in costs.items() if any(name in part for part in metrics)}}

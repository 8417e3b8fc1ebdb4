"""Several inner loops as one: an update rule that is meta-trained on agents of different kinds at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.meta import InnerLoop, Update
from metarl.types import Array, Key, Level, Levels, MetaParams, Metrics


class Together(NamedTuple):
    """One lifetime of each kind, side by side."""

    parts: tuple[Any, ...]
    level: Level  # its env_params are those of each part


def mixture(inners: Sequence[InnerLoop], scales: Sequence[Array | float]) -> InnerLoop:
    """A lifetime is one of each of `inners`, all under the same meta-parameters, on a level of `mixed`.

    Its fitness is the mean of theirs, each divided by its scale (in OPEN, what agents with Adam return there), and so
    is its loss. Metrics have the number of their part behind their name.

    Raises ValueError unless there is one positive scale for each of at least one inner loop, and all have the same
    meta-parameters.
    """
    if not inners or len(inners) != len(scales):
        raise ValueError(f"need one scale for each inner loop, got {len(scales)} for {len(inners)}")
    shapes = {str(jax.tree.map(jnp.shape, jax.eval_shape(inner.init_meta, jax.random.key(0)))) for inner in inners}
    if len(shapes) > 1:
        raise ValueError("inner loops of a mixture must have the same meta-parameters")
    for scale in scales:
        if isinstance(scale, int | float) and not 0.0 < scale < float("inf"):
            raise ValueError(f"scales must be positive and finite, got {scale}")

    def init(key: Key, level: Level) -> Together:
        places = zip(inners, jax.random.split(key, len(inners)), level.env_params, strict=True)
        return Together(tuple(inner.init(key, Level(params, level.horizon)) for inner, key, params in places), level)

    def named(metrics: Sequence[Metrics]) -> Metrics:
        return {f"{name}_{i}": x for i, part in enumerate(metrics) for name, x in part.items()}

    def of_parts(lifetime: Together, key: Key) -> Any:
        return zip(inners, lifetime.parts, jax.random.split(key, len(inners)), strict=True)

    def step(meta_params: MetaParams, lifetime: Together, key: Key) -> Update:
        updates = [inner.step(meta_params, part, key) for inner, part, key in of_parts(lifetime, key)]
        parts = tuple(update.lifetime for update in updates)
        penalty = jnp.stack([update.penalty for update in updates]).mean()
        return Update(lifetime._replace(parts=parts), penalty, named([update.metrics for update in updates]))

    def loss(meta_params: MetaParams, lifetime: Together, key: Key) -> tuple[Array, tuple[Together, Metrics]]:
        results = [inner.loss(meta_params, part, key) for inner, part, key in of_parts(lifetime, key)]
        value = jnp.stack([x / scale for (x, _), scale in zip(results, scales, strict=True)]).mean()
        parts = tuple(part for _, (part, _) in results)
        return value, (lifetime._replace(parts=parts), named([metrics for _, (_, metrics) in results]))

    def fitness(meta_params: MetaParams, lifetime: Together, key: Key) -> Array:
        values = [inner.fitness(meta_params, part, key) for inner, part, key in of_parts(lifetime, key)]
        return jnp.stack([x / scale for x, scale in zip(values, scales, strict=True)]).mean()

    def done(lifetime: Together) -> Array:
        return jnp.stack([inner.done(part) for inner, part in zip(inners, lifetime.parts, strict=True)]).all()

    steps = (sum(inner.env_steps for inner in inners), sum(inner.loss_env_steps for inner in inners))
    return InnerLoop(inners[0].init_meta, init, step, loss, fitness, done, None, *steps)


def mixed(levels: Sequence[Levels]) -> Levels:
    """Levels of each of `levels`, with the lifetime that the first says. There is no one environment."""

    def sample(key: Key) -> Level:
        drawn = [each.sample(key) for each, key in zip(levels, jax.random.split(key, len(levels)), strict=True)]
        return Level(tuple(level.env_params for level in drawn), drawn[0].horizon)

    return Levels(None, sample)  # type: ignore[arg-type]

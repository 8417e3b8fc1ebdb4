"""The smallest tasks for learners in context: each task has one label, and whoever has seen it once knows it."""

import jax
import jax.numpy as jnp

from metarl.inner.in_context import in_context_inner_loop
from metarl.meta import InnerLoop
from metarl.rl.networks import gru
from metarl.types import Level, Levels, Sequences

CLASSES = 2


def sequences(length: int = 5) -> Sequences:
    """Inputs [length, 1] are noise. A task is its label."""

    def read(task, key):
        return jax.random.normal(key, (length, 1)), jnp.full(length, task)

    return Sequences(lambda key: jax.random.randint(key, (), 0, CLASSES), read, 1, CLASSES)


def in_context(length: int = 5, network=gru(4), batch: int = 1) -> InnerLoop:  # noqa: B008
    return in_context_inner_loop(sequences(length), network, batch)


def levels(horizon: int) -> Levels:
    return Levels(lambda key: Level(sequences().sample(key), jnp.int32(horizon)))

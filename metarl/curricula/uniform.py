"""Domain randomisation: every level is a fresh draw."""

from __future__ import annotations

import jax

from metarl.meta import Curriculum
from metarl.types import Array, Key, Level, Levels, PyTree


def uniform(levels: Levels) -> Curriculum:
    """Draws every level independently from the distribution and remembers nothing."""

    def sample(key: Key, state: PyTree, needed: Array) -> tuple[Level, PyTree]:
        return jax.vmap(levels.sample)(jax.random.split(key, needed.shape[0])), state

    return Curriculum(lambda key, num_lifetimes: (), sample, lambda state, level, scores, ended: state)

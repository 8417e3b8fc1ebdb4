"""The smallest learner in context: linear attention, meta-trained to regress on the sequences that it reads."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl.meta import InnerLoop, Update, no_loss
from metarl.types import Level, Levels


class Reader(NamedTuple):
    level: Level
    step: jax.Array


def in_context(length: int = 8, dim: int = 2) -> InnerLoop:
    """Each step reads a sequence (x_1, y_1), ..., (x_T, y_T) with y = w x, the level's problem being w.

    y_t is predicted to be x_t A s_t with s_t = mean of y_s x_s over what was read before: a gradient step on what was
    read (von Oswald et al. 2023, arXiv 2212.07677). A is learned, and the mean squared error is `Update.objective`:
    there is no loss beside it, and nothing to measure at the end of a lifetime.
    """

    def step(meta_params, lifetime, key):
        x = jax.random.normal(key, (length, dim))
        y = x @ lifetime.level.problem
        read = jnp.cumsum(y[:, None] * x, 0) - y[:, None] * x  # before each time
        predicted = ((x @ meta_params["attention"]) * read / jnp.arange(1, length + 1)[:, None]).sum(1)
        error = jnp.square(y - predicted).mean()
        return Update(lifetime._replace(step=lifetime.step + 1), error, {"error": error})

    return InnerLoop(
        init_meta=lambda key: {"attention": jnp.zeros((dim, dim))},
        init=lambda key, level: Reader(level, jnp.int32(0)),
        step=step,
        loss=no_loss,
        fitness=lambda meta_params, lifetime, key: jnp.zeros(()),
    )


def levels(horizon: int, dim: int = 2) -> Levels:
    """Linear functions with standard normal weights."""
    return Levels(lambda key: Level(jax.random.normal(key, (dim,)), jnp.int32(horizon)))

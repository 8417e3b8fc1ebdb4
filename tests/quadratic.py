"""The smallest inner loop whose meta-gradient is known: noisy gradient descent on a quadratic with a learned rate."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.gradients import forward_over_reverse, reverse_over_reverse
from metarl.meta import InnerLoop, Update
from metarl.types import Level, Levels


class Lifetime(NamedTuple):
    x: jax.Array  # [2]
    level: Level
    step: jax.Array


def quadratic(noise: float = 0.0) -> InnerLoop:
    """`x <- x - rate * (h x + noise)` from x = x0, where the level's problem is (h, x0); loss is h x^2 / 2."""

    def init(key, level):
        return Lifetime(level.problem[1], level, jnp.int32(0))

    def value(lifetime):
        return 0.5 * (lifetime.level.problem[0] * lifetime.x**2).sum()

    def step(gradient_of, meta_params, lifetime, key):
        def measured(x):
            return (loss := value(lifetime._replace(x=x))), loss

        gradient, loss = gradient_of(measured)(lifetime.x)
        gradient = gradient + noise * jax.random.normal(key, lifetime.x.shape)
        older = lifetime._replace(x=lifetime.x - meta_params["rate"] * gradient, step=lifetime.step + 1)
        return Update(older, jnp.zeros(()), {"loss": loss})

    def loss(meta_params, lifetime, key):
        return Update(lifetime, value(lifetime), {})

    def fitness(meta_params, lifetime, key):
        return -value(lifetime)

    def init_meta(key):
        return {"rate": jnp.float32(0.1)}

    plain, mixed = partial(step, reverse_over_reverse), partial(step, forward_over_reverse)
    return InnerLoop(init_meta, init, plain, loss, fitness, mixed)


def levels(horizon: int, h: Any = (1.0, 3.0), spread: float = 0.0) -> Levels:
    """Curvatures `h`, a start of ones plus normal noise of deviation `spread`."""

    def sample(key):
        return Level((jnp.array(h), 1.0 + spread * jax.random.normal(key, (2,))), jnp.int32(horizon))

    return Levels(sample)


def slope(rate: float, updates: int, h: Any = (1.0, 3.0)) -> float:
    """d/d rate of the loss after `updates` noiseless updates from ones: -sum(h^2 k (1 - rate h)^(2k - 1))."""
    return -sum(c**2 * updates * (1 - rate * c) ** (2 * updates - 1) for c in h)

"""Few-shot regression: curves over [-5, 5] of which a learner sees a few points. The first task of MAML (sinusoids)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metarl.checks import COUNT, WIDTH, checked
from metarl.types import Array, Key, Params, Task

GRID = np.linspace(-5.0, 5.0, 100, dtype=np.float32)  # where learners are tested
Curve = Callable[[Array], Array]  # x [n] -> y [n]


class FewShot(NamedTuple):
    """One problem."""

    x: Array  # [shots] where the learner sees the curve
    y: Array  # [shots] the curve there
    curve: Array  # [100] the curve on `GRID`


def sinusoids(
    amplitude: tuple[float, float] = (0.1, 5.0), phase: tuple[float, float] = (0.0, np.pi), frequency: float = 1.0
) -> Callable[[Key], Curve]:
    """Curves `A sin(frequency x - phase)`, with A and the phase uniform in their ranges."""

    def draw(key: Key) -> Curve:
        low, high = jnp.array([amplitude, phase]).T
        size, shift = jax.random.uniform(key, (2,), minval=low, maxval=high)
        return lambda x: size * jnp.sin(frequency * x - shift)

    return draw


def polynomials(*deviations: float) -> Callable[[Key], Curve]:
    """Polynomials in x / 5, from the constant term on. Coefficients are normal with these standard deviations."""

    def draw(key: Key) -> Curve:
        coefficients = jnp.array(deviations) * jax.random.normal(key, (len(deviations),))
        return lambda x: jnp.polyval(coefficients[::-1], x / 5.0)

    return draw


def steps(size: float = 2.0) -> Callable[[Key], Curve]:
    """Curves that are `size` or `-size` on either side of a point which is uniform in [-4, 4]."""

    def draw(key: Key) -> Curve:
        sign_key, place_key = jax.random.split(key)
        sign, place = (
            jax.random.rademacher(sign_key, dtype=float),
            jax.random.uniform(place_key, minval=-4.0, maxval=4.0),
        )
        return lambda x: size * sign * jnp.sign(x - place)

    return draw


def target(key: Key) -> Curve:
    """A curve of the family that `SOURCES` are to help with: sinusoids of amplitude 1 to 4 and phase 0 to pi / 2."""
    return sinusoids((1.0, 4.0), (0.0, 0.5 * np.pi))(key)


# Families of curves to learn from for `target`. The first two share its structure.
SOURCES: dict[str, Callable[[Key], Curve]] = {
    "small sinusoids": sinusoids((0.1, 2.0), (0.0, 0.5 * np.pi)),
    "shifted sinusoids": sinusoids((1.0, 4.0), (0.25 * np.pi, 0.75 * np.pi)),
    "fast sinusoids": sinusoids((1.0, 4.0), (0.0, 2.0 * np.pi), frequency=3.0),
    "lines": polynomials(1.0, 3.0),
    "cubics": polynomials(1.0, 1.0, 3.0, 3.0),
    "steps": steps(),
}


@checked
def few_shot(
    draw: Callable[[Key], Curve],
    shots: Annotated[int, COUNT] = 10,
    hidden: Sequence[Annotated[int, WIDTH]] = (40, 40),
) -> Task:
    """Regression on `shots` points of a curve, at places that are uniform in [-5, 5], by a network of relu layers.

    `loss` is the squared error on these points, the same in every update; `test` is that on `GRID`, and so also between
    them. `draw(key)` gives a curve, a function of places [n]. Raises ValueError for counts below 1.
    """
    layers = [layer for size in hidden for layer in (nn.Dense(size), nn.relu)]
    network = nn.Sequential([*layers, nn.Dense(1)])

    def sample(key: Key) -> FewShot:
        curve_key, place_key = jax.random.split(key)
        curve, x = draw(curve_key), jax.random.uniform(place_key, (shots,), minval=GRID[0], maxval=GRID[-1])
        return FewShot(x, curve(x), curve(jnp.asarray(GRID)))

    def error(params: Params, x: Array, y: Array) -> Array:
        found = cast(Array, network.apply({"params": params}, x[:, None]))
        return jnp.square(found[:, 0] - y).mean()

    return Task(
        sample=sample,
        init=lambda key, problem: network.init(key, jnp.zeros((1, 1)))["params"],
        loss=lambda params, problem, key: error(params, problem.x, problem.y),
        test=lambda params, problem: error(params, jnp.asarray(GRID), problem.curve),
    )


def sinusoid(shots: int = 10, hidden: Sequence[int] = (40, 40)) -> Task:
    """The regression of MAML: amplitudes in [0.1, 5] and phases in [0, pi] (Finn et al. 2017, section 5.1)."""
    return few_shot(sinusoids(), shots, hidden)

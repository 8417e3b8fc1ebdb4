"""Supervised problems for optimizers: quadratics, and small networks on handwritten digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.checks import COUNT, NOT_NEGATIVE, WIDTH, checked
from metarl.rl.networks import Network, as_layers, mlp
from metarl.types import Array, Box, Key, Params, PyTree, Task


class Quadratic(NamedTuple):
    """One problem: `(x - minimum)^T diag(curvature) (x - minimum) / 2`."""

    curvature: Array  # [dim]
    minimum: Array  # [dim]


@checked
def quadratic(
    dim: Annotated[int, COUNT] = 10,
    condition: tuple[float, float] = (1.0, 100.0),
    noise: Annotated[float, NOT_NEGATIVE] = 0.0,
) -> Task:
    """Quadratics in parameters `{"x": [dim]}`. Initial parameters and minimum are drawn from N(0, I).

    Curvatures are log-spaced from 1 down to 1 / condition number, in random order; the condition number is log-uniform
    in the range `condition`. Each entry of a gradient has normal noise of standard deviation `noise`.

    Raises ValueError for a `dim` below 1, a `condition` that is not a range of numbers from 1, and negative noise.
    """
    least, greatest = condition
    if not 1.0 <= least <= greatest < math.inf:
        raise ValueError(f"condition must be a range of finite numbers of at least 1, got {condition}")

    def sample(key: Key) -> Quadratic:
        condition_key, order_key, minimum_key = jax.random.split(key, 3)
        log_condition = jax.random.uniform(condition_key, minval=math.log(least), maxval=math.log(greatest))
        curvature = jnp.exp(-log_condition * jnp.linspace(0.0, 1.0, dim))
        return Quadratic(jax.random.permutation(order_key, curvature), jax.random.normal(minimum_key, (dim,)))

    def test(params: Params, problem: Quadratic) -> Array:
        return 0.5 * (problem.curvature * (params["x"] - problem.minimum) ** 2).sum()

    def loss(params: Params, problem: Quadratic, key: Key) -> Array:
        value = test(params, problem)
        if noise:
            value += noise * (jax.random.normal(key, (dim,)) * (params["x"] - problem.minimum)).sum()
        return value

    return Task(sample, lambda key, problem: {"x": jax.random.normal(key, (dim,))}, loss, test)


class Digits(NamedTuple):
    """Flattened images of handwritten digits, and their labels. Arrays are numpy's, because JAX's could be tracers."""

    train_x: np.ndarray  # [1437, 64] float32 in [0, 1]
    train_y: np.ndarray  # [1437] int32 in 0 .. 9
    held_out_x: np.ndarray  # [360, 64]
    held_out_y: np.ndarray  # [360]


@cache
def digits() -> Digits:
    """The 8 x 8 digits of scikit-learn, always with the same shuffle and split: 80 % are for training."""
    from sklearn.datasets import load_digits  # takes a second

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))  # neighbours may be by the same writer
    x, y = (x[order] / 16.0).astype(np.float32), y[order].astype(np.int32)
    count = len(y) * 4 // 5
    return Digits(x[:count], y[:count], x[count:], y[count:])


@checked
def logistic_digits(batch: Annotated[int, COUNT] = 64) -> Task:
    """Softmax regression on `digits`: cross-entropy on minibatches of `batch` images, drawn with replacement.

    Raises ValueError for a `batch` below 1.
    """
    return _classifier((), batch)


@checked
def mlp_digits(hidden: Annotated[int, WIDTH] = 32, batch: Annotated[int, COUNT] = 64) -> Task:
    """`logistic_digits` with a hidden layer of `hidden` tanh units.

    Raises ValueError for counts below 1.
    """
    return _classifier((hidden,), batch)


def accuracy(params: Params) -> Array:
    """The accuracy () of parameters of `logistic_digits` or `mlp_digits` on the held-out digits."""
    *hidden, _ = (layer["bias"].shape[0] for layer in params["logits"].values())
    outputs, _ = _over_images(_network(hidden).apply, params, digits().held_out_x)
    return (outputs["logits"].argmax(-1) == digits().held_out_y).mean()


def _classifier(sizes: Sequence[int], batch: int) -> Task:
    network = _network(sizes)

    def draw(key: Key) -> tuple[Array, Array]:
        x, y = digits()[:2]
        rows = jax.random.randint(key, (batch,), 0, len(y))
        return jnp.asarray(x)[rows], jnp.asarray(y)[rows]

    def cross_entropy(params: Params, x: Array | np.ndarray, y: Array | np.ndarray) -> Array:
        outputs, _ = _over_images(network.apply, params, x)
        return optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], jnp.asarray(y)).mean()

    def layers(params: Params, problem: PyTree, key: Key) -> PyTree:
        assert network.watch is not None
        *_, activities = _over_images(network.watch, params, draw(key)[0])
        return {name: as_layers(tree, actor=False) for name, tree in activities.items()}

    return Task(
        sample=lambda key: (),
        init=lambda key, problem: network.init(key),
        loss=lambda params, problem, key: cross_entropy(params, *draw(key)),
        test=lambda params, problem: cross_entropy(params, *digits()[:2]),
        layers=layers,
    )


def _network(sizes: Sequence[int]) -> Network:
    return mlp(sizes)(Box(0.0, 1.0, (64,)), {"logits": 10})


def _over_images(function: Callable[..., tuple], params: Params, x: Array | np.ndarray) -> tuple:
    """`Network.apply` or `Network.watch` on images [B, 64]; leaves [B, ...]."""
    return jax.vmap(function, (None, 0, None, None))(params, jnp.asarray(x), jnp.bool_(True), {"logits": ()})

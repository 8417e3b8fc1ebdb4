"""Tasks of classification for learners in context: random projections of one data set, with permuted labels."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.tasks import Digits, digits
from metarl.checks import COUNT, COUNT_OR_ZERO, SEED, checked
from metarl.types import Array, Key, Sequences

Data = Literal["digits", "clusters"]
NUM_CLASSES = 10
_FAMILY = 2**31  # folds the key of the tasks: those of `jax.random.split` of the same key are others


class Projection(NamedTuple):
    """One task."""

    matrix: Array  # [n, n] by which inputs are multiplied
    labels: Array  # [10] int32, the label of each class


@checked
def projections(
    data: Data = "digits",
    tasks: Annotated[Array | int, COUNT_OR_ZERO] = 0,
    length: Annotated[int, COUNT] = 50,
    held_out: bool = False,
    seed: Annotated[int, SEED] = 0,
) -> Sequences:
    """Sequences of `length` examples (P x, the new label of y), by a P and a permutation of labels for each task.

    The entries of P [n, n] are normal with variance 1 / n (Kirsch et al. 2022, arXiv 2212.04458). The examples (x, y)
    are drawn with replacement from the training part of `data`, or from its `held_out` part: the 8 x 8 `digits` (n =
    64), or `clusters`, 10 normal ones (n = 16). Inputs have mean 0 and variance 1 over the training part.

    There are `tasks` tasks, which `seed` draws, or one for each key if `tasks` is 0. With more tasks of the same seed,
    the first ones stay. The number may be traced, if it is not 0.

    Raises ValueError for counts below their bounds and for other data.
    """
    train_x, train_y, held_out_x, held_out_y = digits() if data == "digits" else clusters()
    mean, deviation = train_x.mean(0), (train_x - train_x.mean(0)).std()
    x, y = (held_out_x, held_out_y) if held_out else (train_x, train_y)
    inputs, count = (x - mean) / deviation, x.shape[1]
    unlimited = isinstance(tasks, int) and tasks == 0

    def sample(key: Key) -> Projection:
        if not unlimited:
            family = jax.random.fold_in(jax.random.key(seed), _FAMILY)
            key = jax.random.fold_in(family, jax.random.randint(key, (), 0, tasks))
        matrix_key, label_key = jax.random.split(key)
        matrix = jax.random.normal(matrix_key, (count, count)) / count**0.5
        return Projection(matrix, jax.random.permutation(label_key, NUM_CLASSES))

    def read(task: Projection, key: Key) -> tuple[Array, Array]:
        rows = jax.random.randint(key, (length,), 0, len(y))
        return jnp.asarray(inputs)[rows] @ task.matrix.T, task.labels[jnp.asarray(y)[rows]]

    return Sequences(sample, read, count, NUM_CLASSES)


@cache
def clusters() -> Digits:
    """10 normal clusters in 16 dimensions, always the same, in the form of `digits` and with as many examples.

    Centres are standard normal, and examples have a deviation of 1 in each dimension around them.
    """
    random = np.random.default_rng(0)
    centres, labels = random.normal(size=(NUM_CLASSES, 16)), random.integers(NUM_CLASSES, size=1797).astype(np.int32)
    x = (centres[labels] + random.normal(size=(1797, 16))).astype(np.float32)
    return Digits(x[:1437], labels[:1437], x[1437:], labels[1437:])

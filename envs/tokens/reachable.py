"""Whether the beginning of an answer in reverse Polish notation can still become right: exact, by enumeration."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from envs.tokens import rpn
from metarl.types import Array


def reachable(notation: rpn.Notation, numbers: Array, target: Array, answer: Array) -> Array:
    """Whether a correct answer begins with each prefix of `answer` `[T] int32`, up to and with each token, `[T] bool`.

    Correct answers make `target` `()` from the n `numbers` `[n] int32`, each used once. All `expressions` are
    evaluated for each answer: 192 of three numbers, 7680 of four. Raises ValueError for numbers of another shape, and
    for answers with less room than n numbers need.
    """
    if numbers.ndim != 1 or not 2 <= len(numbers) <= 4:
        raise ValueError(f"numbers must be [n] with n from 2 to 4, got shape {numbers.shape}")
    if len(answer) < 2 * len(numbers):
        raise ValueError(f"an answer of {len(numbers)} numbers needs {2 * len(numbers)} tokens, got {len(answer)}")
    symbols = jnp.concatenate([numbers, notation.plus + jnp.arange(len(rpn.OPERATORS))])
    every = symbols[jnp.asarray(expressions(len(numbers)))]
    every = jnp.pad(every, ((0, 0), (0, len(answer) - every.shape[1])), constant_values=notation.end)
    correct = jax.vmap(lambda x: rpn.verify(notation, x, numbers, target, rpn.REWARDS["binary"]).correct)(every)
    ended = jnp.cumsum(answer == notation.end) > 0  # what follows the end has no effect
    agrees = jnp.cumsum(every != jnp.where(ended, notation.end, answer), axis=1) == 0
    return (agrees & correct[:, None]).any(0)


@functools.cache
def expressions(n: int) -> np.ndarray:
    """All expressions of n numbers, each used once, `[E, 2 n - 1] int32`: i is number i, and n + j operator j."""
    rows = [
        tokens
        for order in itertools.permutations(range(n))
        for places in _shapes(n)
        for operators in itertools.product(range(n, n + len(rpn.OPERATORS)), repeat=n - 1)
        for tokens in [_filled(places, order, operators)]
    ]
    return np.array(rows, np.int32)


def _filled(places: tuple[bool, ...], numbers: tuple[int, ...], operators: tuple[int, ...]) -> list[int]:
    number, operator = iter(numbers), iter(operators)
    return [next(number) if is_number else next(operator) for is_number in places]


def _shapes(n: int) -> list[tuple[bool, ...]]:
    """Where the n numbers of an expression may be among its 2 n - 1 tokens: an operator needs two values before it."""
    return [
        places
        for places in itertools.product((True, False), repeat=2 * n - 1)
        if sum(places) == n and all(2 * sum(places[: i + 1]) - (i + 1) >= 1 for i in range(2 * n - 1))
    ]

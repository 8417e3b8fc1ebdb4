"""Which prefixes can still become right, against a search with fractions that knows nothing of expressions."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.tokens.reachable import expressions, reachable
from envs.tokens.rpn import END, Notation

NOTATION = Notation(30)
PLUS = NOTATION.plus


def combined(a, b, operator):
    if operator == 3 and b == 0:
        return None
    return (a + b, a - b, a * b, a / b if b else None)[operator]


def can_succeed(stack, left, target):
    """Whether a stack of fractions and a sorted tuple of numbers that are left can end as the target."""
    if not left and len(stack) == 1:
        return stack[0] == target
    pushes = ((stack + (Fraction(n),), left[:i] + left[i + 1 :]) for i, n in enumerate(left))
    if any(can_succeed(s, rest, target) for s, rest in pushes):
        return True
    if len(stack) < 2:
        return False
    values = (combined(stack[-2], stack[-1], operator) for operator in range(4))
    return any(v is not None and can_succeed(stack[:-2] + (v,), left, target) for v in values)


def by_search(numbers, target, answer):
    stack, left, found = (), tuple(numbers), []
    for token in answer:
        if token == END:
            found.append(not left and len(stack) == 1 and stack[0] == target)
            break
        if token < PLUS:
            if token not in left:
                break
            i = left.index(token)
            stack, left = stack + (Fraction(token),), left[:i] + left[i + 1 :]
        else:
            if len(stack) < 2 or (value := combined(stack[-2], stack[-1], token - PLUS)) is None:
                break
            stack = stack[:-2] + (value,)
        found.append(can_succeed(stack, left, target))
    return found + [bool(found) and found[-1] and answer[len(found) - 1] == END] * (len(answer) - len(found))


@pytest.mark.parametrize("n", [2, 3])
def test_a_search_agrees(n):
    random = np.random.default_rng(n)
    numbers = random.integers(1, 7, (60, n))
    target = random.integers(1, 13, 60)
    answers = np.zeros((60, 2 * n), int)
    for row in range(60):  # half are expressions, half of them with a wrong token
        tokens = expressions(n)[random.integers(len(expressions(n)))]
        answers[row, :-1] = np.where(tokens < n, numbers[row][np.minimum(tokens, n - 1)], tokens - n + PLUS)
        if row % 2:
            answers[row, random.integers(2 * n)] = random.choice([1, 5, PLUS, PLUS + 3, END])
    found = jax.jit(jax.vmap(lambda *x: reachable(NOTATION, *x)))(*map(jnp.asarray, (numbers, target, answers)))
    expected = [by_search(sorted(map(int, x)), int(t), [int(y) for y in a])
                for x, t, a in zip(numbers, target, answers, strict=True)]  # fmt: skip
    np.testing.assert_array_equal(found, expected)
    assert 0.05 < np.mean(expected) < 0.9


def test_the_number_of_expressions_is_that_of_orders_shapes_and_operators():
    """n! orders, as many shapes as the Catalan number of n - 1, and 4 operators each."""
    assert [len(expressions(n)) for n in (2, 3, 4)] == [2 * 4, 6 * 2 * 16, 24 * 5 * 64]
    assert len({tuple(x) for x in expressions(3)}) == 192


def test_from_the_first_token_of_a_known_case():
    """24 = (8 / (3 - 8 / 3)) with 8, 3, 8, 3: it must begin with 8."""
    numbers = jnp.array([8, 3, 8, 3])
    solution = jnp.array([8, 3, 8, 3, PLUS + 3, PLUS + 1, PLUS + 3, END])
    assert bool(reachable(NOTATION, numbers, jnp.int32(24), solution).all())
    assert not bool(reachable(NOTATION, numbers, jnp.int32(24), solution.at[0].set(3)).any())


def test_what_follows_the_end_has_no_effect():
    answer = jnp.array([3, 4, PLUS, END, 7, 7])
    found = reachable(NOTATION, jnp.array([3, 4]), jnp.int32(7), answer)
    np.testing.assert_array_equal(found, np.ones(6, bool))


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"numbers must be \[n\] with n from 2 to 4, got shape \(5,\)"):
        reachable(NOTATION, jnp.ones(5, jnp.int32), jnp.int32(1), jnp.zeros(10, jnp.int32))
    with pytest.raises(ValueError, match="an answer of 3 numbers needs 6 tokens, got 5"):
        reachable(NOTATION, jnp.ones(3, jnp.int32), jnp.int32(1), jnp.zeros(5, jnp.int32))

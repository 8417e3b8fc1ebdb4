"""Formulas as text: what symbolic regression finds and recipes hold, as functions of arrays.

    drift = formula("max(0, where(A >= 0, r * A - 0.2, tanh(l * A)))", ("r", "l", "A"))
    drift(r=..., l=..., A=...)

A formula has numbers, variables, `+ - * /`, `abs(x)`, `tanh(x)`, `max(x, y)`, `min(x, y)`, and `where(x >= y, u, v)`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping

import jax.numpy as jnp

from metarl.types import Array

_OPERATORS: Mapping[type, Callable[..., Array]] = {
    ast.Add: jnp.add,
    ast.Sub: jnp.subtract,
    ast.Mult: jnp.multiply,
    ast.Div: jnp.divide,
    ast.USub: jnp.negative,
    ast.GtE: jnp.greater_equal,
}
_FUNCTIONS: Mapping[str, tuple[int, Callable[..., Array]]] = {
    "abs": (1, jnp.abs),
    "tanh": (1, jnp.tanh),
    "max": (2, jnp.maximum),
    "min": (2, jnp.minimum),
    "where": (3, jnp.where),
}


def formula(text: str, variables: Collection[str]) -> Callable[..., Array]:
    """The function that `text` describes: it takes the `variables` by name, arrays [...], and returns an array [...].

    Raises ValueError, with the part that is at fault, for text that is no formula of these variables.
    """
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"{text!r} is no formula: {error}") from error
    _check(body, variables)
    return lambda **values: _value(body, values)


def _check(node: ast.expr, variables: Collection[str]) -> None:
    """Raises ValueError for a part that formulas do not have."""
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float()):
            return
        case ast.Name(id=name) if name in variables:
            return
        case ast.BinOp() | ast.UnaryOp() if type(node.op) in _OPERATORS:
            return _check_all(_operands(node), variables)
        case ast.Call(func=ast.Name(id="where"), args=[ast.Compare(left=x, ops=[ast.GtE()], comparators=[y]), u, v]):
            return _check_all([x, y, u, v], variables)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and name != "where":
            if len(args) == _FUNCTIONS[name][0]:
                return _check_all(args, variables)
    known = f"numbers, {', '.join(variables)}, + - * /, abs(x), tanh(x), max(x, y), min(x, y) and where(x >= y, u, v)"
    raise ValueError(f"a formula has {known}, got {ast.unparse(node)!r}")


def _check_all(nodes: Collection[ast.expr], variables: Collection[str]) -> None:
    for node in nodes:
        _check(node, variables)


def _operands(node: ast.expr) -> list[ast.expr]:
    return [x for x in ast.iter_child_nodes(node) if isinstance(x, ast.expr)]


def _value(node: ast.expr, values: Mapping[str, Array]) -> Array:
    match node:
        case ast.Constant(value=number):
            return jnp.float32(number)
        case ast.Name(id=name):
            return values[name]
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name][1](*(_value(x, values) for x in args))
        case ast.Compare(ops=[operator]):
            return _OPERATORS[type(operator)](*(_value(x, values) for x in _operands(node)))
        case ast.BinOp(op=operator) | ast.UnaryOp(op=operator):
            return _OPERATORS[type(operator)](*(_value(x, values) for x in _operands(node)))
    raise AssertionError(ast.dump(node))

"""Symbolic regression: formulas of few symbols that fit data, by genetic programming (optional extra `distil`)."""

from __future__ import annotations

import ast
import operator
from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple, cast

import numpy as np

from metarl.checks import COUNT, NOT_NEGATIVE, SEED, Bound, checked, needed
from metarl.formulas import formula

LENGTH = Bound(3, 200)
_SYMBOLS = "add,sub,mul,constant,variable,tanh,abs,fmin,fmax"


class Fit(NamedTuple):
    """A formula, and how well it fits."""

    length: int  # in symbols, as the search counts them: before rounding, and before what is constant is folded
    r2: float  # share of the variance of the data that it explains
    text: str  # see `metarl.formulas`


@checked
def regress(
    inputs: Mapping[str, Any],
    target: Any,
    *,
    max_length: Annotated[int, LENGTH] = 25,
    evaluations: Annotated[int, COUNT] = 50_000,
    seed: Annotated[int, SEED] = 0,
) -> list[Fit]:
    """Formulas of the `inputs` (name -> [n]) for `target` [n], longer ones only where they fit better.

    Operon (Burlacu et al. 2020) searches by genetic programming for the best trade-offs of R^2 and length, and fits
    constants by least squares. The R^2 are those of the texts, with their rounded constants. The same `seed` gives the
    same formulas on one machine. A target that is constant has the formula of that number.

    Raises ImportError naming the extra to install, and ValueError for numbers out of range and data that are not
    finite.
    """
    values = np.stack([np.asarray(x, np.float64) for x in inputs.values()], 1)
    wanted = np.asarray(target, np.float64)
    if not (np.isfinite(values).all() and np.isfinite(wanted).all()):
        raise ValueError("the inputs and the target of a regression must be finite")
    scale = wanted.std()
    if scale < 1e-12:
        return [Fit(1, 1.0, f"{wanted.mean():.4g}")]
    search = operon()(
        allowed_symbols=_SYMBOLS,
        objectives=["r2", "length"],
        max_length=max_length,
        max_depth=8,
        population_size=500,
        pool_size=500,
        generations=10_000,
        max_evaluations=evaluations,
        optimizer_iterations=3,
        n_threads=1,
        random_state=seed,
    )
    search.fit(values.astype(np.float32), (wanted / scale).astype(np.float32))
    texts = {
        tidied(f"{scale:.8g} * ({search.get_model_string(x['tree'], 8, list(inputs))})"): x["length"]
        for x in sorted(search.pareto_front_, key=lambda x: -x["length"])  # of equal texts, the shortest
    }
    found = [Fit(length, score(text, inputs, wanted), text) for text, length in texts.items()]
    front: list[Fit] = []
    for fit in sorted(found):
        if np.isfinite(fit.r2) and (not front or fit.r2 > front[-1].r2):
            front.append(fit)
    return front


@checked
def shortest(front: Collection[Fit], slack: Annotated[float, NOT_NEGATIVE] = 0.02) -> Fit:
    """The shortest formula whose R^2 is within `slack` of the best. Raises ValueError if there is none at all."""
    if not front:
        raise ValueError("the search has found no formula with finite values: give it more evaluations")
    best = max(fit.r2 for fit in front)
    return min((fit for fit in front if fit.r2 >= best - slack), key=lambda fit: fit.length)


def score(text: str, inputs: Mapping[str, Any], target: Any) -> float:
    """Share of the variance of `target` [n] that a formula of the `inputs` explains; below 0 if the mean is better."""
    values = formula(text, inputs)(**{name: np.asarray(x, np.float32) for name, x in inputs.items()})
    return explained(values, target)


def explained(values: Any, target: Any) -> float:
    """R^2: the share of the variance of `target` that `values` (of its shape, or a number) explain."""
    wanted = np.asarray(target, np.float64)
    return float(1.0 - np.square(np.asarray(values, np.float64) - wanted).mean() / wanted.var())


def tidied(text: str) -> str:
    """A formula without needless parentheses, numbers rounded to 4 digits, and what is constant folded."""
    return ast.unparse(_Tidy().visit(ast.parse(text, mode="eval")))


_FOLD: Mapping[type, Any] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


class _Tidy(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return _constant(_number(node))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        x = self.visit(node.operand)
        return _constant(-_number(x)) if isinstance(x, ast.Constant) else ast.UnaryOp(node.op, x)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        x, y, kind = self.visit(node.left), self.visit(node.right), type(node.op)
        a, b = _number(x), _number(y)  # NaN of what is no number
        if a == a and b == b and kind in _FOLD:
            return _constant(_FOLD[kind](a, b))
        if kind is ast.Mult and 0.0 in (a, b):
            return _constant(0.0)
        if (kind is ast.Mult and a == 1.0) or (kind is ast.Add and a == 0.0):
            return y
        if (kind is ast.Mult and b == 1.0) or (kind in (ast.Add, ast.Sub) and b == 0.0):
            return x
        return ast.BinOp(x, node.op, y)


def _number(node: ast.AST) -> float:
    return float(cast(float, node.value)) if isinstance(node, ast.Constant) else float("nan")


def _constant(x: float) -> ast.Constant:
    return ast.Constant(float(f"{x:.4g}"))


def operon() -> Any:
    """Operon's regressor. Raises ImportError naming the extra to install."""
    return needed("pyoperon.sklearn", "distil").SymbolicRegressor

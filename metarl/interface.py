"""What a user's part must be and return: `NAME_OF_PART returned X, wanted Y`.

The checks look at structure, shapes and dtypes only, while a function is built or traced. So no error waits for a
compilation, and a compiled program is the same with and without them. All of them raise ValueError.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.types import Array, Environment, Key, Level, Levels, Metrics, PyTree

T = TypeVar("T")
_RESERVED = {"step", "seconds", "file"}  # `metarl.train` and its sinks add the first two; numpy's files need the last
_KINDS = {jnp.floating: "float", jnp.integer: "int", jnp.bool_: "bool"}
_LONGEST = 200  # characters of a tree in a message


def name(part: Any) -> str:
    """The name of a class or function, or that of an object's class."""
    while isinstance(part, functools.partial):
        part = part.func
    found = getattr(part, "__qualname__", None) or type(part).__qualname__
    return found.replace("<locals>.", "")


def title(seam: str, function: Any) -> str:
    """The name of a function in its place, for example `Objective.loss (my_rule.loss)`."""
    return f"{seam} ({name(function)})"


def shown(tree: Any) -> str:
    """A tree with `float32[2, 3]` in the place of arrays and numbers."""
    text = str(jax.tree.map(_leaf, tree)).replace("'", "")
    return text if len(text) < _LONGEST else text[:_LONGEST] + " ..."


def part(what: str, value: Any, kind: type[T], hints: Mapping[str, str] | None = None) -> T:
    """`value` if it is a `kind`. `hints` say the way out for what else it may be, by the name of its class."""
    if isinstance(value, kind):
        return value
    is_function = callable(value) and hasattr(value, "__qualname__")
    hint = (hints or {}).get(type(value).__name__, f"call {name(value)}(...)" if is_function else "")
    raise ValueError(f"{what} must be {_article(kind)}, got {_described(value)}" + (f": {hint}" if hint else ""))


def optimizer(what: str, value: Any) -> optax.GradientTransformation:
    """`value` if it has the two functions of an optax transformation."""
    if callable(getattr(value, "init", None)) and callable(getattr(value, "update", None)):
        return value
    return part(
        what,
        value,
        optax.GradientTransformation,
        {"LearnedOptimizer": "a learned optimizer belongs into an inner loop, in the place of the agents' optimizer"},
    )


def traced(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """Shapes and dtypes of `function(*args)`; says that it is `what` that cannot be traced if it raises an error."""
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:  # each library raises its own kind of error
        raise ValueError(f"{what} cannot be traced: {_first_line(error)}") from error


def values(what: str, found: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """`found` if it is a tuple (or list) of as many values as there are `names`."""
    if not isinstance(found, tuple | list):
        raise ValueError(f"{what} returned {shown(found)}, wanted ({', '.join(names)})")
    if len(found) != len(names):
        raise ValueError(f"{what} returned {len(found)} values, wanted {len(names)}: ({', '.join(names)})")
    return tuple(found)


def array(what: str, found: Any, shape: tuple[int, ...], kind: Any = jnp.floating) -> Any:
    """`found` if it is an array or number of this `shape`, of (a) `kind` of dtype."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    fits = _is_array(found) and jnp.shape(found) == shape
    if not fits or not any(jnp.issubdtype(_dtype(found), each) for each in kinds):
        raise ValueError(f"{what} returned {shown(found)}, wanted {_KINDS[kinds[0]]}{list(shape)}")
    return found


def metrics(what: str, found: Any) -> Metrics:
    """`found` if it is a mapping from names to real numbers or arrays of them."""
    real = (jnp.floating, jnp.integer, jnp.bool_)
    fits = isinstance(found, Mapping) and all(isinstance(key, str) and _is_array(x) for key, x in found.items())
    if not fits or not all(any(jnp.issubdtype(_dtype(x), kind) for kind in real) for x in found.values()):
        raise ValueError(f"{what} returned {shown(found)}, wanted metrics {{name: real numbers}}")
    if taken := found.keys() & _RESERVED:
        raise ValueError(f"{what} returned a metric {min(taken)!r}, a name that logs need themselves: rename it")
    return dict(found)


def same(what: str, found: PyTree, wanted: PyTree, dtypes: bool = True) -> Any:
    """`found` if its tree, shapes and (unless told otherwise) `dtypes` are those of `wanted`."""
    if not _same_tree(found, wanted):
        raise ValueError(f"{what} returned {shown(found)}, wanted {shown(wanted)}")
    places = jax.tree_util.tree_leaves_with_path(found)
    for (path, one), other in zip(places, jax.tree.leaves(wanted), strict=True):
        if jnp.shape(one) != jnp.shape(other) or (dtypes and _dtype(one) != _dtype(other)):
            at = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(f"{what} returned {_leaf(one)}{at}, wanted {_leaf(other)}")
    return found


def level(what: str, found: Any, shape: tuple[int, ...] = ()) -> Level:
    """`found` if it is a `Level` with integer horizons of this `shape`, at least 1 where they are known already."""
    if not isinstance(found, Level):
        raise ValueError(f"{what} returned {shown(found)}, wanted Level(problem, horizon)")
    horizon = array(f"the horizon that {what}", found.horizon, shape, jnp.integer)
    if not isinstance(horizon, jax.core.Tracer) and np.min(horizon) < 1:
        raise ValueError(f"the horizon that {what} returned must be at least 1 update, got {np.min(horizon)}")
    return found


def problem(env: Environment, level: Level) -> None:
    """Checks that the problem of `level` may be one of `env`: it has the leaves and the shapes of `default_params`."""
    found, wanted = level.problem, jax.eval_shape(lambda: env.default_params)
    if _shapes(found) != _shapes(wanted):
        raise ValueError(
            f"the level is not one of the environment {name(env)}: its problem is {shown(found)}, wanted "
            f"{shown(wanted)} as in default_params"
        )


def fits(what: str, found: PyTree, whose: str, wanted: PyTree) -> None:
    """Checks that `found` has the leaves and shapes of `wanted`. The error names the first place that differs."""
    shapes, others = dict(_shapes(found)), dict(_shapes(wanted))
    for place in {**others, **shapes}:
        if shapes.get(place) != others.get(place):
            shape, other = (x.get(place, "nothing") for x in (shapes, others))
            raise ValueError(f"{what} does not fit {whose}: it has {shape} at {place}, wanted {other}")


def levels(value: Any) -> Levels:
    """`value` if it is a distribution of levels. A horizon that is equal for all levels is at least 1."""
    checked = part("levels", value, Levels, {"Level": "give Levels(lambda key: level, env)"})
    if not callable(checked.sample):
        raise ValueError(f"Levels.sample must be a function, got {_described(checked.sample)}")

    def sample(key: Key) -> Level:
        with jax.ensure_compile_time_eval():  # a horizon that does not depend on the key becomes a number
            return level(title("Levels.sample", checked.sample), checked.sample(key))

    jax.eval_shape(sample, jax.random.key(0))
    return checked


def meta_params(name: str, given: Any, init: Callable[[Key], PyTree]) -> PyTree:
    """The part `name` of the meta-parameters `given`, `()` if it is left out, after a check against those of `init`."""
    if not isinstance(given, Mapping):
        raise ValueError(f"meta_params must be a mapping such as inner.init_meta(key) gives, got {_described(given)}")
    found, wanted = given.get(name, ()), jax.eval_shape(init, jax.random.key(0))
    if not _same_tree(found, wanted):  # shapes may differ: files have numbers of shape (1,)
        raise ValueError(
            f"meta_params[{name!r}] must be {shown(wanted)}, as inner.init_meta(key) gives them, got {shown(found)}"
        )
    return found


def follow(
    what: str, update: Callable[..., Any], gradient: PyTree, state: PyTree, params: PyTree, **more: Any
) -> tuple[PyTree, PyTree]:
    """`update(gradient, state, params, **more)` of an optimizer: updates like `params`, and a state like `state`."""
    try:
        found = update(gradient, state, params, **more)
    except (TypeError, AttributeError, KeyError, ValueError) as error:  # an optimizer that wants other arguments
        raise ValueError(f"{what}.update cannot be traced: {_first_line(error)}") from error
    updates, following = values(f"{what}.update", found, ("updates", "state"))
    same(f"the updates that {what}.update", updates, params, dtypes=False)
    same(f"the state that {what}.update", following, state)
    return updates, following


def merged(**given: Metrics) -> Metrics:
    """All metrics of several parts as one. A name may be given only once."""
    found: dict[str, tuple[str, Array]] = {}
    for giver, some in given.items():
        for key, x in some.items():
            if key in found:
                raise ValueError(
                    f"the metric {key!r} is given by {_plain(found[key][0])} and by {_plain(giver)}: rename one"
                )
            found[key] = (giver, x)
    return {key: x for key, (_, x) in found.items()}


def _same_tree(*trees: PyTree) -> bool:
    one, other = (cast(Any, jax.tree.structure(tree)) for tree in trees)
    return bool(one == other)


def _shapes(tree: PyTree) -> list[tuple[str, tuple[int, ...]]]:
    """Where the leaves of `tree` are, and their shapes."""
    return [(jax.tree_util.keystr(path), jnp.shape(x)) for path, x in jax.tree_util.tree_leaves_with_path(tree)]


def _plain(giver: str) -> str:
    return f"the {giver.replace('_', ' ')}"


def _is_array(x: Any) -> bool:
    return isinstance(x, bool | int | float | complex) or (hasattr(x, "shape") and hasattr(x, "dtype"))


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else jnp.result_type(x)


def _leaf(x: Any) -> str:
    return f"{_dtype(x)}{list(jnp.shape(x))}" if _is_array(x) else _described(x)


def _described(value: Any) -> str:
    """How a message speaks of something that is not what it should be."""
    if isinstance(value, type):
        return f"the class {name(value)}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"the function {name(value)}"
    if value is None or isinstance(value, str | int | float | bool) or value in ({}, ()):
        return repr(value)
    return _article(type(value))


def _article(kind: type) -> str:
    return f"a{'n' if kind.__name__[0] in 'AEIOU' else ''} {kind.__name__}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]

"""Learned update rules as things of one's own code: saved with what they are made of, loaded ready to use.

rule = metarl.load_rule("lpg-gridworld")  # a name of `shipped()`, or a file that `save_rule` wrote
inner = metarl.rl_inner_loop(my_env, networks.tabular, rule.objective, optax.sgd(40.0), num_envs=16, rollout_length=20)
agent, metrics = metarl.train_agent(inner, {}, metarl.constant_levels(my_env, 500).sample(key), key, num_updates=500)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

import metarl.pretrained
from metarl import objectives, optimizers
from metarl.optimizers.learned import LearnedOptimizer
from metarl.pretrained import load_params, save_params, tuples
from metarl.rl.objective import Objective
from metarl.types import MetaParams

# What learned rules are made of: a recipe names one of each kind, or of one kind, with its arguments,
# `{"objective": {"name": "lpg", "bins": 8}, "optimizer": {"name": "open_rl"}}`.
Recipe = Mapping[str, Mapping[str, Any]]
INGREDIENTS: dict[str, dict[str, Callable[..., Any]]] = {
    "objective": {"lpg": objectives.lpg, "lpo": objectives.lpo},
    "optimizer": {
        "adafac": optimizers.adafac,
        "no_features": optimizers.no_features,
        "open_rl": optimizers.open_rl,
        "schedule": optimizers.schedule,
    },
}


class Rule(NamedTuple):
    """A learned update rule. What it does not learn is None."""

    objective: Objective | None  # what agents minimise; nothing in it is left to learn
    optimizer: optax.GradientTransformationExtraArgs | None  # how parameters follow gradients, in any optax loop
    card: dict[str, Any]  # where it comes from: recipe, configuration, seed, hardware, date, evaluation, content hash


def cook(recipe: Recipe) -> dict[str, Any]:
    """The `Objective` and the `LearnedOptimizer` that `recipe` names, by kind.

    Raises ValueError for a kind, a name or an argument that is not known, with those that are.
    """
    made = {}
    for kind, part in recipe.items():
        if kind not in INGREDIENTS:
            raise ValueError(f"a recipe has {' and '.join(INGREDIENTS)}, got {kind!r}")
        options = tuples(part)
        name = options.pop("name", None)
        if name not in INGREDIENTS[kind]:
            raise ValueError(f"{kind} must be one of {tuple(INGREDIENTS[kind])}, got {name!r}")
        try:
            made[kind] = INGREDIENTS[kind][name](**options)
        except TypeError as error:
            raise ValueError(f"{name} does not take these arguments: {error}") from error
    return made


def save_rule(path: str | Path, params: MetaParams, recipe: Recipe, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes the meta-parameters `{"objective": ..., "optimizer": ...}` of what `recipe` names.

    `metadata` is any JSON-able mapping.
    Raises ValueError for a recipe that `cook` does not know, and for parameters that are not of its making.
    """
    _check(cook(recipe), params, str(path))
    save_params(path, params, {**(metadata or {}), "recipe": recipe})


def load_rule(name: str | Path) -> Rule:
    """The rule that `save_rule` wrote to a file, or that is shipped under a name.

    Raises FileNotFoundError for neither, with the names that are most alike; ValueError for a file that is damaged, not
    of a rule, or of another version whose parameters do not fit.
    """
    path = Path(name)
    if not path.is_file():
        path = _SHIPPED / f"{name}.safetensors"
    if not path.is_file():
        known = shipped()
        alike = difflib.get_close_matches(str(name), known) or known
        raise FileNotFoundError(f"no rule at {str(name)!r}, and none is shipped as that; did you mean {alike}?")
    params, card = load_params(path)
    if "recipe" not in card:
        raise ValueError(f"{path} has no recipe: its parameters are of no rule that save_rule wrote")
    where = f"{path} (metarl {card.get('metarl_version')}, here {metarl.__version__})"
    try:
        made = cook(card["recipe"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    _check(made, params, where)
    objective, optimizer = made.get("objective"), made.get("optimizer")
    return Rule(
        objective and objectives.fixed(objective, params["objective"]),
        optimizer and optimizer.transform(params["optimizer"]),
        card,
    )


def shipped() -> list[str]:
    """Names of the rules that come with metarl; their cards lie beside them in `metarl/pretrained`."""
    return sorted(path.stem for path in _SHIPPED.glob("*.safetensors"))


_SHIPPED = Path(metarl.pretrained.__file__).parent


def _check(made: Mapping[str, Objective | LearnedOptimizer], params: MetaParams, where: str) -> None:
    born = {kind: jax.eval_shape(part.init, jax.random.key(0)) for kind, part in made.items()}
    found = {kind: part for kind, part in params.items() if jax.tree.leaves(part)}
    if (wanted := jax.tree.map(lambda x: x.shape, born)) != jax.tree.map(lambda x: x.shape, found):
        raise ValueError(f"{where}: the parameters are not those of its recipe, which has {wanted}")

"""LPO's drift distilled: where agents are on its plane, a smaller network, and a formula of few symbols."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.checks import COUNT, SEED, WIDTH, checked
from metarl.distil.fitting import descended, watched_lives
from metarl.distil.symbolic import Fit, explained, regress
from metarl.formulas import formula
from metarl.objectives.lpo import DRIFT_VARIABLES, Start, lpo, lpo_drift, mirror_drift
from metarl.rl.objective import Objective
from metarl.rl.returns import normalise
from metarl.rl.rollout import Model, Rollout, unroll
from metarl.rules import Learner
from metarl.types import Array, Environment, Key, Level, MetaParams, Metrics, Params, Progress, PyTree

# Edges of the cells of a grid. What is outside counts in the cells at the border. log rho = 0 is the middle of a cell.
LOG_RATIO, ADVANTAGE = np.linspace(-1.0, 1.0, 66), np.linspace(-4.0, 4.0, 65)

# (log rho [n], A [n], the agent's age n / N [n]) -> drift [n]
Drift = Callable[[Array, Array, Array], Array]


class Points(NamedTuple):
    """Where agents were on the plane of a drift. Leaves [n]."""

    log_ratio: Array
    advantage: Array
    age: Array  # from 0 to 1


def watched(objective: Objective, normalised: bool = True) -> Objective:
    """`objective`, an actor-critic, whose metrics have the share of its samples in each cell, "seen" [65, 64].

    The cells are those of log rho and the advantage, which the objective normalises unless told otherwise.
    """

    def loss(
        meta_params: MetaParams, params: Params, model: Model, rollout: Rollout, targets: PyTree, progress: Progress
    ) -> tuple[Array, Metrics]:
        value, metrics = objective.loss(meta_params, params, model, rollout, targets, progress)
        outputs, _ = unroll(model, params, rollout)
        log_ratio = model.policy.distribution(outputs["policy"]).log_prob(rollout.action) - rollout.log_prob
        advantage = normalise(targets.advantage) if normalised else targets.advantage
        edges = jnp.asarray(LOG_RATIO), jnp.asarray(ADVANTAGE)
        x, y = (jnp.clip(z.ravel(), e[0], e[-1]) for z, e in zip((log_ratio, advantage), edges, strict=True))
        seen = jnp.histogram2d(x, y, bins=edges)[0]
        return value, {**metrics, "seen": seen / log_ratio.size}

    return objective._replace(loss=loss)


def visits(
    learner: Learner,
    meta_params: MetaParams,
    env: Environment,
    levels: Level,
    key: Key,
    updates: int,
    normalised: bool = True,
) -> np.ndarray:
    """Share of the steps in each cell [lives, updates, 65, 64], of all gradient steps of each update.

    On each of `levels` (leaves [lives, ...]) an agent of a learner of drifts lives `updates` updates. Raises ValueError
    for a learner without an objective.
    """
    observe = partial(watched, normalised=normalised)
    seen = watched_lives(learner, observe, meta_params, env, levels, key, updates, lambda metrics: metrics["seen"])
    return np.asarray(seen, np.float64)


def drawn(visited: np.ndarray, count: int, seed: int = 0) -> Points:
    """`count` points of some of the lives of `visits`: each is drawn from all steps, uniformly within its cell."""
    random, seen = np.random.default_rng(seed), visited.sum(0)
    cells = random.choice(seen.size, size=count, p=seen.ravel() / seen.sum())
    age, *places = np.unravel_index(cells, seen.shape)
    x, y = (
        edges[place] + random.uniform(size=count) * (edges[1] - edges[0])
        for place, edges in zip(places, (LOG_RATIO, ADVANTAGE), strict=True)
    )
    return Points(*(jnp.asarray(leaf, jnp.float32) for leaf in (x, y, age / len(seen))))


def learned(meta_params: MetaParams, start: Start, clip: float) -> Drift:
    """The drift of an LPO rule, whose arguments are those of `objectives.lpo`."""

    def drift(log_ratio: Array, advantage: Array, age: Array) -> Array:
        return lpo_drift(meta_params, log_ratio, advantage, Progress(age, jnp.ones_like(age)), start, clip)

    return jnp.vectorize(drift)


def written(text: str) -> Drift:
    """The drift of `objectives.mirror(text)`."""
    values = formula(text, DRIFT_VARIABLES)

    return partial(mirror_drift, values)


def slope(drift: Drift) -> Drift:
    """Its derivative by log rho, which is what agents follow."""
    return jax.vmap(jax.grad(drift))


def agreement(fitted: Drift, drift: Drift, at: Points) -> dict[str, float]:
    """Shares of the variance of a drift, and of its slope, that another one explains at these points."""
    return {
        "drift": explained(fitted(*at), drift(*at)),
        "slope": explained(slope(fitted)(*at), slope(drift)(*at)),
    }


@checked
def fit_network(
    drift: Drift,
    at: Points,
    *,
    temporal: bool = False,
    start: Start = "ppo",
    clip: float = 0.2,
    hidden: Annotated[int, WIDTH] = 8,
    steps: Annotated[int, COUNT] = 3000,
    seed: Annotated[int, SEED] = 0,
) -> MetaParams:
    """Meta-parameters of an `objectives.lpo` of this width whose drift, and its slope, fit `drift` best at the points.

    By Adam on both squared errors, each relative to its variance.
    """
    params = lpo(temporal=temporal, start="scratch", hidden=hidden).init(jax.random.key(seed))
    wanted = drift(*at), slope(drift)(*at)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def loss(params: MetaParams, _: Array) -> Array:
        own = learned(params, start, clip)
        found = own(*at), slope(own)(*at)
        return jnp.stack([jnp.square(x - y).mean() / y.var() for x, y in zip(found, wanted, strict=True)]).sum()

    return descended(loss, params, optimizer, jnp.arange(steps))


def fit_formula(drift: Drift, at: Points, temporal: bool = False, **options: int) -> tuple[list[Fit], list[Fit]]:
    """Formulas of `objectives.mirror` for A >= 0 and for A < 0, by `symbolic.regress` at the points on each side.

    `joined` makes one formula of one of each. The options are those of `symbolic.regress`.
    """
    log_ratio, advantage, age = (np.asarray(x) for x in at)
    ratio = np.exp(log_ratio) - 1.0
    inputs = {"r": ratio, "l": log_ratio, "A": advantage, "rA": ratio * advantage, "lA": log_ratio * advantage}
    inputs |= {"n": age} if temporal else {}
    values = np.asarray(drift(*at))

    def side(chosen: np.ndarray) -> list[Fit]:
        front = regress({name: x[chosen] for name, x in inputs.items()}, values[chosen], **options)
        return [fit._replace(text=fit.text.replace("rA", "(r * A)").replace("lA", "(l * A)")) for fit in front]

    return side(advantage >= 0.0), side(advantage < 0.0)


def joined(positive: Fit, negative: Fit) -> str:
    """The drift that is one formula where A >= 0 and another one where A < 0."""
    return f"where(A >= 0, {positive.text}, {negative.text})"

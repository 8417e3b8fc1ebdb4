"""What a learned rule computes, as surfaces: LPG's policy target of a single step, and LPO's drift."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from metarl import plot
from metarl.objectives.lpg import LPGInputs, LPGNetwork, LPGTargets
from metarl.objectives.lpo import Start, lpo_drift
from metarl.objectives.temporal import temporal_features
from metarl.types import Array, MetaParams, Progress

POINTS = 101  # of each axis; odd, so that zero is one of them


class Surface(NamedTuple):
    """Values over a grid."""

    x: Array  # [columns]
    y: Array  # [rows]
    values: Array  # [rows, columns]


def lpg_surface(config: Any, meta_params: MetaParams, progress: Progress) -> Surface:
    """The policy target pi_hat of a single step, over its reward (x) and the change of the embedded prediction (y).

    The predictions y_t and y_{t+1} enter the meta-network only through a learned scalar phi, so the vertical axis is
    `phi(y_{t+1}) - phi(y_t)`: y_t is uniform, and y_{t+1} moves in a straight line from the bin (all its mass there)
    of the lowest phi to that of the highest. The step does not end an episode, nothing is known of what follows it,
    and pi(a|s) = 0.5. `config` has LPG's bins, hidden and temporal; a blind rule ignores `progress`.
    """
    bins = jnp.eye(config.bins)
    phi = _embedding(meta_params, bins)
    path = jnp.linspace(bins[phi.argmin()], bins[phi.argmax()], POINTS)  # [rows, bins]
    uniform = jnp.full(config.bins, 1.0 / config.bins)
    change = _embedding(meta_params, path) - _embedding(meta_params, uniform)
    order = change.argsort()  # phi is not linear along the path, nor need it rise all the way
    rewards, shape = jnp.linspace(-1.0, 1.0, POINTS), (POINTS, POINTS)
    seen = temporal_features(progress) if config.temporal else jnp.zeros(0)
    # every point of the grid is one environment of a rollout of one step
    no = jnp.zeros((1, POINTS * POINTS), bool)
    inputs = LPGInputs(
        reward=jnp.broadcast_to(rewards, shape).reshape(no.shape),
        terminated=no,
        done=no,
        prob=jnp.full(no.shape, 0.5),
        y=jnp.broadcast_to(uniform, (*no.shape, config.bins)),
        y_next=jnp.broadcast_to(path[order][:, None], (*shape, config.bins)).reshape(*no.shape, config.bins),
        time=jnp.broadcast_to(seen, (*no.shape, seen.size)),
    )
    targets = cast(LPGTargets, LPGNetwork(config.bins, config.hidden).apply({"params": meta_params}, inputs))
    return Surface(rewards, change[order], targets.pi_hat.reshape(shape))


def _embedding(meta_params: MetaParams, y: Array) -> Array:
    """LPG's phi [...] of predictions [..., bins]."""
    hidden, output = meta_params["embed_hidden"], meta_params["embed"]
    return (jax.nn.relu(y @ hidden["kernel"] + hidden["bias"]) @ output["kernel"] + output["bias"])[..., 0]


def lpo_surface(meta_params: MetaParams, progress: Progress, start: Start = "ppo", clip: float = 0.2) -> Surface:
    """LPO's drift f(rho, A) over the ratio rho from 1/2 to 2 (x) and the advantage A from -3 to 3 (y)."""
    log_ratio, advantage = jnp.linspace(-jnp.log(2.0), jnp.log(2.0), POINTS), jnp.linspace(-3.0, 3.0, POINTS)
    log_ratios, advantages = jnp.meshgrid(log_ratio, advantage)  # [rows, columns] each
    return Surface(jnp.exp(log_ratio), advantage, lpo_drift(meta_params, log_ratios, advantages, progress, start, clip))


def draw_lpg(config: Any, meta_params: MetaParams, path: str | Path) -> None:
    """`lpg_surface` at several ages of an agent of the longest lifetime; `meta_params` are the objective's own.

    `config` has also longest_life.
    """
    found = {name: lpg_surface(config, meta_params, progress) for name, progress in _ages(config).items()}
    first = next(iter(found.values()))
    x_label = "reward"
    y_label = r"$\phi(y_{t+1}) - \phi(y_t)$, uniform $y_t$"
    label = r"$\hat\pi$ of a step with $\pi(a|s) = 0.5$"
    values = {name: x.values for name, x in found.items()}
    plot.save(plot.surfaces(values, first.x, first.y, x_label, y_label, label), path)


def draw_lpo(config: Any, meta_params: MetaParams, path: str | Path) -> None:
    """PPO's drift, and `lpo_surface` at several ages; `meta_params` are the objective's own.

    `config` has LPO's start, clip and temporal, and longest_life.
    """
    silent = jax.tree.map(jnp.zeros_like, meta_params)  # a network that adds nothing to PPO's drift
    ages = _ages(config)
    ppo = lpo_surface(silent, next(iter(ages.values())), "ppo", config.clip)
    panels = {"PPO": ppo.values}
    for name, progress in ages.items():
        panels[name] = lpo_surface(meta_params, progress, config.start, config.clip).values
    figure = plot.surfaces(panels, ppo.x, ppo.y, r"ratio $\rho$", "advantage A", r"drift $f(\rho, A)$")
    plot.save(figure, path)


def _ages(config: Any) -> dict[str, Progress]:
    """The panels' names, and what they show: an agent at birth, halfway and at its end; one panel for a blind rule."""
    horizon = jnp.int32(config.longest_life)
    if not config.temporal:
        return {"at any age": Progress(jnp.int32(0), horizon)}
    return {f"n/N = {age:g}, N = {horizon}": Progress(age * horizon, horizon) for age in (0.0, 0.5, 1.0)}

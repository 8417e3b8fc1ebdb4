"""LPG distilled: what its network sees and says in real lifetimes, a smaller network, and a formula of pi_hat."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.checks import COUNT, SEED, WIDTH, checked
from metarl.distil.fitting import descended, watched_lives
from metarl.distil.symbolic import Fit, explained, regress
from metarl.objectives.lpg import LPGInputs, LPGNetwork, LPGTargets, lpg_inputs, summaries
from metarl.rl.objective import Objective
from metarl.rl.rollout import Model, Rollout
from metarl.rules import Learner
from metarl.types import Array, Environment, Key, Level, MetaParams, Metrics, Params, Progress, PyTree

ALONE = ("r", "d", "p", "v", "w", "n")  # the summaries of a single step


class Rollouts(NamedTuple):
    """What an LPG rule saw of n rollouts, and what it said. Leaves [n, T, E, ...]."""

    inputs: LPGInputs
    targets: LPGTargets


def watched(objective: Objective, discount: float | None, temporal: bool) -> Objective:
    """`objective`, an LPG with these options, whose metrics have what its network sees: the fields of `LPGInputs`."""

    def loss(
        meta_params: MetaParams, params: Params, model: Model, rollout: Rollout, targets: PyTree, progress: Progress
    ) -> tuple[Array, Metrics]:
        value, metrics = objective.loss(meta_params, params, model, rollout, targets, progress)
        inputs = lpg_inputs(params, model, rollout, discount, progress if temporal else None)
        return value, {**metrics, **{f"seen_{name}": x for name, x in inputs._asdict().items()}}

    return objective._replace(loss=loss)


def rollouts(
    learner: Learner,
    meta_params: MetaParams,
    env: Environment,
    levels: Level,
    key: Key,
    updates: int,
    every: int,
    discount: float | None = None,
    temporal: bool = False,
) -> Rollouts:
    """Every so many rollouts of agents of an LPG learner, on each of `levels` (leaves [lives, ...]), life by life.

    Each agent lives `updates` updates and makes one gradient step with each rollout. `meta_params` are the objective's.
    Raises ValueError for a learner without an objective.
    """

    def kept(metrics: Metrics) -> LPGInputs:
        return LPGInputs(*(metrics[f"seen_{name}"][::every] for name in LPGInputs._fields))

    observe = partial(watched, discount=discount, temporal=temporal)
    found = watched_lives(learner, observe, {"objective": meta_params}, env, levels, key, updates, kept)
    inputs = jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), found)
    return Rollouts(inputs, said(meta_params, inputs))


def said(meta_params: MetaParams, inputs: LPGInputs) -> LPGTargets:
    """What an LPG network says of rollouts, leaves [n, T, E, ...]."""
    hidden, bins = meta_params["y_hat"]["kernel"].shape
    network = LPGNetwork(bins, hidden)
    return cast(LPGTargets, jax.vmap(partial(network.apply, {"params": meta_params}))(inputs))


def without_memory(meta_params: MetaParams, inputs: LPGInputs) -> Array:
    """pi_hat [n, T, E] of a network that sees each step by itself, its memory empty."""
    ended = jnp.ones_like(inputs.done)  # the state is zero before it consumes a step with `done`
    return said(meta_params, inputs._replace(done=ended)).pi_hat


def agreement(found: LPGTargets, wanted: LPGTargets) -> dict[str, float]:
    """Share of the variance of pi_hat, and of the probabilities y_hat, that other targets explain."""
    y, y_wanted = jnp.exp(found.log_y_hat), np.exp(wanted.log_y_hat)
    rest = np.square(y - y_wanted).sum(-1).mean() / np.square(y_wanted - y_wanted.mean((0, 1, 2))).sum(-1).mean()
    return {"pi_hat": explained(found.pi_hat, wanted.pi_hat), "y_hat": float(1.0 - rest)}


@checked
def fit_network(
    meta_params: MetaParams,
    data: Rollouts,
    *,
    hidden: Annotated[int, WIDTH] = 8,
    steps: Annotated[int, COUNT] = 2000,
    batch: Annotated[int, COUNT] = 8,
    seed: Annotated[int, SEED] = 0,
) -> MetaParams:
    """Meta-parameters of an `objectives.lpg` of this width that says what a wider one says of `data`.

    By Adam on batches of rollouts: the squared error of pi_hat relative to its variance, and the divergence
    KL(y_hat of the wider one || y_hat). phi is that of the wider one at the start.
    """
    bins = meta_params["y_hat"]["kernel"].shape[1]
    network, start = LPGNetwork(bins, hidden), jax.tree.map(lambda x: x[0], data.inputs)
    params = dict(network.init(jax.random.key(seed), start)["params"])
    params |= {name: meta_params[name] for name in ("embed_hidden", "embed")}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, steps)))
    variance = data.targets.pi_hat.var()

    def loss(params: MetaParams, key: Key) -> Array:
        index = jax.random.randint(key, (batch,), 0, len(data.inputs.reward))
        part: Rollouts = jax.tree.map(lambda x: x[index], data)
        found = said(params, part.inputs)
        error = jnp.square(found.pi_hat - part.targets.pi_hat).mean() / variance
        log_y = part.targets.log_y_hat
        return error + (jnp.exp(log_y) * (log_y - found.log_y_hat)).sum(-1).mean()

    return descended(loss, params, optimizer, jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), steps))


def summed_up(meta_params: MetaParams, inputs: LPGInputs) -> dict[str, np.ndarray]:
    """`objectives.lpg.summaries` of rollouts, leaves [n T E]."""
    found = jax.vmap(partial(summaries, meta_params))(inputs)
    return {name: np.asarray(x).ravel() for name, x in found.items()}


def fit_formula(
    meta_params: MetaParams, data: Rollouts, count: int, alone: bool = False, *, seed: int = 0, **options: int
) -> list[Fit]:
    """Formulas of `objectives.lpg(pi_hat=...)`, by `symbolic.regress` at `count` random steps of `data`.

    They are formulas of all summaries, or of those of a single step (`alone`). The options are those of the regression.
    """
    inputs, wanted = summed_up(meta_params, data.inputs), np.asarray(data.targets.pi_hat).ravel()
    index = np.random.default_rng(seed).integers(wanted.size, size=count)
    chosen = {name: x[index] for name, x in inputs.items() if name in ALONE or not alone}
    return regress(chosen, wanted[index], seed=seed, **options)

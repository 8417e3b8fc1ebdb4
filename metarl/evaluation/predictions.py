"""What the prediction y of a learned rule is for: whether the rule uses it, and which values it encodes.

The prediction of an LPG agent (Oh et al. 2020, arXiv 2007.08794) has no meaning of its own: the rule gives it one. Two
measurements show whether it did. `frozen` agents never change their prediction: if they learn as well as others, the
rule does not use it. And, after section 5.3 of the paper, values of the agent's own policy under several discounts are
regressed on the prediction: `encoding` says how much of their variance over states it explains.

    visits = jax.jit(partial(live_and_visit, learner, env, num_envs=32, num_steps=500))(rule.params, levels, keys)
    r2 = encoding(jax.tree.map(lambda x: x[0], visits), (0.0, 0.9, 0.99))  # of the agent on the first level
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import optax
import scipy.sparse
from scipy.sparse.linalg import splu

from metarl import checks
from metarl.checks import COUNT, DECAY, SEVERAL, checked
from metarl.evaluation.measure import live
from metarl.inner.initial import parameters
from metarl.optimizers.learned import LearnedOptimizer, as_learned
from metarl.parallel import Placement
from metarl.rl.rollout import model, reset, rollout, unroll
from metarl.rules import Learner
from metarl.types import Array, Environment, Key, Level, MetaParams

RIDGE = 1e-4  # penalty of `r_squared`, as a share of the variance of a predictor
PERMUTATIONS = 10
CONSTANT = 1e-6  # standard deviation below which a predictor or a value is taken for constant


class Visits(NamedTuple):
    """N steps of an agent that no longer learns. Leaves [N, ...], or [levels, N, ...]."""

    obs: Array
    next_obs: Array  # the true successor, also where the episode was cut off
    reward: Array
    terminated: Array  # bool: nothing follows
    prediction: Array  # [N, m] at `obs`: probabilities of m bins, or one number


class States(NamedTuple):
    """The S distinct observations among some visits, and what was seen there."""

    share: np.ndarray  # [S] of the visits
    prediction: np.ndarray  # [S, m] mean
    values: np.ndarray  # [D, S] under D discounts


class Encoding(NamedTuple):
    """Cross-validated R^2 [D] of the values under D discounts."""

    prediction: np.ndarray  # given the prediction
    permuted: np.ndarray  # given the predictions of other states, in a random order; the mean over `PERMUTATIONS`


def frozen(learner: Learner, output: str = "y") -> Learner:
    """`learner`, but the parameters of the network's `output` stay as they are at birth.

    The gradient of that output still counts where the optimizer clips by the norm of all gradients, so the other
    parameters move as they would if y had happened to stand still.
    Raises ValueError if this is no agent, or one without that output.
    """
    _check_output(learner, output)
    optimizer = as_learned(learner.optimizer)

    def transform(meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
        still = optax.masked(optax.set_to_zero(), lambda params: {name: name == output for name in params})
        return optax.with_extra_args_support(optax.chain(optimizer.transform(meta_params), still))

    return learner._replace(optimizer=LearnedOptimizer(optimizer.init, transform))


@checked
def live_and_visit(
    learner: Learner,
    env: Environment,
    meta_params: MetaParams,
    levels: Level,
    keys: Key,
    *,
    num_envs: Annotated[int, COUNT],
    num_steps: Annotated[int, SEVERAL],
    output: str = "y",
    placement: Placement = Placement(),  # noqa: B008
) -> Visits:
    """What one agent per level (`levels` and `keys` [n, ...]) sees at the end of its life, when it learns no more.

    It lives to the level's horizon, then acts for `num_steps` steps from the start of an episode in each of `num_envs`
    environments: N = num_envs * num_steps. The prediction is the softmax of `output`, or the output itself if it is one
    number, such as a value. Pure: jit it. Raises ValueError if this is no agent, or one without that output.
    """
    inner = learner.inner_loop(env)
    network, outputs = _check_output(learner, output)
    agent = model(env, network, outputs)

    def visit(meta_params: MetaParams, x: tuple[Level, Key]) -> Visits:
        level, key = x
        live_key, reset_key, act_key = jax.random.split(key, 3)
        params = parameters(meta_params, live(inner, meta_params, level, live_key))
        actors = reset(env, agent, level.problem, reset_key, num_envs)
        _, seen = rollout(env, agent, params, actors, level.problem, act_key, num_steps)
        found = unroll(agent, params, seen)[0][output]
        prediction = jax.nn.softmax(found) if found.shape[-1] > 1 else found
        steps = Visits(seen.obs, seen.next_obs, seen.reward, seen.terminated, prediction)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), steps)

    return placement.map(visit, meta_params, (levels, keys))


def states(visits: Visits, discounts: Sequence[float]) -> States:
    """The distinct observations of `visits` (leaves [N, ...]) with their values under each discount.

    The values are those of the Markov reward process with the mean rewards and the transition frequencies of the
    visits, as batch temporal-difference learning finds them (Sutton and Barto 2018, section 6.3). So an episode that
    was cut off goes on from its last observation, and what is worth nothing is only what follows a terminal state. An
    observation that was reached, but from which no step was seen, is worth the mean of all visits. Where observations
    never recur, these are Monte-Carlo returns to the end of each environment's steps.

    They are values given the observation: where it is not the whole state, of the states that the agent meets there.
    Raises ValueError for a discount outside [0, 1), or if there are none.
    """
    _check_discounts(discounts)
    here, there, count = _distinct(np.asarray(visits.obs), np.asarray(visits.next_obs))
    total = np.bincount(here, minlength=count).astype(np.float64)

    def mean(x: Any) -> np.ndarray:
        return np.bincount(here, np.asarray(x, np.float64), count) / total

    known, goes_on = there < count, ~np.asarray(visits.terminated, bool)
    share_of_moves = np.where(known & goes_on, 1.0 / total[here], 0.0)  # entries of one place are summed
    moves = scipy.sparse.coo_array((share_of_moves, (here, np.where(known, there, 0))), (count, count)).tocsc()
    reward, unknown, share = mean(visits.reward), mean(~known & goes_on), total / len(here)

    def value(discount: float) -> np.ndarray:
        solve = splu((scipy.sparse.eye_array(count) - discount * moves).tocsc()).solve
        # V = V_reward + V_unknown * (mean of V): one number that is not known yet
        of_reward, of_unknown = solve(reward), solve(discount * unknown)
        return of_reward + of_unknown * (share @ of_reward) / (1.0 - share @ of_unknown)

    prediction = np.stack([mean(column) for column in np.asarray(visits.prediction).T], axis=1)
    return States(share, prediction, np.stack([value(x) for x in discounts]))


def r_squared(
    predictors: np.ndarray, values: np.ndarray, share: np.ndarray, *, folds: int = 10, seed: int = 0
) -> np.ndarray:
    """Share [D] of the variance of `values` [D, S] that a linear function of `predictors` [S, m] explains.

    States weigh as much as their `share` [S] of visits. Each value is predicted by a ridge regression on the states of
    other folds, so m predictors of few states explain nothing by chance. Worse than the mean counts as 0.

    NaN, for not known, where values are constant; if predictors are not finite, as those of an agent that diverged; and
    if the visits are of too few states for the m + 1 coefficients: their effective number, 1 / sum(share^2), must be
    above m + 1. Agents that always do the same have so few.
    """
    count, weight = len(share), share / share.sum()
    if not np.isfinite(predictors).all() or 1.0 / np.square(weight).sum() <= predictors.shape[1] + 1:
        return np.full(len(values), np.nan)
    centred = predictors - weight @ predictors
    scale = np.sqrt(weight @ centred**2)
    x = np.where(scale > CONSTANT, centred / np.maximum(scale, CONSTANT), 0.0)
    x = np.concatenate([np.ones((count, 1)), x], axis=1)
    penalty = RIDGE * np.diag([0.0, *np.ones(x.shape[1] - 1)])
    fold = np.random.default_rng(seed).permutation(count) % folds
    predicted = np.zeros((count, len(values)))
    for i in range(min(folds, count)):
        weighed = x * np.where(fold == i, 0.0, weight)[:, None]
        fit = np.linalg.lstsq(weighed.T @ x + penalty, weighed.T @ values.T, rcond=None)[0]
        predicted[fold == i] = x[fold == i] @ fit
    error = weight @ (values.T - predicted) ** 2
    variance = weight @ (values.T - weight @ values.T) ** 2
    constant = variance <= CONSTANT**2
    return np.where(constant, np.nan, np.maximum(1.0 - error / np.where(constant, 1.0, variance), 0.0))


def encoding(visits: Visits, discounts: Sequence[float], seed: int = 0) -> Encoding:
    """How much of the values of one agent (leaves [N, ...]) its prediction explains, under each discount.

    Raises ValueError as `states` does.
    """
    found = states(visits, discounts)
    random = np.random.default_rng(seed)

    def known(prediction: np.ndarray) -> np.ndarray:
        return r_squared(prediction, found.values, found.share, seed=seed)

    shuffled = [known(random.permutation(found.prediction)) for _ in range(PERMUTATIONS)]
    return Encoding(known(found.prediction), np.mean(shuffled, axis=0))


def _check_output(learner: Learner, output: str) -> tuple[Any, Any]:
    """The network and the outputs of the agents. Raises ValueError if there are no agents with this output."""
    if learner.network is None or learner.objective is None:
        raise ValueError("the rule has no agents: its recipe has an optimizer only")
    if output not in learner.objective.outputs:
        others = ", ".join(learner.objective.outputs) or "none but the policy"
        raise ValueError(f"the agents have no output {output!r}: theirs are {others}")
    return learner.network, learner.objective.outputs


def _check_discounts(discounts: Sequence[float]) -> None:
    if not len(discounts):
        raise ValueError("give at least one discount")
    checks.within(float, DECAY, **{f"discounts[{i}]": x for i, x in enumerate(discounts)})


def _distinct(obs: np.ndarray, next_obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The index [N] of each observation among the S distinct ones, that of its successor (S or more: new), and S."""
    size = len(obs)
    rows = np.concatenate([obs, next_obs]).reshape(2 * size, -1)
    axis = 0 if rows.shape[1] > 1 else None
    _, index = np.unique(rows, return_inverse=True, axis=axis)
    index = index.reshape(-1)
    acted = np.unique(index[:size])
    number = np.full(index.max() + 1, len(acted))
    number[acted] = np.arange(len(acted))
    return number[index[:size]], number[index[size:]], len(acted)

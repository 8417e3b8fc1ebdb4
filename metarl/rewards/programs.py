"""Rewards by linear programs: as informative as can be, with the same optimal policies.

Both designs choose R [S, A] within [-largest, largest] such that

- all optimal actions of the process are equally good under R, and
- all others are worse by at least `Plan.gap` of their state.

So the optimal policies under R are exactly those of the process. The reward of terminal states stays 0. The programs
are solved by HiGHS (`scipy.optimize.linprog`), in which slack variables stand for max(0, .).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import scipy.optimize

from metarl.checks import COUNT, POSITIVE, checked
from metarl.rewards.tables import Plan, Tables, occupancy, rows

HORIZONS = (1, 4, 8, 16, 32)


class _Invariance(NamedTuple):
    """The constraints that both designs share, for a vector R [S * A]."""

    equal: np.ndarray  # [n, S * A]: equal @ R = 0
    at_least: np.ndarray  # [m, S * A]: at_least @ R >= gap
    gap: np.ndarray  # [m]
    bounds: np.ndarray  # [S * A, 2]


@checked
def exprd(
    tables: Tables,
    known: Plan,
    horizons: Sequence[Annotated[int, COUNT]] = HORIZONS,
    *,
    largest: Annotated[float, POSITIVE] | None = None,
    states: Sequence[int] | None = None,
) -> np.ndarray:
    """ExpRD (Devidze et al. 2021, section 4): a reward [S, A] that tells early what is optimal.

    Minimises the mean over horizons h and states s of `max over non-optimal a of [gap_s - A_h(s, a)]_+`, where
    `A_h(s, a)` is how much worse a is than the optimal policy if only the next h rewards count. `known` is the `plan`
    of the process. Only `states` may have rewards (None: all), and `largest` is the bound of rewards (None: the
    process's own). Where several actions are optimal, A_h is that of their uniform mixture, which is one policy where
    the paper has a mean over all.

    Raises ValueError for states that do not exist, and for bounds and states for which there is no such reward.
    """
    shared = _invariance(tables, known, largest, states)
    count, size = known.best.size, len(known.gap)
    others = ~known.best.ravel()
    owner = np.repeat(np.arange(size), known.best.shape[1])[others]  # the state of each action that is not optimal
    slacks = []
    for i, h in enumerate(horizons):
        slack = np.zeros((others.sum(), len(horizons) * size))
        slack[np.arange(len(owner)), i * size + owner] = 1.0
        slacks.append(np.concatenate([_loss(tables, known.policy, h)[others], slack], 1))
    padded = np.pad(shared.at_least, ((0, 0), (0, len(horizons) * size)))
    return _solved(
        np.concatenate([np.zeros(count), np.full(len(horizons) * size, 1.0 / (len(horizons) * size))]),
        shared._replace(
            equal=np.pad(shared.equal, ((0, 0), (0, len(horizons) * size))),
            at_least=np.concatenate([padded, *slacks]),
            gap=np.concatenate([shared.gap, np.tile(known.gap[owner], len(horizons))]),
            bounds=np.concatenate([shared.bounds, np.tile([0.0, np.inf], (len(horizons) * size, 1))]),
        ),
    )[:count].reshape(known.best.shape)


@checked
def expadard(
    tables: Tables,
    known: Plan,
    horizon: Annotated[int, COUNT] = 1,
    *,
    largest: Annotated[float, POSITIVE] | None = None,
    states: Sequence[int] | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """ExpAdaRD: a function from a learner's present policy [S, A] to a reward [S, A] that is informative for it.

    The reward maximises `E_{s, a ~ policy} [policy(a|s) A(s, a) A_{R,h}(s, a)]`, with the optimal advantage A of the
    process and that of the learner's policy under R within `horizon` h rewards. Other arguments and errors are those of
    `exprd`: those of states are raised at once, and that there is no such reward when the function is called.
    """
    shared = _invariance(tables, known, largest, states)

    def design(policy: np.ndarray) -> np.ndarray:
        weight = occupancy(tables, policy)[:, None] * np.square(policy) * known.advantage
        gradient = -_loss(tables, policy, horizon).T @ weight.ravel()
        return _solved(-gradient, shared).reshape(known.best.shape)

    return design


@checked
def informativeness(
    tables: Tables, known: Plan, reward: np.ndarray, horizons: Sequence[Annotated[int, COUNT]] = HORIZONS
) -> float:
    """Minus the objective that `exprd` minimises, of any `reward` [S, A]. 0 is the best there is.

    Raises ValueError for horizons below 1.
    """
    hinges = []
    for h in horizons:
        loss = (_loss(tables, known.policy, h) @ reward.ravel()).reshape(reward.shape)
        hinges.append(np.where(known.best, 0.0, np.maximum(known.gap[:, None] - loss, 0.0)).max(-1))
    return -float(np.mean(hinges))


def _returns(tables: Tables, policy: np.ndarray, horizon: int | None) -> np.ndarray:
    """The linear map [S A, S A] from rewards to action values, of which `horizon` rewards count (None: all)."""
    count = policy.size
    moves = (rows(tables)[..., None] * policy).reshape(count, count)
    if horizon is None:
        return np.linalg.inv(np.eye(count) - tables.discount * moves)
    total = power = np.eye(count)
    for _ in range(horizon - 1):
        power = tables.discount * power @ moves
        total = total + power
    return total


def _loss(tables: Tables, policy: np.ndarray, horizon: int | None) -> np.ndarray:
    """The map from rewards to `V(s) - Q(s, a)` of the policy: how much is lost by one other action."""
    returns = _returns(tables, policy, horizon)
    size, actions = policy.shape
    mean = np.einsum("sa,sax->sx", policy, returns.reshape(size, actions, -1))
    return np.repeat(mean, actions, 0) - returns


def _invariance(tables: Tables, known: Plan, largest: float | None, states: Sequence[int] | None) -> _Invariance:
    loss, best, actions = _loss(tables, known.policy, None), known.best.ravel(), known.best.shape[1]
    bound = float(np.abs(tables.reward).max()) if largest is None else largest
    allowed = ~np.asarray(tables.terminal)
    if states is not None:
        if bad := [s for s in states if not (isinstance(s, int | np.integer) and 0 <= s < len(allowed))]:
            raise ValueError(f"states must be integers from 0 to {len(allowed) - 1}, got {bad[0]}")
        allowed &= np.isin(np.arange(len(allowed)), states)
    limits = bound * np.repeat(allowed, actions)
    several = np.repeat(known.best.sum(-1) > 1, actions)  # the only optimal action of a state loses nothing by itself
    return _Invariance(
        equal=loss[best & several & ~np.repeat(np.asarray(tables.terminal), actions)],
        at_least=loss[~best],
        gap=np.repeat(known.gap, actions)[~best],
        bounds=np.stack([-limits, limits], 1),
    )


def _solved(cost: np.ndarray, given: _Invariance) -> np.ndarray:
    equal: dict[str, Any] = {"A_eq": given.equal, "b_eq": np.zeros(len(given.equal))} if len(given.equal) else {}
    # a little slack, because rounding may leave no room between the gap and the bound of rewards
    found = scipy.optimize.linprog(
        cost,
        A_ub=-given.at_least,
        b_ub=-given.gap * (1.0 - 1e-5),
        bounds=given.bounds,
        method="highs",
        options={"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9},  # gaps may be 1e-6
        **equal,
    )
    if found.x is None:
        raise ValueError(
            "largest and states must leave room for a reward with the same optimal policies, but HiGHS says: "
            + " ".join(found.message.split())
        )
    return np.asarray(found.x)

"""Processes with sparse rewards as tables: those on which designs of rewards are compared (Devidze et al. 2022).

Each is one level of `envs.mdp`, with S states and A actions. With a small probability a random action is taken instead
of the chosen one. The last state is terminal: it has no reward, and an episode that enters it stays there until it is
truncated. Layouts are those of "Exploration-Guided Reward Shaping for Reinforcement Learning under Sparse Rewards"
(NeurIPS 2022), that of the line with a key is of "Explicable Reward Design" (NeurIPS 2021).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import jax.numpy as jnp
import numpy as np

from envs.mdp import MDP, MDPParams, optimal_return
from metarl.checks import COUNT, NOT_NEGATIVE, SHARE, Bound, checked
from metarl.types import Level, Levels

LEFT, RIGHT, PICK = range(3)  # of the chain and the line
ROOMS_SIDE = 7
_MOVES = ((0, 1), (-1, 0), (0, -1), (1, 0))  # of the rooms: up, left, down, right, as (column, row)
_DOORS = (1, 5)
DISTRACTOR_AT = 15  # steps to the left of the chain's start


@checked
def chain(
    right: Annotated[int, COUNT] = 15,
    left: Annotated[int, Bound(DISTRACTOR_AT, 10_000)] = 20,
    distractor: Annotated[float, NOT_NEGATIVE] = 0.0,
    random_move: Annotated[float, SHARE] = 0.05,
    max_steps: Annotated[int, COUNT] = 30,
    horizon: Annotated[int, COUNT] = 1000,
) -> Levels:
    """CHAIN: `right` n1 steps to the right of the start a step to the right pays 1, as often as it is taken.

    There are `left` n2 states on the other side, whose end leads to the terminal state. A step to the left that begins
    15 steps to the left of the start pays `distractor`. Actions are left and right. Raises ValueError for a count below
    1, fewer than 15 states on the left, and a probability outside [0, 1].
    """
    last = right + left
    states, target, reward = last + 2, np.zeros((last + 2, 2), int), np.zeros((last + 2, 2))
    cells = np.arange(last + 1)
    target[:-1] = np.stack([cells - 1, np.minimum(cells + 1, last)], 1)
    target[0, LEFT] = target[-1] = states - 1
    reward[last, RIGHT] = 1.0
    reward[left - DISTRACTOR_AT, LEFT] = distractor
    return _levels(target, reward, left, random_move, max_steps, horizon)


@checked
def four_rooms(
    distractor: Annotated[float, NOT_NEGATIVE] = 0.0,
    random_move: Annotated[float, SHARE] = 0.05,
    max_steps: Annotated[int, COUNT] = 30,
    horizon: Annotated[int, COUNT] = 1000,
) -> Levels:
    """4-ROOM: 7 x 7 cells; a step to the right in the upper right corner pays 1, as often as it is taken.

    Thin walls between columns 2 and 3 and between rows 2 and 3, counted from the lower left corner, have two doors
    each, at 1 and 5. The start is (1, 1). Down or left from the corner (0, 0) leads to the terminal state, and up from
    (1, 0) pays `distractor`. State s is the cell in row s // 7 and column s % 7. Actions are up, left, down and right.
    Raises ValueError for counts below 1 and a probability outside [0, 1].
    """
    side, cells = ROOMS_SIDE, ROOMS_SIDE**2
    target, reward = np.full((cells + 1, 4), cells), np.zeros((cells + 1, 4))
    for x, y, action in np.ndindex(side, side, 4):
        dx, dy = _MOVES[action]
        column, row = x + dx, y + dy
        through = y if dx else x  # a wall is crossed at a door
        walled = {2, 3} == {x, column} or {2, 3} == {y, row}
        leaves = not (0 <= column < side and 0 <= row < side)
        stays = leaves or (walled and through not in _DOORS)
        if (x, y) != (0, 0) or not leaves:
            target[side * y + x, action] = side * y + x if stays else side * row + column
    reward[cells - 1, 3] = 1.0
    reward[1, 0] = distractor
    return _levels(target, reward, side + 1, random_move, max_steps, horizon)


@checked
def line_key(
    length: Annotated[int, Bound(3, 10_000)] = 10,
    random_move: Annotated[float, SHARE] = 0.05,
    max_steps: Annotated[int, COUNT] = 30,
    horizon: Annotated[int, COUNT] = 1000,
) -> Levels:
    """LINE-KEY: the key in cell 1 is to be picked, and then a step to the right from the last cell pays 1 and ends.

    Agents begin in the middle, without the key. A step to the left from cell 0 without the key ends the episode, too.
    States are the cells without the key, the same with it, and the terminal one. Actions are left, right and pick.
    Raises ValueError for fewer than 3 cells, a count below 1 and a probability outside [0, 1].
    """
    cells, end = np.arange(length), 2 * length
    target, reward = np.full((end + 1, 3), end), np.zeros((end + 1, 3))
    for first in (0, length):
        moves = [np.maximum(cells - 1, 0), np.minimum(cells + 1, length - 1), cells]
        target[first + cells] = first + np.stack(moves, 1)
    target[0, LEFT] = target[end - 1, RIGHT] = end
    target[1, PICK] = length + 1
    reward[end - 1, RIGHT] = 1.0
    return _levels(target, reward, length // 2, random_move, max_steps, horizon)


def _levels(
    target: np.ndarray, reward: np.ndarray, start: int, random_move: float, max_steps: int, horizon: int
) -> Levels:
    """The one level in which action a leads from state s to `target` [S, A], but for random actions."""
    states, actions = target.shape
    moves = np.eye(states)[target]
    params = MDPParams(
        transition=jnp.asarray((1 - random_move) * moves + random_move * moves.mean(1, keepdims=True), jnp.float32),
        reward=jnp.asarray(reward, jnp.float32),
        terminate=jnp.float32(0.0),
        start=jnp.int32(start),
        max_steps=jnp.int32(max_steps),
        noise=jnp.float32(0.0),
    )
    env = MDP(states, actions)
    return Levels(lambda key: Level(params, jnp.int32(horizon)), env, partial(optimal_return, env))

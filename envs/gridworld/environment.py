"""The gridworld family on which learned update rules are meta-trained (Oh et al. 2020, appendix; Jackson et al. 2023).

A level is a square grid with walls, an agent with five actions (up, down, left, right, stay) and objects of several
types. A step has these parts, in this order:

1. *Move.* A move into a wall or across the border leaves the agent where it is.
2. *Collect.* An object that is present on the agent's cell is collected: the agent gets its reward, it disappears, and
   the episode terminates with its probability. If an object respawned under the agent and the agent stays, it is
   collected at the next step.
3. *Respawn.* Every object that was absent when the step began reappears with its probability. An object that was
   collected in this step can reappear at the next step at the earliest.
4. *Truncate.* The episode is truncated after `max_steps` steps; it can also terminate in its last step.

In a *tabular* environment each object has one cell per level, and the observation is the index of the state. Otherwise
objects are put on uniformly drawn free and unoccupied cells at every reset and respawn, and the observation is a stack
of planes. Walls are not observed, because an agent spends its whole lifetime on one level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl import checks
from metarl.checks import COUNT, SEVERAL
from metarl.tree import select
from metarl.types import Array, Box, Discrete, Key


class GridworldParams(NamedTuple):
    """One level, padded to the environment's maxima: C = max_side ** 2 cells (row * max_side + column), O objects."""

    max_steps: Array  # () int32, steps until truncation
    free: Array  # [C] bool, False for walls and for cells outside the level's own grid
    start: Array  # () int32, the agent's first cell
    num_objects: Array  # () int32
    objects: Array  # [O] int32, cell of each object, -1 where there is none; used in tabular environments only
    types: Array  # [O] int32
    reward: Array  # [O] float32, paid on collection
    terminate: Array  # [O] float32, probability that collecting it ends the episode
    respawn: Array  # [O] float32, probability per step of absence; 0 where there is no object


class GridworldState(NamedTuple):
    """One episode in progress."""

    time: Array  # () int32, steps since the reset
    cell: Array  # () int32, the agent's cell
    present: Array  # [O] bool
    objects: Array | None  # [O] int32, cell of each object; None in a tabular environment, where the level has them


@dataclass(frozen=True)
class Gridworld:
    """The environment. Its fields are the static maxima of a family of levels; `GridworldParams` has everything else.

    Observation: tabular `() int32`, `cell * 2 ** max_objects + sum(present[i] * 2 ** i)`; otherwise `[max_side,
    max_side, 1 + max_types] float32`, a plane with the agent's cell and one plane with the objects of each type.
    """

    max_side: Annotated[int, SEVERAL] = 11
    max_objects: Annotated[int, COUNT] = 4
    max_types: Annotated[int, COUNT] = 3
    tabular: bool = True
    num_actions: ClassVar[int] = 5
    """Up, down, left, right, stay."""

    def __post_init__(self) -> None:
        checks.fields(self)

    @property
    def num_states(self) -> int:
        """Number of tabular observations."""
        return self.max_side**2 * 2**self.max_objects

    @property
    def default_params(self) -> GridworldParams:
        """An open grid with one rewarding, terminating object in the corner opposite the start."""
        cells, first = self.max_side**2, np.arange(self.max_objects) == 0
        return GridworldParams(
            max_steps=jnp.int32(4 * self.max_side),
            free=jnp.ones(cells, bool),
            start=jnp.int32(0),
            num_objects=jnp.int32(1),
            objects=jnp.asarray(np.where(first, cells - 1, -1), jnp.int32),
            types=jnp.zeros(self.max_objects, jnp.int32),
            reward=jnp.asarray(first, jnp.float32),
            terminate=jnp.asarray(first, jnp.float32),
            respawn=jnp.zeros(self.max_objects),
        )

    def action_space(self, params: GridworldParams | None = None) -> Discrete:
        """Up, down, left, right, stay."""
        return Discrete(self.num_actions)

    def observation_space(self, params: GridworldParams | None = None) -> Discrete | Box:
        """The states of a tabular environment, or planes; see the class."""
        if self.tabular:
            return Discrete(self.num_states)
        return Box(0.0, 1.0, (self.max_side, self.max_side, 1 + self.max_types))

    def reset(self, key: Key, params: GridworldParams) -> tuple[Array, GridworldState]:
        """Observation and state at the start of an episode."""
        state = self._start(jax.random.uniform(key, (self.max_objects,)), params)
        return self._observe(state, params), state

    def step(
        self, key: Key, state: GridworldState, action: Array, params: GridworldParams
    ) -> tuple[Array, GridworldState, Array, Array, Array, dict[str, Any]]:
        """One step with auto-reset; see the module's docstring for the order of events."""
        draws = jax.random.uniform(key, (self.max_objects * (1 if self.tabular else 2),))
        # The same number decides whether an absent object respawns and whether a collected one terminates: never both.
        chances, places = draws[: self.max_objects], draws[self.max_objects :]

        cell = self.move(state.cell, action, params)
        positions = params.objects if state.objects is None else state.objects
        collected = state.present & (positions == cell)
        reward = jnp.sum(jnp.where(collected, params.reward, 0.0))
        terminated = jnp.any(collected & (chances < params.terminate))

        kept, respawned = state.present & ~collected, ~state.present & (chances < params.respawn)
        objects = None
        if state.objects is not None:
            objects = self._place(places, respawned, cell, state.objects, kept, params)
        following = GridworldState(state.time + 1, cell, kept | respawned, objects)
        truncated = following.time >= params.max_steps

        # The new episode reuses the draws of respawns in the old one: only one of both is returned.
        start, done = self._start(places, params), terminated | truncated
        state = select(done, start, following)
        info = {"final_observation": self._observe(following, params)}
        return self._observe(state, params), state, reward, terminated, truncated, info

    def move(self, cell: Array, action: Array, params: GridworldParams) -> Array:
        """The cell `() int32` of an agent after `action` on `cell`."""
        last = self.max_side - 1
        row = jnp.clip(cell // self.max_side + jnp.where(action == 1, 1, 0) - jnp.where(action == 0, 1, 0), 0, last)
        column = jnp.clip(cell % self.max_side + jnp.where(action == 3, 1, 0) - jnp.where(action == 2, 1, 0), 0, last)
        target = row * self.max_side + column
        return jnp.where(params.free[target], target, cell)

    def _start(self, places: Array, params: GridworldParams) -> GridworldState:
        present = jnp.arange(self.max_objects) < params.num_objects
        objects = None
        if not self.tabular:
            none = jnp.zeros_like(present)
            objects = self._place(places, present, params.start, jnp.zeros_like(params.objects), none, params)
        return GridworldState(jnp.int32(0), params.start, present, objects)

    def _place(
        self, draws: Array, wanted: Array, cell: Array, objects: Array, present: Array, params: GridworldParams
    ) -> Array:
        """Cells `[O]` of the objects, the `wanted` ones moved to uniformly drawn free and unoccupied cells.

        A free cell is drawn by its rank among the unoccupied ones, which is then shifted past the occupied ranks.
        """
        cells = jnp.nonzero(params.free, size=params.free.size, fill_value=0)[0].astype(jnp.int32)
        rank = jnp.cumsum(params.free) - 1
        nowhere = params.free.size
        taken = jnp.append(jnp.where(present, rank[objects], nowhere), rank[cell])
        for i in range(self.max_objects):
            vacant = rank[-1] + 1 - jnp.sum(taken < nowhere)
            drawn = jnp.minimum((draws[i] * vacant).astype(jnp.int32), vacant - 1)
            shifted = drawn
            for _ in range(self.max_objects):
                shifted = drawn + jnp.sum(taken <= shifted)
            taken = taken.at[i].set(jnp.where(wanted[i], shifted, taken[i]))
            objects = objects.at[i].set(jnp.where(wanted[i], cells[shifted], objects[i]))
        return objects

    def _observe(self, state: GridworldState, params: GridworldParams) -> Array:
        if self.tabular:
            subset = jnp.sum(state.present * 2 ** jnp.arange(self.max_objects))
            return state.cell * 2**self.max_objects + subset
        planes = jnp.zeros((self.max_side**2, 1 + self.max_types)).at[state.cell, 0].set(1.0)
        planes = planes.at[state.objects, 1 + params.types].add(state.present)
        return planes.reshape(self.max_side, self.max_side, 1 + self.max_types)

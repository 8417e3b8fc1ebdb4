"""Errands: collect items of several kinds in the order of an instruction, for a single reward at the end.

A small stand-in for web forms, whose fields are to be filled as an instruction says (Gur et al. 2019, arXiv
1812.09195). An open grid has one item of each kind. The agent moves up, down, left or right, or picks: the item on its
cell is collected, and on an empty cell nothing happens. A wrong item ends the episode without a reward. So does the
last item of the instruction, with a reward of 1. Episodes are truncated after `max_steps`.

A level carries the instruction and how many of its sub-goals are done at a reset. So a warm start is another level, and
a curriculum chooses it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl import checks
from metarl.checks import COUNT, SEED, SEVERAL, SHARE, checked
from metarl.tree import select
from metarl.types import Array, Box, Discrete, Key, Level, Levels

UP, DOWN, LEFT, RIGHT, PICK = range(5)
STEPS = 12  # of an episode, per sub-goal; 9 are enough from anywhere on 5 x 5 cells
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))  # rows, columns
_HELD_OUT = 4  # one in so many instructions


class ErrandsParams(NamedTuple):
    """One level of K kinds, with an instruction of at most L sub-goals."""

    cells: Array  # [K] int32, of the item of each kind, row * side + column
    instruction: Array  # [L] int32, kinds in their order, then -1
    done: Array  # () int32, sub-goals that are done at a reset
    max_steps: Array  # () int32


class ErrandsState(NamedTuple):
    """One episode in progress."""

    time: Array  # () int32, steps since the reset
    cell: Array  # () int32, the agent's cell
    done: Array  # () int32, sub-goals that are done


@dataclass(frozen=True)
class Errands:
    """The environment.

    The observation `[side ** 2 + K + L K] float32` has the agent's cell (one-hot), which items are there, and the kinds
    (one-hot) of the sub-goals that are left, the next one first, then zeros. The places of the items are not observed.
    The agent's first cell is drawn uniformly. Raises ValueError for more kinds than cells, and for an instruction of
    more items than there are.
    """

    side: Annotated[int, SEVERAL] = 5
    num_kinds: Annotated[int, COUNT] = 6
    length: Annotated[int, COUNT] = 3
    num_actions: ClassVar[int] = 5
    """Up, down, left, right, pick."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.num_kinds > self.side**2:
            raise ValueError(f"num_kinds must be at most side ** 2 = {self.side**2}, got {self.num_kinds}")
        if self.length > self.num_kinds:
            raise ValueError(f"length must be at most num_kinds = {self.num_kinds}, got {self.length}")

    @property
    def default_params(self) -> ErrandsParams:
        """The kinds fill the first cells, and are asked for in their order."""
        kinds, asked = jnp.arange(self.num_kinds), jnp.arange(self.length)
        return ErrandsParams(kinds, asked, jnp.int32(0), jnp.int32(STEPS * self.length))

    def action_space(self, params: ErrandsParams | None = None) -> Discrete:
        """Up, down, left, right, pick."""
        return Discrete(self.num_actions)

    def observation_space(self, params: ErrandsParams | None = None) -> Box:
        """Zeros and ones; see the class."""
        return Box(0.0, 1.0, (self.side**2 + self.num_kinds * (1 + self.length),))

    def reset(self, key: Key, params: ErrandsParams) -> tuple[Array, ErrandsState]:
        """Observation and state at the start of an episode."""
        state = ErrandsState(jnp.int32(0), jax.random.randint(key, (), 0, self.side**2), params.done)
        return self._observe(state, params), state

    def step(
        self, key: Key, state: ErrandsState, action: Array, params: ErrandsParams
    ) -> tuple[Array, ErrandsState, Array, Array, Array, dict[str, Any]]:
        """One step with auto-reset; `info["potential"]` is that of the state that it leads to, the last one, too."""
        cell, picked = self.act(state.cell, self._present(state.done, params), action, params)
        right = (picked >= 0) & (picked == params.instruction[state.done])
        following = ErrandsState(state.time + 1, cell, state.done + right)
        finished = right & (following.done == _length(params))
        terminated = finished | ((picked >= 0) & ~right)
        truncated = following.time >= params.max_steps
        start, first = self.reset(key, params)
        final = self._observe(following, params)
        obs, state = select(terminated | truncated, (start, first), (final, following))
        info = {"final_observation": final, "potential": potential(params, following.done)}
        return obs, state, finished.astype(jnp.float32), terminated, truncated, info

    def act(self, cell: Array, present: Array, action: Array, params: ErrandsParams) -> tuple[Array, Array]:
        """The agent's cell `() int32` after `action`, and the kind that it picks `() int32`, or -1.

        `present` [K] bool says which items are there.
        """
        row, column = jnp.clip(
            jnp.array([cell // self.side, cell % self.side]) + jnp.array(_MOVES)[action], 0, self.side - 1
        )
        here = present & (params.cells == cell) & (action == PICK)
        return row * self.side + column, jnp.where(here.any(), jnp.argmax(here), -1)

    def _present(self, done: Array, params: ErrandsParams) -> Array:
        """[K] bool: all but what is done. A wrong item, which would be missing, too, ends the episode."""
        collected = (params.instruction == jnp.arange(self.num_kinds)[:, None]) & (jnp.arange(self.length) < done)
        return ~collected.any(1)

    def _observe(self, state: ErrandsState, params: ErrandsParams) -> Array:
        left = jnp.append(params.instruction, jnp.full(self.length, -1))[state.done + jnp.arange(self.length)]
        position = jax.nn.one_hot(state.cell, self.side**2)
        kinds = jax.nn.one_hot(left, self.num_kinds)
        return jnp.concatenate([position, self._present(state.done, params), kinds.ravel()])


def _length(params: ErrandsParams) -> Array:
    """() int32, sub-goals of the instruction."""
    return (params.instruction >= 0).sum()


def potential(params: ErrandsParams, done: Array) -> Array:
    """The share `() float32` of the instruction that is done, 0 for an empty one (Gur et al. 2019, section 4.3)."""
    return done / jnp.maximum(_length(params), 1)


def route(env: Errands, params: ErrandsParams) -> Array:
    """Fewest steps [side ** 2] int32 that finish the instruction from each cell, after the sub-goals that are done."""
    places = jnp.stack(jnp.divmod(params.cells[params.instruction], env.side), -1)  # [L, 2]
    starts = jnp.stack(jnp.divmod(jnp.arange(env.side**2), env.side), -1)
    order = jnp.arange(env.length)
    between = jnp.abs(jnp.diff(places, axis=0)).sum(-1)
    left = (order[1:] > params.done) & (order[1:] < _length(params))
    first = jnp.abs(starts - places[params.done]).sum(-1)
    return first + jnp.sum(between * left) + _length(params) - params.done


def optimal_return(env: Errands, params: ErrandsParams) -> Array:
    """Expected return `() float32` of the best policy: the share of first cells from which there is time enough."""
    return (route(env, params) <= params.max_steps).mean()


def hindsight(env: Errands, params: ErrandsParams, cell: Array, actions: Array) -> ErrandsParams:
    """The level whose instruction `actions` [T] fulfil from `cell`: what they collect, in its order.

    Of more than L items the first L count. If nothing is collected, the instruction is empty (Gur et al. 2019, section
    4.3).
    """

    def step(now: tuple[Array, Array], action: Array) -> tuple[tuple[Array, Array], Array]:
        cell, present = now
        cell, picked = env.act(cell, present, action, params)
        return (cell, present & (jnp.arange(env.num_kinds) != picked)), picked

    _, picked = jax.lax.scan(step, (cell, jnp.ones(env.num_kinds, bool)), actions)
    collected = picked[jnp.argsort(picked < 0, stable=True)]
    short = jnp.full(max(env.length - len(actions), 0), -1)
    instruction = jnp.append(collected, short)[: env.length]
    return params._replace(instruction=instruction.astype(jnp.int32), done=jnp.int32(0))


def held_out(instruction: Array | np.ndarray) -> Array | np.ndarray:
    """Whether instructions [..., L] are of the split "test", bool: about one in four."""
    return (instruction * np.arange(1, instruction.shape[-1] + 1)).sum(-1) % _HELD_OUT == 0


@checked
def distribution(
    length: Annotated[int, COUNT] = 3,
    num_kinds: Annotated[int, COUNT] = 6,
    side: Annotated[int, SEVERAL] = 5,
    steps: Annotated[int, COUNT] = STEPS,
    horizon: Annotated[int, COUNT] = 500,
    layout: Annotated[Array | int, SEED] = 0,
    warm: Annotated[Array | float, SHARE] = 0.0,
    split: Literal["all", "train", "test"] = "all",
) -> Levels:
    """Instructions of `length` different kinds, drawn uniformly from a split: one in four is of "test" alone.

    Items are where the seed `layout` puts them, which is the same in all levels. With probability `warm` a uniformly
    drawn number 1 .. length - 1 of the first sub-goals is done at a reset. Episodes have `steps` steps per sub-goal of
    the instruction, and lifetimes `horizon` agent updates. Raises ValueError for what `Errands` refuses, for counts
    below 1, a probability outside [0, 1], another split, and one without instructions.
    """
    env = Errands(side, num_kinds, length)
    orders = np.array(list(itertools.permutations(range(num_kinds), length)), np.int32)
    if split != "all":
        orders = orders[held_out(orders) == (split == "test")]
    if not len(orders):
        raise ValueError(f"split must be one with instructions: {split!r} has none of {length} of {num_kinds} kinds")

    def sample(key: Key) -> Level:
        order_key, warm_key, done_key = jax.random.split(key, 3)
        cells = jax.random.permutation(jax.random.key(layout), side**2)[:num_kinds].astype(jnp.int32)
        is_warm = jax.random.uniform(warm_key) < warm
        done = jnp.where(is_warm, jax.random.randint(done_key, (), 1, max(length, 2)), 0) * (length > 1)
        instruction = jnp.asarray(orders)[jax.random.randint(order_key, (), 0, len(orders))]
        return Level(ErrandsParams(cells, instruction, done, jnp.int32(steps * length)), jnp.int32(horizon))

    return Levels(sample, env, partial(optimal_return, env))

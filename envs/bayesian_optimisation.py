"""Bayesian optimisation: find the maximum of an unknown function with few evaluations, after Maraval et al. 2023 (arXiv
2305.15930).

An action is the candidate that is evaluated next. Functions are draws of a Gaussian process with an RBF kernel, without
noise. The observation is the whole history, so an agent needs no memory; it is a table whose last rows are candidates,
as `metarl.rl.neural_process` reads it. Nothing follows the last evaluation: there the episode terminates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import COUNT, POSITIVE, SEVERAL, Bound, checked
from metarl.types import Array, Box, Discrete, Key, Level, Levels

DIMENSIONS = Bound(1, 4)
JITTER = 1e-4  # added to the kernel's diagonal: float32 has no Cholesky factor of long length scales without it
_WAVES = (1, 2, 4, 8)  # a position is shown as sines and cosines of these multiples of pi


class Problem(NamedTuple):
    """One level: M functions, given by their values at the N candidates. Each episode is about one of them."""

    values: Array  # [M, N] float32


class Search(NamedTuple):
    """One episode in progress."""

    values: Array  # [N] float32, of the episode's function
    chosen: Array  # [T] int32, the candidates that were evaluated, in order; N where there is none yet
    time: Array  # () int32, evaluations so far


@dataclass(frozen=True)
class BayesianOptimisation:
    """The environment. Candidates are a regular grid in the unit cube.

    The reward after each of the T evaluations is `-log10(max(r, least_regret)) / T`, where r is the simple regret: the
    greatest value less the greatest one found so far. The paper has 1e-20 for `least_regret`, and does not divide by T.
    With finitely many candidates r becomes exactly 0, and 1e-20 would make that worth all that came before.

    Raises ValueError for numbers out of range, for more evaluations than candidates, and if no grid has so many
    candidates.
    """

    dimensions: Annotated[int, DIMENSIONS] = 1
    candidates: Annotated[int, SEVERAL] = 64  # N
    evaluations: Annotated[int, COUNT] = 12  # T
    functions: Annotated[int, COUNT] = 1  # M, of each level
    least_regret: Annotated[float, POSITIVE] = 1e-2

    def __post_init__(self) -> None:
        checks.fields(self)
        if self._side**self.dimensions != self.candidates:
            raise ValueError(
                f"candidates must be a number to the power of dimensions = {self.dimensions}, got {self.candidates}"
            )
        if self.evaluations > self.candidates:
            raise ValueError(f"evaluations must be at most candidates = {self.candidates}, got {self.evaluations}")

    @property
    def _side(self) -> int:
        return round(self.candidates ** (1 / self.dimensions))

    @property
    def points(self) -> Array:
        """The candidates [N, dimensions], from 0 to 1."""
        axes = jnp.meshgrid(*[jnp.linspace(0.0, 1.0, self._side)] * self.dimensions, indexing="ij")
        return jnp.stack(axes, -1).reshape(self.candidates, self.dimensions)

    @property
    def default_params(self) -> Problem:
        """Functions with their maximum in the middle, which fall off linearly to all sides."""
        values = -jnp.abs(self.points - 0.5).sum(-1)
        return Problem(jnp.tile(values, (self.functions, 1)))

    def action_space(self, params: Problem | None = None) -> Discrete:
        """The candidates."""
        return Discrete(self.candidates)

    def observation_space(self, params: Problem | None = None) -> Box:
        """A table [1 + T + N, 4 + 8 dimensions]: see `observe`."""
        return Box(-10.0, 10.0, (1 + self.evaluations + self.candidates, 4 + 2 * len(_WAVES) * self.dimensions))

    def observe(self, state: Search) -> Array:
        """The history as a table: a row that is always there, one per evaluation, and one per candidate.

        Columns: whether an evaluation has been made, or a candidate is left to evaluate; the value, 0 where it is not
        known; the best value so far; the share of evaluations used; sines and cosines of the position. Rows of
        evaluations to come are zeros.
        """
        made, known = _made(state), _known(state)
        best = jnp.where(state.time > 0, _best(state), 0.0)
        points = jnp.pi * self.points[..., None] * jnp.array(_WAVES)
        waves = jnp.concatenate([jnp.sin(points), jnp.cos(points)], -1).reshape(self.candidates, -1)

        def rows(flag: Array, value: Array, waves: Array) -> Array:
            of_all = jnp.stack([jnp.full(flag.shape, best), jnp.full(flag.shape, state.time / self.evaluations)], -1)
            return jnp.concatenate([flag[:, None].astype(jnp.float32), value[:, None], of_all, waves], -1)

        first = rows(jnp.ones(1), jnp.zeros(1), jnp.zeros((1, waves.shape[1])))
        evaluated = rows(made, state.values[state.chosen], waves[state.chosen])
        candidates = rows(~known, jnp.where(known, state.values, 0.0), waves)
        return jnp.concatenate([first, jnp.where(made[:, None], evaluated, 0.0), candidates])

    def reset(self, key: Key, params: Problem) -> tuple[Array, Search]:
        """A new episode, about one of the level's functions."""
        values = params.values[jax.random.randint(key, (), 0, self.functions)]
        state = Search(values, jnp.full(self.evaluations, self.candidates, jnp.int32), jnp.int32(0))
        return self.observe(state), state

    def step(
        self, key: Key, state: Search, action: Array, params: Problem
    ) -> tuple[Array, Search, Array, Array, Array, dict[str, Any]]:
        """One evaluation, with auto-reset. `info["labels"]` are the true values [N] of the episode's function."""
        chosen = state.chosen.at[state.time].set(jnp.asarray(action, jnp.int32))
        after = Search(state.values, chosen, state.time + 1)
        regret = state.values.max() - _best(after)
        reward = -jnp.log10(jnp.maximum(regret, self.least_regret)) / self.evaluations
        terminated, obs = after.time >= self.evaluations, self.observe(after)
        info = {"final_observation": obs, "labels": state.values}
        new = jax.tree.map(partial(jnp.where, terminated), self.reset(key, params), (obs, after))
        return *new, reward, terminated, jnp.zeros((), bool), info


def _made(state: Search) -> Array:
    """[T] bool, which evaluations have been made."""
    return jnp.arange(state.chosen.size) < state.time


def _known(state: Search) -> Array:
    """[N] bool, which candidates have been evaluated."""
    return jnp.zeros(state.values.size, bool).at[state.chosen].set(True, mode="drop")


def _best(state: Search) -> Array:
    """The greatest value () of the evaluated candidates; -inf without any."""
    return jnp.where(_known(state), state.values, -jnp.inf).max()


def simple_regret(values: Array, chosen: Array) -> Array:
    """The greatest of `values` [N], less the greatest found so far, after each evaluation of `chosen` [T]: [T]."""
    return values.max() - jax.lax.cummax(values[chosen])


def optimal_return(env: BayesianOptimisation, params: Problem) -> Array:
    """The return `() float32` of who knows the function and evaluates its maximum at once."""
    return -jnp.log10(jnp.float32(env.least_regret))


@checked
def distribution(
    dimensions: Annotated[int, DIMENSIONS] = 1,
    candidates: Annotated[int, SEVERAL] = 64,
    evaluations: Annotated[int, COUNT] = 12,
    functions: Annotated[int, COUNT] = 1,
    shortest: Annotated[float, POSITIVE] = 0.05,
    longest: Annotated[float, POSITIVE] = 0.5,
    least_regret: Annotated[float, POSITIVE] = 1e-2,
    horizon: Annotated[int, COUNT] = 100,
) -> Levels:
    """Draws of a Gaussian process of mean 0 and variance 1, whose length scale is log-uniform, one draw per function.

    A level is one function, or as many as `functions`: give thousands to train agents that search any function.
    `horizon` is the lifetime in agent updates. The best return is known of levels of one function.

    Raises ValueError as `BayesianOptimisation` does, and if `shortest` is above `longest`.
    """
    if shortest > longest:
        raise ValueError(f"shortest must be at most longest = {longest}, got {shortest}")
    env = BayesianOptimisation(dimensions, candidates, evaluations, functions, least_regret)

    def draw(key: Key) -> Array:
        scale_key, value_key = jax.random.split(key)
        scale = jnp.exp(jax.random.uniform(scale_key, minval=jnp.log(shortest), maxval=jnp.log(longest)))
        square = jnp.square((env.points[:, None] - env.points) / scale).sum(-1)
        factor = jnp.linalg.cholesky(jnp.exp(-0.5 * square) + JITTER * jnp.eye(candidates))
        return factor @ jax.random.normal(value_key, (candidates,))

    def sample(key: Key) -> Level:
        return Level(Problem(jax.vmap(draw)(jax.random.split(key, functions))), jnp.int32(horizon))

    return Levels(sample, env, optimal_return=partial(optimal_return, env) if functions == 1 else None)

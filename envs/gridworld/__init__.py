"""Gridworlds: the environment, its distributions of levels, and exact returns by dynamic programming."""

from envs.gridworld.environment import Gridworld, GridworldParams, GridworldState
from envs.gridworld.levels import distribution, names
from envs.gridworld.mutation import mutate
from envs.gridworld.optimal import action_values, optimal_return, policy_return
from envs.gridworld.render import render

__all__ = [
    "Gridworld",
    "GridworldParams",
    "GridworldState",
    "action_values",
    "distribution",
    "mutate",
    "names",
    "optimal_return",
    "policy_return",
    "render",
]

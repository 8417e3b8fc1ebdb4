"""Strategies: classical learners of one task, and how anything plays a task while it learns."""

from metarl.strategies.strategy import Strategy, Transition, exploring, play, random, returns
from metarl.strategies.tuned import bandit_strategies, mdp_strategies

__all__ = ["Strategy", "Transition", "bandit_strategies", "exploring", "mdp_strategies", "play", "random", "returns"]

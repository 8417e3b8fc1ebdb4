"""Strategies: classical learners of one task, and how anything plays a task while it learns."""

from metarl.strategies.strategy import Strategy, Transition, play, random, returns

__all__ = ["Strategy", "Transition", "play", "random", "returns"]

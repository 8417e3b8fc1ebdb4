"""What an agent minimises: each function here returns a `metarl.meta.Objective`."""

from metarl.objectives.actor_critic import a2c, ppo
from metarl.objectives.lpg import lpg

__all__ = ["a2c", "lpg", "ppo"]

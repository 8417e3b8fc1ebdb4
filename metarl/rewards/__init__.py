"""Rewards as parts: rewards that agents learn from, and how to design or learn them.

`reward` has rewards for any agent (`metarl.objectives.with_reward`). The other modules design rewards of processes that
are tables: `tables` plans exactly, `programs` solves linear programs, `shaping` learns while the learner does,
`learners` are tabular agents, and `training` is their common life.
"""

from metarl.rewards.reward import Reward, extrinsic, learned, potential

__all__ = ["Reward", "extrinsic", "learned", "potential"]

"""metarl: meta-reinforcement learning and learned optimizers in JAX."""

from metarl import curricula, estimators, networks, objectives, optimizers
from metarl.agents import Critic, rl_inner_loop, train_agent
from metarl.meta import (
    Curriculum,
    Estimator,
    InnerLoop,
    LearnedOptimizer,
    Meta,
    MetaState,
    Objective,
    Score,
    Update,
    compose,
)
from metarl.rules import load_rule, save_rule
from metarl.supervised import supervised_inner_loop
from metarl.sweep import sweep
from metarl.train import train
from metarl.types import Level, Levels, Progress, constant_levels

__version__ = "0.1.0"

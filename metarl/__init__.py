"""metarl: meta-reinforcement learning and learned optimizers in JAX."""

from metarl import curricula, estimators, objectives, optimizers
from metarl.inner.rl import Critic, rl_inner_loop, train_agent
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
from metarl.rl import networks
from metarl.rules import load_rule, save_rule
from metarl.inner.supervised import supervised_inner_loop
from metarl.run.sweep import sweep
from metarl.run.train import train
from metarl.types import Level, Levels, Progress, constant_levels

__version__ = "0.1.0"

"""metarl: meta-reinforcement learning and learned optimizers in JAX."""

from metarl import curricula, estimators, objectives, optimizers, rewards
from metarl.evaluation.meta_test import evaluate
from metarl.inner.in_context import in_context_inner_loop
from metarl.inner.initial import parameters
from metarl.inner.mixture import mixed_levels, mixture
from metarl.inner.rl import Experience, rl_inner_loop, train_agent
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.meta import Curriculum, Estimator, InnerLoop, Meta, MetaState, Update, compose, no_loss
from metarl.optimizers.learned import LearnedOptimizer
from metarl.parallel import Placement
from metarl.rl import networks
from metarl.rl.critic import Critic
from metarl.rl.environment import check_environment
from metarl.rl.objective import Objective
from metarl.rules import load_rule, save_rule
from metarl.run.options import replace
from metarl.run.sweep import sweep
from metarl.run.train import train
from metarl.saved_agents import load_agent, save_agent
from metarl.saved_levels import load_levels, save_levels
from metarl.types import Level, Levels, Progress, constant_levels

__version__ = "0.1.0"

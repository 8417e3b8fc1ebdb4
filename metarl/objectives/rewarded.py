"""Any objective with another reward, which may be learned: intrinsic rewards by meta-gradients."""

from __future__ import annotations

from typing import Any

import jax

from metarl import interface
from metarl.rewards.reward import Reward
from metarl.rl.objective import Objective
from metarl.rl.rollout import Model, Rollout
from metarl.types import Array, Key, MetaParams, Metrics, Params, Progress, PyTree


def with_reward(objective: Objective, reward: Reward) -> Objective:
    """`objective`, but agents learn from `reward` instead of the environment's.

    Its meta-parameters are `{"objective": ..., "reward": ...}`. The meta-objective still is the environment's reward:
    the critic and the fitness of `rl_inner_loop` see that alone. So `backprop` learns a reward from which agents become
    good at the environment's, as LIRPG does (Zheng et al. 2018, arXiv 1804.06459).

    Raises ValueError for what is no objective or no reward; when it is traced, for rewards of another shape.
    """
    interface.part("objective", objective, Objective)
    interface.part("reward", reward, Reward)

    def init(key: Key) -> MetaParams:
        return {"objective": objective.init(key), "reward": reward.init(jax.random.fold_in(key, 0))}

    def rewarded(meta_params: MetaParams, rollout: Rollout) -> Rollout:
        what = interface.title("the reward that Reward.apply", reward.apply)
        found = reward.apply(meta_params["reward"], rollout)
        return rollout._replace(reward=interface.array(what, found, rollout.reward.shape))

    def targets(
        meta_params: MetaParams, memory: PyTree, params: Params, model: Model, rollout: Rollout, progress: Progress
    ) -> tuple[PyTree, Array, PyTree]:
        own = meta_params["objective"]
        return objective.targets(own, memory, params, model, rewarded(meta_params, rollout), progress)

    def loss(
        meta_params: MetaParams, params: Params, model: Model, rollout: Rollout, targets: PyTree, progress: Progress
    ) -> tuple[Array, Metrics]:
        own = meta_params["objective"]
        return objective.loss(own, params, model, rewarded(meta_params, rollout), targets, progress)

    def regulariser(meta_params: MetaParams, *args: Any) -> Array:
        return objective.regulariser(meta_params["objective"], *args)

    return objective._replace(init=init, targets=targets, loss=loss, regulariser=regulariser)

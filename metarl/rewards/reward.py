"""The seam of rewards: what an agent learns from in the place of the environment's reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import interface
from metarl.checks import NOT_NEGATIVE, SHARE, checked
from metarl.rl.networks import NetworkFactory
from metarl.rl.rollout import Rollout
from metarl.types import Array, Environment, Key, MetaParams


class Reward(NamedTuple):
    """A reward of single transitions, which may be learned."""

    init: Callable[[Key], MetaParams]  # () if nothing is learned
    # (meta_params, rollout with leaves [...]) -> rewards [...], each of its own transition alone: agents that learn in
    # minibatches shuffle them. The environment's are `rollout.reward`.
    apply: Callable[[MetaParams, Rollout], Array]


def extrinsic() -> Reward:
    """The environment's own reward."""
    return Reward(lambda key: (), lambda meta_params, rollout: rollout.reward)


@checked
def potential(value: Callable[[Array], Array], discount: Annotated[Array | float, SHARE]) -> Reward:
    """`r + discount value(s') - value(s)`, which has the same optimal policies (Ng et al. 1999).

    `value` maps an observation to its potential (); that of a terminal state is 0, whatever `value` says of it.
    `discount` must be the agent's. Advantages of an agent whose value function is V are those of an unshaped agent with
    V + value.
    """

    def apply(meta_params: MetaParams, rollout: Rollout) -> Array:
        each = value
        for _ in rollout.reward.shape:
            each = jax.vmap(each)
        following = jnp.where(rollout.terminated, 0.0, each(rollout.next_obs))
        return rollout.reward + discount * following - each(rollout.obs)

    return Reward(lambda key: (), apply)


@checked
def learned(env: Environment, network: NetworkFactory, scale: Annotated[Array | float, NOT_NEGATIVE] = 1.0) -> Reward:
    """`r + scale r_in(s, a)`, whose intrinsic reward is a network (LIRPG, Zheng et al. 2018, arXiv 1804.06459, eq. 3).

    The meta-parameters are those of `network(observation space, {"reward": ...})` with an output per action:
    `networks.tabular` makes them a table that begins with zeros. Raises ValueError for continuous actions and for a
    network with a memory.
    """
    actions: Any = env.action_space(env.default_params)
    if not hasattr(actions, "n"):
        raise ValueError(f"a learned reward needs discrete actions, got {actions!r}")
    intrinsic = network(env.observation_space(env.default_params), {"reward": (actions.n, 1)})
    if jax.tree.leaves(intrinsic.carry):
        raise ValueError(f"the network of a reward must have no memory, got {interface.name(network)}")

    def one(params: MetaParams, obs: Array, action: Array) -> Array:
        outputs, _ = intrinsic.apply(params, obs, jnp.zeros((), bool), intrinsic.carry)
        return outputs["reward"][action, 0]

    def apply(params: MetaParams, rollout: Rollout) -> Array:
        each = one
        for _ in rollout.reward.shape:
            each = jax.vmap(each, (None, 0, 0))
        return rollout.reward + scale * each(params, rollout.obs, rollout.action)

    return Reward(intrinsic.init, apply)

"""Objectives with a policy and a value: A2C, PPO, and what all of them share. They differ in the policy loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple, TypedDict, Unpack

import jax.numpy as jnp

from metarl import interface
from metarl.checks import NOT_NEGATIVE, POSITIVE, SHARE, checked
from metarl.rl.critic import Targets, actor_critic_targets
from metarl.rl.objective import Objective
from metarl.rl.returns import normalise
from metarl.rl.rollout import Model, OutputSize, Rollout, unroll
from metarl.types import Array, Key, MetaParams, Metrics, Params, Progress, PyTree

# (meta_params, log pi(a|s) [T, E], the same when acting [T, E], advantage [T, E], progress) -> loss per sample [T, E]
PolicyLoss = Callable[[MetaParams, Array, Array, Array, Progress], Array]


class Auxiliary(NamedTuple):
    """A further loss of an actor-critic, on outputs of its own: see `metarl.objectives.auxiliary`."""

    outputs: Mapping[str, OutputSize]
    # ({output: [T, E, ...]}, rollout) -> loss () and metrics
    loss: Callable[[Mapping[str, Array], Rollout], tuple[Array, Metrics]]


class ActorCriticOptions(TypedDict, total=False):
    """The options that all objectives with a policy and a value share; see `a2c`."""

    discount: Array | float
    gae_lambda: Array | float
    value_coef: Array | float
    entropy_coef: Array | float
    normalise_advantage: bool
    episode_discount: Array | float | None
    auxiliary: Auxiliary | None


@checked
def a2c(
    discount: Annotated[Array | float, SHARE] = 0.99,
    gae_lambda: Annotated[Array | float, SHARE] = 0.95,
    value_coef: Annotated[Array | float, NOT_NEGATIVE] = 0.5,
    entropy_coef: Annotated[Array | float, NOT_NEGATIVE] = 0.01,
    normalise_advantage: bool = False,
    episode_discount: Annotated[Array | float, SHARE] | None = None,
    auxiliary: Auxiliary | None = None,
) -> Objective:
    """Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783) with generalised advantage estimates.

    `-mean(A log pi(a|s)) + value_coef / 2 mean((V - G)^2) - entropy_coef mean(H(pi))`, and the `auxiliary` loss if
    there is one.

    Within a trial of several episodes (`envs.trials`) the discount is `episode_discount` where an episode ends: 1 for
    agents that explore in early episodes for the sake of later ones, 0 for each episode by itself. None: `discount`.
    """

    def policy_loss(
        meta_params: MetaParams, log_prob: Array, old_log_prob: Array, advantage: Array, progress: Progress
    ) -> Array:
        return -(advantage * log_prob)

    return actor_critic(
        policy_loss,
        discount=discount,
        gae_lambda=gae_lambda,
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        normalise_advantage=normalise_advantage,
        episode_discount=episode_discount,
        auxiliary=auxiliary,
    )


@checked
def ppo(clip: Annotated[Array | float, POSITIVE] = 0.2, **options: Unpack[ActorCriticOptions]) -> Objective:
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347, eq. 7 and 9).

    `-mean(min(rho A, clip(rho, 1 - clip, 1 + clip) A))` with `rho = pi(a|s) / pi_old(a|s)`, and value and
    entropy terms as in `a2c`. The other options are those of `a2c`, but `normalise_advantage` is True by default:
    advantages are normalised over each minibatch.
    """

    def policy_loss(
        meta_params: MetaParams, log_prob: Array, old_log_prob: Array, advantage: Array, progress: Progress
    ) -> Array:
        ratio = jnp.exp(log_prob - old_log_prob)
        return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)

    return actor_critic(policy_loss, **options)


@checked
def actor_critic(
    policy_loss: PolicyLoss,
    init: Callable[[Key], MetaParams] = lambda key: (),
    *,
    discount: Annotated[Array | float, SHARE] = 0.99,
    gae_lambda: Annotated[Array | float, SHARE] = 0.95,
    value_coef: Annotated[Array | float, NOT_NEGATIVE] = 0.5,
    entropy_coef: Annotated[Array | float, NOT_NEGATIVE] = 0.01,
    normalise_advantage: bool = True,
    episode_discount: Annotated[Array | float, SHARE] | None = None,
    auxiliary: Auxiliary | None = None,
) -> Objective:
    """The mean of `policy_loss` plus the other terms as in `a2c`. `init` makes its meta-parameters."""
    if auxiliary is not None:
        interface.part("auxiliary", auxiliary, Auxiliary)

    def targets(
        meta_params: MetaParams, memory: PyTree, params: Params, model: Model, rollout: Rollout, progress: Progress
    ) -> tuple[Targets, Array, PyTree]:
        found = actor_critic_targets(params, model, rollout, discount, gae_lambda, episode_discount)
        return found, jnp.zeros(()), memory

    def loss(
        meta_params: MetaParams, params: Params, model: Model, rollout: Rollout, targets: Targets, progress: Progress
    ) -> tuple[Array, Metrics]:
        outputs, _ = unroll(model, params, rollout)
        policy = model.policy.distribution(outputs["policy"])
        advantage = normalise(targets.advantage) if normalise_advantage else targets.advantage
        log_prob = policy.log_prob(rollout.action)
        actor = policy_loss(meta_params, log_prob, rollout.log_prob, advantage, progress).mean()
        value = 0.5 * jnp.square(outputs["value"][..., 0] - targets.returns).mean()
        entropy = policy.entropy().mean()
        metrics = {"policy_loss": actor, "value_loss": value, "policy_entropy": entropy}
        total = actor + value_coef * value - entropy_coef * entropy
        if auxiliary is None:
            return total, metrics
        further, own = auxiliary.loss(outputs, rollout)
        return total + further, {**metrics, **own}

    return Objective(init, {"value": 1, **(auxiliary.outputs if auxiliary else {})}, targets, loss)

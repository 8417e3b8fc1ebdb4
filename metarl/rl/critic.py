"""Advantages under a learned value function: the targets of actor-critics, and the critic of the meta-objective."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.checks import COUNT, SHARE
from metarl.rl.networks import NetworkFactory
from metarl.rl.returns import gae
from metarl.rl.rollout import Model, Rollout, empty_carry, unroll
from metarl.tree import where_needed
from metarl.types import Array, Key, Metrics, Params, PyTree


class Targets(NamedTuple):
    """What an actor-critic learns from one rollout. Leaves [T, E]."""

    advantage: Array
    returns: Array  # advantage + value, the regression target of the value
    value: Array  # before the update


def actor_critic_targets(
    params: Params,
    model: Model,
    rollout: Rollout,
    discount: Array | float,
    gae_lambda: Array | float,
    episode_discount: Array | float | None = None,
) -> Targets:
    """Advantages (`gae`) and returns of a rollout under the output "value" of `model`. No gradient reaches `params`."""
    value, next_value = _values(model, *jax.lax.stop_gradient((params, rollout)))
    advantage = gae(rollout, value, next_value, jnp.asarray(discount), jnp.asarray(gae_lambda), episode_discount)
    return Targets(advantage, advantage + value, value)


def _values(model: Model, params: Params, rollout: Rollout) -> tuple[Array, Array]:
    """V(obs) and V(next_obs) [T, E], the second where `gae` reads it: at truncated steps and at the last ones."""
    outputs, next_outputs = unroll(model, params, rollout)
    value = outputs["value"][..., 0]
    if model.recurrent:
        return value, next_outputs["value"][..., 0]

    def next_values(params: Params, rollout: Rollout) -> Array:
        return unroll(model, params, rollout)[1]["value"][..., 0]

    # every other successor is the next observation, whose value is known already
    last = next_values(params, jax.tree.map(lambda x: x[-1:], rollout))
    cut = rollout.truncated[:-1].any()
    return value, where_needed(next_values)(cut, (params, rollout), jnp.concatenate([value[1:], last]))


class Critic(NamedTuple):
    """The value function that the meta-objective uses. Each lifetime learns its own, from its own rollouts."""

    optimizer: optax.GradientTransformation
    steps: Annotated[int, COUNT] = 1  # gradient steps per rollout
    discount: Annotated[Array | float, SHARE] = 0.99
    gae_lambda: Annotated[Array | float, SHARE] = 0.95
    network: NetworkFactory | None = None  # None: the agent's
    # where an episode of a trial ends, as in `metarl.objectives.a2c`; None: `discount`
    episode_discount: Annotated[Array | float, SHARE] | None = None


class CriticState(NamedTuple):
    """The state of the critic of one lifetime."""

    params: Params
    opt_state: PyTree


def init_critic(critic: Critic, model: Model, key: Key) -> CriticState:
    """A critic at the start of a lifetime. `model` is its network, with the output "value"."""
    params = model.network.init(key)
    return CriticState(params, critic.optimizer.init(params))


def update_critic(
    critic: Critic, model: Model, state: CriticState, data: Rollout
) -> tuple[Targets, CriticState, Metrics]:
    """Targets of the rollout `data` under the present critic, and the critic after it has learned from `data`."""
    # a recurrent critic has its own memory, which is empty at the start of every rollout
    data = jax.lax.stop_gradient(data)._replace(carry=empty_carry(model, data.reward.shape[1]))
    targets = actor_critic_targets(
        state.params, model, data, critic.discount, critic.gae_lambda, critic.episode_discount
    )

    def loss(params: Params) -> Array:
        outputs, _ = unroll(model, params, data)
        return 0.5 * jnp.square(outputs["value"][..., 0] - targets.returns).mean()

    def learn(state: CriticState, _: None) -> tuple[CriticState, Array]:
        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, opt_state = interface.follow(
            "Critic.optimizer", critic.optimizer.update, gradient, state.opt_state, state.params
        )
        return CriticState(optax.apply_updates(state.params, updates), opt_state), value

    state, losses = jax.lax.scan(learn, state, None, critic.steps)
    return targets, jax.lax.stop_gradient(state), {"critic_loss": losses[0]}

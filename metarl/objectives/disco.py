"""DiscoRL (Oh et al. 2025, doi 10.1038/s41586-025-09761-x): a meta-network says what agents should do and predict.

Agents predict vectors y of states and z of actions, whose meaning is learned, as in LPG. Beside them they learn action
values and a model of their own next policy, whose losses are hand-made. The rule also sees a slowly moving copy of the
agent (the target network), and remembers what happened in the lifetime so far.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.checks import COUNT, NOT_NEGATIVE, SEVERAL, SHARE, WIDTH, checked
from metarl.objectives.disco_network import (
    DiscoTargets,
    LifetimeState,
    init_weights,
    meta_network,
    newborn,
    seen_of,
)
from metarl.objectives.disco_values import (
    Moments,
    Outputs,
    Steps,
    Values,
    no_moments,
    rollout_values,
    taken,
    updated,
    value_loss,
)
from metarl.rl.objective import Objective
from metarl.rl.rollout import Model, OutputSize, PerAction, Rollout, unroll
from metarl.types import Array, Key, MetaParams, Metrics, Params, Progress, PyTree


class DiscoState(NamedTuple):
    """What the rule itself remembers of a lifetime."""

    lifetime: LifetimeState
    advantage: Moments  # of all advantages so far


class DiscoMemory(NamedTuple):
    """What an agent's lifetime carries for the rule."""

    rule: DiscoState
    target_params: Params  # the moving average of the agent's parameters


class AgentTargets(NamedTuple):
    """What the agent's loss asks for. Leaves [T, E, ...]."""

    learned: DiscoTargets
    next_policy: Array  # [T, E, A] logits of the agent's policy at next_obs
    returns: Array  # [T, E] target of the value of the action taken


def disco_targets(
    weights: MetaParams,
    state: DiscoState,
    steps: Steps,
    now: Outputs,
    after: Outputs,
    target: Outputs,
    target_after: Outputs,
    discount: Array | float = 0.997,
    retrace_lambda: Array | float = 0.95,
) -> tuple[DiscoTargets, Values, DiscoState]:
    """The rule alone, without agent networks: targets of a rollout, values, and its state for the next rollout.

    `now` and `after` are what the agent's network says of obs and of next_obs, `target` and `target_after` what the
    target network says. The meta-gradient goes through predictions and the state of the lifetime only.
    """
    values = rollout_values(steps, now, after, target, target_after, jnp.asarray(discount), jnp.asarray(retrace_lambda))
    moments = updated(state.advantage, values.advantage)
    seen = seen_of(steps, values, moments, now, after, target, target_after)
    targets, lifetime = meta_network(weights, state.lifetime, seen)
    return targets, values, DiscoState(lifetime, moments)


class DiscoLosses(NamedTuple):
    """The terms of the agent's loss, per step [T, E], without coefficients."""

    policy: Array
    y: Array
    z: Array
    next_policy: Array
    q: Array


def disco_losses(now: Outputs, targets: AgentTargets, action: Array, terminated: Array) -> DiscoLosses:
    """How far the agent is from its `targets`: KL divergences, with the target first; of the value a cross-entropy."""
    next_policy = divergence(jax.lax.stop_gradient(targets.next_policy), taken(now.next_policy, action))
    return DiscoLosses(
        policy=divergence(targets.learned.policy, now.policy),
        y=divergence(targets.learned.y, now.y),
        z=divergence(targets.learned.z, taken(now.z, action)),
        next_policy=jnp.where(terminated, 0.0, next_policy),
        q=value_loss(taken(now.q, action), targets.returns),
    )


def divergence(target: Array, logits: Array) -> Array:
    """KL(target || logits) [...] of two softmax distributions, logits [..., n]."""
    log_target = jax.nn.log_softmax(target)
    return (jnp.exp(log_target) * (log_target - jax.nn.log_softmax(logits))).sum(-1)


def entropy(logits: Array) -> Array:
    """Entropy [...] of a softmax distribution, logits [..., n]."""
    log_prob = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_prob) * log_prob).sum(-1)


@checked
def disco(
    predictions: Annotated[int, SEVERAL] = 600,
    hidden: Annotated[int, WIDTH] = 256,
    lifetime_hidden: Annotated[int, WIDTH] = 128,
    largest_value: Annotated[int, COUNT] = 300,
    discount: Annotated[Array | float, SHARE] = 0.997,
    retrace_lambda: Annotated[Array | float, SHARE] = 0.95,
    value_coef: Annotated[Array | float, NOT_NEGATIVE] = 0.2,
    target_rate: Annotated[Array | float, SHARE] = 0.1,
    policy_entropy_coef: Annotated[Array | float, NOT_NEGATIVE] = 1e-2,
    prediction_entropy_coef: Annotated[Array | float, NOT_NEGATIVE] = 1e-3,
    target_size_coef: Annotated[Array | float, NOT_NEGATIVE] = 1e-3,
    policy_change_coef: Annotated[Array | float, NOT_NEGATIVE] = 1e-2,
) -> Objective:
    """DiscoRL, for agents with discrete actions and networks without memory. The defaults are those of Disco103.

    The agent minimises `KL(pi_hat || pi) + KL(y_hat || y) + KL(z_hat || z[a]) + KL(pi' || next_policy[a])
    + value_coef CE(q[a])`: the first three targets come from the meta-network, pi' is its own policy at the next state,
    and q[a] learns the Retrace return with `discount` and `retrace_lambda`, in 2 `largest_value` + 1 bins.
    `predictions` is the size of y and z; `hidden` and `lifetime_hidden` are the widths of the meta-network's LSTMs over
    rollouts and over the lifetime. The target network moves by the share `target_rate` to the agent's parameters before
    each update.

    The meta-objective is regularised by `target_size_coef` times the squared means of the targets' logits,
    `policy_change_coef KL(pi of the target network || pi_hat)`, and, of the updated agent, by
    `-policy_entropy_coef H(pi) - prediction_entropy_coef (H(y) + H(z[a]))`.

    The agent's network should be `networks.action_model`; any other with outputs per action serves.
    Raises ValueError for an option that is out of range, and where it is used for actions that are not discrete or for
    a recurrent network.
    """
    outputs: dict[str, OutputSize] = {
        "y": predictions,
        "z": PerAction(predictions),
        "next_policy": PerAction(None),
        "q": PerAction(2 * largest_value + 1),
    }

    def init(key: Key) -> MetaParams:
        return init_weights(key, predictions, hidden, lifetime_hidden)

    def init_memory(params: Params) -> DiscoMemory:
        # a copy, because a program that is donated its arguments may not be given one buffer twice
        return DiscoMemory(DiscoState(newborn(lifetime_hidden), no_moments()), jax.tree.map(jnp.copy, params))

    def targets(
        meta_params: MetaParams,
        memory: DiscoMemory,
        params: Params,
        model: Model,
        rollout: Rollout,
        progress: Progress,
    ) -> tuple[AgentTargets, Array, PyTree]:
        if model.recurrent:
            raise ValueError("disco does not support recurrent agents: give a network without memory")
        now, after = outputs_of(model, params, rollout)
        target, target_after = outputs_of(model, memory.target_params, rollout)
        # targets are computed once per rollout with the parameters that acted, so the policy is the behaviour
        steps = Steps(now.policy, rollout.action, rollout.reward, rollout.terminated, rollout.done)
        learned, values, state = disco_targets(
            meta_params, memory.rule, steps, now, after, target, target_after, discount, retrace_lambda
        )
        size = sum(jnp.square(x.mean()) for x in learned)
        change = divergence(jax.lax.stop_gradient(target.policy), learned.policy).mean()
        following = optax.incremental_update(params, memory.target_params, target_rate)
        return (
            AgentTargets(learned, after.policy, values.returns),
            target_size_coef * size + policy_change_coef * change,
            DiscoMemory(state, following),
        )

    def loss(
        meta_params: MetaParams,
        params: Params,
        model: Model,
        rollout: Rollout,
        targets: AgentTargets,
        progress: Progress,
    ) -> tuple[Array, Metrics]:
        now, _ = outputs_of(model, params, rollout)
        terms = DiscoLosses(*(x.mean() for x in disco_losses(now, targets, rollout.action, rollout.terminated)))
        metrics = {f"{name}_loss": x for name, x in terms._asdict().items()}
        total = sum(terms[:-1], value_coef * terms.q)
        return total, {**metrics, "policy_entropy": entropy(now.policy).mean()}

    def regulariser(meta_params: MetaParams, params: Params, model: Model, rollout: Rollout) -> Array:
        now, _ = outputs_of(model, params, rollout)
        predictions = entropy(now.y).mean() + entropy(taken(now.z, rollout.action)).mean()
        return -policy_entropy_coef * entropy(now.policy).mean() - prediction_entropy_coef * predictions

    return Objective(init, outputs, targets, loss, init_memory, regulariser)


def outputs_of(model: Model, params: Params, rollout: Rollout) -> tuple[Outputs, Outputs]:
    """What the network says of `obs` and of `next_obs`."""
    now, after = (Outputs(**{name: x[name] for name in Outputs._fields}) for x in unroll(model, params, rollout))
    return now, after

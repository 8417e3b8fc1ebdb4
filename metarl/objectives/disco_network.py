"""The meta-network of `metarl.objectives.disco`: what agents should predict and do, from what they did and predicted.

Its weights are nested dicts; a layer has a "kernel" [in, out] and a "bias" [out].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.objectives.disco_values import Moments, Outputs, Steps, Values, normalised, taken
from metarl.rl.networks import cut_normal, lstm_step
from metarl.types import Array, Key, MetaParams

STEP_FEATURES, ACTION_FEATURES, EMBEDDING = 27, 9, 2
MLP, BLOCK, LIFETIME_INPUT = 16, 16, 16  # widths of the layers that embed predictions, actions, and a rollout


class LifetimeState(NamedTuple):
    """The state of the LSTM that makes one step per agent update. Leaves [H]."""

    hidden: Array
    cell: Array


class Seen(NamedTuple):
    """What both copies of the feature network see of a rollout, no gradient in anything but predictions.

    Predictions are probabilities: y [T, E, N] and z [T, E, A, N] of the agent's network and of the target network, on
    obs and on next_obs.
    """

    steps: Steps
    behaviour: Array  # [T, E, A] probabilities of the policy that acted
    policy: Array  # of the agent's policy
    next_policy: Array
    target_policy: Array
    values: Values
    normalised_advantage: Array  # [T, E]
    normalised_action_advantage: Array  # [T, E, A]
    y: tuple[Array, ...]  # now, next, target now, target next
    z: tuple[Array, ...]


class DiscoTargets(NamedTuple):
    """Logits of what the agent should do and predict. Leaves [T, E, ...]."""

    policy: Array  # [T, E, A] pi_hat
    y: Array  # [T, E, N] y_hat
    z: Array  # [T, E, N] z_hat, of the action taken


def seen_of(
    steps: Steps,
    values: Values,
    advantage: Moments,
    now: Outputs,
    after: Outputs,
    target: Outputs,
    target_after: Outputs,
) -> Seen:
    """What there is to see of a rollout, with the moments of all advantages of the lifetime, those in it included."""
    logits = (steps.behaviour, now.policy, after.policy, target.policy)
    behaviour, policy, next_policy, target_policy = (jax.lax.stop_gradient(jax.nn.softmax(x)) for x in logits)
    all_outputs = (now, after, target, target_after)
    return Seen(
        steps=steps,
        behaviour=behaviour,
        policy=policy,
        next_policy=next_policy,
        target_policy=target_policy,
        values=values,
        normalised_advantage=normalised(advantage, values.advantage),
        normalised_action_advantage=normalised(advantage, values.action_advantage),
        y=tuple(jax.nn.softmax(outputs.y) for outputs in all_outputs),
        z=tuple(jax.nn.softmax(outputs.z) for outputs in all_outputs),
    )


def init_weights(key: Key, predictions: int, hidden: int, lifetime_hidden: int) -> MetaParams:
    """A new meta-network, for predictions of size N, with LSTMs of these widths over rollouts and over the lifetime."""
    keys = iter(jax.random.split(key, 32))

    def layer(inputs: int, outputs: int, deviation: float | None = None) -> dict[str, Array]:
        return {"kernel": cut_normal(deviation)(next(keys), (inputs, outputs)), "bias": jnp.zeros(outputs)}

    def embedding() -> dict[str, Any]:
        return {
            **{name: {"hidden": layer(predictions, MLP), "output": layer(MLP, 1)} for name in ("embed_y", "embed_z")},
            "actions_0": layer(2 * ACTION_FEATURES, BLOCK),
            "actions_1": layer(2 * BLOCK, EMBEDDING),
        }

    return {
        **embedding(),
        "lstm": layer(STEP_FEATURES + hidden, 4 * hidden),
        "gate": layer(lifetime_hidden, hidden, 1.0),
        "summary": layer(hidden, 1, 0.3),
        "y_hat": layer(hidden, predictions, 0.3),
        "z_hat": layer(hidden, predictions, 0.3),
        "policy_actions": layer(2 * (hidden + EMBEDDING), BLOCK),
        "policy_hat": layer(BLOCK, 1, 0.3),
        "lifetime": {
            **embedding(),
            "input": layer(STEP_FEATURES + 2, LIFETIME_INPUT),
            "lstm": layer(LIFETIME_INPUT + lifetime_hidden, 4 * lifetime_hidden),
        },
    }


def newborn(lifetime_hidden: int) -> LifetimeState:
    """The state at birth."""
    return LifetimeState(jnp.zeros(lifetime_hidden), jnp.zeros(lifetime_hidden))


def meta_network(weights: MetaParams, state: LifetimeState, seen: Seen) -> tuple[DiscoTargets, LifetimeState]:
    """Targets of a rollout, and the state of the lifetime after it.

    An LSTM reads the features of every step backwards in time, and forgets where an episode ends. The state of the
    lifetime before this rollout scales its outputs.
    """
    features, actions = embedded(weights, seen)
    hidden = _lstm_backwards_in_time(weights["lstm"], features, seen.steps.done)
    x = hidden * _linear(weights["gate"], state.hidden)
    y_hat, z_hat = _linear(weights["y_hat"], x), _linear(weights["z_hat"], x)
    per_action = jnp.broadcast_to(x[..., None, :], (*actions.shape[:-1], x.shape[-1]))
    block = _over_actions(weights["policy_actions"], jnp.concatenate([per_action, actions], axis=-1))
    targets = DiscoTargets(_linear(weights["policy_hat"], block)[..., 0], y_hat, z_hat)
    return targets, _lifetime_step(weights["lifetime"], state, seen, _linear(weights["summary"], x), y_hat)


def _lifetime_step(
    weights: MetaParams, state: LifetimeState, seen: Seen, summary: Array, y_hat: Array
) -> LifetimeState:
    """One step of the LSTM of the lifetime, on the mean over the rollout of what its own feature network sees."""
    features, _ = embedded(weights, seen)
    features = jnp.concatenate([features, summary, _mlp(weights["embed_y"], jax.nn.softmax(y_hat))], axis=-1)
    x = _linear(weights["input"], features).mean((0, 1))
    return LifetimeState(*lstm_step(_linear(weights["lstm"], jnp.concatenate([x, state.hidden])), state.cell))


def embedded(weights: MetaParams, seen: Seen) -> tuple[Array, Array]:
    """Features [T, E, 27] of every step, and [T, E, A, 2] of every action of every step."""
    from rlax import signed_logp1 as signed_log

    steps, values, action = seen.steps, seen.values, seen.steps.action
    behaviour, policy, next_policy = seen.behaviour, seen.policy, seen.next_policy
    y, y_next, target_y, target_y_next = (_mlp(weights["embed_y"], x)[..., 0] for x in seen.y)
    z, z_next, target_z, target_z_next = (_mlp(weights["embed_z"], x)[..., 0] for x in seen.z)
    of_actions = [
        *(policy, behaviour, seen.target_policy, z, target_z),
        *(signed_log(values.target_action_value), signed_log(values.action_advantage)),
        *(seen.normalised_action_advantage, jax.nn.one_hot(action, policy.shape[-1])),
    ]
    block = _over_actions(weights["actions_0"], jnp.stack(of_actions, axis=-1))
    actions = _over_actions(weights["actions_1"], block)

    def over_actions(now: Array, following: Array) -> list[Array]:
        """Of the action taken; the mean under the policy and the maximum over actions, at this step and at the next."""
        means = [(policy * now).sum(-1), (next_policy * following).sum(-1)]
        return [taken(now, action), *means, now.max(-1), following.max(-1)]

    of_step = [
        *(taken(policy, action), taken(behaviour, action), signed_log(steps.reward), 1.0 - steps.terminated),
        *(signed_log(values.value), signed_log(values.next_value)),
        *(signed_log(values.advantage), seen.normalised_advantage, taken(seen.target_policy, action)),
        *(y, y_next, target_y, target_y_next, *over_actions(z, z_next), *over_actions(target_z, target_z_next)),
    ]
    features = [jnp.stack(of_step, axis=-1), actions.mean(-2), taken(actions, action)]
    return jnp.concatenate(features, axis=-1), actions


def _linear(weights: MetaParams, x: Array) -> Array:
    return x @ weights["kernel"] + weights["bias"]


def _mlp(weights: MetaParams, x: Array) -> Array:
    return _linear(weights["output"], jax.nn.relu(_linear(weights["hidden"], x)))


def _over_actions(weights: MetaParams, x: Array) -> Array:
    """A layer [..., A, out] of x [..., A, in] that treats actions alike: each sees itself and their mean."""
    mean = jnp.broadcast_to(x.mean(-2, keepdims=True), x.shape)
    return jax.nn.relu(_linear(weights, jnp.concatenate([x, mean], axis=-1)))


def _lstm_backwards_in_time(weights: MetaParams, x: Array, done: Array) -> Array:
    """Hidden states [T, E, H]; zero before a step with `done` [T, E], so that no step sees past its episode's end."""
    width = weights["kernel"].shape[1] // 4
    start = jnp.zeros((x.shape[1], width))

    def step(state: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        x, done = now
        hidden, cell = (jnp.where(done[:, None], 0.0, part) for part in state)
        state = lstm_step(_linear(weights, jnp.concatenate([x, hidden], axis=-1)), cell)
        return state, state[0]

    return jax.lax.scan(step, (start, start), (x, done), reverse=True)[1]

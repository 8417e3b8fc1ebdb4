"""Values, returns and advantages of `metarl.objectives.disco`: a categorical action value, learned by Retrace.

Arrays have the axes [T, E, ...] of a rollout, A actions and 2 L + 1 bins.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl.types import Array

SHRINKAGE = 1e-3  # the epsilon of `shrunk`
DECAY = 0.99  # of `Moments`


def shrunk(x: Array) -> Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + 1e-3 x [...], which brings large values closer together.

    Pohlen et al. 2018, arXiv 1805.11593.
    """
    import rlax

    return rlax.signed_hyperbolic(x, SHRINKAGE)


def unshrunk(x: Array) -> Array:
    """The inverse of `shrunk` [...], in a form that is exact near 0, too."""
    size = jnp.abs(x) + 1.0 + SHRINKAGE
    root = 2.0 * size / (1.0 + jnp.sqrt(1.0 + 4.0 * SHRINKAGE * size))
    return jnp.sign(x) * (jnp.square(root) - 1.0)


def expected_value(logits: Array) -> Array:
    """The value [...] of a distribution with logits [..., 2 L + 1] over the bins -L .. L, in the space of `shrunk`."""
    largest = logits.shape[-1] // 2
    return unshrunk(jax.nn.softmax(logits) @ jnp.arange(-largest, largest + 1.0))


def value_loss(logits: Array, value: Array) -> Array:
    """Cross-entropy [...] of `logits` [..., 2 L + 1] against the two bins next to `value` [...] in proportion."""
    largest = logits.shape[-1] // 2
    place = jnp.clip(shrunk(value), -largest, largest)
    low, high = jnp.floor(place), jnp.ceil(place)
    share = (high - place) / (high - low + 1e-5)  # a whole number is all in its upper bin
    log_prob = jax.nn.log_softmax(logits)

    def at(bin: Array) -> Array:
        return jnp.take_along_axis(log_prob, (bin + largest).astype(int)[..., None], -1)[..., 0]

    return -(share * at(low) + (1.0 - share) * at(high))


class Moments(NamedTuple):
    """Moving averages of numbers and of their squares, which start at 0. Leaves ()."""

    mean: Array
    square: Array
    decay: Array  # the product of all decays: what is still missing to a weight of 1


def no_moments() -> Moments:
    """Before the first numbers."""
    return Moments(jnp.zeros(()), jnp.zeros(()), jnp.ones(()))


def updated(moments: Moments, x: Array) -> Moments:
    """`moments` after the numbers `x` [...]."""
    mean = DECAY * moments.mean + (1.0 - DECAY) * x.mean()
    square = DECAY * moments.square + (1.0 - DECAY) * jnp.square(x).mean()
    return Moments(mean, square, DECAY * moments.decay)


def normalised(moments: Moments, x: Array) -> Array:
    """`x` [...] with the mean and deviation of `moments`, corrected for their start at 0."""
    mean = moments.mean / (1.0 - moments.decay)
    variance = jnp.maximum(moments.square / (1.0 - moments.decay) - jnp.square(mean), 0.0)
    return (x - mean) / (jnp.sqrt(variance + 1e-12) + 1e-6)


class Values(NamedTuple):
    """What the values say of a rollout. Leaves [T, E], or [T, E, A] of actions. No gradient goes through them."""

    value: Array  # of the agent's network, of the state
    next_value: Array
    target_action_value: Array  # [T, E, A] of the target network
    returns: Array  # Retrace, under the target network
    advantage: Array  # returns minus the target network's value
    action_advantage: Array  # [T, E, A] of the target network: action value minus value


def taken(per_action: Array, action: Array) -> Array:
    """The entries [T, E, ...] of the actions taken [T, E]; `per_action` [T, E, A, ...]."""
    index = action.reshape(*action.shape, *[1] * (per_action.ndim - action.ndim))
    return jnp.take_along_axis(per_action, index, action.ndim).squeeze(action.ndim)


class Outputs(NamedTuple):
    """What a network says of the states of a rollout: logits, with the names of the outputs of `disco`."""

    policy: Array  # [T, E, A]
    y: Array  # [T, E, N] prediction of the state
    z: Array  # [T, E, A, N] prediction of each action
    next_policy: Array  # [T, E, A, A] the policy after each action
    q: Array  # [T, E, A, 2 L + 1] value of each action


class Steps(NamedTuple):
    """What happened in a rollout. Leaves [T, E, ...]."""

    behaviour: Array  # [T, E, A] logits of the policy that acted
    action: Array  # [T, E] int
    reward: Array
    terminated: Array  # bool
    done: Array  # bool, terminated or truncated


def retrace(
    steps: Steps, next_target_value: Array, target_q: Array, ratio: Array, discount: Array, retrace_lambda: Array
) -> Array:
    """Returns [T, E] (Munos et al. 2016, arXiv 1606.02647) of the actions taken.

    `next_target_value` is [T, E], of next_obs; `target_q` [T, E] is that of the action taken, and `ratio` [T, E] its
    pi / mu. A truncated episode bootstraps from its own last observation.
    """
    import rlax

    # as in `metarl.rl.returns.gae`: a truncated episode's last value is added to its reward, and nothing follows a step
    # with `done`
    continues = jnp.where(steps.done, 0.0, discount)
    bootstrap = jnp.where(steps.done & ~steps.terminated, discount * next_target_value, 0.0)
    trace = retrace_lambda * jnp.minimum(ratio, 1.0)
    returns = jax.vmap(rlax.general_off_policy_returns_from_q_and_v, in_axes=1, out_axes=1)
    return returns(target_q[1:], next_target_value, steps.reward + bootstrap, continues, trace[1:])


def rollout_values(
    steps: Steps,
    now: Outputs,
    after: Outputs,
    target: Outputs,
    target_after: Outputs,
    discount: Array,
    retrace_lambda: Array,
) -> Values:
    """Values of a rollout under the agent's network and the target network, on obs and on next_obs."""
    steps, now, after, target, target_after = jax.lax.stop_gradient((steps, now, after, target, target_after))
    policy, next_policy = jax.nn.softmax(now.policy), jax.nn.softmax(after.policy)
    target_q = expected_value(target.q)
    # all values are those of the agent's policy
    target_value = (policy * target_q).sum(-1)
    next_target_value = (next_policy * expected_value(target_after.q)).sum(-1)
    ratio = taken(policy / jax.nn.softmax(steps.behaviour), steps.action)
    returns = retrace(steps, next_target_value, taken(target_q, steps.action), ratio, discount, retrace_lambda)
    return Values(
        value=(policy * expected_value(now.q)).sum(-1),
        next_value=(next_policy * expected_value(after.q)).sum(-1),
        target_action_value=target_q,
        returns=returns,
        advantage=returns - target_value,
        action_advantage=target_q - target_value[..., None],
    )

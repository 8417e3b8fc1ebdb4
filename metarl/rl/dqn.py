"""DQN: Q-learning from a replay buffer, with a slow copy of the network in the targets (Mnih et al. 2015).

Targets are those of double Q-learning (van Hasselt et al. 2016, arXiv 1509.06461), and the copy follows the network
by a moving average. The network has the output "action_values", with one number per action.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.rl.networks import Network
from metarl.types import Array, Key, Params, PyTree


class Transition(NamedTuple):
    """One step of an agent. Leaves [...]."""

    obs: Array
    action: Array  # int32
    reward: Array
    discount: Array  # of what follows, 0 where the episode terminated
    next_obs: Array


class Replay(NamedTuple):
    """The last entries, at most as many as there is room for."""

    data: PyTree  # leaves [capacity, ...], of transitions or what else is to be drawn
    added: Array  # () int32, entries so far

    @property
    def capacity(self) -> int:
        """For how many entries there is room."""
        return len(jax.tree.leaves(self.data)[0])


class Learner(NamedTuple):
    """What learns. Both trees are those of the network."""

    params: Params
    target: Params  # the slow copy
    opt_state: PyTree


def empty(example: PyTree, capacity: int) -> Replay:
    """A buffer for `capacity` entries like `example`, leaves [...]."""
    return Replay(jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), example), jnp.int32(0))


def add(replay: Replay, new: PyTree) -> Replay:
    """The buffer with n entries, leaves [n, ...], in the place of its oldest.

    Raises ValueError if n does not divide the capacity.
    """
    n = len(jax.tree.leaves(new)[0])
    if replay.capacity % n:
        raise ValueError(f"the number of entries must divide the capacity {replay.capacity}, got {n}")

    def write(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new, replay.added % replay.capacity, 0)

    return Replay(jax.tree.map(write, replay.data, new), replay.added + n)


def draw(replay: Replay, key: Key, size: int) -> PyTree:
    """`size` entries, drawn uniformly with replacement from a buffer that is not empty; leaves [size, ...]."""
    index = jax.random.randint(key, (size,), 0, jnp.minimum(replay.added, replay.capacity))
    return jax.tree.map(lambda x: x[index], replay.data)


def begin(network: Network, optimizer: optax.GradientTransformation, key: Key) -> Learner:
    """A learner that has not learned yet."""
    params = network.init(key)
    return Learner(params, params, optimizer.init(params))


def action_values(network: Network, params: Params, obs: Array) -> Array:
    """Q-values [n, A] of observations [n, ...]."""
    outputs, _ = jax.vmap(network.apply, (None, 0, None, None))(params, obs, jnp.zeros((), bool), network.carry)
    return outputs["action_values"]


def act(network: Network, params: Params, obs: Array, key: Key, epsilon: Array | float) -> Array:
    """Actions [n] int32 for observations [n, ...]: with probability `epsilon` uniform ones, else the best."""
    values = action_values(network, params, obs)
    random_key, key = jax.random.split(key)
    is_random = jax.random.uniform(random_key, obs.shape[:1]) < epsilon
    return jnp.where(is_random, jax.random.randint(key, obs.shape[:1], 0, values.shape[-1]), values.argmax(-1))


def loss(network: Network, params: Params, target: Params, batch: Transition) -> Array:
    """Mean of half the squared temporal difference `r + discount Q'(s', argmax Q(s')) - Q(s, a)`, `() float32`.

    Q' is the value by `target`; no gradient reaches what it is compared with. Leaves of `batch` are [n, ...].
    """
    import rlax

    values = action_values(network, params, batch.obs)
    best, slow = (action_values(network, x, batch.next_obs) for x in (params, target))
    errors = jax.vmap(rlax.double_q_learning)(values, batch.action, batch.reward, batch.discount, slow, best)
    return 0.5 * (errors**2).mean()


def update(
    network: Network,
    optimizer: optax.GradientTransformation,
    learner: Learner,
    batch: Transition,
    mixing: Array | float = 0.05,
) -> Learner:
    """One step of descent on a batch; the slow copy moves by the share `mixing` of its distance to the network."""
    gradient = jax.grad(loss, argnums=1)(network, learner.params, learner.target, batch)
    updates, opt_state = optimizer.update(gradient, learner.opt_state, learner.params)
    params = optax.apply_updates(learner.params, updates)
    return Learner(params, optax.incremental_update(params, learner.target, mixing), opt_state)

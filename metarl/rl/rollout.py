"""Vectorised rollouts, each of which continues where the last one stopped, and evaluation episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import interface
from metarl.checks import checked
from metarl.rl.networks import Network, NetworkFactory, PolicyHead, Size, as_layers, policy_head, shape
from metarl.tree import copies, select
from metarl.types import Array, Environment, Key, Params, PyTree


class Model(NamedTuple):
    """A network, and the policy that its output "policy" stands for."""

    network: Network
    policy: PolicyHead

    @property
    def recurrent(self) -> bool:
        """Whether the network has a memory."""
        return bool(jax.tree.leaves(self.network.carry))


class PerAction(NamedTuple):
    """Size of an output that has `size` numbers for each of the environment's A discrete actions: shape [A, size]."""

    size: int | None  # None: as many as there are actions


OutputSize = int | PerAction  # what an objective asks of a network, which does not know the environment's actions yet


@checked
def model(env: Environment, network: NetworkFactory, outputs: Mapping[str, OutputSize]) -> Model:
    """A network for `env` with the output "policy" and the further `outputs` {name: size}.

    Raises ValueError if the network does not take the environment's observations, or does not give these outputs, and
    for an output per action if the actions are not discrete.
    """
    actions = env.action_space(env.default_params)
    head = policy_head(actions)
    space = env.observation_space(env.default_params)
    sizes = {"policy": head.size, **{name: _size(name, size, actions) for name, size in outputs.items()}}
    try:
        agent = network(space, sizes)
    except TypeError as error:
        wanted = "network must be a function (observation space, {output: size}) -> Network"
        raise ValueError(f"{wanted}, got {interface.name(network)}: {error}") from error
    interface.part(f"what the network {interface.name(network)} returns", agent, Network)
    try:
        params = jax.eval_shape(agent.init, jax.random.key(0))
    except Exception as error:  # each layer raises its own kind of error for a shape that it cannot take
        raise ValueError(f"the network does not fit observations of shape {space.shape}: {error}") from error
    obs, first = jax.ShapeDtypeStruct(space.shape, space.dtype), jax.ShapeDtypeStruct((), bool)
    what = interface.title("Network.apply", agent.apply)
    found, carry = interface.values(
        what, interface.traced(what, agent.apply, params, obs, first, agent.carry), ("outputs", "carry")
    )
    for name, size in sizes.items():
        if not isinstance(found, Mapping) or name not in found:
            raise ValueError(f"{what} returned {interface.shown(found)}, wanted the outputs {list(sizes)}")
        interface.array(f"the output {name!r} that {what}", found[name], shape(size))
    interface.same(f"the carry that {what}", carry, agent.carry)
    _check_unroll(agent, params, obs, first, found)
    return Model(agent, head)


def _check_unroll(agent: Network, params: Params, obs: Any, first: Any, outputs: Any) -> None:
    """Raises ValueError if `Network.unroll` does not return for each step what `Network.apply` returns: `outputs`."""
    if agent.unroll is None:
        return
    steps, wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), ((obs, first, obs), outputs))
    what, names = interface.title("Network.unroll", agent.unroll), ("outputs", "next_outputs", "carry")
    returned = interface.traced(what, agent.unroll, params, *steps, agent.carry)
    for name, found in zip(names, interface.values(what, returned, names), strict=True):
        interface.same(f"the {name} that {what}", found, agent.carry if name == "carry" else wanted)


def _size(name: str, size: OutputSize, actions: Any) -> Size:
    if not isinstance(size, PerAction):
        return size
    if not hasattr(actions, "n"):
        raise ValueError(f"the output {name!r}, which has a size per action, needs discrete actions, got {actions!r}")
    return (actions.n, size.size or actions.n)


class Actors(NamedTuple):
    """E environments of one level, each in the middle of an episode. Leaves [E, ...]."""

    obs: Array
    state: PyTree
    carry: PyTree  # of a recurrent network
    first: Array  # bool, `obs` is the first of its episode
    episode_return: Array  # so far


class Rollout(NamedTuple):
    """T steps of E environments. Leaves [T, E, ...], except `carry` [E, ...]."""

    obs: Array
    action: Array
    log_prob: Array
    reward: Array
    terminated: Array  # bool, the episode ended in a terminal state
    truncated: Array  # bool, the episode was cut off: its last state has a value
    boundary: Array  # bool, one of the episodes that make up a trial ended, and the trial goes on (`envs.trials`)
    next_obs: Array  # the true successor, also where the episode ended
    first: Array  # bool, `obs` is the first of its episode
    episode_return: Array  # of the episode that ended at this step; NaN where none did
    carry: PyTree  # of a recurrent network, before the first step
    labels: PyTree = ()  # `info["labels"]`: what auxiliary losses predict, and no network sees; () if there is none

    @property
    def done(self) -> Array:
        """[T, E] bool, the episode ended at this step."""
        return self.terminated | self.truncated


def empty_carry(model: Model, num_envs: int) -> PyTree:
    """The memory of a recurrent network before the first step of `num_envs` environments. Leaves [E, ...]."""
    return copies(model.network.carry, num_envs)


def reset(env: Environment, model: Model, env_params: PyTree, key: Key, num_envs: int) -> Actors:
    """`num_envs` environments of the level `env_params`, each at the start of an episode."""
    obs, state = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), env_params)
    return Actors(obs, state, empty_carry(model, num_envs), jnp.ones(num_envs, bool), jnp.zeros(num_envs))


def act(
    env: Environment, model: Model, params: Params, actors: Actors, env_params: PyTree, keys: Key
) -> tuple[Actors, Rollout]:
    """One step in every environment, leaves [E, ...]. `keys` [E + 1]: one for all actions, then one per environment."""
    outputs, carry = jax.vmap(model.network.apply, (None, 0, 0, 0))(params, actors.obs, actors.first, actors.carry)
    action, log_prob = model.policy.distribution(outputs["policy"]).sample_and_log_prob(seed=keys[0])
    obs, state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
        keys[1:], actors.state, model.policy.clip(action), env_params
    )
    terminated, truncated = terminated.astype(bool), truncated.astype(bool)
    boundary = jnp.asarray(info.get("boundary", jnp.zeros_like(terminated)), bool)
    reward = reward.astype(jnp.float32)
    done = terminated | truncated
    episode_return = actors.episode_return + reward
    step = Rollout(
        obs=actors.obs,
        action=action,
        log_prob=log_prob,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        boundary=boundary,
        next_obs=info["final_observation"],
        first=actors.first,
        episode_return=jnp.where(done, episode_return, jnp.nan),
        carry=(),
        labels=info.get("labels", ()),
    )
    return Actors(obs, state, carry, done, jnp.where(done, 0.0, episode_return)), step


def rollout(
    env: Environment, model: Model, params: Params, actors: Actors, env_params: PyTree, key: Key, length: int
) -> tuple[Actors, Rollout]:
    """`length` steps in every environment, starting from `actors`. No gradient reaches `params`."""
    params = jax.lax.stop_gradient(params)

    def step(now: Actors, keys: Key) -> tuple[Actors, Rollout]:
        return act(env, model, params, now, env_params, keys)

    # all keys at once, because a split inside the loop takes as long as a step of a small environment
    keys = jax.random.split(key, (length, actors.first.shape[0] + 1))
    after, steps = jax.lax.scan(step, actors, keys)
    return after, steps._replace(carry=actors.carry)


def unroll(model: Model, params: Params, rollout: Rollout) -> tuple[dict[str, Array], dict[str, Array]]:
    """The network's outputs for `obs` and for `next_obs`, leaves [T, E, ...]; differentiable in `params`.

    XLA removes the computation of the second if the caller does not use it.
    """
    if model.network.unroll is not None:
        all_steps = jax.vmap(model.network.unroll, (None, 1, 1, 1, 0), (1, 1, 0))
        outputs, next_outputs, _ = all_steps(params, rollout.obs, rollout.first, rollout.next_obs, rollout.carry)
        return outputs, next_outputs
    over_envs = jax.vmap(model.network.apply, (None, 0, 0, 0))

    def step(carry: PyTree, x: Rollout) -> tuple[PyTree, tuple[dict[str, Array], dict[str, Array]]]:
        outputs, carry = over_envs(params, x.obs, x.first, carry)
        next_outputs, _ = over_envs(params, x.next_obs, jnp.zeros_like(x.first), carry)
        return carry, (outputs, next_outputs)

    if model.recurrent:
        return jax.lax.scan(step, rollout.carry, rollout._replace(carry=()))[1]
    # all steps as one batch: XLA multiplies batches of batches more slowly, and transposes them for gradients
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout)
    return jax.tree.map(lambda x: x.reshape(*rollout.first.shape, *x.shape[1:]), step(flat.carry, flat)[1])


def layers(model: Model, params: Params, rollout: Rollout) -> PyTree:
    """The tree of `Layer` of the network on `rollout`, or () for a network without `watch`."""
    watch = model.network.watch
    if watch is None:
        return ()
    over_envs = jax.vmap(watch, (None, 0, 0, 0))

    def step(carry: PyTree, x: Rollout) -> tuple[PyTree, PyTree]:
        _, carry, activities = over_envs(params, x.obs, x.first, carry)
        return carry, jax.tree.map(lambda x: x.mean(0), activities)

    steps = rollout._replace(carry=())
    if model.recurrent:
        activities = jax.lax.scan(step, rollout.carry, steps)[1]
    else:
        activities = jax.vmap(lambda x: step(rollout.carry, x)[1])(steps)
    return {name: as_layers(tree, actor=name == "policy") for name, tree in activities.items()}


class Episodes(NamedTuple):
    """One episode in each of E environments. Leaves [E]."""

    episode_return: Array  # undiscounted
    length: Array  # int32
    finished: Array  # bool; False where `max_steps` came first, so that the return is that of a part of the episode


def evaluate(
    env: Environment,
    model: Model,
    params: Params,
    env_params: PyTree,
    key: Key,
    num_episodes: int,
    max_steps: int,
) -> Episodes:
    """Plays `num_episodes` episodes in parallel with the stochastic policy, each for at most `max_steps` steps."""
    reset_key, step_key = jax.random.split(key)
    start = reset(env, model, env_params, reset_key, num_episodes)
    none = Episodes(jnp.zeros(num_episodes), jnp.zeros(num_episodes, jnp.int32), jnp.zeros(num_episodes, bool))

    def playing(loop: tuple[Array, Actors, Episodes]) -> Array:
        t, _, episodes = loop
        return (t < max_steps) & ~episodes.finished.all()

    def step(loop: tuple[Array, Actors, Episodes]) -> tuple[Array, Actors, Episodes]:
        t, actors, episodes = loop
        keys = jax.random.split(jax.random.fold_in(step_key, t), num_episodes + 1)
        actors, x = act(env, model, params, actors, env_params, keys)
        played = Episodes(episodes.episode_return + x.reward, episodes.length + 1, x.done)
        return t + 1, actors, select(episodes.finished, episodes, played)

    return jax.lax.while_loop(playing, step, (jnp.int32(0), start, none))[2]

"""A plain PPO in one file, which `experiments.benchmark agents` compares the library's with.

It shares nothing with the library but environments, initialisers and the convolution. It has no seams and no checks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from metarl.rl.networks.network import HIDDEN, convolution, kernel
from metarl.types import Array, Environment, Key, Params, PyTree


class Settings(NamedTuple):
    """Sizes and coefficients of PPO (Schulman et al. 2017, arXiv 1707.06347)."""

    num_envs: int
    rollout_length: int
    epochs: int
    minibatches: int
    learning_rate: float
    max_gradient_norm: float
    discount: float
    gae_lambda: float
    clip: float
    value_coef: float
    entropy_coef: float


class Plain(NamedTuple):
    """A plain PPO."""

    init: Callable[[Key], State]
    update: Callable[[State], State]  # a rollout, then passes over it


class State(NamedTuple):
    """An agent. Leaves of `obs`, `env_state` and `returns` have the axis [num_envs]."""

    params: Params
    opt_state: PyTree
    obs: Array
    env_state: PyTree
    returns: Array  # of the present episodes so far
    episode_return: Array  # () mean of the episodes that ended in the last rollout in which any did; NaN before
    key: Key


class Step(NamedTuple):
    """One step of all environments. Leaves [num_envs, ...]."""

    obs: Array
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    done: Array
    finished: Array  # return of the episode that ended; NaN where none did


class Body(nn.Module):
    """Two hidden layers and a linear output: dense with tanh, or for boards a convolution and a dense layer, relu."""

    conv: bool
    outputs: int
    gain: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        layers = [convolution(16), nn.Dense(128, kernel_init=HIDDEN)] if self.conv else self._dense()
        for layer in layers:
            if isinstance(layer, nn.Dense):
                x = x.reshape(-1)
            x = (nn.relu if self.conv else nn.tanh)(layer(x))
        return nn.Dense(self.outputs, kernel_init=kernel(self.gain))(x)

    def _dense(self) -> list[nn.Module]:
        return [nn.Dense(64, kernel_init=HIDDEN), nn.Dense(64, kernel_init=HIDDEN)]


def make(env: Environment, settings: Settings, conv: bool) -> Plain:
    """A PPO for an environment with discrete actions, whose networks are convolutional or of two dense layers."""
    env_params = env.default_params
    actor, critic = Body(conv, env.action_space(env_params).n, 0.01), Body(conv, 1, 1.0)
    optimizer = optax.chain(
        optax.clip_by_global_norm(settings.max_gradient_norm), optax.adam(settings.learning_rate, eps=1e-5)
    )

    def forward(params: Params, obs: Array) -> tuple[Array, Array]:
        logits: Any = jax.vmap(partial(actor.apply, params["actor"]))(obs)
        value: Any = jax.vmap(partial(critic.apply, params["critic"]))(obs)
        return jax.nn.log_softmax(logits), value[:, 0]

    def init(key: Key) -> State:
        key, env_key, actor_key, critic_key = jax.random.split(key, 4)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(env_key, settings.num_envs), env_params)
        params = {"actor": actor.init(actor_key, obs[0]), "critic": critic.init(critic_key, obs[0])}
        returns = jnp.zeros(settings.num_envs)
        return State(params, optimizer.init(params), obs, env_state, returns, jnp.float32(jnp.nan), key)

    def act(state: State, now: None) -> tuple[State, Step]:
        key, action_key, env_key = jax.random.split(state.key, 3)
        log_probs, value = forward(state.params, state.obs)
        action = jax.random.categorical(action_key, log_probs)
        log_prob = jnp.take_along_axis(log_probs, action[:, None], 1)[:, 0]
        obs, env_state, reward, terminated, truncated, *_ = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, settings.num_envs), state.env_state, action, env_params
        )
        done, returns = terminated | truncated, state.returns + reward
        step = Step(state.obs, action, log_prob, value, reward, done, jnp.where(done, returns, jnp.nan))
        return state._replace(obs=obs, env_state=env_state, returns=jnp.where(done, 0.0, returns), key=key), step

    def advantages(steps: Step, last_value: Array) -> Array:
        def back(after: tuple[Array, Array], step: Step) -> tuple[tuple[Array, Array], Array]:
            advantage, next_value = after
            goes_on = settings.discount * (1.0 - step.done)
            error = step.reward + goes_on * next_value - step.value
            advantage = error + goes_on * settings.gae_lambda * advantage
            return (advantage, step.value), advantage

        return jax.lax.scan(back, (jnp.zeros_like(last_value), last_value), steps, reverse=True)[1]

    def loss(params: Params, steps: Step, advantage: Array) -> Array:
        log_probs, value = forward(params, steps.obs)
        ratio = jnp.exp(jnp.take_along_axis(log_probs, steps.action[:, None], 1)[:, 0] - steps.log_prob)
        normal = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = jnp.clip(ratio, 1.0 - settings.clip, 1.0 + settings.clip)
        policy = -jnp.minimum(ratio * normal, clipped * normal).mean()
        value_loss = 0.5 * jnp.square(value - advantage - steps.value).mean()
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
        return policy + settings.value_coef * value_loss - settings.entropy_coef * entropy

    def descend(learner: tuple[Params, PyTree], part: tuple[Step, Array]) -> tuple[tuple[Params, PyTree], None]:
        params, opt_state = learner
        updates, opt_state = optimizer.update(jax.grad(loss)(params, *part), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def update(state: State) -> State:
        state, steps = jax.lax.scan(act, state, None, settings.rollout_length)
        batch = (steps, advantages(steps, forward(state.params, state.obs)[1]))
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        size = settings.num_envs * settings.rollout_length

        def epoch(learner: tuple[Params, PyTree], key: Key) -> tuple[Any, None]:
            order = jax.random.permutation(key, size).reshape(settings.minibatches, -1)
            return jax.lax.scan(descend, learner, jax.tree.map(lambda x: x[order], batch))

        key, epoch_key = jax.random.split(state.key)
        learner = (state.params, state.opt_state)
        (params, opt_state), _ = jax.lax.scan(epoch, learner, jax.random.split(epoch_key, settings.epochs))
        finished = jnp.nanmean(steps.finished)
        episode_return = jnp.where(jnp.isnan(finished), state.episode_return, finished)
        return state._replace(params=params, opt_state=opt_state, episode_return=episode_return, key=key)

    return Plain(init, update)

"""Reinforcement learning agents: objective x optimizer -> InnerLoop, and the plain trainer for baselines."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl.meta import InnerLoop, LearnedOptimizer, Objective, Update, all_finite, as_learned, select
from metarl.rl.networks import NetworkFactory
from metarl.objectives.actor_critic import Targets, actor_critic_targets
from metarl.rl.returns import normalise
from metarl.rl.rollout import (
    Actors,
    Rollout,
    check_environment,
    empty_carry,
    evaluate,
    layers,
    model,
    reset,
    rollout,
    unroll,
)
from metarl.types import Array, Environment, Key, Level, MetaParams, Metrics, Params, Progress, PyTree


class Critic(NamedTuple):
    """The value function that judges the updated agent in the meta-objective; one per lifetime, learned as it lives."""

    optimizer: optax.GradientTransformation
    steps: int = 1  # gradient steps per rollout
    discount: Array | float = 0.99
    gae_lambda: Array | float = 0.95
    network: NetworkFactory | None = None  # the agent's if None


class Lifetime(NamedTuple):
    """An agent, its environments and its level."""

    params: Params
    opt_state: PyTree
    actors: Actors
    level: Level
    step: Array  # () int32, updates so far
    critic: PyTree  # (params, opt_state), or () without a critic


def _minibatches(key: Key, batch: PyTree, carry: PyTree, count: int) -> tuple[PyTree, PyTree]:
    """Shuffles the environment axis and deals it out: leaves [T, E, ...] -> [count, T, E / count, ...]."""
    num = jax.tree.leaves(batch)[0].shape[1]
    order = jax.random.permutation(key, num).reshape(count, num // count)
    return jax.tree.map(lambda x: jnp.moveaxis(x[:, order], 1, 0), batch), jax.tree.map(lambda x: x[order], carry)


def rl_inner_loop(
    env: Environment,
    network: NetworkFactory,
    objective: Objective,
    optimizer: optax.GradientTransformation | LearnedOptimizer,
    *,
    num_envs: int,
    rollout_length: int,
    epochs: int = 1,
    minibatches: int = 1,
    critic: Critic | None = None,
    max_episode_steps: int = 10_000,
    num_eval_episodes: int = 16,
) -> InnerLoop:
    """One agent per lifetime: `rollout_length` steps in `num_envs` environments, then an update, again and again.

    An update is `epochs` passes over the rollout in `minibatches` shuffled parts: single steps for a
    feed-forward network, whole sequences of some of the environments for a recurrent one.
    The meta-parameters are `{"objective": ..., "optimizer": ...}`; either may be `()`.
    Its `loss` is the policy-gradient loss of the updated agent on a new rollout, judged by `critic`; its
    `fitness` the mean return of `num_eval_episodes` episodes of at most `max_episode_steps` steps, NaN for an agent
    whose parameters are not finite.

    Raises ValueError for a non-positive count, `minibatches` that do not divide the batch, an environment that
    departs from the interface, or a network or an optimizer that does not fit.
    """
    counts = {
        "num_envs": num_envs,
        "rollout_length": rollout_length,
        "epochs": epochs,
        "minibatches": minibatches,
        "max_episode_steps": max_episode_steps,
        "num_eval_episodes": num_eval_episodes,
    }
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    check_environment(env)
    agent = model(env, network, dict(objective.outputs))
    recurrent = bool(jax.tree.leaves(agent.network.carry))
    rows = num_envs if recurrent else num_envs * rollout_length
    if rows % minibatches:
        what = "num_envs" if recurrent else "num_envs * rollout_length"
        raise ValueError(f"minibatches must divide {what} = {rows}, got {minibatches}")
    judge = model(env, critic.network or network, {"value": 1}) if critic else None

    learned = as_learned(optimizer)

    def init_learner(param_key: Key, optimizer_key: Key) -> tuple[Params, PyTree]:
        params = agent.network.init(param_key)
        # an optimizer's first state depends on the shapes of its meta-parameters only
        return params, learned.transform(learned.init(optimizer_key)).init(params)

    try:
        jax.eval_shape(init_learner, jax.random.key(0), jax.random.key(0))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"the optimizer does not fit a network of outputs {['policy', *objective.outputs]}: {error}"
        ) from error

    def init_meta(key: Key) -> MetaParams:
        objective_key, optimizer_key = jax.random.split(key)
        return {"objective": objective.init(objective_key), "optimizer": learned.init(optimizer_key)}

    def init(key: Key, level: Level) -> Lifetime:
        param_key, optimizer_key, env_key, critic_key = jax.random.split(key, 4)
        params, opt_state = init_learner(param_key, optimizer_key)
        actors = reset(env, agent, level.env_params, env_key, num_envs)
        return Lifetime(params, opt_state, actors, level, jnp.int32(0), init_critic(critic_key))

    def init_critic(key: Key) -> PyTree:
        if critic is None or judge is None:
            return ()
        params = judge.network.init(key)
        return params, critic.optimizer.init(params)

    def update(
        meta_params: MetaParams, params: Params, opt_state: PyTree, data: Rollout, progress: Progress, key: Key
    ) -> tuple[Params, PyTree, Array, Metrics]:
        """One agent update on the rollout `data`: new parameters and optimizer state, penalty, metrics."""
        # meta-parameters that were saved leave out what is not learned
        rule, optim = meta_params.get("objective", ()), learned.transform(meta_params.get("optimizer", ()))
        targets, penalty = objective.targets(rule, params, agent, data, progress)

        def follow(
            learner: tuple[Params, PyTree], part: tuple[Rollout, PyTree], key: Key, turn: Array | int = 0
        ) -> tuple[Any, Metrics]:
            params, opt_state = learner
            gradient, metrics = jax.grad(
                lambda params: objective.loss(rule, params, agent, *part, progress), has_aux=True
            )(params)
            updates, opt_state = optim.update(
                gradient,
                opt_state,
                params,
                progress=progress,
                epoch_progress=turn / max(epochs * minibatches - 1, 1),
                layers=layers(agent, params, part[0]),
                key=key,
            )
            return (optax.apply_updates(params, updates), opt_state), metrics

        learner = (params, opt_state)
        if epochs == minibatches == 1:
            learner, metrics = follow(learner, (data, targets), key)
            return *learner, penalty, metrics

        batch = (data._replace(carry=()), targets)
        if not recurrent:
            batch = jax.tree.map(lambda x: x.reshape(1, rows, *x.shape[2:]), batch)

        def epoch(learner: tuple[Params, PyTree], x: tuple[Key, Array]) -> tuple[Any, Metrics]:
            key, turns = x
            (parts, targets), carry = _minibatches(key, batch, data.carry, minibatches)
            # far from the numbers by which the shuffle folds or splits the same key
            keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, 2**31)))(turns)
            parts = (parts._replace(carry=carry), targets)
            return jax.lax.scan(lambda learner, x: follow(learner, *x), learner, (parts, keys, turns))

        turns = jnp.arange(epochs * minibatches).reshape(epochs, minibatches)
        learner, metrics = jax.lax.scan(epoch, learner, (jax.random.split(key, epochs), turns))
        return *learner, penalty, jax.tree.map(jnp.mean, metrics)

    def judge_rollout(critic_state: PyTree, data: Rollout) -> tuple[Targets, PyTree, Metrics]:
        """Advantages under the critic as it is, and the critic after learning from the same rollout."""
        assert critic is not None and judge is not None
        # not the agent's memory but its own, empty at the start of every rollout
        data = jax.lax.stop_gradient(data)._replace(carry=empty_carry(judge, num_envs))
        targets = actor_critic_targets(critic_state[0], judge, data, critic.discount, critic.gae_lambda)

        def loss(params: Params) -> Array:
            outputs, _ = unroll(judge, params, data)
            return 0.5 * jnp.square(outputs["value"][..., 0] - targets.returns).mean()

        def learn(state: PyTree, _: None) -> tuple[PyTree, Array]:
            params, opt_state = state
            value, gradient = jax.value_and_grad(loss)(params)
            updates, opt_state = critic.optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        state, losses = jax.lax.scan(learn, critic_state, None, critic.steps)
        return targets, jax.lax.stop_gradient(state), {"critic_loss": losses[0]}

    def collect(lifetime: Lifetime, key: Key) -> tuple[Actors, Rollout]:
        return rollout(env, agent, lifetime.params, lifetime.actors, lifetime.level.env_params, key, rollout_length)

    def done(lifetime: Lifetime) -> Array:
        return lifetime.step >= lifetime.level.horizon

    def step(meta_params: MetaParams, lifetime: Lifetime, key: Key) -> Update:
        rollout_key, update_key = jax.random.split(key)
        actors, data = collect(lifetime, rollout_key)
        progress = Progress(lifetime.step, lifetime.level.horizon)
        params, opt_state, penalty, metrics = update(
            meta_params, lifetime.params, lifetime.opt_state, data, progress, update_key
        )
        older = lifetime._replace(params=params, opt_state=opt_state, actors=actors, step=lifetime.step + 1)
        if critic is not None:
            _, critic_state, critic_metrics = judge_rollout(lifetime.critic, data)
            older, metrics = older._replace(critic=critic_state), {**metrics, **critic_metrics}
        frozen = done(lifetime)
        metrics = {**metrics, "reward": data.reward.mean(), "episode_return": jnp.nanmean(data.episode_return)}
        return Update(select(frozen, lifetime, older), jnp.where(frozen, 0.0, penalty), metrics)

    def loss(meta_params: MetaParams, lifetime: Lifetime, key: Key) -> tuple[Array, tuple[Lifetime, Metrics]]:
        if critic is None:
            raise ValueError("a differentiable meta-objective needs rl_inner_loop(..., critic=Critic(...))")
        actors, data = collect(lifetime, key)
        targets, critic_state, _ = judge_rollout(lifetime.critic, data)
        outputs, _ = unroll(agent, lifetime.params, data)
        log_prob = agent.policy.distribution(outputs["policy"]).log_prob(data.action)
        value = -(normalise(targets.advantage) * log_prob).mean()
        older = lifetime._replace(actors=actors, critic=critic_state)
        return value, (select(done(lifetime), lifetime, older), {"agent_loss": value})

    def rollout_and_advantages(lifetime: Lifetime, key: Key) -> tuple[Rollout, Targets]:
        _, data = collect(lifetime, key)
        return data, judge_rollout(lifetime.critic, data)[0]

    def fitness(meta_params: MetaParams, lifetime: Lifetime, key: Key) -> Array:
        env_params = lifetime.level.env_params
        episodes = evaluate(env, agent, lifetime.params, env_params, key, num_eval_episodes, max_episode_steps)
        # logits that are not numbers would still be sampled from, and an agent that has diverged seem to play
        return jnp.where(all_finite(lifetime.params), episodes.episode_return.mean(), jnp.nan)

    judged = rollout_and_advantages if critic else None
    experience = num_envs * rollout_length
    return InnerLoop(init_meta, init, step, loss, fitness, done, judged, experience, experience)


def train_agent(
    inner: InnerLoop, meta_params: MetaParams, level: Level, key: Key, num_updates: int
) -> tuple[Any, Metrics]:
    """A newborn agent's first `num_updates` updates on `level`: the lifetime it has lived, and metrics [num_updates].

    Pure, so jit it and vmap it over keys, levels, meta-parameters or hyperparameters that `inner` closes over.
    `meta_params` of a hand-made agent are `inner.init_meta(key)`. The agent stops at its level's horizon.
    """
    init_key, step_key = jax.random.split(key)

    def step(lifetime: Any, key: Key) -> tuple[Any, Metrics]:
        update = inner.step(meta_params, lifetime, key)
        return update.lifetime, update.metrics

    return jax.lax.scan(step, inner.init(init_key, level), jax.random.split(step_key, num_updates))

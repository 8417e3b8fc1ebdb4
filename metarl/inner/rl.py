"""Reinforcement learning agents as inner loops: one agent per lifetime, made of an objective, optimizer and network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl import checks, interface
from metarl.checks import COUNT, COUNT_OR_ZERO, POSITIVE, checked
from metarl.gradients import GradientOf, forward_over_reverse, reverse_over_reverse
from metarl.inner.initial import Initial, parameters, start, with_initial
from metarl.meta import InnerLoop, Update, advance
from metarl.optimizers.learned import LearnedOptimizer, as_learned, check_fits, init_learner, transform
from metarl.rl.critic import Critic, CriticState, Targets, init_critic, update_critic
from metarl.rl.environment import trace_environment
from metarl.rl.networks import NetworkFactory
from metarl.rl.objective import Objective, checked_loss, checked_regulariser, checked_targets
from metarl.rl.returns import normalise
from metarl.rl.rollout import (
    Actors,
    Model,
    PerAction,
    Rollout,
    evaluate,
    layers,
    model,
    reset,
    rollout,
    unroll,
)
from metarl.tree import all_finite
from metarl.types import Array, Environment, Key, Level, MetaParams, Metrics, Params, Progress, PyTree


class Experience(NamedTuple):
    """How much experience an agent collects for an update, and how it learns from it."""

    num_envs: Annotated[int, COUNT]  # E, environments per agent
    rollout_length: Annotated[int, COUNT]  # T, environment steps between two agent updates
    epochs: Annotated[int, COUNT] = 1  # passes over each rollout
    minibatches: Annotated[int, COUNT] = 1  # parts of a rollout; each pass makes one gradient step per part
    reward_scale: Annotated[Array | float, POSITIVE] = 1.0  # factor on the rewards that the agent learns from

    @property
    def env_steps(self) -> int:
        """Environment steps per agent update."""
        return self.num_envs * self.rollout_length


class Agent(NamedTuple):
    """The lifetime of an agent: its parameters, its environments and its level."""

    params: Params
    opt_state: PyTree
    actors: Actors
    level: Level
    step: Array  # () int32, updates so far
    critic: CriticState | tuple[()]  # of the meta-objective; () without a critic
    memory: PyTree  # what the objective remembers of this lifetime; () for most


class Parts(NamedTuple):
    """The parts of an inner loop."""

    env: Environment
    agent: Model
    objective: Objective
    optimizer: LearnedOptimizer
    experience: Experience
    critic: Critic | None
    critic_model: Model | None


# (meta_params, agent, key) -> a new rollout of the agent, and its targets under the agent's own critic
ValueJudge = Callable[[MetaParams, Agent, Key], tuple[Rollout, Targets]]


@checked
def rl_inner_loop(
    env: Environment,
    network: NetworkFactory,
    objective: Objective,
    optimizer: optax.GradientTransformation | LearnedOptimizer,
    experience: Experience,
    *,
    critic: Critic | None = None,
    initial: Initial = "random",
    num_eval_episodes: Annotated[int, COUNT] = 16,
    max_episode_steps: Annotated[int, COUNT] = 10_000,
) -> InnerLoop:
    """One agent per lifetime, which repeatedly collects a rollout and updates itself.

    An update makes `epochs` passes over the rollout, each in `minibatches` shuffled parts. A part holds single steps
    for a feed-forward network, and whole sequences of some environments for a recurrent one.
    The objective learns from rewards times `reward_scale`: networks are slow to learn values far from 1, and learned
    rules have not seen any. Returns that are reported, `loss` and `fitness` are of the environment's own rewards.
    The meta-parameters are `{"objective": ..., "optimizer": ...}`, `()` for what is not learned. `initial` may be
    parameters, for all agents to begin with. If it is "learned" (`metarl.inner.initial`) the meta-parameters have a
    third part, `"initial"`, and `Agent.params` is the distance from it: `metarl.parameters(meta_params, agent)` are the
    parameters. `loss` does not depend on the agent's own value function, so backpropagation does not learn initial
    values of actor-critics, but evolution does.
    `loss` is the policy-gradient loss of the agent on a new rollout, with advantages under `critic`; there is none
    without a critic. `fitness` is the mean return of `num_eval_episodes` episodes of at most `max_episode_steps` steps,
    and NaN for an agent whose parameters are not finite.

    Raises ValueError for a non-positive count, `minibatches` that do not divide the batch, an environment that does
    not follow the interface, or a network, an optimizer or an initialisation that does not fit. Its functions raise
    ValueError when they are traced, for a level of another environment and for a part that returns something else than
    its interface says.
    """
    parts = _parts(env, network, objective, optimizer, experience, critic, initial)
    inner = InnerLoop(
        init_meta=partial(_init_meta, parts),
        init=partial(_init, parts),
        step=partial(_step, parts, reverse_over_reverse),
        loss=partial(_loss, parts) if critic else None,
        fitness=partial(_fitness, parts, num_eval_episodes, max_episode_steps),
        mixed_step=partial(_step, parts, forward_over_reverse),
    )
    return with_initial(inner, initial, parts.agent.network.init, partial(_born, parts))


def value_judge(
    env: Environment, network: NetworkFactory, objective: Objective, critic: Critic, experience: Experience
) -> ValueJudge:
    """A function that collects a new rollout of an agent and computes its targets under the agent's own critic.

    The parts must be those of the agents' `rl_inner_loop`. Scores of levels use it (`metarl.curricula.scores`):
    positive value loss, L1 value loss, MaxMC.
    """
    _check_critic(critic)
    agent, critic_model = model(env, network, objective.outputs), model(env, critic.network or network, {"value": 1})

    def judged(meta_params: MetaParams, lifetime: Agent, key: Key) -> tuple[Rollout, Targets]:
        lifetime = lifetime._replace(params=parameters(meta_params, lifetime))
        assert isinstance(lifetime.critic, CriticState)
        _, data = _collect(env, agent, experience, lifetime, key)
        return data, update_critic(critic, critic_model, lifetime.critic, data)[0]

    return judged


@checked
def train_agent(
    inner: InnerLoop, meta_params: MetaParams, level: Level, key: Key, num_updates: Annotated[int, COUNT_OR_ZERO]
) -> tuple[Any, Metrics]:
    """Trains a new learner on `level` for `num_updates` updates, or to its horizon.

    Returns its lifetime, and metrics with leaves [num_updates]. The function is pure: jit it, or vmap it over keys,
    levels, meta-parameters or hyperparameters that `inner` closes over.
    If nothing is learned by `inner`, `meta_params` are `inner.init_meta(key)`.

    Raises ValueError for a level of another environment, for meta-parameters of another learner, and if a part returns
    something else than its interface says.
    """
    interface.part("inner", inner, InnerLoop)
    interface.part("level", level, Level, {"Levels": "give levels.sample(key)"})
    checks.within(int, COUNT, **{"level.horizon": interface.part("level", level, Level).horizon})
    init_key, step_key = jax.random.split(key)

    def step(lifetime: Any, key: Key) -> tuple[Any, Metrics]:
        update = advance(inner, meta_params, lifetime, key)
        return update.lifetime, update.metrics

    return jax.lax.scan(step, inner.init(init_key, level), jax.random.split(step_key, num_updates))


# --- building -------------------------------------------------------------------------------------------------


def _parts(
    env: Environment,
    network: NetworkFactory,
    objective: Objective,
    optimizer: optax.GradientTransformation | LearnedOptimizer,
    experience: Experience,
    critic: Critic | None,
    initial: Initial,
) -> Parts:
    """The parts, after checks that they fit each other. Raises ValueError as `rl_inner_loop` does."""
    trace_environment(env)
    _check_objective(objective)
    checks.fields(interface.part("experience", experience, Experience))
    if critic is not None:
        _check_critic(critic)
    agent = model(env, network, objective.outputs)
    begin = start(initial, agent.network.init, f"the network {interface.name(network)} of these agents")
    agent = agent._replace(network=agent.network._replace(init=begin))
    rows = experience.num_envs if agent.recurrent else experience.env_steps
    if rows % experience.minibatches:
        what = "num_envs" if agent.recurrent else "num_envs * rollout_length"
        raise ValueError(f"minibatches must divide {what} = {rows}, got {experience.minibatches}")
    learned = as_learned(optimizer)
    check_fits(learned, agent.network.init, f"a network of outputs {['policy', *objective.outputs]}")
    critic_model = model(env, critic.network or network, {"value": 1}) if critic else None
    return Parts(env, agent, objective, learned, experience, critic, critic_model)


def _check_objective(objective: Objective) -> None:
    interface.part("objective", objective, Objective)
    if not isinstance(objective.outputs, Mapping):
        raise ValueError(f"Objective.outputs must be a mapping {{name: size}}, got {objective.outputs!r}")
    for name, size in objective.outputs.items():
        if name == "policy":
            raise ValueError("Objective.outputs must not have 'policy', which every network has: rename it")
        number = size.size if isinstance(size, PerAction) else size
        if number is not None:
            checks.within(int, COUNT, **{f"Objective.outputs[{name!r}]": number})


def _check_critic(critic: Critic) -> None:
    checks.fields(interface.part("critic", critic, Critic))
    interface.optimizer("Critic.optimizer", critic.optimizer)


# --- the functions of the loop --------------------------------------------------------------------------------


def _init_meta(parts: Parts, key: Key) -> MetaParams:
    objective_key, optimizer_key = jax.random.split(key)
    return {"objective": parts.objective.init(objective_key), "optimizer": parts.optimizer.init(optimizer_key)}


def _init(parts: Parts, key: Key, level: Level) -> Agent:
    interface.problem(parts.env, level)
    param_key, optimizer_key, env_key, critic_key = jax.random.split(key, 4)
    params, opt_state = init_learner(parts.optimizer, parts.agent.network.init, param_key, optimizer_key)
    actors = reset(parts.env, parts.agent, level.problem, env_key, parts.experience.num_envs)
    critic: CriticState | tuple[()] = ()
    if parts.critic is not None and parts.critic_model is not None:
        critic = init_critic(parts.critic, parts.critic_model, critic_key)
    return Agent(params, opt_state, actors, level, jnp.int32(0), critic, parts.objective.init_memory(params))


def _born(parts: Parts, meta_params: MetaParams, agent: Agent, params: Params) -> Agent:
    """The newborn `agent`, if it had been born with these parameters."""
    opt_state = transform(parts.optimizer, meta_params).init(params)
    return agent._replace(params=params, opt_state=opt_state, memory=parts.objective.init_memory(params))


def _step(parts: Parts, gradient_of: GradientOf, meta_params: MetaParams, lifetime: Agent, key: Key) -> Update:
    rollout_key, update_key = jax.random.split(key)
    actors, data = _collect(parts.env, parts.agent, parts.experience, lifetime, rollout_key)
    critic, critic_metrics = lifetime.critic, Metrics()
    if parts.critic is not None:
        _, critic, critic_metrics = _update_critic(parts, lifetime, data)
    params, opt_state, memory, objective, metrics = _learn(parts, gradient_of, meta_params, lifetime, data, update_key)
    agent = Agent(params, opt_state, actors, lifetime.level, lifetime.step + 1, critic, memory)
    rewards = {"reward": data.reward.mean(), "episode_return": jnp.nanmean(data.episode_return)}
    own = {**critic_metrics, **rewards, **_cost(parts)}
    return Update(agent, objective, interface.merged(objective=metrics, agent=own))


def _loss(parts: Parts, meta_params: MetaParams, lifetime: Agent, key: Key) -> Update:
    actors, data = _collect(parts.env, parts.agent, parts.experience, lifetime, key)
    targets, critic, _ = _update_critic(parts, lifetime, data)
    outputs, _ = unroll(parts.agent, lifetime.params, data)
    log_prob = parts.agent.policy.distribution(outputs["policy"]).log_prob(data.action)
    value = -(normalise(targets.advantage) * log_prob).mean()
    rule = _rule(parts, meta_params)
    regulariser = checked_regulariser(
        parts.objective, parts.objective.regulariser(rule, lifetime.params, parts.agent, data)
    )
    after = lifetime._replace(actors=actors, critic=critic)
    return Update(after, value + regulariser, {"agent_loss": value, **_cost(parts)})


def _rule(parts: Parts, meta_params: MetaParams) -> MetaParams:
    """The meta-parameters of the objective; files leave out what is not learned."""
    return interface.meta_params("objective", meta_params, parts.objective.init)


def _fitness(
    parts: Parts, num_episodes: int, max_steps: int, meta_params: MetaParams, lifetime: Agent, key: Key
) -> Array:
    problem = lifetime.level.problem
    episodes = evaluate(parts.env, parts.agent, lifetime.params, problem, key, num_episodes, max_steps)
    # NaN logits can still be sampled from: without this, an agent that has diverged would seem to play
    return jnp.where(all_finite(lifetime.params), episodes.episode_return.mean(), jnp.nan)


def _cost(parts: Parts) -> Metrics:
    return {"env_steps": jnp.float32(parts.experience.env_steps)}  # a float, because sums of integers may overflow


def _collect(
    env: Environment, agent: Model, experience: Experience, lifetime: Agent, key: Key
) -> tuple[Actors, Rollout]:
    problem = lifetime.level.problem
    return rollout(env, agent, lifetime.params, lifetime.actors, problem, key, experience.rollout_length)


def _update_critic(parts: Parts, lifetime: Agent, data: Rollout) -> tuple[Targets, CriticState, Metrics]:
    assert parts.critic is not None and parts.critic_model is not None and isinstance(lifetime.critic, CriticState)
    return update_critic(parts.critic, parts.critic_model, lifetime.critic, data)


# --- one agent update -----------------------------------------------------------------------------------------


def _learn(
    parts: Parts, gradient_of: GradientOf, meta_params: MetaParams, lifetime: Agent, data: Rollout, key: Key
) -> tuple[Params, PyTree, PyTree, Array, Metrics]:
    """One agent update on the rollout `data`: new parameters, optimizer state and memory, meta-objective, metrics."""
    rule = _rule(parts, meta_params)
    data = data._replace(reward=parts.experience.reward_scale * data.reward)
    optimizer = transform(parts.optimizer, meta_params)
    progress = Progress(lifetime.step, lifetime.level.horizon)
    epochs, minibatches = parts.experience.epochs, parts.experience.minibatches
    targets, objective, memory = checked_targets(
        parts.objective,
        parts.objective.targets(rule, lifetime.memory, lifetime.params, parts.agent, data, progress),
        lifetime.memory,
    )

    def gradient_step(
        learner: tuple[Params, PyTree], part: tuple[Rollout, PyTree], key: Key, index: Array | int = 0
    ) -> tuple[Any, Metrics]:
        params, opt_state = learner
        gradient, metrics = gradient_of(
            lambda params: checked_loss(
                parts.objective, parts.objective.loss(rule, params, parts.agent, *part, progress)
            )
        )(params)
        updates, opt_state = interface.follow(
            "optimizer",
            optimizer.update,
            gradient,
            opt_state,
            params,
            progress=progress,
            epoch_progress=index / max(epochs * minibatches - 1, 1),
            layers=layers(parts.agent, params, part[0]),
            key=key,
        )
        return (optax.apply_updates(params, updates), opt_state), metrics

    learner = (lifetime.params, lifetime.opt_state)
    if epochs == minibatches == 1:
        learner, metrics = gradient_step(learner, (data, targets), key)
        return *learner, memory, objective, metrics

    batch, sequences = (data._replace(carry=()), targets), parts.agent.recurrent
    if not sequences:  # every step can be shuffled by itself
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    count = jax.tree.leaves(batch)[0].shape[1 if sequences else 0]

    def epoch(learner: tuple[Params, PyTree], x: tuple[Key, Array]) -> tuple[Any, Metrics]:
        key, indices = x
        order = jax.random.permutation(key, count).reshape(minibatches, -1)
        # 2 ** 31 is none of the numbers by which the shuffle folds or splits the same key
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, 2**31)))(indices)

        def minibatch(learner: tuple[Params, PyTree], x: tuple[Array, Key, Array]) -> tuple[Any, Metrics]:
            columns, *rest = x
            # gathered one by one, minibatches stay in the cache
            rows, row_targets = jax.tree.map(lambda x: x[:, columns] if sequences else x[columns][None], batch)
            carry = jax.tree.map(lambda x: x[columns], data.carry)
            return gradient_step(learner, (rows._replace(carry=carry), row_targets), *rest)

        return jax.lax.scan(minibatch, learner, (order, keys, indices))

    indices = jnp.arange(epochs * minibatches).reshape(epochs, minibatches)
    learner, metrics = jax.lax.scan(epoch, learner, (jax.random.split(key, epochs), indices))
    return *learner, memory, objective, jax.tree.map(lambda x: x.mean((0, 1)), metrics)  # over epochs and minibatches

"""Trials: several episodes on one level as one episode, for agents that learn by memory (RL², arXiv 1611.02779).

    levels = envs.trials(envs.make("bandit/bernoulli"), episodes=1)
    levels = envs.trials(envs.make("mdp/random"), episodes=10)

Any recurrent agent in `levels.env` learns to learn: within a trial its memory goes on from one episode to the next.
The observation is a vector of the inner observation (one-hot if it is discrete), the last reward, 1 if the last step
ended an inner episode, on request the share of the trial that is over, and the last action (one-hot, or as it is).
The parts that speak of the last step are 0 at the start of a trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks, interface
from metarl.checks import COUNT, checked
from metarl.rl.rollout import Model
from metarl.strategies import Strategy, Transition, play
from metarl.tree import select, where_needed
from metarl.types import Array, Box, Key, Level, Levels, Params, PyTree, Sequences


class TrialParams(NamedTuple):
    """Which level a trial is played on."""

    problem: PyTree  # a problem of the inner levels
    fixed: Array  # () bool: every trial is on `problem`; False: every trial draws a new one


class Shown(NamedTuple):
    """What an agent sees of a trial."""

    obs: Array  # the inner observation
    action: Array  # [A] the last action, one-hot or as it is
    reward: Array  # () the last reward
    boundary: Array  # () bool, the last step ended an inner episode
    time: Array  # () int32, steps since the start of the trial


class Memory(NamedTuple):
    """What an agent that plays a trial carries from one step to the next."""

    carry: PyTree  # of its network
    first: Array  # () bool, nothing has been done yet
    shown: Shown


class TrialState(NamedTuple):
    """A trial in progress."""

    problem: PyTree
    inner: PyTree  # state of the inner environment
    shown: Shown
    episode: Array  # () int32, inner episodes that have ended
    episode_return: Array  # () of the present inner episode, so far


@dataclass(frozen=True)
class Trials:
    """The environment. Make it by `trials`."""

    levels: Levels
    episodes: Annotated[int, COUNT] | None
    steps: Annotated[int, COUNT] | None
    share: bool = False
    switch_after: Annotated[int, COUNT] | None = None

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.episodes is None and self.steps is None:
            raise ValueError("a trial needs its length: give episodes or steps, got None for both")
        if self.share and self.steps is None:
            raise ValueError("the share of a trial that is over is known for trials of so many steps: give steps")
        actions = self.action_space()
        if not hasattr(actions, "n") and not (hasattr(actions, "low") and len(actions.shape) == 1):
            raise ValueError(
                "the observation of a trial shows actions of a Discrete space or of a Box of one axis, got "
                f"{actions!r} of {interface.name(self.levels.environment)}"
            )

    @property
    def default_params(self) -> TrialParams:
        """Every trial draws a new level."""
        return TrialParams(self.levels.environment.default_params, jnp.bool_(False))

    def action_space(self, params: TrialParams | None = None) -> Any:
        """That of the inner environment."""
        env = self.levels.environment
        return env.action_space(env.default_params)

    def observation_space(self, params: TrialParams | None = None) -> Box:
        """Vectors; see the module."""
        env, actions = self.levels.environment, self.action_space()
        space = env.observation_space(env.default_params)
        inner = space.n if hasattr(space, "n") else math.prod(space.shape)
        return Box(-jnp.inf, jnp.inf, (inner + _width(actions) + 2 + self.share,))

    def reset(self, key: Key, params: TrialParams) -> tuple[Array, TrialState]:
        """Observation and state at the start of a trial."""
        problem, obs, inner = self._draw(key, params)
        state = TrialState(problem, inner, self.start(obs), jnp.int32(0), jnp.zeros(()))
        return self.observe(state.shown), state

    def step(
        self, key: Key, state: TrialState, action: Array, params: TrialParams
    ) -> tuple[Array, TrialState, Array, Array, Array, dict[str, Any]]:
        """One step of the inner environment, which resets by itself between episodes; with auto-reset of the trial.

        `terminated` at the end of the last episode, or of the last step of a trial without a number of episodes;
        `truncated` where `steps` cuts a trial that has one. `info` has `boundary` (an inner episode ended, and the
        trial goes on), `episode` (index of the inner episode) and `episode_return` (of one that ended, else NaN).
        """
        step_key, reset_key = jax.random.split(key)
        problem = state.problem
        obs, inner, reward, terminated, truncated, _ = self.levels.environment.step(
            step_key, state.inner, action, problem
        )
        ended, reward = jnp.asarray(terminated | truncated, bool), jnp.asarray(reward, jnp.float32)
        episode, episode_return = state.episode + ended, state.episode_return + reward
        if self.switch_after is not None:
            switches, switch_key = ended & (episode % self.switch_after == 0), jax.random.fold_in(reset_key, 0)
            problem, obs, inner = where_needed(self._draw)(switches, (switch_key, params), (problem, obs, inner))
        shown = Shown(obs, self.show(action), reward, ended, state.shown.time + 1)
        following = TrialState(problem, inner, shown, episode, jnp.where(ended, 0.0, episode_return))

        over = jnp.bool_(False) if self.episodes is None else episode >= self.episodes
        cut = jnp.bool_(False) if self.steps is None else shown.time >= self.steps
        terminated, truncated = (cut, over) if self.episodes is None else (over, cut & ~over)
        done = over | cut
        info = {
            "final_observation": self.observe(shown),
            "boundary": ended & ~done,
            "episode": state.episode,
            "episode_return": jnp.where(ended, episode_return, jnp.nan),
        }
        state = where_needed(lambda *args: self.reset(*args)[1])(done, (reset_key, params), following)
        return self.observe(state.shown), state, reward, terminated, truncated, info

    def _draw(self, key: Key, params: TrialParams) -> tuple[PyTree, Array, PyTree]:
        """A level's problem, and the observation and the state of the inner environment at its start."""
        level_key, reset_key = jax.random.split(key)
        problem = select(params.fixed, params.problem, self.levels.sample(level_key).problem)
        return problem, *self.levels.environment.reset(reset_key, problem)

    def start(self, obs: Array) -> Shown:
        """What an agent sees at the start of a trial, where nothing has been done yet."""
        return Shown(obs, jnp.zeros(_width(self.action_space())), jnp.zeros(()), jnp.bool_(False), jnp.int32(0))

    def show(self, action: Array) -> Array:
        """An action as the observation has it, [A]."""
        space = self.action_space()
        return jax.nn.one_hot(action, space.n) if hasattr(space, "n") else jnp.asarray(action, jnp.float32)

    def observe(self, shown: Shown) -> Array:
        """The observation."""
        env = self.levels.environment
        space = env.observation_space(env.default_params)
        obs = jax.nn.one_hot(shown.obs, space.n) if hasattr(space, "n") else shown.obs.reshape(-1)
        numbers = [shown.reward, shown.boundary]
        if self.share:
            assert self.steps is not None
            numbers.append(shown.time / self.steps)
        parts = (obs, jnp.stack([jnp.asarray(x, jnp.float32) for x in numbers]), shown.action)
        return jnp.concatenate([jnp.asarray(x, jnp.float32) for x in parts])

    def strategy(self, model: Model, params: Params) -> Strategy:
        """An agent that was trained in these trials, as a strategy for one task: a level of the *inner* environment.

        `metarl.strategies.play` lets it play there, beside strategies that were not learned.
        """
        env = self.levels.environment
        space = env.observation_space(env.default_params)
        nothing = self.start(jnp.zeros(space.shape, space.dtype))

        def act(key: Key, obs: Array, memory: Memory) -> tuple[Array, Memory]:
            shown = memory.shown._replace(obs=obs)
            outputs, carry = model.network.apply(params, self.observe(shown), memory.first, memory.carry)
            action = model.policy.distribution(outputs["policy"]).sample(seed=key)
            return model.policy.clip(action), Memory(carry, jnp.bool_(False), shown)

        def learn(memory: Memory, step: Transition) -> Memory:
            time = memory.shown.time + 1
            return memory._replace(shown=Shown(step.next_obs, self.show(step.action), step.reward, step.done, time))

        return Strategy(lambda key: Memory(model.network.carry, jnp.bool_(True), nothing), act, learn)

    def demonstrations(self, strategy: Strategy) -> Sequences:
        """What `strategy` sees and does in trials of `steps` steps on the inner levels.

        Inputs are the observations but for the last action, and labels are the actions, so a learner in context
        (`metarl.in_context_inner_loop`) reads the observations of an agent. Raises ValueError without `steps`, with
        `episodes` or `switch_after`, and for actions that are not discrete.
        """
        env, actions = self.levels.environment, self.action_space()
        if self.steps is None or not hasattr(actions, "n"):
            raise ValueError(f"demonstrations need trials of so many steps and discrete actions, got {actions!r}")
        if self.episodes is not None or self.switch_after is not None:
            raise ValueError(
                f"demonstrations are of one task for so many steps, got episodes={self.episodes} and "
                f"switch_after={self.switch_after}"
            )
        steps = self.steps

        def read(problem: PyTree, key: Key) -> tuple[Array, Array]:
            played = play(env, strategy, problem, key, steps)
            reward, boundary = (jnp.pad(x[:-1], (1, 0)) for x in (played.reward, played.done))

            def look(obs: Array, reward: Array, boundary: Array, time: Array) -> Array:
                return self.observe(self.start(obs)._replace(reward=reward, boundary=boundary, time=time))

            seen = jax.vmap(look)(played.obs, reward, boundary, jnp.arange(steps))
            return seen[:, : -actions.n], played.action.astype(jnp.int32)

        size = self.observation_space().shape[0] - actions.n
        return Sequences(lambda key: self.levels.sample(key).problem, read, size, actions.n)


@checked
def trials(
    levels: Levels,
    episodes: Annotated[int, COUNT] | None = None,
    steps: Annotated[int, COUNT] | None = None,
    *,
    share: bool = False,
    switch_after: Annotated[int, COUNT] | None = None,
) -> Levels:
    """Trials on `levels`: a level is drawn at every reset, and stays for `episodes` episodes or `steps` steps.

    With both, a trial of `episodes` episodes is truncated after `steps` steps. `share` adds to the observation which
    share of the `steps` is over. With `switch_after`, a trial goes on with a new level after as many episodes each,
    which the agent is not told: if that is 1, nothing of an episode helps in the next. To play trials of one level
    only, give `TrialParams(problem, jnp.bool_(True))` as the problem, so that several methods may meet the same levels.

    Raises ValueError for levels without an environment, neither `episodes` nor `steps`, counts below 1, `share` without
    `steps`, and actions that are neither of a Discrete space nor of a Box of one axis.
    """
    env = Trials(interface.levels(levels), episodes, steps, share, switch_after)

    def sample(key: Key) -> Level:
        level = levels.sample(key)
        return Level(TrialParams(level.problem, jnp.bool_(False)), level.horizon)

    def render(params: TrialParams, state: TrialState | None) -> Any:
        assert levels.render is not None
        return levels.render(params.problem, None) if state is None else levels.render(state.problem, state.inner)

    return Levels(sample, env, render=render if levels.render else None)


def _width(actions: Any) -> int:
    return int(actions.n) if hasattr(actions, "n") else int(actions.shape[0])

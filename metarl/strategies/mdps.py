"""Classical learners of tabular Markov decision processes with episodes of a fixed length (Duan et al. 2016).

They are those of section 3.2 of RL^2 (arXiv 1611.02779). Each believes that expected rewards are drawn from N(1, 1),
and the probabilities of the next state from a flat Dirichlet distribution, and knows the noise of rewards. At the start
of every episode it plans for the whole episode, and it follows the plan to the episode's end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import COUNT, NOT_NEGATIVE, SHARE, Bound, checked
from metarl.strategies.sampling import dirichlet
from metarl.strategies.strategy import Strategy, Transition, exploring
from metarl.types import Array, Discrete, Key

Backup = Callable[[Array], Array]  # values [S] of the next states -> values [S, A] of the states and actions


class Process(NamedTuple):
    """What is known of a process before it is played. Raises ValueError by `check` for bad counts and noise."""

    num_states: Annotated[int, COUNT] = 10
    num_actions: Annotated[int, COUNT] = 5
    episode_length: Annotated[int, COUNT] = 10
    reward_noise: Annotated[float, NOT_NEGATIVE] = 1.0  # standard deviation of rewards


class Beliefs(NamedTuple):
    """The posterior of a process."""

    alpha: Array  # [S, A, S] float32, parameters of Dirichlet distributions
    reward: Array  # [S, A] float32, means of normal distributions of the expected rewards
    variance: Array  # [S, A] float32, their variances

    @property
    def visits(self) -> Array:
        """[S, A] how often each action was taken in each state."""
        return self.alpha.sum(-1) - self.alpha.shape[-1]

    @property
    def transition(self) -> Array:
        """[S, A, S] expected probabilities of the next state."""
        return self.alpha / self.alpha.sum(-1, keepdims=True)

    def backup(self) -> Backup:
        """That of the expected process."""
        return lambda values: self.reward + self.transition @ values


class Memory(NamedTuple):
    """Of a strategy that plans at the start of each episode."""

    beliefs: Beliefs
    plan: Array  # [T, S] int32, actions at each time of an episode
    time: Array  # () int32, steps since the start of the episode


def value_iteration(backup: Backup, num_states: int, length: int) -> tuple[Array, Array]:
    """Values [S] at the start of an episode of `length` T steps, and the best actions [T, S] at each time."""

    def step(values: Array, _: None) -> tuple[Array, Array]:
        found = backup(values)
        return found.max(-1), found.argmax(-1).astype(jnp.int32)

    return jax.lax.scan(step, jnp.zeros(num_states), length=length, reverse=True)


def planning(process: Process, imagine: Callable[[Key, Beliefs], Backup]) -> Strategy:
    """Plans with the backup that `imagine` makes of the beliefs at the start of each episode.

    An episode is counted to `process.episode_length` steps, be it over or not. Raises ValueError for counts below 1.
    """
    checks.fields(process)
    states, actions, length, noise = process
    variance = max(noise**2, 1e-12)  # without noise a reward is known when it was seen once

    def init(key: Key) -> Memory:
        prior = Beliefs(jnp.ones((states, actions, states)), *jnp.ones((2, states, actions)))
        return Memory(prior, jnp.zeros((length, states), jnp.int32), jnp.int32(0))

    def act(key: Key, obs: Array, memory: Memory) -> tuple[Array, Memory]:
        def plan() -> Array:
            return value_iteration(imagine(key, memory.beliefs), states, length)[1]

        # the time depends on no array that is vmapped over, so that this remains a condition under vmap
        memory = memory._replace(plan=jax.lax.cond(memory.time == 0, plan, lambda: memory.plan))
        return memory.plan[memory.time, obs], memory

    def learn(memory: Memory, step: Transition) -> Memory:
        alpha, reward, old = memory.beliefs
        at = step.obs, step.action
        gain = old[at] / (old[at] + variance)
        beliefs = Beliefs(
            alpha=alpha.at[*at, step.next_obs].add(1),
            reward=reward.at[at].add(gain * (step.reward - reward[at])),
            variance=old.at[at].multiply(1 - gain),
        )
        return memory._replace(beliefs=beliefs, time=(memory.time + 1) % length)

    return Strategy(init, act, learn)


def greedy(process: Process) -> Strategy:
    """Plans with the expected process."""
    return planning(process, lambda key, beliefs: beliefs.backup())


@checked
def epsilon_greedy(process: Process, epsilon: Annotated[Array | float, SHARE] = 0.1) -> Strategy:
    """Draws actions uniformly with probability `epsilon`, else follows the plan of `greedy`."""
    return exploring(greedy(process), Discrete(process.num_actions), epsilon)


def psrl(process: Process) -> Strategy:
    """Plans with a process that is drawn from the posterior (Strens 2000; Osband et al. 2013)."""
    return opsrl(process, 1)


@checked
def opsrl(process: Process, samples: Annotated[int, COUNT] = 2) -> Strategy:
    """Plans with the best of `samples` processes from the posterior, for each state, action and time by itself.

    So a plan is optimistic (Asmuth et al. 2009; Osband and Van Roy 2017, arXiv 1607.00215).
    """

    def imagine(key: Key, beliefs: Beliefs) -> Backup:
        reward_key, transition_key = jax.random.split(key)
        noise = jax.random.normal(reward_key, (samples, *beliefs.reward.shape))
        reward = beliefs.reward + jnp.sqrt(beliefs.variance) * noise
        transition = dirichlet(transition_key, jnp.tile(beliefs.alpha, (samples, 1, 1, 1)))
        return lambda values: (reward + transition @ values).max(0)

    return planning(process, imagine)


@checked
def beb(process: Process, bonus: Annotated[Array | float, NOT_NEGATIVE] = 1.0) -> Strategy:
    """Plans with the expected process, whose rewards get bonus / (1 + visits) (Kolter and Ng 2009)."""

    def imagine(key: Key, beliefs: Beliefs) -> Backup:
        return beliefs._replace(reward=beliefs.reward + bonus / (1 + beliefs.visits)).backup()

    return planning(process, imagine)


@checked
def ucrl2(
    process: Process,
    scale: Annotated[Array | float, NOT_NEGATIVE] = 0.1,
    delta: Annotated[Array | float, Bound(0, 1, above=True)] = 0.05,
) -> Strategy:
    """Plans with the best of all processes that are likely enough (Jaksch et al. 2010).

    Those are within sqrt(7 log(2 S A t / delta) / (2 N)) of the expected rewards and, in L1 distance, within
    sqrt(14 S log(2 A t / delta) / N) of the expected probabilities, both times `scale`, which is 1 in the paper. N is
    the number of visits, and t of steps, each with one more than there were: the prior counts as a visit.
    """

    def imagine(key: Key, beliefs: Beliefs) -> Backup:
        states, actions, _, _ = process
        visits, time = 1 + beliefs.visits, 1 + beliefs.visits.sum()
        reward = beliefs.reward + scale * jnp.sqrt(3.5 * jnp.log(2 * states * actions * time / delta) / visits)
        radius = scale * jnp.sqrt(14 * states * jnp.log(2 * actions * time / delta) / visits)
        return lambda values: reward + best_expectation(beliefs.transition, radius, values)

    return planning(process, imagine)


def best_expectation(transition: Array, radius: Array, values: Array) -> Array:
    """The highest expectation [...] of `values` [S] under probabilities in the L1 ball around `transition` [..., S]."""
    order = jnp.argsort(-values)
    likely = transition[..., order].at[..., 0].add(radius / 2)  # more of the best state
    above = jnp.cumsum(likely, -1) - likely
    return jnp.clip(1 - above, 0, likely) @ values[order]  # and so less of the worst ones

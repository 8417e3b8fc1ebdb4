"""Random tabular Markov decision processes (Duan et al. 2016, section 3.2), with exact optimal returns.

Transitions are Dirichlet, the mean reward of each state and action is N(1, 1), and the start is fixed. Rewards have
normal noise if the level has. After every step the episode terminates with the level's probability; it is truncated
after `max_steps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, checked
from metarl.types import Array, Discrete, Key, Level, Levels


class MDPParams(NamedTuple):
    """One level with S states and A actions."""

    transition: Array  # [S, A, S] float32, probabilities of the next state
    reward: Array  # [S, A] float32, expected
    terminate: Array  # () float32, probability per step that the episode ends
    start: Array  # () int32
    max_steps: Array  # () int32
    noise: Array  # () float32, standard deviation of the reward


class MDPState(NamedTuple):
    """One episode in progress."""

    time: Array  # () int32, steps since the reset
    state: Array  # () int32, also the observation


@dataclass(frozen=True)
class MDP:
    """The environment; the observation is the state's index."""

    num_states: Annotated[int, COUNT] = 10
    num_actions: Annotated[int, COUNT] = 5

    def __post_init__(self) -> None:
        checks.fields(self)

    @property
    def default_params(self) -> MDPParams:
        """A ring: the last action moves on, with reward 1 on arrival at the start; other actions stay; 10 steps."""
        states = jnp.arange(self.num_states)
        onwards = jnp.arange(self.num_actions) == self.num_actions - 1
        target = (states[:, None] + onwards) % self.num_states
        return MDPParams(
            transition=jax.nn.one_hot(target, self.num_states),
            reward=((states[:, None] == self.num_states - 1) & onwards).astype(jnp.float32),
            terminate=jnp.float32(0.0),
            start=jnp.int32(0),
            max_steps=jnp.int32(10),
            noise=jnp.float32(0.0),
        )

    def action_space(self, params: MDPParams | None = None) -> Discrete:
        """The actions."""
        return Discrete(self.num_actions)

    def observation_space(self, params: MDPParams | None = None) -> Discrete:
        """The states."""
        return Discrete(self.num_states)

    def reset(self, key: Key, params: MDPParams) -> tuple[Array, MDPState]:
        """The start state `() int32` and a state at time 0."""
        return params.start, MDPState(jnp.int32(0), params.start)

    def step(
        self, key: Key, state: MDPState, action: Array, params: MDPParams
    ) -> tuple[Array, MDPState, Array, Array, Array, dict[str, Any]]:
        """One step with auto-reset."""
        draws = jax.random.uniform(key, (2,))
        # inverse of the distribution function, without its last entry, which rounding may keep below 1
        below = jnp.cumsum(params.transition[state.state, action])[:-1]
        following = jnp.sum(draws[0] >= below).astype(jnp.int32)
        terminated = draws[1] < params.terminate
        truncated = state.time + 1 >= params.max_steps
        done = terminated | truncated
        obs = jnp.where(done, params.start, following)
        new = MDPState(jnp.where(done, 0, state.time + 1), obs)
        noise = params.noise * jax.random.normal(jax.random.fold_in(key, 0))  # other draws are the same without it
        reward = params.reward[state.state, action] + noise
        return obs, new, reward, terminated, truncated, {"final_observation": following}


def optimal_return(env: MDP, params: MDPParams) -> Array:
    """Expected undiscounted return `() float32` of the best policy that knows the level and the time."""

    def backup(_, values: Array) -> Array:
        return jnp.max(params.reward + (1.0 - params.terminate) * params.transition @ values, -1)

    return jax.lax.fori_loop(0, params.max_steps, backup, jnp.zeros(env.num_states))[params.start]


@checked
def distribution(
    num_states: Annotated[int, COUNT] = 10,
    num_actions: Annotated[int, COUNT] = 5,
    max_steps: Annotated[int, COUNT] = 10,
    horizon: Annotated[int, COUNT] = 250,
    terminate: Annotated[float, SHARE] = 0.0,
    concentration: Annotated[float, POSITIVE] = 1.0,
    reward_noise: Annotated[float, NOT_NEGATIVE] = 0.0,
) -> Levels:
    """Random processes: transitions Dirichlet(`concentration`), mean rewards N(1, 1), start uniform, drawn per level.

    `terminate` is the probability per step that an episode ends, `horizon` the lifetime in agent updates,
    `reward_noise` the standard deviation of rewards. Raises ValueError for counts below 1, a probability outside
    [0, 1], a concentration that is not positive, and negative noise.
    """
    env = MDP(num_states, num_actions)

    def transitions(key: Key) -> Array:
        if concentration != 1:
            return jax.random.dirichlet(key, jnp.full(num_states, concentration), (num_states, num_actions))
        x = jax.random.exponential(key, (num_states, num_actions, num_states))  # the same in a tenth of the time
        return x / x.sum(-1, keepdims=True)

    def sample(key: Key) -> Level:
        transition_key, reward_key, start_key = jax.random.split(key, 3)
        params = MDPParams(
            transition=transitions(transition_key),
            reward=1.0 + jax.random.normal(reward_key, (num_states, num_actions)),
            terminate=jnp.float32(terminate),
            start=jax.random.randint(start_key, (), 0, num_states),
            max_steps=jnp.int32(max_steps),
            noise=jnp.float32(reward_noise),
        )
        return Level(params, jnp.int32(horizon))

    return Levels(sample, env, optimal_return=partial(optimal_return, env))

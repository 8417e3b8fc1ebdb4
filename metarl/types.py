"""The nouns that every other module shares: levels, spaces and the environment protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array  # a typed key, `jax.random.key(seed)`
PyTree = Any
Params = PyTree
MetaParams = PyTree
Metrics = dict[str, Array]


class Level(NamedTuple):
    """One training problem and how long a learner lives on it. Vmaps."""

    problem: PyTree  # an environment's parameters, a supervised problem, ...: arrays only, () if there is just one
    horizon: Array  # () int32, lifetime in updates of the learner


class Levels(NamedTuple):
    """A distribution of levels, and what is known of it. Functions are pure and of one level or problem.

    `Levels(sample)` is enough where there is no environment, `Levels(sample, env)` to train agents.
    """

    sample: Callable[[Key], Level]
    env: Environment | None = None
    optimal_return: Callable[[PyTree], Array] | None = None  # problem -> () expected return of the best policy
    mutate: Callable[[Key, Level], Level] | None = None  # a small edit, from which a curriculum grows new levels
    render: Callable[..., Any] | None = (
        None  # (problem, state of an episode or None) -> picture [height, width, 3] uint8
    )
    features: Callable[[PyTree], Metrics] | None = None  # problem -> numbers () that describe it, for logs

    @property
    def environment(self) -> Environment:
        """`env`. Raises ValueError if there is none: these levels are no problems for agents."""
        if self.env is None:
            raise ValueError("these levels have no environment, so no agent can live on them: give Levels(sample, env)")
        return self.env


class Progress(NamedTuple):
    """How far a lifetime has come: everything that temporal awareness needs."""

    step: Array  # () int32, agent updates so far
    horizon: Array  # () int32, agent updates in this lifetime


class Layer(NamedTuple):
    """A layer of a network, as an optimizer may see it that is learned.

    A tree of layers has one in the place of the parameters of each, whose last axis is that of its n neurons.
    """

    depth: Array  # () from 0 at the input to 1 at the output
    dormancy: Array  # [n] mean absolute activation of each neuron, over the mean of the layer's neurons
    actor: Array  # () 1 if it acts, else 0


@dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n-1 (interface of `gymnax.environments.spaces.Discrete`)."""

    n: int
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.int32

    def sample(self, key: Key) -> Array:
        return jax.random.randint(key, self.shape, 0, self.n, self.dtype)

    def contains(self, x: Array) -> Array:
        return (x >= 0) & (x < self.n)


@dataclass(frozen=True)
class Box:
    """Arrays of one shape within bounds (interface of `gymnax.environments.spaces.Box`)."""

    low: float
    high: float
    shape: tuple[int, ...]
    dtype: Any = jnp.float32

    def sample(self, key: Key) -> Array:
        if jnp.issubdtype(self.dtype, jnp.integer):
            return jax.random.randint(key, self.shape, int(self.low), int(self.high) + 1, self.dtype)
        return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)

    def contains(self, x: Array) -> Array:
        return jnp.all((x >= self.low) & (x <= self.high))


class Environment(Protocol):
    """The gymnax >= 1.0 interface, unbatched; anything of this shape works unregistered.

    `step` resets by itself when an episode ends (`terminated | truncated`): it then returns the new
    episode's observation and state, and the old one's last observation as `info["final_observation"]`
    (which always holds the true successor observation, whether or not the episode ended).
    """

    @property
    def default_params(self) -> PyTree: ...

    def reset(self, key: Key, params: PyTree) -> tuple[Array, PyTree]: ...

    def step(
        self, key: Key, state: PyTree, action: Array, params: PyTree
    ) -> tuple[Array, PyTree, Array, Array, Array, dict[str, Any]]: ...

    def action_space(self, params: PyTree) -> Any: ...

    def observation_space(self, params: PyTree) -> Any: ...


class Task(NamedTuple):
    """A distribution of supervised problems. Functions are pure and of one problem."""

    sample: Callable[[Key], PyTree]  # a problem: arrays only, () if there is just one
    init: Callable[[Key, PyTree], Params]  # (key, problem) -> parameters at the start
    # (params, problem, key) -> () loss on a minibatch that the key draws (or without noise)
    loss: Callable[[Params, PyTree, Key], Array]
    test: Callable[[Params, PyTree], Array]  # (params, problem) -> () mean of `loss` over all minibatches
    # (params, problem, key) -> tree of `Layer` on the minibatch of `loss`; None if there are no layers to be seen
    layers: Callable[[Params, PyTree, Key], PyTree] | None = None


class Verdict(NamedTuple):
    """What a `TokenTask` says of one answer."""

    reward: Array  # () float32
    correct: Array  # () bool
    kind: Array  # () int32, index into the task's `kinds`


class TokenTask(Protocol):
    """Problems that are posed and answered in tokens 0 .. num_tokens - 1. All functions unbatched, jit- and vmap-able.

    An answer ends at its first `end`; what comes after counts for nothing, and one without `end` is never correct.
    """

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, shared by all splits of a task: a policy trained on one plays all."""
        ...

    @property
    def end(self) -> int:
        """The token that ends an answer, and pads it after its end."""
        ...

    @property
    def prompt_length(self) -> int:
        """P."""
        ...

    @property
    def answer_length(self) -> int:
        """T, with room for the end token."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """What verdicts there are; the first is that of correct answers."""
        ...

    def sample(self, key: Key) -> PyTree:
        """A problem: arrays only."""
        ...

    def prompt(self, problem: PyTree) -> Array:
        """The problem in tokens `[P] int32`."""
        ...

    def demonstrate(self, key: Key, problem: PyTree) -> Array:
        """A correct answer `[T] int32`, uniformly drawn among those known, ended and padded by `end`."""
        ...

    def verify(self, problem: PyTree, answer: Array) -> Verdict:
        """Judges `answer` `[T] int32`, of which only what comes before the first `end` counts."""
        ...


def constant_levels(env: Environment, horizon: int, params: PyTree = None) -> Levels:
    """A distribution of one level: any gymnax-style environment, `horizon` agent updates per lifetime.

    `params` are the environment's (its default ones if None). Raises ValueError if `horizon` is not positive.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 agent update, got {horizon}")
    params = env.default_params if params is None else params
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), params)  # never weakly typed: one compile
    return Levels(lambda key: Level(params, jnp.int32(horizon)), env)

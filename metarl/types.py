"""Types that every other module shares: levels, spaces, environments and tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, checked

Array = jax.Array
Key = jax.Array  # a typed key, `jax.random.key(seed)`
PyTree = Any
Params = PyTree
MetaParams = PyTree
Metrics = dict[str, Array]


class Level(NamedTuple):
    """One training problem and the length of a lifetime on it. A pytree of arrays, so it vmaps."""

    problem: PyTree  # arrays only: the parameters of an environment, a supervised problem, ...; () if there is only one
    horizon: Array  # () int32, length of the lifetime in updates of the learner


class Levels(NamedTuple):
    """A distribution of levels, and what is known about it. Functions are pure and take one level or problem.

    To train agents, give `Levels(sample, env)`; without an environment, `Levels(sample)` is enough.
    """

    sample: Callable[[Key], Level]
    env: Environment | None = None
    optimal_return: Callable[[PyTree], Array] | None = None  # problem -> () expected return of the best policy
    mutate: Callable[[Key, Level], Level] | None = None  # a small random edit, for curricula
    # (problem, state of an episode or None) -> picture [height, width, 3] uint8
    render: Callable[..., Any] | None = None
    features: Callable[[PyTree], Metrics] | None = None  # problem -> numbers () that describe it, for logs

    @property
    def environment(self) -> Environment:
        """`env`. Raises ValueError if there is none: agents need an environment."""
        if self.env is None:
            raise ValueError("these levels have no environment to train agents in: give Levels(sample, env)")
        return self.env


class Progress(NamedTuple):
    """How far a lifetime has come. Temporally aware update rules see it."""

    step: Array  # () int32, agent updates so far
    horizon: Array  # () int32, agent updates in this lifetime


class Layer(NamedTuple):
    """What a learned optimizer sees of one layer of a network.

    A tree of layers is the tree of parameters with one `Layer` in the place of each layer's parameters. The last axis
    of these parameters is that of the layer's n neurons.
    """

    depth: Array  # () from 0 at the input to 1 at the output
    dormancy: Array  # [n] mean absolute activation of each neuron, divided by its mean over the layer
    actor: Array  # () 1 for layers of the policy, else 0


@dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n - 1 (interface of `gymnax.environments.spaces.Discrete`)."""

    n: int
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.int32

    def sample(self, key: Key) -> Array:
        """A uniformly drawn element, [*shape]."""
        return jax.random.randint(key, self.shape, 0, self.n, self.dtype)

    def contains(self, x: Array) -> Array:
        """Whether each entry of `x` is an element, bool."""
        return (x >= 0) & (x < self.n)


@dataclass(frozen=True)
class Box:
    """Arrays of one shape within bounds (interface of `gymnax.environments.spaces.Box`)."""

    low: float
    high: float
    shape: tuple[int, ...]
    dtype: Any = jnp.float32

    def sample(self, key: Key) -> Array:
        """A uniformly drawn element, [*shape]; integers include both bounds."""
        if jnp.issubdtype(self.dtype, jnp.integer):
            return jax.random.randint(key, self.shape, int(self.low), int(self.high) + 1, self.dtype)
        return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)

    def contains(self, x: Array) -> Array:
        """Whether `x` is within the bounds, () bool."""
        return jnp.all((x >= self.low) & (x <= self.high))


class Environment(Protocol):
    """The gymnax >= 1.0 interface, unbatched. Any object with these methods works; nothing needs registration."""

    @property
    def default_params(self) -> PyTree:
        """The parameters of one level."""
        ...

    def reset(self, key: Key, params: PyTree) -> tuple[Array, PyTree]:
        """Observation and state at the start of an episode."""
        ...

    def step(
        self, key: Key, state: PyTree, action: Array, params: PyTree
    ) -> tuple[Array, PyTree, Array, Array, Array, dict[str, Any]]:
        """`(obs, state, reward, terminated, truncated, info)` after one action.

        When an episode ends (`terminated | truncated`), `obs` and `state` are those of a new episode.
        `info["final_observation"]` is always the true successor observation, also where the episode ended.
        """
        ...

    def action_space(self, params: PyTree) -> Any:
        """A `Discrete`, or a `Box` of one axis."""
        ...

    def observation_space(self, params: PyTree) -> Any:
        """A `Discrete` or a `Box`."""
        ...


class Task(NamedTuple):
    """A distribution of supervised problems. Functions are pure and take one problem."""

    sample: Callable[[Key], PyTree]  # a problem: arrays only, () if there is only one
    init: Callable[[Key, PyTree], Params]  # (key, problem) -> initial parameters
    # (params, problem, key) -> () loss on a minibatch, or with noise, which the key draws
    loss: Callable[[Params, PyTree, Key], Array]
    # (params, problem) -> () mean of `loss` over all keys; of few-shot problems, the loss beyond the points they show
    test: Callable[[Params, PyTree], Array]
    # (params, problem, key) -> tree of `Layer` on the minibatch of `loss`; None if the task has no layers
    layers: Callable[[Params, PyTree, Key], PyTree] | None = None


class Sequences(NamedTuple):
    """A distribution of tasks of classification, whose examples come in sequences. Functions take one task."""

    sample: Callable[[Key], PyTree]  # a task: arrays only
    read: Callable[[PyTree, Key], tuple[Array, Array]]  # (task, key) -> inputs [T, num_inputs], labels [T] int32
    num_inputs: int
    num_classes: int


class Verdict(NamedTuple):
    """The judgement of one answer to a `TokenTask`."""

    reward: Array  # () float32
    correct: Array  # () bool
    kind: Array  # () int32, index into the task's `kinds`


class TokenTask(Protocol):
    """Problems whose prompts and answers are tokens 0 .. num_tokens - 1. Methods are unbatched, and they jit and vmap.

    An answer ends at its first `end`; later tokens are ignored. An answer without `end` is never correct.
    """

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, equal for all splits of a task: a policy that is trained on one can play all."""
        ...

    @property
    def end(self) -> int:
        """The token that ends an answer and pads it."""
        ...

    @property
    def prompt_length(self) -> int:
        """P, tokens of a prompt."""
        ...

    @property
    def answer_length(self) -> int:
        """T, most tokens of an answer, with the end token."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds of verdicts; the first is that of correct answers."""
        ...

    def sample(self, key: Key) -> PyTree:
        """A problem: arrays only."""
        ...

    def prompt(self, problem: PyTree) -> Array:
        """The prompt of a problem, tokens `[P] int32`."""
        ...

    def demonstrate(self, key: Key, problem: PyTree) -> Array:
        """A correct answer `[T] int32`, drawn uniformly from the known ones, with `end` after it."""
        ...

    def verify(self, problem: PyTree, answer: Array) -> Verdict:
        """Judges `answer` `[T] int32` by its tokens before the first `end`."""
        ...


class DerivedTask:
    """A token task that is made of another one, its `task`: it has all that the other has, unless it says otherwise.

    Raises ValueError for a task of several tries, of which only `envs.tokens.Turns` knows.
    """

    task: TokenTask

    def __post_init__(self) -> None:
        if isinstance(self.task, TurnTask):
            raise ValueError(f"task must have one try, got {type(self.task).__name__} with {self.task.tries}")

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary."""
        return self.task.num_tokens

    @property
    def end(self) -> int:
        """The token that ends an answer and pads it."""
        return self.task.end

    @property
    def prompt_length(self) -> int:
        """P, tokens of a prompt."""
        return self.task.prompt_length

    @property
    def answer_length(self) -> int:
        """T, most tokens of an answer, with the end token."""
        return self.task.answer_length

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds of verdicts."""
        return self.task.kinds

    def sample(self, key: Key) -> PyTree:
        """A problem."""
        return self.task.sample(key)

    def prompt(self, problem: PyTree) -> Array:
        """The prompt of a problem `[P] int32`."""
        return self.task.prompt(problem)

    def demonstrate(self, key: Key, problem: PyTree) -> Array:
        """A correct answer `[T] int32`."""
        return self.task.demonstrate(key, problem)

    def verify(self, problem: PyTree, answer: Array) -> Verdict:
        """The verdict on an answer `[T] int32`."""
        return self.task.verify(problem, answer)


@runtime_checkable
class TurnTask(TokenTask, Protocol):
    """A token task with several tries, between which the verifier speaks.

    Its answers are transcripts `[tries * (try_length + 1)]` with a frame for each try: its tokens, padded by `end`, and
    the verifier's reply, which is one token and never `end`. A correct try is the last one: every token of the frames
    after it is `end`. `verify` judges the whole, and `reply` one try.
    """

    @property
    def tries(self) -> int:
        """K, most tries."""
        ...

    @property
    def try_length(self) -> int:
        """T, most tokens of a try, with the end token."""
        ...

    def reply(self, problem: PyTree, answer: Array) -> tuple[Array, Array]:
        """The verifier's token `() int32` after a try `answer` `[T]`, and whether that was correct `() bool`."""
        ...


def check_members(env: Environment) -> None:
    """Raises ValueError for a class in the place of an environment, and for what lacks one of its members."""
    if isinstance(env, type):
        raise ValueError(f"env must be an environment, got the class {env.__name__}: give {env.__name__}(...)")
    methods = ("reset", "step", "action_space", "observation_space")
    wanted = ("default_params", *methods)
    if lacking := [member for member in wanted if not hasattr(env, member)]:
        hint = ": give levels.env" if isinstance(env, Levels) else ""
        kind = type(env).__name__
        raise ValueError(f"env must be an environment, but {kind} has no {', '.join(lacking)}{hint}")
    for name in methods:
        if not callable(getattr(env, name)):
            raise ValueError(f"{type(env).__name__}.{name} must be a method, got {getattr(env, name)!r}")


@checked
def constant_levels(env: Environment, horizon: Annotated[Array | int, COUNT], params: PyTree = None) -> Levels:
    """A distribution of one level: `env` with `params` (None: its default ones), `horizon` updates per lifetime.

    Raises ValueError if `horizon` is not positive, or for what is no environment.
    """
    check_members(env)
    params = env.default_params if params is None else params
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), params)  # weak types would compile twice
    return Levels(lambda key: Level(params, jnp.int32(horizon)), env)

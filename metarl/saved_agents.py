"""Trained agents as files: parameters and what they are of, to play again in any environment of the same spaces.

lifetime, _ = metarl.train_agent(inner, {}, level, key, num_updates=500)
metarl.save_agent("agent.safetensors", lifetime.params, env, {"name": "mlp", "sizes": [64, 64]}, {"value": 1})
agent = metarl.load_agent("agent.safetensors")
episodes = agent.play(env, key)
action, memory = agent.act(key, obs, agent.memory)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, checked
from metarl.pretrained import load_params, reading, save_params
from metarl.rl.rollout import Episodes, Model, evaluate
from metarl.rules import Part, build_part
from metarl.types import Array, Box, Discrete, Environment, Key, Params, PyTree

AGENT_FILE = "agent.safetensors"  # what a run leaves in its directory
_SHIPPED = Path(__file__).parent / "pretrained" / "agents"
_POLICY: Part = {"name": "by_action_space"}


class Memory(NamedTuple):
    """What an agent carries from one step to the next."""

    carry: PyTree  # of a recurrent network
    first: Array  # () bool, the next observation is the first of its episode, so that `carry` is forgotten


class SavedAgent(NamedTuple):
    """A trained agent. Its functions are pure: jit and vmap them."""

    params: Params
    model: Model
    card: dict[str, Any]  # what it is made of, its spaces, and the metadata it was saved with

    @property
    def memory(self) -> Memory:
        """At the start of an episode."""
        return Memory(self.model.network.carry, jnp.bool_(True))

    def act(self, key: Key, obs: Array, memory: Memory) -> tuple[Array, Memory]:
        """An action of the stochastic policy, within the bounds of the action space, and what to remember.

        Give `agent.memory` with the first observation of an episode. In an environment that resets by itself that is
        `memory._replace(first=terminated | truncated)`.
        """
        outputs, carry = self.model.network.apply(self.params, obs, memory.first, memory.carry)
        action = self.model.policy.distribution(outputs["policy"]).sample(seed=key)
        return self.model.policy.clip(action), Memory(carry, jnp.bool_(False))

    @checked
    def play(
        self,
        env: Environment,
        key: Key,
        problem: PyTree = None,
        *,
        num_episodes: Annotated[int, COUNT] = 16,
        max_steps: Annotated[int, COUNT] = 10_000,
    ) -> Episodes:
        """Whole episodes, side by side, in `env` with the parameters `problem` (its default ones if None).

        Raises ValueError for an environment of other spaces than the agent's.
        """
        if (theirs := _spaces(env)) != (ours := {name: self.card["agent"][name] for name in theirs}):
            raise ValueError(f"the agent is of {_said(ours)}, but the environment has {_said(theirs)}")
        problem = env.default_params if problem is None else problem
        return evaluate(env, self.model, self.params, problem, key, num_episodes, max_steps)


def save_agent(
    path: str | Path,
    params: Params,
    env: Environment,
    network: Part,
    outputs: Mapping[str, int],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes the parameters of an agent of `env`, with all that it takes to act again.

    `network` is the part of a recipe (`metarl.rules`), and `outputs` {name: size} what it gives beyond the policy: the
    `outputs` of the agent's objective. `metadata` is any JSON-able mapping.
    Raises ValueError for an unknown network, and for parameters that are not those of this network for `env`.
    """
    about = {"network": dict(network), "outputs": dict(outputs), "policy": _POLICY, **_spaces(env)}
    _check(_model(about), params)
    save_params(path, params, {**(metadata or {}), "agent": about})


def load_agent(name: str | Path) -> SavedAgent:
    """The agent that `save_agent` wrote to a file or to the directory of a run, or the one that is shipped as `name`.

    Raises FileNotFoundError if there is none, ValueError if it is damaged, of no agent, or of another version.
    """
    places = (Path(name), Path(name) / AGENT_FILE, _SHIPPED / f"{name}.safetensors")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"no agent at {str(name)!r}; shipped as a name are {', '.join(shipped_agents())}")
    params, card = load_params(path)
    if "agent" not in card:
        kind = "a learned rule (metarl.load_rule reads it)" if "recipe" in card else "something else"
        raise ValueError(f"{path} has no agent that save_agent wrote, but {kind}")
    with reading(str(path)):
        model = _model(card["agent"])
        _check(model, params)
    return SavedAgent(jax.tree.map(jnp.asarray, params), model, card)  # a table of numpy takes no traced observation


def shipped_agents() -> list[str]:
    """Names of the agents that come with metarl; their cards lie beside them in `metarl/pretrained/agents`."""
    return sorted(path.stem for path in _SHIPPED.glob("*.safetensors"))


def _model(about: Mapping[str, Any]) -> Model:
    observations, actions = (_space(about[name]) for name in ("observation_space", "action_space"))
    head = build_part("policy", about["policy"])(actions)
    network = build_part("network", about["network"])
    return Model(network(observations, {"policy": head.size, **about["outputs"]}), head)


def _spaces(env: Environment) -> dict[str, Any]:
    """The spaces of an environment, JSON-able, with the bounds of actions: a network looks at no others."""
    with jax.ensure_compile_time_eval():  # some environments compute their bounds
        params = env.default_params
        observation, action = env.observation_space(params), env.action_space(params)
        return {"observation_space": _described(observation), "action_space": {**_described(action), **_bounds(action)}}


def _described(space: Any) -> dict[str, Any]:
    size = {"n": int(space.n)} if hasattr(space, "n") else {}
    return {**size, "shape": list(space.shape), "dtype": jnp.dtype(space.dtype).name}


def _bounds(space: Any) -> dict[str, Any]:
    if hasattr(space, "n"):
        return {}
    return {name: jnp.broadcast_to(jnp.asarray(getattr(space, name)), space.shape).tolist() for name in ("low", "high")}


def _space(described: Mapping[str, Any]) -> Discrete | Box:
    shape, dtype = tuple(described["shape"]), jnp.dtype(described["dtype"])
    if "n" in described:
        return Discrete(described["n"], shape, dtype)
    low: Any = jnp.asarray(described.get("low", 0.0))
    high: Any = jnp.asarray(described.get("high", 0.0))
    return Box(low, high, shape, dtype)


def _said(spaces: Mapping[str, Any]) -> str:
    return " and ".join(f"{name.replace('_', ' ')} {space}" for name, space in spaces.items())


def _check(model: Model, params: Params) -> None:
    wanted = jax.tree.map(lambda x: x.shape, jax.eval_shape(model.network.init, jax.random.key(0)))
    if wanted != (found := jax.tree.map(lambda x: x.shape, dict(params))):
        raise ValueError(f"the parameters are not those of this network: {wanted} is needed, got {found}")

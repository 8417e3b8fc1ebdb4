"""Who trains the agents of a meta-test: frozen learned rules, A2C, PPO, and the random policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

import metarl
from experiments.agents import family
from experiments.baselines import BASELINES, Name, Settings, Trial, adam, agents, baseline, untuned
from experiments.suite import Entry
from metarl.meta import InnerLoop
from metarl.rl.networks import Network, PolicyHead
from metarl.rl.rollout import Model, evaluate
from metarl.rules import Rule, load_rule, shipped
from metarl.types import Array, Environment, Key, Level, Levels

RANDOM = "random"
BUILT_IN = (*BASELINES, RANDOM)
FILE = "rule.safetensors"  # what a run leaves in its directory

Tuned = Mapping[tuple[str, Name], Trial]


class Player(NamedTuple):
    """How agents live in one environment."""

    inner: InnerLoop
    settings: Settings


def named(rules: Sequence[str]) -> dict[str, str | Rule]:
    """The rules by label: a built-in's name, or a learned rule.

    Each of `rules` is the name of a built-in or of a shipped rule, a file, or the directory of a run, and may have a
    label before it, as in "lpg:runs/x".
    Raises FileNotFoundError or ValueError for what is no rule, and ValueError for a label that is given twice.
    """
    found: dict[str, str | Rule] = {}
    for text in rules:
        label, colon, rest = text.partition(":")
        plain = text in BUILT_IN or text in shipped() or Path(text).exists() or not (label and colon and rest)
        label, name = (text, text) if plain else (label, rest)
        if label in found:
            raise ValueError(f"rules must have different labels, got {label!r} twice; label:PATH gives one")
        if label in BUILT_IN and name != label:
            raise ValueError(f"the label {label!r} is that of a built-in rule, got it for {name!r}")
        if name in BUILT_IN:
            found[label] = name
            continue
        path = Path(name)
        try:
            found[label] = load_rule(path / FILE if path.is_dir() else name)
        except (FileNotFoundError, ValueError) as error:
            raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(
                f"{error}; rules are {', '.join(BUILT_IN)}, shipped ones ({', '.join(shipped())}), "
                "files that save_rule wrote, and directories of finished runs"
            ) from error
    if not found:
        raise ValueError("rules must name at least one")
    return found


def player(label: str, rule: str | Rule, entry: Entry, levels: Levels, tuned: Tuned) -> Player:
    """The agents of `rule` in an environment of a suite, with the tuned settings of baselines where there are any.

    A learned objective on a policy and a value, and a learned optimizer, take the place of PPO's own in PPO's agents.
    Another learned objective (LPG) is for the agents that the papers give this family of environments, and updates them
    once per rollout, which is as long and from as many environments as in its meta-training.
    Raises ValueError if it cannot train agents there.
    """
    try:
        if isinstance(rule, str):
            which = cast(Name, rule)
            settings = _settings(which, entry, levels, tuned)
            return Player(baseline(which, entry, levels, settings), settings)
        settings, objective = _settings("ppo", entry, levels, tuned), rule.objective
        if objective is None:
            objective = metarl.objectives.ppo(discount=settings.discount)
        plain: Any = adam(settings.learning_rate)
        if "value" not in objective.outputs:
            config = rule.card.get("config", {})
            settings = Settings(config.get("num_envs", 16), config.get("rollout_length", 20))
            plain = family(entry.name, levels.env).optimizer
        return Player(agents(entry, levels, objective, rule.optimizer or plain, settings), settings)
    except ValueError as error:
        raise ValueError(
            f"{label} cannot train agents in {entry.name}: {error}; "
            f"rules are {', '.join([*BUILT_IN, *shipped()])}, files and runs"
        ) from error


def _settings(which: Name, entry: Entry, levels: Levels, tuned: Tuned) -> Settings:
    trial = tuned.get((entry.name, which))
    return trial.settings if trial else untuned(which, entry.name, levels)


class _Uniform(NamedTuple):
    """The uniform distribution over an action space, for E environments."""

    space: Any
    num: int

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        return jax.vmap(self.space.sample)(jax.random.split(seed, self.num)), jnp.zeros(self.num)


def random_returns(env: Environment, levels: Level, keys: Key, num_episodes: int, max_steps: int = 10_000) -> Array:
    """Mean returns [n] of the uniformly random policy on each of `levels` (leaves [n, ...])."""
    network = Network(lambda key: {}, lambda params, obs, first, carry: ({"policy": jnp.zeros(())}, carry), ())
    space = env.action_space(env.default_params)
    model = Model(network, PolicyHead(0, lambda outputs: _Uniform(space, len(outputs)), lambda action: action))
    play = partial(evaluate, env, model, {}, num_episodes=num_episodes, max_steps=max_steps)
    return jax.vmap(lambda level, key: play(level.env_params, key).episode_return.mean())(levels, keys)

"""Who trains the agents of a meta-test: learned rules, learners, A2C, PPO, and the random policy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from metarl.evaluation.baselines import BASELINES, Name, Settings, baseline, untuned
from metarl.evaluation.families import Family, family, in_family
from metarl.evaluation.suites import Entry
from metarl.inner.rl import Experience
from metarl.meta import InnerLoop
from metarl.rl.networks import Network, PolicyHead
from metarl.rl.rollout import Model, evaluate
from metarl.rules import Learner, Recipe, Rule, build, load_rule, shipped
from metarl.types import Array, Environment, Key, Level

RANDOM = "random"
BUILT_IN = (*BASELINES, RANDOM)

Candidate = str | Rule | Learner  # a string is the name of a built-in


class Player(NamedTuple):
    """How agents live in one environment."""

    inner: InnerLoop
    experience: Experience
    recipe: Recipe  # what they are made of, for files; of a `Learner` its experience alone


def resolved(rules: Mapping[str, str | Path | Rule | Learner]) -> dict[str, Candidate]:
    """The rules by label, loaded: a string is a built-in (a2c, ppo, random) or what `load_rule` takes.

    Raises FileNotFoundError or ValueError for what is no rule, and ValueError if there is none, or for the label of a
    built-in on another rule.
    """
    if not rules:
        raise ValueError("rules must name at least one")
    if wrong := next((label for label, rule in rules.items() if label in BUILT_IN and rule != label), None):
        raise ValueError(f"the label {wrong!r} is that of a built-in rule, got it for {rules[wrong]!r}")
    return {label: _loaded(rule) for label, rule in rules.items()}


def _loaded(rule: str | Path | Rule | Learner) -> Candidate:
    if not isinstance(rule, str | Path) or rule in BUILT_IN:
        return cast(Candidate, rule)
    try:
        return load_rule(rule)
    except (FileNotFoundError, ValueError) as error:
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(
            f"{error}; rules are {', '.join(BUILT_IN)}, shipped ones ({', '.join(shipped())}), files of save_rule, and "
            "directories of finished runs"
        ) from error


def reference(name: str, entry: Entry) -> Name:
    """The better of the baselines that are tuned for the environment called `name`: PPO if none is."""
    if rest := [which for which in BASELINES if which not in entry.tuned]:
        print(f"{name}: {' and '.join(rest)} not tuned for these env_steps", file=sys.stderr)
    return max(entry.tuned, key=lambda which: entry.tuned[which].mean, default="ppo")


def player(label: str, rule: Candidate, name: str, entry: Entry) -> Player:
    """The agents of `rule` in the environment of a suite called `name`.

    A `Learner` is taken as it is. All other agents have the network of the environment's family.

    A learned objective on a policy and a value, and a learned optimizer, take the place of PPO's own in PPO's agents.
    Another learned objective (LPG) is for agents of the rule's recipe: their experience, and their optimizer if they
    have this network, else the family's. Baselines are tuned where the suite has settings for them.
    Raises ValueError if `rule` cannot train agents there.
    """
    try:
        env = entry.levels.environment
        kind = family(name, env)
        learner, recipe = _learner(rule, kind, entry)
        inner = learner.inner_loop(env, num_eval_episodes=entry.eval_episodes)
        return Player(inner, cast(Experience, learner.experience), recipe)
    except ValueError as error:
        raise ValueError(
            f"{label} cannot train agents in {name}: {error}; "
            f"rules are {', '.join([*BUILT_IN, *shipped()])}, files and runs"
        ) from error


def _learner(rule: Candidate, kind: Family, entry: Entry) -> tuple[Learner, Recipe]:
    if isinstance(rule, Learner):
        experience = rule.experience._asdict() if rule.experience else {}
        return rule, {"experience": experience}
    if isinstance(rule, str):
        recipe = baseline(cast(Name, rule), kind, _settings(cast(Name, rule), kind, entry))
        return build(recipe), recipe
    recipe = rule.card["recipe"]
    if rule.objective is None or "value" in rule.objective.outputs:
        learned = {part: recipe[part] for part in ("objective", "optimizer") if getattr(rule, part) is not None}
        recipe = {**baseline("ppo", kind, _settings("ppo", kind, entry)), **learned}
    else:
        recipe = in_family(recipe, kind)
    return rule._replace(learner=build(recipe)).trained, recipe


def _settings(which: Name, kind: Family, entry: Entry) -> Settings:
    trial = entry.tuned.get(which)
    return trial.settings if trial else untuned(which, kind)


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
    return jax.vmap(lambda level, key: play(level.problem, key).episode_return.mean())(levels, keys)

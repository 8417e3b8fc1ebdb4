"""Who trains the agents of a meta-test: learned rules, learners, A2C, PPO, and the random policy."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from metarl.evaluation.baselines import BASELINES, baseline, untuned
from metarl.evaluation.families import family, in_family
from metarl.evaluation.suites import Entry
from metarl.evaluation.trials import Settings, Tuned
from metarl.inner.rl import Experience
from metarl.meta import InnerLoop
from metarl.rl.networks import Network, PolicyHead
from metarl.rl.rollout import Model, evaluate
from metarl.rules import Learner, Part, Recipe, Rule, build, load_rule, shipped
from metarl.types import Array, Environment, Key, Level

RANDOM = "random"
BUILT_IN = (*BASELINES, RANDOM)

Candidate = str | Rule | Learner  # a string is the name of a built-in


class Player(NamedTuple):
    """How agents live in one environment."""

    inner: InnerLoop
    experience: Experience
    recipe: Recipe  # what they are made of, for files; of a `Learner` its experience alone
    tried: int  # settings in the sweep that tuned them; 1 if none did


def resolved(rules: Mapping[str, str | Path | Rule | Learner]) -> dict[str, Candidate]:
    """The rules by label, loaded: a string is one of `BUILT_IN` or what `load_rule` takes.

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


def reference(name: str, entry: Entry) -> str:
    """The best of the baselines that are tuned for the environment called `name`: PPO if none is."""
    tuned = [which for which in BASELINES if which in entry.tuned]
    if not tuned:
        print(f"{name}: no baseline is tuned for these env_steps", file=sys.stderr)
    return max(tuned, key=lambda which: entry.tuned[which].mean, default="ppo")


def player(label: str, rule: Candidate, name: str, entry: Entry) -> Player:
    """The agents of `rule` in the environment of a suite called `name`.

    A `Learner` is taken as it is. All other agents are those of `agents`, with the settings that the suite has for
    them. Raises ValueError if `rule` cannot train agents there.
    """
    try:
        env = entry.levels.environment
        if isinstance(rule, Learner):
            learner, tuned = rule, None
            recipe: Recipe = {"experience": rule.experience._asdict() if rule.experience else {}}
        else:
            tuned = entry.tuned.get(key(rule, name, entry))
            recipe = agents(rule, name, entry, tuned and tuned.settings)
            learner = learner_of(rule, recipe)
        inner = learner.inner_loop(env, num_eval_episodes=entry.eval_episodes)
        return Player(inner, cast(Experience, learner.experience), recipe, _tried(rule, entry, tuned))
    except ValueError as error:
        raise ValueError(
            f"{label} cannot train agents in {name}: {error}; "
            f"rules are {', '.join([*BUILT_IN, *shipped()])}, files and runs"
        ) from error


def _tried(rule: Candidate, entry: Entry, tuned: Tuned | None) -> int:
    """Among how many settings those of the agents were chosen. A rule that takes PPO's has had PPO's sweep, too."""
    sweeps = [tuned, entry.tuned.get("ppo") if isinstance(rule, Rule) and _is_part_of_ppo(rule) else None]
    return max(1, sum(sweep.tried for sweep in sweeps if sweep))


def agents(rule: str | Rule, name: str, entry: Entry, settings: Settings | None) -> Recipe:
    """The agents of a baseline or a learned rule in the environment of a suite called `name`.

    They have the network of the environment's family. A learned objective on a policy and a value, and a learned
    optimizer, take the place of PPO's own in PPO's agents. Another learned objective (LPG) is for agents of the rule's
    recipe: their experience, and their optimizer if they have this network, else the family's. Agents with a learned
    initialisation are those of the rule's recipe, with its network.
    Without `settings`, baselines have those of their family, and learned rules the learning rates of their agents.
    Settings may be traced. Raises ValueError for a rule that has no agents, or settings but a learned optimizer.
    """
    kind = family(name, entry.levels.environment)
    if isinstance(rule, str):
        return baseline(rule, kind, settings or untuned(kind))
    recipe = rule.card["recipe"]
    if _is_part_of_ppo(rule):
        learned = {part: recipe[part] for part in ("objective", "optimizer") if getattr(rule, part) is not None}
        tuned = entry.tuned.get("ppo")
        recipe = {**baseline("ppo", kind, tuned.settings if tuned else untuned(kind)), **learned}
    elif rule.learner.initial == "random":  # a learned initialisation is for its own network
        recipe = in_family(recipe, kind)
    if settings is None:
        return recipe
    if rule.optimizer is not None:
        raise ValueError("its optimizer is learned, and has no learning rate to tune")
    own = recipe["experience"]
    experience = {**own, "reward_scale": settings.reward_scale * own.get("reward_scale", 1.0)}
    return {**recipe, "experience": experience, "optimizer": _scaled(recipe["optimizer"], settings.learning_rate)}


def _is_part_of_ppo(rule: Rule) -> bool:
    """Whether the rule is a learned optimizer, or a learned objective on a policy and a value; no initialisation."""
    return rule.learner.initial == "random" and (rule.objective is None or "value" in rule.objective.outputs)


def learner_of(rule: str | Rule, recipe: Recipe) -> Learner:
    """The agents of a `recipe` that `agents` made, with what is learned in its place."""
    return build(recipe) if isinstance(rule, str) else rule._replace(learner=build(recipe)).trained


def key(rule: str | Rule, name: str, entry: Entry) -> str:
    """What sweeps know the agents of `rule` by in the environment called `name`: its name, or a hash.

    The hash is that of the learned parameters and of the agents before any tuning: a sweep of a rule is for any file
    of the same rule, and no longer for one that trains other agents.
    """
    if isinstance(rule, str):
        return rule
    made_of = json.dumps([rule.card["content_hash"], agents(rule, name, entry, None)], sort_keys=True)
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def _scaled(optimizer: Part, factor: Array | float) -> Part:
    """The optimizer with all of its learning rates times `factor`."""

    def scaled(name: str, x: Any) -> Any:
        return _scaled(x, factor) if isinstance(x, Mapping) else x * factor if name == "learning_rate" else x

    return {name: scaled(name, x) for name, x in optimizer.items()}


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

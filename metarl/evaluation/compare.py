"""Rules of finished runs side by side: on the same held-out levels, or by the reports that the runs ended with.

Runs that differ only in their seed share a name, and their intervals are those over meta-training seeds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl.evaluation.families import TABULAR, Family, a2c, family, in_family
from metarl.evaluation.held_out import Judge, Measured, Trained, measure
from metarl.evaluation.scales import on_scale
from metarl.evaluation.statistics import Interval, over_runs
from metarl.meta import InnerLoop
from metarl.objectives.actor_critic import ActorCriticOptions
from metarl.optimizers.learned import LearnedOptimizer
from metarl.pretrained import reading
from metarl.rules import Recipe, Rule, build, load_rule
from metarl.types import Levels, MetaParams


class Run(NamedTuple):
    """A finished run."""

    directory: str
    rule: Rule

    @property
    def experiment(self) -> str:
        return self.rule.card["experiment"]

    @property
    def config(self) -> dict[str, Any]:
        """Its options by name."""
        return self.rule.card["config"]

    @property
    def recipe(self) -> Recipe:
        return self.rule.card["recipe"]

    @property
    def eval_episodes(self) -> int:
        """In which the fitness of an agent is measured."""
        return self.config.get("eval_episodes", 16)

    @property
    def lifetimes(self) -> int | tuple[int, int] | None:
        """Of the agents in its training, as `envs.make` takes them."""
        shortest, longest = (self.config.get(name, 0) for name in ("shortest_life", "longest_life"))
        return (shortest, longest) if shortest else longest or None

    def agents(self, name: str, levels: Levels) -> Recipe:
        """Its agents, in the family of the levels called `name`."""
        return in_family(self.recipe, family(name, levels.environment))

    def plain(self, name: str, levels: Levels) -> tuple[str, Recipe]:
        """Hand-made agents to compare those of its rule with, on the levels called `name`: their name and recipe."""
        return _plain(self.agents(name, levels), family(name, levels.environment))


def load(directory: str) -> Run:
    """The run that has finished in `directory`.

    Raises FileNotFoundError if there is no rule, ValueError if it is damaged, does not say of which run it is, or has
    no agents.
    """
    rule = load_rule(directory)
    _check_origin(rule.card, f"the rule in {directory}")
    if rule.learner.objective is None:
        raise ValueError(f"the rule in {directory} is of {rule.card['experiment']}, which has no agents to compare")
    return Run(directory, rule)


def group(runs: Sequence[Run], ignored: Collection[str] = (), same_levels: bool = True) -> dict[str, list[Run]]:
    """The runs by name: those of one name differ only in their seed, and a name says how it differs from others.

    Options that are `ignored`, and those of reports (held_out_...), make no difference. All runs must have agents of
    the same experience and, unless `same_levels` is false, the same levels.
    Raises ValueError if two of them are of the same training, or if they cannot share a plain agent.
    """
    _check_comparable(runs, same_levels)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        others = [_kind(other, ignored) for other in runs if other.experiment == run.experiment]
        kind = _kind(run, ignored)
        shared = {key: x for key, x in kind.items() if all(key in other for other in others)}  # by all versions
        differ = {key: x for key, x in shared.items() if any(other[key] != x for other in others)}
        name = " ".join([run.experiment, *(f"{key}={value}" for key, value in differ.items())])
        for other in groups.setdefault(name, []):
            if other.config["seed"] == run.config["seed"]:
                raise ValueError(
                    f"{other.directory} and {run.directory} are the same: {name} with seed {run.config['seed']}"
                )
        groups[name].append(run)
    return groups


def measured(
    groups: Mapping[str, Sequence[Run]],
    name: str,
    levels: Levels,
    horizons: Sequence[int],
    *,
    num_levels: int,
    num_seeds: int,
    batch_size: int,
) -> Measured:
    """Returns of agents of the rules in `groups` on the levels called `name`, with the plain agent of the first run.

    Raises ValueError for agents that do not fit the levels.
    """
    inner = {title: _inner_loop(runs[0], runs[0].agents(name, levels), levels) for title, runs in groups.items()}
    first = next(iter(groups.values()))[0]
    judge = _judge(first, name, levels, num_levels=num_levels, num_seeds=num_seeds, batch_size=batch_size)
    rules = {title: {run.directory: given(run.rule.params) for run in runs} for title, runs in groups.items()}
    return measure(
        judge, {title: list(judge.players(inner[title], those).values()) for title, those in rules.items()}, horizons
    )


def scores(
    runs: Sequence[Run], name: str, levels: Levels, *, num_levels: int, num_seeds: int, batch_size: int
) -> np.ndarray:
    """Mean normalised returns [runs] of the agents of each rule on held-out levels called `name`.

    The agents of all runs are those of the first, and live as long as the levels say. Raises ValueError for agents that
    do not fit the levels.
    """
    judge = _judge(runs[0], name, levels, num_levels=num_levels, num_seeds=num_seeds, batch_size=batch_size)
    agents = _inner_loop(runs[0], runs[0].agents(name, levels), levels)
    players = judge.players(agents, {run.directory: given(run.rule.params) for run in runs})
    (plain,) = judge.plain.values()
    zero, one = judge.scale(judge.returns(plain, judge.levels))
    returns = [judge.returns(players[run.directory], judge.levels) for run in runs]
    return np.array([on_scale(x.mean(), zero.mean(), one.mean()) for x in returns], np.float64)


def _judge(run: Run, name: str, levels: Levels, **options: int) -> Judge:
    """A judge on the levels called `name`, with the plain agent of `run`."""
    title, recipe = run.plain(name, levels)
    return Judge(levels, (title, _inner_loop(run, recipe, levels)), **options)


def _inner_loop(run: Run, recipe: Recipe, levels: Levels) -> InnerLoop:
    return build(recipe).inner_loop(levels.environment, num_eval_episodes=run.eval_episodes)


def trained_range(runs: Sequence[Run]) -> tuple[int, int] | None:
    """The lifetimes that all the rules were trained on, if they were the same."""
    ranges = {run.lifetimes for run in runs}
    return lives if len(ranges) == 1 and isinstance(lives := ranges.pop(), tuple) else None


def over_seeds(results: Mapping[str, Mapping[str, Any]], ignored: Collection[str] = ()) -> dict[str, Interval]:
    """For each row of the reports in `results` (results.json by run), the mean over runs with its 95 % t-interval.

    Raises ValueError for fewer than two runs, for runs that differ in more than their seed and the options that are
    `ignored`, for runs of the same seed, and for a run without a report.
    """
    (first, one), *others = results.items()
    for run, result in others:
        here, there = ({"experiment": x["experiment"], **x["config"]} for x in (one, result))
        if differ := [x for x in here if x not in {*ignored, "seed"} and here[x] != there.get(x)]:
            raise ValueError(f"{run} and {first} differ in {', '.join(differ)}")
    if empty := next((run for run, result in results.items() if not result["report"]), None):
        raise ValueError(f"{empty} has no report")
    seeds = [result["config"]["seed"] for result in results.values()]
    if len(set(seeds)) < max(len(seeds), 2):
        raise ValueError(f"need runs of different seeds, at least two, got {seeds}")
    reports = [result["report"] for result in results.values()]
    rows = [name for name in reports[0] if all(name in report for report in reports)]
    return {name: over_runs([report[name]["mean"] for report in reports]) for name in rows}


def results_of(directory: str) -> dict[str, Any]:
    """What a finished run says of itself in `results.json`: `experiment`, `config`, `report` and more.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or not of a run.
    """
    path = Path(directory) / "results.json"
    content = path.read_bytes()
    with reading(str(path)):
        results = json.loads(content)
    _check_origin(results, str(path))
    with reading(f"{path} has no report of a run"):
        {name: float(row["mean"]) for name, row in results["report"].items()}
    return results


def _check_origin(said: Any, where: str) -> None:
    """Raises ValueError if `said` does not hold the experiment and the options of a run."""
    kinds = {"experiment": str, "config": dict}
    if not isinstance(said, Mapping) or not all(isinstance(said.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"{where} does not say which run it is of")
    options = {"seed": int, "levels": str, "eval_episodes": int, "shortest_life": int, "longest_life": int}
    for name, value in {"seed": None, **said["config"]}.items():
        if name in options and not isinstance(value, options[name]):
            raise ValueError(f"{where} is of a run with {name} {value!r}, which is not a {options[name].__name__}")


def _plain(recipe: Recipe, kind: Family) -> tuple[str, Recipe]:
    """The agents of `recipe` with PPO in the place of a learned objective on a value, else A2C agents of the family.

    The optimizer of the family takes the place of a learned one.
    """
    learner = build(recipe)
    if learner.objective is None or "value" not in learner.objective.outputs:
        return "a2c", a2c(kind, recipe)
    known = {"clip", *ActorCriticOptions.__annotations__}
    options = {name: x for name, x in recipe["objective"].items() if name in known}
    optimizer = kind.a2c if isinstance(learner.optimizer, LearnedOptimizer) else recipe["optimizer"]
    return "ppo", {**recipe, "objective": {"name": "ppo", **options}, "optimizer": optimizer}


def _check_comparable(runs: Sequence[Run], same_levels: bool) -> None:
    first, *others = runs
    for other in others:
        here, there = (_shared(x, same_levels, first.experiment == other.experiment) for x in (first, other))
        if differ := next((name for name in here if here[name] != there[name]), None):
            raise ValueError(
                f"{differ} is {here[differ]!r} in {first.directory} but {there[differ]!r} in {other.directory}: "
                "they cannot share held-out levels and a plain agent"
            )


def _shared(run: Run, same_levels: bool, same_experiment: bool) -> dict[str, Any]:
    """What held-out levels, and the plain agent on them, are made from."""
    found = {name: getattr(run.rule.learner.experience, name) for name in ("num_envs", "rollout_length")}
    if same_levels:
        found["levels"] = run.config.get("levels")
    if same_experiment:
        _, plain = _plain(run.recipe, TABULAR)  # of any family: it is the same for all runs
        found |= {f"{part} of the plain agent": plain[part] for part in ("objective", "optimizer")}
        found["experience of the plain agent"] = build(plain).experience  # recipes of older versions lack some options
        found["eval_episodes"] = run.eval_episodes
    return found


def _kind(run: Run, ignored: Collection[str]) -> dict[str, Any]:
    """What the rule's training was, but for its seed."""
    left_out = {*ignored, "seed"}
    return {name: x for name, x in run.config.items() if name not in left_out and not name.startswith("held_out")}


def given(params: MetaParams) -> Trained:
    """A rule that has the same meta-parameters for every evaluation seed."""
    return lambda key: params

"""What the experiments share that meta-train an agent objective: LPG, TA-LPG, GROOVE, LPO and DiscoRL.

Their configurations have the parts `run`, `sweep`, `distribution`, `agents`, `rule`, `estimator`, `optimizer`, `replay`
and `held_out`. `rule` has `recipe()` and `draw(params, longest_life)`; the others are those of `experiments.parts`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import metarl
from experiments import launch
from experiments.parts import Evolution
from metarl import plot
from metarl.evaluation import families, gallery
from metarl.evaluation.held_out import (
    Judge,
    held_out_report,
    horizon_report,
    measure,
    worst_report,
    write_horizon_report,
    write_worst_report,
)
from metarl.meta import Estimator, InnerLoop, Meta
from metarl.rules import Recipe, build, build_part
from metarl.run.checkpoint import Log
from metarl.types import Levels

REPLAY_CURVES = ("score_median", "score_high", "replayed_share", "level_horizon", "level_size", "level_objects")


class Objectives(NamedTuple):
    """What differs between experiments of this kind."""

    recipe: Callable[[Any], Recipe]  # of the learners whose objective is learned
    plain: Callable[[Any], tuple[str, Recipe]]  # the name and the recipe of the agents that reports compare with


def experiment(name: str, objectives: Objectives, curves: tuple[str, ...], shards: bool = False) -> launch.Experiment:
    """The experiment `name`, to be launched."""
    return launch.Experiment(
        name,
        make=lambda config: make(objectives, config),
        curves=(*curves, *REPLAY_CURVES),
        recipe=objectives.recipe,
        report=lambda config, state, log, directory: report(objectives, config, state, log, directory),
        shards=shards,
    )


def a2c(config: Any) -> tuple[str, Recipe]:
    """A2C agents of the family of the levels, with environments and rollouts as the agents of `config`."""
    kind = families.family(config.distribution.levels, config.distribution.make().environment)
    return "a2c", families.a2c(kind, {"objective": config.rule.recipe(), "experience": vars(config.agents)})


def make(objectives: Objectives, config: Any) -> Meta:
    """The meta-training run that `config` describes.

    Raises ValueError for levels without an environment, and for what their score or mutation needs and they lack.
    """
    levels = config.distribution.make()
    _check_lives(config, levels)
    learner, critic = build(objectives.recipe(config)), _critic(config, levels)
    antagonist = build(a2c(config)[1]).inner_loop(levels.environment) if config.replay.score == "regret" else None
    judge = learner.value_judge(levels.environment, critic) if critic and config.replay.needs_critic else None
    plays = config.replay.score == "learnability"
    player = learner.inner_loop(levels.environment, num_eval_episodes=1) if plays else None
    return metarl.compose(
        learner.inner_loop(levels.environment, critic=critic, **_episodes(config)),
        _estimator(config),
        config.optimizer.make(config.run.steps),
        config.replay.make(levels, antagonist, judge, player),
        config.estimator.num_lifetimes,
    )


def inner_loop(objectives: Objectives, config: Any, levels: Levels) -> InnerLoop:
    """The agents whose objective is learned."""
    learner = build(objectives.recipe(config))
    return learner.inner_loop(levels.environment, critic=_critic(config, levels), **_episodes(config))


def report(objectives: Objectives, config: Any, state: Any, log: Log, directory: Path) -> launch.Report:
    """Draws what the rule computes and what the curriculum chose, and compares the rule on held-out levels."""
    levels, options = config.distribution.make(), config.held_out
    inner = inner_loop(objectives, config, levels)
    figure = config.rule.draw(state.params["objective"], config.distribution.longest_life or 1000)
    plot.save(figure, directory / "update.png")
    gallery.write(levels, build(objectives.recipe(config)), state, directory)
    if not options.held_out_seeds:
        return {}
    name, recipe = objectives.plain(config)
    plain = build(recipe).inner_loop(levels.environment, **_episodes(config))
    judge = Judge(
        levels,
        (name, plain),
        num_levels=options.held_out_levels,
        num_seeds=options.held_out_seeds,
        batch_size=options.held_out_batch,
    )
    players = judge.players(inner, {"trained": lambda key: state.params, "untrained": inner.init_meta})
    kinds = {name: [player] for name, player in players.items()}
    if options.held_out_horizons:
        found = horizon_report(measure(judge, kinds, options.held_out_horizons))
        lives = config.distribution.lifetimes
        write_horizon_report(found, directory, lives if isinstance(lives, tuple) else None)
    measured = measure(judge, kinds)
    if options.held_out_seeds > 1:  # the worst levels are chosen by others than those that are scored
        worst = worst_report(measured)
        write_worst_report({config.distribution.levels: {name: row[None] for name, row in worst.items()}}, directory)
    return held_out_report(measured)


def _check_lives(config: Any, levels: Levels) -> None:
    """Raises ValueError for evolution on a set of levels with longer lives than `longest_life`, where it would stop."""
    longest, path = config.distribution.longest_life, config.replay.level_set
    if not (path and longest and _evolves(config)):
        return
    if longest < (there := int(metarl.load_levels(path, levels).horizon.max())):
        raise ValueError(f"longest_life must be at least {there}, the longest in {path}, got {longest}")


def _evolves(config: Any) -> bool:
    return isinstance(config.estimator, Evolution)


def _episodes(config: Any) -> dict[str, Any]:
    """How many episodes an agent's fitness is measured in, if that is an option."""
    return {"num_eval_episodes": config.estimator.eval_episodes} if _evolves(config) else {}


def _estimator(config: Any) -> Estimator:
    if _evolves(config):
        return config.estimator.make(config.distribution.longest_life)
    return config.estimator.make()


def _critic(config: Any, levels: Levels) -> metarl.Critic | None:
    """A critic of each lifetime, if the estimator or the score asks for one."""
    if _evolves(config) and not config.replay.needs_critic:
        return None
    return metarl.Critic(
        build_part("optimizer", families.family(config.distribution.levels, levels.environment).critic),
        discount=config.rule.discount,
    )

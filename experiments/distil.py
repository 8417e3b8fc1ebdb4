"""What does a learned rule compute? A formula and a smaller network in the place of LPO's drift, or of LPG's network.

python -m experiments.distil                                   # lpo-cartpole; some minutes
python -m experiments.distil --preset ta_lpo
python -m experiments.distil --preset lpg
python -m experiments.distil --rule runs/lpo-0 --slack 0.05    # shorter formulas, of a rule of your own

Agents live by the rule, and what it says to them is fitted: on half of the lives, and judged on the other half. Then
new agents learn by the rule and by both fits, on the same held-out levels with the same seeds. The fits are ordinary
rules, `network.safetensors` and `formula.safetensors`. The formulas need the extra `distil`.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

import envs
from experiments import cli, parts
from metarl import checks, plot
from metarl.checks import COUNT, COUNT_OR_ZERO, NOT_NEGATIVE, SEED, SEVERAL, WIDTH, Bound
from metarl.distil import drift, symbolic, targets
from metarl.distil.symbolic import LENGTH, Fit
from metarl.evaluation import compare, tables
from metarl.evaluation.held_out import SCORE, Judge, horizon_report, measure, worst_report, write_worst_report
from metarl.rules import Recipe, build, save_rule
from metarl.run.files import circumstances, write_json
from metarl.types import Level, Levels, MetaParams

LIVES = 2**31 - 3  # draws the levels of the lives: others than those of meta-training, and than the held-out ones


@dataclasses.dataclass(frozen=True)
class Config:
    """A distillation of one rule."""

    rule: str = "lpo-cartpole"
    """A rule of LPO or LPG: the directory of a finished run, a file, or the name of a shipped one."""
    levels: str = ""
    """Distribution of levels (default: that of its meta-training)."""
    lifetime: Annotated[int, COUNT_OR_ZERO] = 0
    """Updates of the agents (0: the longest in its meta-training, or 250)."""
    lives: Annotated[int, Bound(2, 2**16)] = 16
    """Agents whose lives are fitted (half of them) and that fits are judged on."""
    points: Annotated[int, SEVERAL] = 4000
    """Steps of these lives that formulas are fitted to."""
    every: Annotated[int, COUNT] = 10
    """Of LPG, every so many rollouts of a life count."""
    hidden: Annotated[int, WIDTH] = 4
    """Width of the smaller network."""
    fit_steps: Annotated[int, COUNT] = 2000
    """Gradient steps of its fit."""
    max_length: Annotated[int, LENGTH] = 25
    """Symbols in a formula at most."""
    evaluations: Annotated[int, COUNT] = 50_000
    """Formulas that are tried."""
    slack: Annotated[float, NOT_NEGATIVE] = 0.02
    """The shortest formula is taken whose share of explained variance is within this of the best."""
    held_out_levels: Annotated[int, SEVERAL] = 32
    """Levels that rules are compared on."""
    held_out_seeds: Annotated[int, SEVERAL] = 4
    """Agents per rule and held-out level."""
    held_out_batch: Annotated[int, COUNT] = 128
    """Agents that live side by side on each device."""
    seed: Annotated[int, SEED] = 0
    """Seed of the lives and of the fits."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.levels:
            envs.check(levels=self.levels)


PRESETS = {
    "quick": Config(),
    "ta_lpo": Config("ta-lpo-cartpole"),
    "lpg": Config("lpg-gridworld", hidden=16),
}


class Distilled(NamedTuple):
    """What has been fitted to a rule."""

    network: tuple[Recipe, MetaParams]
    formula: tuple[Recipe, MetaParams]
    texts: Mapping[str, str]
    fronts: Mapping[str, list[Fit]]  # formulas by length
    agreement: Mapping[str, Mapping[str, float]]  # shares of variance that are explained, on other lives


def distil_drift(config: Config, run: compare.Run, levels: Levels, lives: Level, updates: int) -> Distilled:
    """LPO's drift."""
    recipe, params = run.agents(config.levels, levels), run.rule.params
    options = recipe["objective"]
    start, clip, temporal = options.get("start", "ppo"), options.get("clip", 0.2), options.get("temporal", False)
    visited = drift.visits(
        build(recipe),
        params,
        levels.environment,
        lives,
        jax.random.key(config.seed),
        updates,
        options.get("normalise_advantage", True),
    )
    half = config.lives // 2
    seen, unseen = drift.drawn(visited[:half], config.points), drift.drawn(visited[half:], config.points, 1)
    original = drift.learned(params["objective"], start, clip)
    sides = drift.fit_formula(original, seen, temporal, **_search(config))
    text = drift.joined(*(symbolic.shortest(side, config.slack) for side in sides))
    small = drift.fit_network(
        original,
        seen,
        temporal=temporal,
        start=start,
        clip=clip,
        hidden=config.hidden,
        steps=config.fit_steps,
        seed=config.seed,
    )
    shared = {x: y for x, y in options.items() if x not in ("name", "clip", "start", "temporal", "hidden")}
    mirror = {**recipe, "objective": {"name": "mirror", "drift": text, **shared}}
    smaller = {**recipe, "objective": {**options, "hidden": config.hidden}}
    silent = drift.learned(jax.tree.map(np.zeros_like, params["objective"]), "ppo", clip)
    fits = {"network": drift.learned(small, start, clip), "formula": drift.written(text), "PPO's drift": silent}
    return Distilled(
        (smaller, {"objective": small}),
        (mirror, {}),
        {"drift": f"max(0, {text})"},
        dict(zip(("A >= 0", "A < 0"), sides, strict=True)),
        {name: drift.agreement(fit, original, unseen) for name, fit in fits.items()},
    )


def distil_targets(config: Config, run: compare.Run, levels: Levels, lives: Level, updates: int) -> Distilled:
    """LPG's network, and its pi_hat by a formula."""
    recipe, params = run.agents(config.levels, levels), run.rule.params["objective"]
    options, seed = recipe["objective"], config.seed
    data = targets.rollouts(
        build(recipe),
        params,
        levels.environment,
        lives,
        jax.random.key(seed),
        updates,
        config.every,
        options.get("discount"),
        options.get("temporal", False),
    )
    half = len(data.inputs.reward) // config.lives * (config.lives // 2)
    seen, unseen = (jax.tree.map(lambda x: x[part], data) for part in (slice(half), slice(half, None)))  # noqa: B023
    fronts = {
        name: targets.fit_formula(params, seen, config.points, alone, **_search(config))
        for name, alone in (("a single step", True), ("the rest of the episode, too", False))
    }
    texts = {name: symbolic.shortest(front, config.slack).text for name, front in fronts.items()}
    *_, text = texts.values()
    small = targets.fit_network(params, seen, hidden=config.hidden, steps=config.fit_steps, seed=seed)
    known, wanted = targets.summed_up(params, unseen.inputs), np.asarray(unseen.targets.pi_hat).ravel()
    alone = symbolic.explained(targets.without_memory(params, unseen.inputs), unseen.targets.pi_hat)
    return Distilled(
        ({**recipe, "objective": {**options, "hidden": config.hidden}}, {"objective": small}),
        ({**recipe, "objective": {**options, "pi_hat": text}}, {"objective": params}),
        {f"pi_hat by {name}": text for name, text in texts.items()},
        fronts,
        {
            "network": targets.agreement(targets.said(small, unseen.inputs), unseen.targets),
            "the rule without memory": {"pi_hat": alone, "y_hat": float("nan")},
            **{
                f"formula of {name}": {"pi_hat": symbolic.score(text, known, wanted), "y_hat": float("nan")}
                for name, text in texts.items()
            },
        },
    )


KINDS = {"lpo": distil_drift, "lpg": distil_targets}


def _search(config: Config) -> dict[str, int]:
    return {name: getattr(config, name) for name in ("max_length", "evaluations", "seed")}


def judged(config: Config, run: compare.Run, levels: Levels, updates: int, found: Distilled, directory: Path) -> Any:
    """Scores of new agents of the rule and of both fits on the same held-out levels, which are printed and returned."""
    name, plain = run.plain(config.levels, levels)
    env, episodes = levels.environment, run.eval_episodes
    judge = Judge(
        levels,
        (name, build(plain).inner_loop(env, num_eval_episodes=episodes)),
        num_levels=config.held_out_levels,
        num_seeds=config.held_out_seeds,
        batch_size=config.held_out_batch,
    )
    rules = {
        "rule": (run.agents(config.levels, levels), run.rule.params),
        "network": found.network,
        "formula": found.formula,
    }
    players = {}
    for title, (recipe, params) in rules.items():
        inner = build(recipe).inner_loop(env, num_eval_episodes=episodes)
        players[title] = list(judge.players(inner, {title: compare.given(params)}).values())
    measured = measure(judge, players, (updates,))
    report = horizon_report(measured)
    tables.show({title: {f"{updates} updates": row[updates]} for title, row in report.items()}, SCORE)
    worst = {title: row[updates] for title, row in worst_report(measured).items()}
    write_worst_report({f"{config.levels}, {updates} updates": worst}, directory)
    return {title: row[updates]._asdict() for title, row in report.items()}


def carry_out(config: Config, run: compare.Run, directory: Path) -> dict[str, Any]:
    """Distils, judges, and leaves in `directory` both rules, `front.png` and the `summary.json` that it returns."""
    start, levels = time.monotonic(), envs.make(config.levels)
    updates = config.lifetime or run.config.get("longest_life") or 250
    lives = jax.vmap(levels.sample)(jax.random.split(jax.random.key(LIVES), config.lives))
    found = KINDS[run.recipe["objective"]["name"]](config, run, levels, lives, updates)
    for title, text in found.texts.items():
        print(f"{title} = {text}")
    for title, front in found.fronts.items():
        print(f"formulas by length, {title}:")
        for fit in front:
            print(f"  {fit.length:3} symbols, {fit.r2:.4f} of the variance: {fit.text}", flush=True)
    tables.show(found.agreement, "share of the variance on other lives that a fit explains")
    for title in ("network", "formula"):
        recipe, params = getattr(found, title)
        save_rule(
            directory / f"{title}.safetensors",
            params,
            recipe,
            {**{x: run.rule.card[x] for x in ("experiment", "config")}, "distilled": run.rule.card["content_hash"]},
        )
    curves = {title: ([x.length for x in front], [x.r2 for x in front]) for title, front in found.fronts.items()}
    plot.save(plot.lines(curves, "symbols", "share of the variance"), directory / "front.png")
    summary = {
        "command": " ".join(["python -m experiments.distil", *cli.arguments(config)]),
        "formulas": found.texts,
        "fronts": {title: [x._asdict() for x in front] for title, front in found.fronts.items()},
        "agreement": found.agreement,
        "report": judged(config, run, levels, updates, found, directory),
        "wall_clock_seconds": round(time.monotonic() - start, 3),
        **circumstances(),
    }
    write_json(directory / "summary.json", summary)
    return summary


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit():
        symbolic.operon()  # before anything is computed
        run = compare.load(config.rule)
        if (kind := run.recipe["objective"]["name"]) not in KINDS:
            raise ValueError(f"rule must be one of LPO or LPG, got {config.rule!r}, which is of {kind}")
        if run.recipe["objective"].get("learned") == "coordinates":
            raise ValueError(f"rule must have learned weights, got {config.rule!r}, which learned coordinates")
        if kind == "lpo":
            parts.refuse_inert(config, ("every",), "for a rule of LPO")
        config = dataclasses.replace(config, levels=config.levels or run.config["levels"])
        with cli.directory_of_runs(config, "distil") as directory:
            carry_out(config, run, directory)
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

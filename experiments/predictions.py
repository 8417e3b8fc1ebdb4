"""Whether a learned rule uses its prediction y, and which values y encodes.

python -m experiments.predictions --rule lpg-gridworld --levels gridworld/all_shortlife
python -m experiments.predictions --rule runs/lpg-0 --levels gridworld/small --horizons 25 250

The rule is the name of a shipped one, a file, or the directory of a run. On held-out levels it trains new agents, and
agents whose y stays as it is at birth; A2C's are beside them. Then the values of the agents' own policies under several
discounts are regressed on y, as in section 5.3 of Oh et al. 2020 (arXiv 2007.08794), beside those of an untrained
rule's agents, on y of other states, and of A2C's agents on their own value.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

import envs
from experiments import cli
from metarl import checks, plot
from metarl.checks import COUNT, DECAY, SEVERAL
from metarl.evaluation import tables
from metarl.evaluation.families import a2c, family, in_family
from metarl.evaluation.held_out import HELD_OUT, SCORE, Judge, Player, horizon_report, measure
from metarl.evaluation.predictions import Visits, encoding, frozen, live_and_visit
from metarl.evaluation.statistics import Interval, over_runs
from metarl.parallel import one_device_per_core
from metarl.rules import Learner, build, load_rule
from metarl.run.files import circumstances, write_json
from metarl.types import Levels, MetaParams

AGENTS, UNTRAINED = HELD_OUT - 1, HELD_OUT - 2  # seeds of the agents, and of the rule that was not trained
RULE, PERMUTED = "y of the rule", "y of other states"
R2 = "cross-validated R^2 of values given the prediction"


@dataclasses.dataclass(frozen=True)
class Options:
    """Which rule, and on which levels."""

    rule: str
    """The name of a shipped rule, a file, or the directory of a finished run."""
    levels: str = "gridworld/all_shortlife"
    """Distribution of levels: any name that envs.make accepts."""
    horizons: tuple[Annotated[int, COUNT], ...] = (10, 25, 50, 100, 250)
    """Lifetimes in agent updates."""
    discounts: tuple[Annotated[float, DECAY], ...] = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.995)
    """Discounts of the values that y may encode."""
    held_out_levels: Annotated[int, SEVERAL] = 32
    """Levels that agents are trained on, none of them seen in meta-training."""
    held_out_seeds: Annotated[int, COUNT] = 4
    """Agents per kind, horizon and held-out level that scores are of; what y encodes is measured on one."""
    held_out_batch: Annotated[int, COUNT] = 128
    """Agents that live side by side on each device."""
    visit_envs: Annotated[int, COUNT] = 32
    """Environments in which an agent acts at the end of its life, when it learns no more."""
    visit_steps: Annotated[int, SEVERAL] = 500
    """Steps in each of them, which its values are estimated from."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)
        for name in ("horizons", "discounts"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be at least one")


def scores(
    judge: Judge, learners: Mapping[str, Learner], params: MetaParams, levels: Levels, horizons: tuple[int, ...]
) -> dict[str, dict[int, Interval]]:
    """Scores of the learners of one rule, of A2C, and the first one's differences by level and seed, over horizons."""
    players: dict[str, Player] = {}
    for name, learner in learners.items():
        players |= judge.players(learner.inner_loop(levels.environment), {name: lambda key: params})
    return horizon_report(measure(judge, {name: [play] for name, play in {**players, **judge.plain}.items()}, horizons))


def encodings(
    options: Options, judge: Judge, learner: Learner, params: MetaParams, plain: Learner, levels: Levels
) -> dict[str, dict[int, np.ndarray]]:
    """R^2 of values given predictions: {agents: {horizon: [levels, discounts]}}, NaN where it is not known."""
    env = levels.environment
    keys = jax.random.split(jax.random.key(AGENTS), options.held_out_levels)
    measure = partial(
        live_and_visit, num_envs=options.visit_envs, num_steps=options.visit_steps, placement=judge.placement
    )
    of_y = jax.jit(partial(measure, learner, env, output="y"))
    of_value = jax.jit(partial(measure, plain, env, output="value"))
    untrained = learner.inner_loop(env).init_meta(jax.random.key(UNTRAINED))
    agents = {
        RULE: partial(of_y, params),
        "y of an untrained rule": partial(of_y, untrained),
        "value of A2C": partial(of_value, {}),
    }
    found: dict[str, dict[int, np.ndarray]] = {name: {} for name in (*agents, PERMUTED)}
    for name, visit in agents.items():
        for horizon in options.horizons:
            visits = jax.device_get(visit(judge.living(horizon), keys))
            rows = [encoding(Visits(*one), options.discounts) for one in zip(*visits, strict=True)]
            found[name][horizon] = np.stack([row.prediction for row in rows])
            if name == RULE:
                found[PERMUTED][horizon] = np.stack([row.permuted for row in rows])
    return found


def over_levels(rows: np.ndarray) -> list[Interval]:
    """Means [discounts] of `rows` [levels, discounts] over the levels where they are known, with 95 % intervals."""
    nowhere = Interval(*[float("nan")] * 3)
    known = [column[np.isfinite(column)] for column in rows.T]
    return [over_runs(column) if len(column) > 1 else nowhere for column in known]


def draw(options: Options, found: Mapping[str, Any]) -> Any:
    """R^2 over discounts, a panel per horizon, with a thin line for each level of the rule."""
    titles = {horizon: f"after {horizon} updates" for horizon in options.horizons}
    bands = {
        title: {name: (options.discounts, *np.array(over_levels(rows[horizon])).T) for name, rows in found.items()}
        for horizon, title in titles.items()
    }
    return plot.over_discounts(bands, {title: found[RULE][h] for h, title in titles.items()}, "$R^2$ of the value")


def run(options: Options, directory: Path) -> dict[str, Any]:
    """Measures, and leaves in `directory` the figures and the summary that it returns."""
    start = time.monotonic()
    rule, levels = load_rule(options.rule), envs.make(options.levels)
    kind = family(options.levels, levels.environment)
    recipe = in_family(rule.card["recipe"], kind)
    learner, plain = build(recipe), build(a2c(kind, recipe))
    learners = {"the rule": learner, "y frozen": frozen(learner)}
    judge = Judge(
        levels,
        ("a2c", plain.inner_loop(levels.environment)),
        num_levels=options.held_out_levels,
        num_seeds=options.held_out_seeds,
        batch_size=options.held_out_batch,
    )
    report = scores(judge, learners, rule.params, levels, options.horizons)
    tables.show(report, SCORE, "lifetime")
    plot.save(plot.over_horizons(report, SCORE), directory / "frozen.png")
    found = encodings(options, judge, learner, rule.params, plain, levels)
    last = max(options.horizons)
    means = {
        name: {
            horizon: {f"{x:g}": interval for x, interval in zip(options.discounts, over_levels(r2), strict=True)}
            for horizon, r2 in rows.items()
        }
        for name, rows in found.items()
    }
    known = {name: {h: int(np.isfinite(r2).any(1).sum()) for h, r2 in rows.items()} for name, rows in found.items()}
    tables.show({name: row[last] for name, row in means.items()}, f"{R2} after {last} updates", "discount")
    tables.show(known, "levels on which it is known", "lifetime")
    plot.save(draw(options, found), directory / "predictions.png")
    summary = {
        "command": " ".join(["python -m experiments.predictions", *cli.arguments(options)]),
        "options": dataclasses.asdict(options),
        "rule": {name: rule.card.get(name) for name in ("recipe", "content_hash")},
        "seeds": {"held_out_levels": HELD_OUT, "agents": AGENTS, "untrained_rule": UNTRAINED},
        "scores": {name: {h: x._asdict() for h, x in row.items()} for name, row in report.items()},
        "r_squared": {
            name: {h: {x: interval._asdict() for x, interval in row.items()} for h, row in rows.items()}
            for name, rows in means.items()
        },
        "r_squared_of_levels": found,  # null where it is not known
        "wall_clock_seconds": round(time.monotonic() - start, 3),
        **circumstances(),
    }
    write_json(directory / "summary.json", summary)
    return summary


def main(argv: list[str] | None = None) -> None:
    options = cli.options(Options, __doc__, argv)
    with cli.clean_exit():
        one_device_per_core()
        directory = cli.run_directory(options.directory, "predictions")
        run(options, directory)
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

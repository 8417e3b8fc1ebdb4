"""Meta-test: fresh agents trained by frozen rules, on suites of environments, on one scale with tuned baselines.

python -m experiments.evaluate --rules ta-lpo-cartpole a2c ppo random --suite classic
python -m experiments.evaluate --rules lpg:runs/lpg-0 mine:rule.safetensors ppo --suite gridworlds path/to/mine.toml

A rule is a baseline (a2c, ppo, and with batches of 16 environments x 20 steps a2c-16x20, ppo-16x20), random, the name
of a shipped one, a file, or the directory of a run; before a colon it may have a label. All agents have the same
experience, the same seeds and, where an environment is a distribution of levels, a held-out level per seed. Baselines
and rules have the settings that a sweep found for them (`experiments.tune`), where there is one. A score of 0 is the
uniformly random policy, and 1 the best baseline in the sweeps for this environment, trained anew with these seeds.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import envs
from experiments import cli
from metarl import checks, plot
from metarl.checks import COUNT, SEED, SEVERAL
from metarl.evaluation import tables
from metarl.evaluation.meta_test import Plan, carry_out, plan
from metarl.evaluation.players import BUILT_IN
from metarl.evaluation.results import Evaluation
from metarl.evaluation.suites import Suite
from metarl.evaluation.tables import Cell, Place
from metarl.parallel import one_device_per_core
from metarl.rules import Rule, shipped
from metarl.run.files import circumstances, write_csv, write_json


@dataclasses.dataclass(frozen=True)
class Options:
    """What is tested."""

    rules: tuple[str, ...]
    """Rules, each with a label before a colon if it is to have another name: lpg:PATH a2c ppo random."""
    suite: tuple[str, ...] = ("classic",)
    """Names of shipped suites (all: every one), or paths of TOML files."""
    num_seeds: Annotated[int, SEVERAL] = 16
    """Agents per rule and environment."""
    points: Annotated[int, COUNT] = 10
    """Measurements of each agent, evenly spaced over its life."""
    seed: Annotated[int, SEED] = 0
    """Seed of everything random in the test."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""
    resume: bool = False
    """Go on with what is missing in the directory."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.suites.check(self.suite)
        if self.resume and not self.directory:
            raise ValueError("resume needs the directory of the test to go on with")


def labelled(rules: Sequence[str]) -> dict[str, str]:
    """The rules by label: that before a colon, as in "lpg:runs/x", else themselves.

    Raises ValueError for a label that is given twice.
    """
    found: dict[str, str] = {}
    for text in rules:
        label, colon, rest = text.partition(":")
        plain = text in BUILT_IN or text in shipped() or Path(text).exists() or not (label and colon and rest)
        label, name = (text, text) if plain else (label, rest)
        if label in found:
            raise ValueError(f"rules must have different labels, got {label!r} twice; label:PATH gives one")
        found[label] = name
    return found


def run(options: Options, suites: Mapping[str, Suite], planned: Plan, directory: Path) -> dict[str, Any]:
    """Does what is missing in `directory`, and leaves there the long table and what it says: the summary.

    Raises ValueError if what is there is of other options.
    """
    start = time.monotonic()
    asked, known = _done(directory, json.loads(json.dumps(_asked(options, suites, planned))))

    def save(so_far: Evaluation) -> None:
        rows = so_far.rows()
        write_json(directory / "returns.json", {"options": asked, "rows": rows})
        write_csv(directory / "returns.csv", rows)

    found = carry_out(planned, seeds=options.num_seeds, seed=options.seed, known=known, watch=save)
    found.show()
    for name, figure in found.figures().items():
        plot.save(figure, directory / f"{name}.png")
    summary = {
        **found.summary(),
        "options": asked,
        "command": " ".join(["python -m experiments.evaluate", *cli.arguments(options)]),
        "wall_clock_seconds": round(time.monotonic() - start, 3),  # since the start or the resume
        "seconds": {" ".join((*place, label)): cell.seconds for (place, label), cell in found.cells.items()},
        **circumstances(),
    }
    write_json(directory / "summary.json", summary)
    return summary


def _asked(options: Options, suites: Mapping[str, Suite], planned: Plan) -> dict[str, Any]:
    """All that the results depend on."""
    return {
        **{name: getattr(options, name) for name in ("num_seeds", "points", "seed")},
        "rules": {
            label: {name: x.card[name] for name in ("recipe", "content_hash")} if isinstance(x, Rule) else str(x)
            for label, x in planned.rules.items()
        },
        "suite": {
            suite: [{"name": x, **_budget(entry)} for x, entry in entries.items()] for suite, entries in suites.items()
        },
        "settings": {" ".join((*x.place, x.label)): x.player.recipe for x in planned.jobs if x.player},
    }


def _budget(entry: Any) -> dict[str, int]:
    return {"env_steps": entry.env_steps, "eval_episodes": entry.eval_episodes}


def _done(directory: Path, asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[tuple[Place, str], Cell]]:
    """All that has been asked of `directory`, now included, and the cells that are there. Rules may come and go."""
    if not (directory / "returns.json").is_file():
        return dict(asked), {}
    content = json.loads((directory / "returns.json").read_text())
    there, both = content["options"], dict(asked)
    for name, value in asked.items():
        if name in ("rules", "settings"):
            both[name] = {**value, **there[name]}
            agree = all(both[name][label] == x for label, x in value.items())
        else:
            agree = value == there[name]
        if not agree:
            raise ValueError(f"{directory} has results with {name} {there[name]}, now it is {value}")
    return both, tables.cells(content["rows"])


def main(argv: list[str] | None = None) -> None:
    options = cli.options(Options, __doc__, argv)
    with cli.clean_exit():
        one_device_per_core()
        suites = {name: envs.suites.load(file, envs.make) for name, file in envs.suites.find(options.suite).items()}
        planned = plan(labelled(options.rules), suites, options.points)
        with cli.directory_of_runs(options, "evaluate") as directory:
            run(options, suites, planned, directory)
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

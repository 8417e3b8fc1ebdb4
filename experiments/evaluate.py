"""Meta-test: fresh agents trained by frozen rules, on suites of environments, on one scale with tuned baselines.

python -m experiments.evaluate --rules ta-lpg-gridworld a2c ppo random --suite classic
python -m experiments.evaluate --rules lpg:runs/lpg-0 mine:rule.safetensors ppo --suite gridworlds path/to/mine.toml

A rule is a2c, ppo, random, the name of a shipped one, a file, or the directory of a run; before a colon it may have a
label. All agents have the same experience, the same seeds and, where an environment is a distribution of levels, a
held-out level per seed. A score of 0 is the uniformly random policy, and 1 the better of A2C and PPO in the sweep that
tuned them for this environment (`experiments.tune`), trained anew with these seeds.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import envs
from experiments import cli, players, standings
from experiments.baselines import BASELINES, Name, best, trials
from experiments.players import RANDOM, Player
from experiments.report import HELD_OUT
from experiments.standings import Cell, Place, Scale
from experiments.suite import Entry, Suite, load_all
from metarl.evaluation.measure import learning_curves
from metarl.rules import Rule
from metarl.types import Array, Key, Levels


@dataclasses.dataclass(frozen=True)
class Options:
    """What is tested."""

    rules: tuple[str, ...]
    """Rules, each with a label before a colon if it is to have another name: lpg:PATH a2c ppo random."""
    suite: tuple[str, ...] = ("classic",)
    """Names of shipped suites (all: every one), or paths of TOML files."""
    num_seeds: int = 16
    """Agents per rule and environment."""
    points: int = 10
    """Measurements of each agent, evenly spaced over its life."""
    seed: int = 0
    """Seed of everything random in the test."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""
    resume: bool = False
    """Go on with what is missing in the directory."""

    def __post_init__(self) -> None:
        cli.check(self, positive=("points",), not_negative=("seed",))
        if self.num_seeds < 2:
            raise ValueError(f"num_seeds must be at least 2 for an interval, got {self.num_seeds}")
        if self.resume and not self.directory:
            raise ValueError("resume needs the directory of the test to go on with")


class Job(NamedTuple):
    """One rule in one environment."""

    suite: str
    entry: Entry
    levels: Levels
    label: str
    player: Player | None  # None for the random policy

    @property
    def place(self) -> Place:
        return self.suite, self.entry.name


def plan(suites: Sequence[Suite], rules: Mapping[str, str | Rule], points: int) -> tuple[list[Job], dict[Place, str]]:
    """What is to be done, with the random policy and the reference of each environment first, and who that is.

    Raises ValueError for a rule that cannot train agents in one of the environments.
    """
    jobs, references = [], {}
    labels = {rule: label for label, rule in rules.items() if isinstance(rule, str)}
    for suite in suites:
        tuned = best(trials(suite))
        for entry in suite.entries:
            swept = {which: tuned[entry.name, which].mean for which in BASELINES if (entry.name, which) in tuned}
            which: Name = max(swept, key=swept.__getitem__, default="ppo")
            if rest := [x for x in BASELINES if x not in swept]:
                print(f"{entry.name}: {' and '.join(rest)} not tuned for these env_steps", file=sys.stderr)
            levels = envs.make(entry.name)
            everyone = {labels.get(x, x): x for x in (RANDOM, which)} | dict(rules)
            references[suite.name, entry.name] = labels.get(which, which)
            for label, rule in everyone.items():
                player = None if rule == RANDOM else players.player(label, rule, entry, levels, tuned)
                if player and entry.env_steps < points * player.settings.batch:
                    raise ValueError(
                        f"env_steps of {entry.name} must be at least {points * player.settings.batch} for {points} "
                        f"points of {label}, which updates once per {player.settings.batch}, got {entry.env_steps}"
                    )
                jobs.append(Job(suite.name, entry, levels, label, player))
    return jobs, references


def measure(job: Job, options: Options) -> Cell:
    """Trains the agents of one job, all seeds side by side in one program, and plays evaluation episodes as they do."""
    start = time.monotonic()
    shares = np.arange(1, options.points + 1) / options.points

    @jax.jit
    def play(key: Key) -> Array:
        level_keys, keys = jax.random.split(key, (2, options.num_seeds))
        levels = jax.vmap(job.levels.sample)(level_keys)
        if job.player is None:
            returns = players.random_returns(job.levels.env, levels, keys, job.entry.eval_episodes)
            return jnp.tile(returns[:, None], options.points)
        inner, devices = job.player.inner, cli.devices_dividing(options.num_seeds)
        return learning_curves(lambda _: inner, (), levels, keys, updates, devices)

    batch = job.player.settings.batch if job.player else 1
    updates = tuple(int(x) for x in np.round(shares * (job.entry.env_steps // batch)))
    returns = np.asarray(play(jax.random.fold_in(jax.random.key(HELD_OUT), options.seed)), float)
    made = updates if job.player else (0,) * options.points
    seconds = round(time.monotonic() - start, 3)
    return Cell(*job.place, job.label, tuple(n * batch for n in updates), made, returns, seconds)


def run(options: Options, suites: Sequence[Suite], rules: Mapping[str, str | Rule], directory: Path) -> dict[str, Any]:
    """Does what is missing in `directory`, and leaves there the long table and what it says: the summary.

    Raises ValueError if what is there is of other options.
    """
    start = time.monotonic()
    jobs, references = plan(suites, rules, options.points)
    asked, cells = _done(directory, json.loads(json.dumps(_asked(options, suites, rules, jobs))))
    directory.mkdir(parents=True, exist_ok=True)
    for i, job in enumerate(jobs, 1):
        if (job.place, job.label) in cells:
            continue
        cell = cells[job.place, job.label] = measure(job, options)
        final = cell.returns[:, -1]
        lost = int((~np.isfinite(final)).sum())
        said = f"; {lost} of {final.size} diverged and count as random" if lost else ""
        mean = np.nanmean(final) if lost < final.size else np.nan
        print(
            f"{i}/{len(jobs)} {job.entry.name} {job.label}: {mean:.4g} in {cell.seconds:.0f} s{said}", file=sys.stderr
        )
        table = standings.rows(cells, _scales(cells, references, rules))
        cli.write_json(directory / "returns.json", {"options": asked, "rows": table})
        cli.write_csv(directory / "returns.csv", table)
    summary = {
        **standings.report(cells, _scales(cells, references, rules), list(rules), directory),
        "options": asked,
        "command": " ".join(["python -m experiments.evaluate", *_arguments(options)]),
        "wall_clock_seconds": round(time.monotonic() - start, 3),  # since the start or the resume
        "seconds": {" ".join((*place, label)): cell.seconds for (place, label), cell in cells.items()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": cli.hardware(),
        "versions": cli.versions(),
    }
    cli.write_json(directory / "summary.json", summary)
    return summary


def _scales(
    cells: standings.Cells, references: Mapping[Place, str], rules: Mapping[str, str | Rule]
) -> dict[Place, Scale]:
    """Of the environments of which both ends are known."""
    random = next((label for label, rule in rules.items() if rule == RANDOM), RANDOM)
    known = {place: label for place, label in references.items() if {(place, random), (place, label)} <= cells.keys()}
    return {place: standings.scale(cells[place, random], cells[place, label]) for place, label in known.items()}


def _asked(
    options: Options, suites: Sequence[Suite], rules: Mapping[str, str | Rule], jobs: Sequence[Job]
) -> dict[str, Any]:
    """All that the results depend on."""
    return {
        **{name: getattr(options, name) for name in ("num_seeds", "points", "seed")},
        "rules": {
            label: x if isinstance(x, str) else {name: x.card[name] for name in ("recipe", "content_hash")}
            for label, x in rules.items()
        },
        "suite": {suite.name: [dataclasses.asdict(entry) for entry in suite.entries] for suite in suites},
        "settings": {" ".join((*x.place, x.label)): x.player.settings._asdict() for x in jobs if x.player},
    }


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
    return both, standings.cells(content["rows"])


def _arguments(options: Options) -> list[str]:
    """The command line of `options`."""
    found = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name not in ("resume", "directory"):
            found += [f"--{field.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return found


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        with cli.one_line_errors():
            options = tyro.cli(Options, args=argv, description=__doc__)
        cli.one_device_per_core()
        suites, rules = load_all(options.suite), players.named(options.rules)
        directory = cli.directory_of_runs(options, "evaluate")
        run(options, suites, rules, directory)
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

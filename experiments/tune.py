"""Tune A2C, PPO and learned rules for each environment of a suite, by sweeps that `experiments.evaluate` reads.

python -m experiments.tune --suite classic
python -m experiments.tune --suite path/to/mine.toml --rules a2c-16x20 lpg-gridworld mine:runs/x

Rules are baselines, names of shipped rules, files or runs, as in `experiments.evaluate`. A sweep has three stages:
learning rates x discounts; lambdas x entropy coefficients x the best rate and its neighbours; and a run-off with more
seeds between the settings that are within the noise of the best (behind by at most two standard errors of the paired
difference). Agents with networks try scales of rewards in the second stage, too. The settings of a learned rule are
factors on the learning rates of its agents, and where these have networks on their rewards, in one stage and a run-off.

A program is compiled once for each environment and rule. Levels and seeds are others than those of evaluations. The
table of all trials lies beside the suite, and is written after each stage: a sweep that was stopped goes on with what
is missing when it is started again.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

import envs
from experiments import cli
from experiments.evaluate import labelled
from experiments.parts import refuse_inert
from metarl import checks
from metarl.checks import COUNT, SEVERAL
from metarl.evaluation import players
from metarl.evaluation.baselines import BASELINES, grid, grid_of_rules, refined
from metarl.evaluation.families import family
from metarl.evaluation.measure import learning_curves
from metarl.evaluation.players import RANDOM
from metarl.evaluation.staged import Play, Size, staged
from metarl.evaluation.suites import Entry
from metarl.evaluation.trials import Settings, Trial, best, trial, trials, write
from metarl.meta import InnerLoop
from metarl.parallel import Placement, dividing, one_device_per_core
from metarl.rules import Learner, Rule
from metarl.run.files import locked
from metarl.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Options:
    """What is swept."""

    suite: tuple[str, ...]
    """Names of shipped suites (all: every one), or paths of TOML files."""
    rules: tuple[str, ...] = tuple(BASELINES)
    """What is tuned: baselines, and learned rules, each with a label before a colon if it is to have another name."""
    num_seeds: Annotated[int, SEVERAL] = 4
    """Agents per setting, each with its own seed and level."""
    final_seeds: Annotated[int, SEVERAL] = 10
    """Agents per setting of the run-off, those of the stages before included."""
    finalists: Annotated[int, COUNT] = 16
    """Settings in the run-off, at most: the best of those within the noise."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.suites.check(self.suite)
        if self.final_seeds < self.num_seeds:
            raise ValueError(f"final_seeds must be at least num_seeds = {self.num_seeds}, got {self.final_seeds}")
        if self.final_seeds == self.num_seeds:
            refuse_inert(self, ["finalists"], "without more final_seeds than num_seeds")


class Sweep(NamedTuple):
    """Whose settings are tried in one environment."""

    name: str  # of the environment
    entry: Entry
    label: str  # a baseline's own name
    rule: str | Rule

    @property
    def key(self) -> tuple[str, str]:
        """That of its trials."""
        return self.name, players.key(self.rule, self.name, self.entry)

    def updates(self) -> int:
        """How many its agents make.

        Raises ValueError for a rule that cannot be tuned or has no agents there, and for a budget below one update.
        """
        batch = players.player(self.label, self.rule, self.name, self.entry).experience.env_steps
        if isinstance(self.rule, Rule) and self.rule.optimizer is not None:
            raise ValueError(f"{self.label} cannot be tuned: its optimizer is learned, and has no learning rate")
        if self.entry.env_steps < batch:
            raise ValueError(f"env_steps of {self.name} must be at least {batch}, got {self.entry.env_steps}")
        return self.entry.env_steps // batch

    def stages(self) -> tuple[list[Settings], Callable[[Settings], list[Settings]]]:
        """The settings of the first stage, and from the best of them those of the second."""
        kind = family(self.name, self.entry.levels.environment)
        if isinstance(self.rule, Rule):
            return grid_of_rules(kind), lambda chosen: []
        return grid(kind), partial(refined, kind)


def agents_of(sweep: Sweep, width: int) -> Play:
    """Plays agents with any settings and seeds in one compiled program, which takes `width` of them at a time."""
    ends, levels = (sweep.updates(),), sweep.entry.levels

    def make(settings: Settings) -> InnerLoop:
        recipe = players.agents(sweep.rule, sweep.name, sweep.entry, settings)
        learner = players.learner_of(sweep.rule, recipe)
        return learner.inner_loop(levels.environment, num_eval_episodes=sweep.entry.eval_episodes)

    @jax.jit
    def play(settings: PyTree, seeds: Array) -> Array:
        def drawn(key: Key) -> Key:
            return jax.vmap(partial(jax.random.fold_in, key))(seeds)  # the same for all settings

        level_key, key = jax.random.split(jax.random.key(0))
        places = jax.vmap(levels.sample)(drawn(level_key))
        return learning_curves(make, settings, places, drawn(key), ends, Placement(dividing(width)))[:, 0]

    def in_parts(jobs: Sequence[tuple[Settings, int]]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(jobs), width):
            part = jobs[start : start + width]
            filled = [*part, *[part[0]] * (width - len(part))]
            settings = jax.tree.map(lambda *x: jnp.array(x, jnp.float32), *(settings for settings, _ in filled))
            returns = play(settings, jnp.array([seed for _, seed in filled]))[: len(part)]
            found += [float(f"{x:.6g}") for x in returns.tolist()]  # the table's digits: a resumed sweep decides alike
        return found

    return in_parts


def swept(sweep: Sweep, known: Sequence[Trial], size: Size) -> Iterator[list[Trial]]:
    """All trials of `sweep` after each of its stages. Those of older versions, without returns, are made anew."""
    first, refine = sweep.stages()
    before = {x.settings: x.returns for x in known if x.returns}
    play = agents_of(sweep, len(first) * size.num_seeds)
    hash = sweep.key[1] if isinstance(sweep.rule, Rule) else ""
    make = partial(trial, sweep.name, sweep.entry.env_steps, sweep.label, hash=hash)
    for returns in staged(first, refine, play, before, size):
        yield [make(settings, values) for settings, values in returns.items()]


def run(file: Path, rules: Mapping[str, str | Rule], size: Size) -> list[Trial]:
    """Does what is missing of the sweeps of `rules` on the suite in `file`, and returns all trials of its table.

    Raises ValueError before anything is computed as `Sweep.updates` does; BlockingIOError if another process sweeps.
    """
    suite, table = envs.suites.load(file, envs.make), envs.suites.sweep(file)
    places = list(itertools.product(suite, rules.items()))
    for name, (label, rule) in places:
        Sweep(name, suite[name], label, rule).updates()
    with locked(table.with_name(f".{table.name}.lock")):
        found = trials(table, {name: entry.env_steps for name, entry in suite.items()})
        for name, (label, rule) in places:
            start = time.monotonic()
            sweep = Sweep(name, envs.suites.tuned(suite, found)[name], label, rule)
            key = sweep.key
            mine, others = ([x for x in found if (x.key == key) == own] for own in (True, False))
            for done in swept(sweep, mine, size):
                found = [*others, *done]
                write(table, found)
            print(f"{name} {label}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    return found


def main(argv: list[str] | None = None) -> None:
    options = cli.options(Options, __doc__, argv)
    with cli.clean_exit():
        one_device_per_core()
        size = Size(options.num_seeds, options.final_seeds, options.finalists)
        loaded = players.resolved(labelled(options.rules))
        rules = {x if isinstance(x, str) else label: x for label, x in loaded.items() if not isinstance(x, Learner)}
        if RANDOM in rules:
            raise ValueError("rules must not have the random policy: it has no settings")
        for file in envs.suites.find(options.suite).values():
            found = run(file, rules, size)
            labels = {x.key: x.objective for x in found}
            for (name, key), x in best(found).items():
                print(f"{name} {labels[name, key]}: {x.mean:.4g} by {x.settings} of {x.tried}, {x.num_seeds} seeds")


if __name__ == "__main__":
    main()

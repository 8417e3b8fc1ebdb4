"""Tune A2C and PPO for each environment of a suite, by sweeps that `experiments.evaluate` reads.

python -m experiments.tune --suite classic
python -m experiments.tune --suite path/to/mine.toml

All learning rates, discounts and seeds are side by side in one compiled program, on levels and seeds that no evaluation
uses. The table of all trials lies beside the suite, and is written after each program: a sweep that was stopped goes on
with what is missing when it is started again.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

import envs
from experiments import cli
from metarl import checks
from metarl.checks import COUNT, SEED
from metarl.evaluation.baselines import (
    BASELINES,
    GEOMETRIES,
    Name,
    Settings,
    Trial,
    baseline,
    best,
    grid,
    trials,
    write,
)
from metarl.evaluation.families import family
from metarl.evaluation.measure import learning_curves
from metarl.evaluation.suites import Entry, Suite
from metarl.meta import InnerLoop
from metarl.parallel import Placement, dividing, one_device_per_core
from metarl.rules import build
from metarl.types import Array


@dataclasses.dataclass(frozen=True)
class Options:
    """What is swept."""

    suite: tuple[str, ...]
    """Names of shipped suites (all: every one), or paths of TOML files."""
    num_seeds: Annotated[int, COUNT] = 3
    """Agents per setting, each with its own seed and level."""
    seed: Annotated[int, SEED] = 0
    """Seed of everything random in the sweep."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.suites.check(self.suite)


def sweep(options: Options, name: str, entry: Entry, which: Name, geometry: Settings) -> list[Trial]:
    """A trial for each learning rate and discount: the final returns of agents of this geometry.

    Raises ValueError for a budget that is smaller than one update.
    """
    env, seeds = entry.levels.environment, options.num_seeds
    kind = family(name, env)
    pairs = grid(kind)
    updates = entry.env_steps // geometry.experience.env_steps
    if not updates:
        raise ValueError(f"env_steps of {name} must be at least {geometry.experience.env_steps}, got {entry.env_steps}")
    level_key, key = jax.random.split(jax.random.key(options.seed))

    def make(pair: Array) -> InnerLoop:
        recipe = baseline(which, kind, geometry._replace(learning_rate=pair[0], discount=pair[1]))
        return build(recipe).inner_loop(env, num_eval_episodes=entry.eval_episodes)

    def per_seed(x: Array) -> Array:
        return jnp.concatenate([x] * len(pairs))  # the same for every pair

    places = jax.vmap(entry.levels.sample)(jax.random.split(level_key, seeds))
    hypers = jnp.repeat(jnp.asarray(pairs), seeds, axis=0)
    lives = partial(learning_curves, make, ends=(updates,), placement=Placement(dividing(len(hypers))))
    keys = per_seed(jax.random.split(key, seeds))
    returns = np.asarray(jax.jit(lives)(hypers, jax.tree.map(per_seed, places), keys))
    return [
        Trial(
            name,
            entry.env_steps,
            which,
            geometry._replace(learning_rate=rate, discount=discount),
            float(found.mean()),
            float(found.std()),
            seeds,
        )
        for (rate, discount), found in zip(pairs, returns.reshape(len(pairs), seeds), strict=True)
    ]


def missing(suite: Suite, found: Sequence[Trial]) -> Iterator[tuple[str, Name, Settings]]:
    """Environments, baselines and geometries of which a sweep of `suite` has `found` no trials yet."""
    known = {(trial.environment, trial.objective, trial.settings.experience) for trial in found}
    for name, which in itertools.product(suite, BASELINES):
        for geometry in GEOMETRIES[which]:
            if (name, which, geometry.experience) not in known:
                yield name, which, geometry


def main(argv: list[str] | None = None) -> None:
    options = cli.options(Options, __doc__, argv)
    with cli.clean_exit():
        one_device_per_core()
        for file in envs.suites.find(options.suite).values():
            suite: Mapping[str, Entry] = envs.suites.load(file, envs.make)
            table = envs.suites.sweep(file)
            found = trials(table, {name: entry.env_steps for name, entry in suite.items()})
            for name, which, geometry in list(missing(suite, found)):
                start = time.monotonic()
                found += sweep(options, name, suite[name], which, geometry)
                write(table, found)
                print(f"{name} {which}: {time.monotonic() - start:.0f} s", file=sys.stderr)
            for trial in best(found).values():
                print(f"{trial.environment} {trial.objective}: {trial.mean:.4g} by {trial.settings}")


if __name__ == "__main__":
    main()

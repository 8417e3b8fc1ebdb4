"""Tune A2C and PPO for each environment of a suite, by sweeps that `experiments.evaluate` reads.

python -m experiments.tune --suite classic
python -m experiments.tune --suite path/to/mine.toml

All learning rates, discounts and seeds live side by side in one compiled program, on levels and seeds that no
evaluation uses. The table of all trials lies beside the suite, and is written after each program: whoever stops the
sweep and starts it again goes on with what is missing.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import envs
from experiments import cli
from experiments.baselines import BASELINES, GEOMETRIES, Name, Settings, Trial, baseline, best, grid, trials, write
from experiments.suite import Entry, Suite, load_all
from metarl.evaluation.measure import learning_curves
from metarl.meta import InnerLoop
from metarl.types import Array, Levels


@dataclasses.dataclass(frozen=True)
class Options:
    """What is swept."""

    suite: tuple[str, ...]
    """Names of shipped suites (all: every one), or paths of TOML files."""
    num_seeds: int = 3
    """Agents per setting, each with its own seed and level."""
    seed: int = 0
    """Seed of everything random in the sweep."""

    def __post_init__(self) -> None:
        cli.check(self, positive=("num_seeds",), not_negative=("seed",))


def sweep(options: Options, entry: Entry, levels: Levels, which: Name, geometry: Settings) -> list[Trial]:
    """A trial for each learning rate and discount: the final returns of agents of this geometry."""
    pairs, seeds = grid(entry.name, levels), options.num_seeds
    updates = entry.env_steps // geometry.batch
    if not updates:
        raise ValueError(f"env_steps of {entry.name} must be at least {geometry.batch}, got {entry.env_steps}")
    level_key, key = jax.random.split(jax.random.key(options.seed))

    def make(pair: Array) -> InnerLoop:
        return baseline(which, entry, levels, geometry._replace(learning_rate=pair[0], discount=pair[1]))

    def per_seed(x: Array) -> Array:
        return jnp.concatenate([x] * len(pairs))  # the same for every pair

    places = jax.vmap(levels.sample)(jax.random.split(level_key, seeds))
    hypers = jnp.repeat(jnp.asarray(pairs), seeds, axis=0)
    lives = partial(learning_curves, make, ends=(updates,), devices=cli.devices_dividing(len(hypers)))
    keys = per_seed(jax.random.split(key, seeds))
    returns = np.asarray(jax.jit(lives)(hypers, jax.tree.map(per_seed, places), keys))
    return [
        Trial(
            entry.name,
            entry.env_steps,
            which,
            geometry._replace(learning_rate=rate, discount=discount),
            float(found.mean()),
            float(found.std()),
            seeds,
        )
        for (rate, discount), found in zip(pairs, returns.reshape(len(pairs), seeds), strict=True)
    ]


def missing(suite: Suite, found: Sequence[Trial]) -> Iterator[tuple[Entry, Name, Settings]]:
    """What a sweep of `suite` has yet to try: geometries of which no trials were `found`."""
    known = {(trial.environment, trial.objective, _geometry(trial.settings)) for trial in found}
    for entry, which in itertools.product(suite.entries, BASELINES):
        for geometry in GEOMETRIES[which]:
            if (entry.name, which, _geometry(geometry)) not in known:
                yield entry, which, geometry


def _geometry(settings: Settings) -> Settings:
    """But for what lives side by side."""
    return settings._replace(learning_rate=0.0, discount=0.0)


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        with cli.one_line_errors():
            options = tyro.cli(Options, args=argv, description=__doc__)
        cli.one_device_per_core()
        for suite in load_all(options.suite):
            found = trials(suite)
            for entry, which, geometry in list(missing(suite, found)):
                start = time.monotonic()
                found += sweep(options, entry, envs.make(entry.name), which, geometry)
                write(suite.sweep, found)
                print(f"{entry.name} {which}: {time.monotonic() - start:.0f} s", file=sys.stderr)
            for trial in best(found).values():
                print(f"{trial.environment} {trial.objective}: {trial.mean:.4g} by {trial.settings}")


if __name__ == "__main__":
    main()

"""Do scores rank levels as the regret against the optimum does? Rank correlations, of a finished run's rule.

python -m experiments.scores runs/groove-0                       # on levels like those of its training, never seen
python -m experiments.scores runs/groove-0 --levels gridworld/large
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import tyro

import envs
from experiments import cli, horizons
from experiments.report import HELD_OUT, a2c_agent
from metarl import plot
from metarl.curricula import scores
from metarl.meta import InnerLoop, Lifetimes, Score, select
from metarl.types import Array, Key, Level, MetaParams, PyTree

TRUTH = "regret against the optimum"


@dataclasses.dataclass(frozen=True)
class Options:
    """Which rule, and on which levels."""

    run: tyro.conf.Positional[str]
    """Directory of a finished run."""
    levels: str = ""
    """Distribution of levels whose optimal return is known (default: that of the run)."""
    horizon: int = 0
    """Lifetime of the agents in updates (0: as in the run, or of other levels their own)."""
    num_levels: int = 128
    """Levels to rank, one agent on each."""
    score_batch: int = 16
    """Lifetimes that are scored at a time."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""

    def __post_init__(self) -> None:
        cli.check(self, positive=("score_batch",), not_negative=("horizon",))
        if self.num_levels < 3:
            raise ValueError(f"num_levels must be at least 3, got {self.num_levels}")


def of_lifetimes(by: dict[str, Score], inner: InnerLoop, rule: MetaParams, levels: Level, key: Key) -> dict[str, Array]:
    """Scores [n] of agents that live on `levels` (leaves [n, ...]) to their ends; all scores are of the same agents."""
    birth_key, score_key, live_key = jax.random.split(key, 3)
    count = len(levels.horizon)
    newborn = jax.vmap(inner.init)(jax.random.split(birth_key, count), levels)

    def living(loop: tuple[Array, Lifetimes, PyTree, dict[str, Array]]) -> Array:
        return ~jax.vmap(inner.done)(loop[1]).all()

    def update(loop: tuple[Array, Lifetimes, PyTree, dict[str, Array]]) -> tuple[Array, Lifetimes, PyTree, Any]:
        t, lifetimes, states, values = loop
        step_key, update_key = jax.random.split(jax.random.fold_in(live_key, t))
        older = jax.vmap(inner.step, (None, 0, 0))(rule, lifetimes, jax.random.split(step_key, count)).lifetime
        ended = jax.vmap(inner.done)(older) & ~jax.vmap(inner.done)(lifetimes)
        found = {name: x.update(inner, rule, states[name], older, ended, update_key) for name, x in by.items()}
        values = {name: select(ended, value, values[name]) for name, (value, _) in found.items()}
        return t + 1, older, {name: state for name, (_, state) in found.items()}, values

    states = {name: score.init(score_key, newborn) for name, score in by.items()}
    nothing = {name: jnp.full(count, jnp.nan) for name in by}
    return jax.lax.while_loop(living, update, (jnp.int32(0), newborn, states, nothing))[3]


def correlations(values: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Spearman's rho of each score [n] with `values[TRUTH]`, with 95 % bootstrap intervals over levels.

    Only of levels that all scores are known of. Raises ValueError if there are fewer than three.
    """
    known = np.all([np.isfinite(x) for x in values.values()], axis=0)
    if known.sum() < 3:
        raise ValueError(f"need at least 3 levels that all scores are known of, got {known.sum()} of {len(known)}")

    def rho(x: np.ndarray, y: np.ndarray) -> float:
        return scipy.stats.spearmanr(x, y).statistic

    rows = {}
    for name in values.keys() - {TRUTH}:
        pair = values[name][known], values[TRUTH][known]
        resampled = scipy.stats.bootstrap(
            pair, rho, paired=True, vectorized=False, n_resamples=2000, method="basic", rng=0
        )
        low, high = np.nanquantile(resampled.bootstrap_distribution, [0.025, 0.975])  # NaN: all levels alike
        rows[name] = {"mean": float(rho(*pair)), "low": float(low), "high": float(high)}
    return dict(sorted(rows.items(), key=lambda row: -row[1]["mean"]))


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        with cli.one_line_errors():
            options = tyro.cli(Options, args=argv, description=__doc__)
        rule = horizons.load(options.run, options.levels)
        name = options.levels or rule.config.levels
        levels = envs.make(name, options.horizon or (None if options.levels else rule.config.lifetimes))
        optimum = envs.optimal_return(levels.env)
        if optimum is None:
            raise ValueError(f"levels must be some whose optimal return is known, got {name!r}")
        directory = cli.run_directory(options.directory, "scores")
        directory.mkdir(parents=True, exist_ok=True)
        inner = rule.inner_loop(levels)
        params = horizons.meta_params(inner, rule)
        config = dataclasses.replace(rule.config, levels=name)
        by = {
            TRUTH: scores.optimal_regret(optimum, options.score_batch),
            "algorithmic regret": scores.algorithmic_regret(a2c_agent(config, levels)[1], options.score_batch),
        }
        if inner.judge is not None:  # agents that have a critic
            by["positive value loss"] = scores.positive_value_loss(options.score_batch)
            by["L1 value loss"] = scores.l1_value_loss(options.score_batch)
            by["MaxMC"] = scores.max_monte_carlo()
        keys = jax.random.split(jax.random.key(HELD_OUT), options.num_levels)
        live = jax.jit(lambda key: of_lifetimes(by, inner, params, jax.vmap(levels.sample)(keys), key))
        found = live(jax.random.key(HELD_OUT - 1))
        values = {name: np.asarray(x) for name, x in found.items()}
        rows = correlations(values)
        for score, row in rows.items():
            print(f"{score:20} {row['mean']:6.2f} [{row['low']:.2f}, {row['high']:.2f}]")
        cli.write_json(directory / "scores.json", {"rho": rows, "scores": values})
        intervals = {score: (row["mean"], row["low"], row["high"]) for score, row in rows.items()}
        plot.save(plot.intervals(intervals, f"Spearman's rho with {TRUTH}"), directory / "scores.png")
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

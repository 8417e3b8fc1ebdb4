"""Do scores rank levels as the regret against the optimum does? Rank correlations, of a finished run's rule.

python -m experiments.scores runs/groove-0                       # on levels like those of its training, never seen
python -m experiments.scores runs/groove-0 --levels gridworld/large
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import tyro

import envs
from experiments import cli
from metarl import checks, plot
from metarl.checks import COUNT, COUNT_OR_ZERO, SHARE, Bound
from metarl.curricula import scores
from metarl.curricula.scores import Score
from metarl.evaluation import compare, tables
from metarl.evaluation.families import a2c, family
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import Interval
from metarl.inner.rl import ValueJudge
from metarl.meta import InnerLoop, Lifetimes, advance, done
from metarl.rl.critic import Critic
from metarl.rules import build, build_part
from metarl.run.files import write_json
from metarl.tree import select
from metarl.types import Array, Key, Level, Levels, MetaParams, PyTree

TRUTH = "regret against the optimum"


@dataclasses.dataclass(frozen=True)
class Options:
    """Which rule, and on which levels."""

    run: tyro.conf.Positional[str]
    """Directory of a finished run."""
    levels: str = ""
    """Distribution of levels whose optimal return is known (default: that of the run)."""
    horizon: Annotated[int, COUNT_OR_ZERO] = 0
    """Lifetime of the agents in updates (0: as in the run, or of other levels their own)."""
    num_levels: Annotated[int, Bound(3, 2**31 - 1)] = 128
    """Levels to rank, one agent on each."""
    score_batch: Annotated[int, COUNT] = 16
    """Lifetimes that are scored at a time."""
    success_share: Annotated[float, SHARE] = 0.5
    """For learnability: an episode succeeds with this share of the level's optimal return."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.levels:
            envs.check(levels=self.levels)


class Scored(NamedTuple):
    """The agents of a rule, and what scores of them look at: the arguments of `parts.Replay.make_score`."""

    inner: InnerLoop
    antagonist: InnerLoop  # A2C
    judge: ValueJudge
    player: InnerLoop  # the agents, in single episodes


def scored(run: compare.Run, name: str, levels: Levels) -> Scored:
    """The agents of a run's rule on the levels called `name`."""
    env = levels.environment
    kind, learner = family(name, env), build(run.agents(name, levels))
    critic = Critic(build_part("optimizer", kind.critic))
    return Scored(
        learner.inner_loop(env, critic=critic, num_eval_episodes=run.eval_episodes),
        build(a2c(kind, run.recipe)).inner_loop(env),
        learner.value_judge(env, critic),
        learner.inner_loop(env, num_eval_episodes=1),
    )


def parts_of(
    run: compare.Run, name: str, levels: Levels, batch: int, share: float
) -> tuple[InnerLoop, dict[str, Score]]:
    """The agents of a run's rule on the levels called `name`, and all scores of them by name.

    Raises ValueError for levels whose optimal return is not known.
    """
    if levels.optimal_return is None:
        raise ValueError(f"levels must be some whose optimal return is known, got {name!r}")
    inner, antagonist, judge, player = scored(run, name, levels)
    succeeds = scores.success(levels.optimal_return, share)
    return inner, {
        TRUTH: scores.optimal_regret(levels.optimal_return, batch),
        "algorithmic regret": scores.algorithmic_regret(antagonist, batch),
        "positive value loss": scores.positive_value_loss(judge, batch),
        "L1 value loss": scores.l1_value_loss(judge, batch),
        "MaxMC": scores.max_monte_carlo(judge),
        "learnability": scores.learnability(player, succeeds, batch_size=batch),
    }


def of_lifetimes(
    by: Mapping[str, Score], inner: InnerLoop, rule: MetaParams, levels: Level, key: Key
) -> dict[str, Array]:
    """Scores [n] of agents that live on `levels` (leaves [n, ...]) to their ends; all scores are of the same agents."""
    birth_key, score_key, live_key = jax.random.split(key, 3)
    count = len(levels.horizon)
    newborn = jax.vmap(inner.init)(jax.random.split(birth_key, count), levels)

    def living(loop: tuple[Array, Lifetimes, PyTree, dict[str, Array]]) -> Array:
        return ~done(loop[1]).all()

    def update(loop: tuple[Array, Lifetimes, PyTree, dict[str, Array]]) -> tuple[Array, Lifetimes, PyTree, Any]:
        t, lifetimes, states, values = loop
        step_key, update_key = jax.random.split(jax.random.fold_in(live_key, t))
        live = jax.vmap(partial(advance, inner), (None, 0, 0))
        older = live(rule, lifetimes, jax.random.split(step_key, count)).lifetime
        ended = done(older) & ~done(lifetimes)
        found = {name: x.update(inner, rule, states[name], older, ended, update_key) for name, x in by.items()}
        values = {name: select(ended, value, values[name]) for name, (value, _) in found.items()}
        return t + 1, older, {name: state for name, (_, state) in found.items()}, values

    states = {name: score.init(score_key, levels) for name, score in by.items()}
    nothing = {name: jnp.full(count, jnp.nan) for name in by}
    return jax.lax.while_loop(living, update, (jnp.int32(0), newborn, states, nothing))[3]


def correlations(values: dict[str, np.ndarray]) -> dict[str, Interval]:
    """Spearman's rho of each score [n] with `values[TRUTH]`, with 95 % bootstrap intervals over levels.

    Only of levels that all scores are known of. A score that is the same on all of them is left out. Raises ValueError
    if there are fewer than three levels.
    """
    known = np.all([np.isfinite(x) for x in values.values()], axis=0)
    if known.sum() < 3:
        raise ValueError(f"need at least 3 levels that all scores are known of, got {known.sum()} of {len(known)}")

    def rho(x: np.ndarray, y: np.ndarray) -> float:
        return scipy.stats.spearmanr(x, y).statistic

    rows = {}
    for name in values.keys() - {TRUTH}:
        pair = values[name][known], values[TRUTH][known]
        if np.ptp(pair[0]) == 0:
            print(f"{name} is the same on all levels, so it ranks none", file=sys.stderr)
            continue
        resampled = scipy.stats.bootstrap(
            pair, rho, paired=True, vectorized=False, n_resamples=2000, method="basic", rng=0
        )
        low, high = np.nanquantile(resampled.bootstrap_distribution, [0.025, 0.975])  # NaN: all levels alike
        rows[name] = Interval(float(rho(*pair)), float(low), float(high))
    return dict(sorted(rows.items(), key=lambda row: -row[1].mean))


def main(argv: list[str] | None = None) -> None:
    options = cli.options(Options, __doc__, argv)
    with cli.clean_exit():
        run = compare.load(options.run)
        name = options.levels or run.config["levels"]
        levels = envs.make(name, options.horizon or (None if options.levels else run.lifetimes))
        inner, by = parts_of(run, name, levels, options.score_batch, options.success_share)
        directory = cli.run_directory(options.directory, "scores")
        directory.mkdir(parents=True, exist_ok=True)
        keys = jax.random.split(jax.random.key(HELD_OUT), options.num_levels)
        live = jax.jit(lambda key: of_lifetimes(by, inner, run.rule.params, jax.vmap(levels.sample)(keys), key))
        values = {score: np.asarray(x) for score, x in live(jax.random.key(HELD_OUT - 1)).items()}
        rows = correlations(values)
        tables.show({score: {"rho": x} for score, x in rows.items()}, f"Spearman's rho with {TRUTH}", "score")
        rho = {score: x._asdict() for score, x in rows.items()}
        write_json(directory / "scores.json", {"rho": rho, "scores": values})
        plot.save(plot.intervals(rows, f"Spearman's rho with {TRUTH}"), directory / "scores.png")
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

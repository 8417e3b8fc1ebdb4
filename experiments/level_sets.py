"""Do a few levels of high regret make a better rule than as many random ones? Fixed sets, paired over seeds.

python -m experiments.level_sets                                       # minutes; too small to say anything
python -m experiments.level_sets --preset small --directory runs/sets  # 4, 16 and 64 levels, 5 seeds; 7 CPU hours
python -m experiments.level_sets --preset small --directory runs/sets --resume --num-seeds 10    # 5 more seeds

Jackson et al. 2023 (arXiv 2310.02782) find the effect of GROOVE's regret to be largest there. Each seed has candidates
of its own, levels of the distribution, which the agents of a given rule score at the end of their lives. The N levels
of highest score are one set, and the first N candidates the random one. LPG is meta-trained from scratch on each set,
by all arms of a seed from the same initial rule and with the same random numbers. The final rules are compared on
held-out levels. `experiments.lpg --score frozen --level-set FILE` trains on a set again, or on one of your own.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

import envs
import metarl
from experiments import cli, launch, lpg, parts, scores
from metarl import checks, parallel, plot
from metarl.checks import COUNT, POSITIVE, SEED, SEVERAL
from metarl.evaluation import compare, tables
from metarl.evaluation.held_out import SCORE
from metarl.evaluation.statistics import Interval, deviation, over_runs, pairs_needed
from metarl.parallel import Placement
from metarl.pretrained import load_params
from metarl.run.files import circumstances, write_json
from metarl.run.options import flatten, replace
from metarl.types import Array, Key, Level, MetaParams

RANDOM = "random"
CANDIDATES = 2**31  # folds the key of the candidates, so that no meta-training of the same seed draws them
By = Literal["regret", "optimal", "learnability", "pvl", "l1", "maxmc"]
Find = Callable[[Key], tuple[Level, Array]]  # levels of the distribution and their scores, leaves [candidates, ...]


@dataclasses.dataclass(frozen=True)
class Sets:
    """Which sets, and how they are compared."""

    rule: str = "lpg-gridworld"
    """Whose agents score the candidates: the directory of a finished run, a file, or the name of a shipped rule."""
    by: tuple[By, ...] = ("regret",)
    """Scores; the levels of highest score are a set. They are those of `--score` in experiments.lpg."""
    sizes: tuple[Annotated[int, COUNT], ...] = (4, 16, 64)
    """Levels in a set."""
    candidates: Annotated[int, COUNT] = 1000
    """Levels that are scored for each seed."""
    candidate_batch: Annotated[int, COUNT] = 4
    """Candidates that are scored side by side on each device (4 is fast on CPUs, hundreds on accelerators)."""
    num_seeds: Annotated[int, SEVERAL] = 5
    """Seeds from `seed` on: each has candidates, sets and rules of its own. A resumed experiment may have more."""
    effect: Annotated[float, POSITIVE] = 0.05
    """Difference of which it is said how many seeds would show it."""
    more_levels: tuple[str, ...] = ()
    """Other distributions that the rules are compared on, too."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(more_levels=self.more_levels)
        for name in ("by", "sizes"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one value")
        if max(self.sizes) > self.candidates:
            raise ValueError(f"candidates must be at least {max(self.sizes)}, the largest size, got {self.candidates}")


@dataclasses.dataclass(frozen=True)
class Config:
    """Learned Policy Gradients that are meta-trained on fixed sets of levels."""

    sets: Sets = Sets()
    run: parts.Run = parts.Run()
    distribution: parts.Distribution = parts.Distribution()
    agents: parts.Agents = parts.Agents()
    rule: lpg.Rule = lpg.Rule()
    agent_optimizer: lpg.AgentOptimizer = lpg.AgentOptimizer()
    estimator: parts.Backprop = parts.Backprop()
    optimizer: parts.ClippedAdam = parts.ClippedAdam()
    held_out: parts.HeldOut = parts.HeldOut()

    def __post_init__(self) -> None:
        checks.within(int, SEED, **{"seed + num_seeds - 1": self.run.seed + self.sets.num_seeds - 1})
        parts.refuse_inert(self.held_out, ("held_out_horizons",), "here: agents live as long as in meta-training")
        if not self.held_out.held_out_seeds:
            raise ValueError("held_out_seeds must be at least 1: rules are compared on held-out levels")
        if self.distribution.levels in self.sets.more_levels:
            raise ValueError(f"more_levels must be others than levels, got {self.distribution.levels!r} in both")
        if self.run.distributed:
            raise ValueError("distributed must be off: start the runs of this experiment in one process")

    def training(self, seed: int, level_set: Path | None = None) -> lpg.Config:
        """The meta-training of one seed on the levels in a file."""
        shared = {x.name: getattr(self, x.name) for x in dataclasses.fields(self) if x.name != "sets"}
        config = lpg.Config(**shared, replay=parts.Replay(score="frozen", level_set=str(level_set or "")))
        return replace(config, seed=seed, held_out_seeds=0)


def _from(preset: lpg.Config, sets: Sets, **options: Any) -> Config:
    shared = {x.name: getattr(preset, x.name) for x in dataclasses.fields(Config) if x.name != "sets"}
    return replace(Config(sets, **shared), **options)


PRESETS = {
    "quick": _from(
        lpg.Config(),
        Sets(sizes=(2, 8), candidates=32, num_seeds=2),
        **{"longest_life": 50, "steps": 50, "num_lifetimes": 8, "hidden": 16},
        **{"held_out_levels": 16, "held_out_seeds": 2},
    ),
    "small": _from(lpg.Config(), Sets(), levels="gridworld/all_shortlife", steps=1500, held_out_seeds=2),
    "paper": _from(lpg.PRESETS["paper"], Sets(num_seeds=10, candidate_batch=256)),
}
TRAINING = lpg.EXPERIMENT._replace(report=None)  # the rules are compared when all of them are there


class Kind(NamedTuple):
    """What the sets of all seeds have in common."""

    arm: str  # the score by which they were chosen, or `RANDOM`
    size: int

    def __str__(self) -> str:
        return f"{self.arm}-{self.size}"


def finder(config: Config, run: compare.Run, by: By) -> Find:
    """Draws candidates and scores them by agents of the run's rule: one compiled program for all seeds.

    Raises ValueError for a score that the levels do not have, and for agents that do not fit them.
    """
    name, levels, options = config.distribution.levels, config.distribution.make(), config.sets
    inner, antagonist, judge, player = scores.scored(run, name, levels)
    score = {str(by): parts.Replay(score=by).make_score(levels, antagonist, judge, player)}
    placement = Placement(parallel.dividing(options.candidates), options.candidate_batch)

    def life(rule: MetaParams, x: tuple[Level, Key]) -> Array:
        level, key = x
        alone = jax.tree.map(lambda leaf: leaf[None], level)  # in a batch of one
        return scores.of_lifetimes(score, inner, rule, alone, key)[by][0]

    @jax.jit
    def find(key: Key) -> tuple[Level, Array]:
        level_keys, keys = jax.random.split(jax.random.fold_in(key, CANDIDATES), (2, options.candidates))
        found = jax.vmap(levels.sample)(level_keys)
        return found, placement.balanced_map(life, run.rule.params, (found, keys), found.horizon)

    return find


def candidates(config: Config, run: compare.Run, by: By, find: Find, seed: int, path: Path) -> tuple[Level, np.ndarray]:
    """The candidates of a seed and their scores [n], from the file at `path` if it is there, which it is afterwards.

    Raises ValueError if the file is of other options, or if fewer scores are finite than the largest set has levels.
    """
    asked = {"rule": run.rule.card["content_hash"], "by": by, "seed": seed, "candidates": config.sets.candidates}
    asked |= vars(config.distribution)
    if not path.is_file():
        found, values = find(jax.random.key(seed))
        metarl.save_levels(path, found, {"asked": asked, "scores": np.asarray(values).tolist()})
    card = load_params(path)[1]
    if differ := sorted(name for name in asked if card.get("asked", {}).get(name) != asked[name]):
        raise ValueError(f"{path} has candidates with other options: they differ in {', '.join(differ)}")
    known = np.array(card["scores"])
    if (finite := np.isfinite(known).sum()) < max(config.sets.sizes):
        raise ValueError(f"only {finite} of {len(known)} candidates have a finite score by {by}: see {path}")
    return metarl.load_levels(path, config.distribution.make()), known


def write_sets(config: Config, run: compare.Run, find: Mapping[By, Find], seed: int, folder: Path) -> list[Kind]:
    """The sets of one seed, in files that are called after their kinds, which are returned."""
    order: dict[str, np.ndarray] = {}
    for by in config.sets.by:
        levels, values = candidates(config, run, by, find[by], seed, folder / f"{by}.safetensors")  # the same levels
        order[by] = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")
    order[RANDOM] = np.arange(config.sets.candidates)  # as they were drawn
    kinds = [Kind(arm, size) for size in config.sets.sizes for arm in order]
    for kind in kinds:
        index = order[kind.arm][: kind.size]
        about = {"levels": config.distribution.levels, "seed": seed, **kind._asdict(), "candidates": index.tolist()}
        metarl.save_levels(folder / f"{kind}.safetensors", jax.tree.map(itemgetter(index), levels), about)
    return kinds


def meta_train(config: Config, seed: int, folder: Path, kind: Kind) -> compare.Run:
    """The finished run on one set, which lies in a folder of the kind's name beside the file of the set."""
    directory = folder / str(kind)
    own = launch.placed(config.training(seed, folder / f"{kind}.safetensors"), directory)
    launch.run(TRAINING, own)
    return compare.load(str(directory))


def scores_on(config: Config, name: str, runs: Mapping[Kind, list[compare.Run]]) -> dict[Kind, np.ndarray]:
    """Scores [seeds] of the rules of each kind on held-out levels of the distribution called `name`."""
    own = name == config.distribution.levels
    found = compare.scores(
        [run for several in runs.values() for run in several],
        name,
        config.distribution.make() if own else envs.make(name),
        num_levels=config.held_out.held_out_levels,
        num_seeds=config.held_out.held_out_seeds,
        batch_size=config.held_out.held_out_batch,
    )
    return dict(zip(runs, found.reshape(len(runs), -1), strict=True))


def report(config: Config, name: str, found: Mapping[Kind, np.ndarray], directory: Path) -> dict[str, Any]:
    """Prints and draws what the scores [seeds] on levels called `name` say, and returns it, JSON-able."""
    rows: dict[str, dict[int, Interval]] = {}
    for kind, values in found.items():
        rows.setdefault(kind.arm, {})[kind.size] = over_runs(values)
    verdicts = []
    for by in config.sets.by:
        for size in config.sets.sizes:
            differences = found[Kind(by, size)] - found[Kind(RANDOM, size)]
            rows.setdefault(f"{by} minus {RANDOM}", {})[size] = over_runs(differences)
            verdicts.append(f"{name}, sets of {size} by {by}: {verdict(differences, config.sets.effect)}")
    tables.show(
        {arm: {f"{size} levels": x for size, x in row.items()} for arm, row in rows.items()}, f"{SCORE}: {name}"
    )
    print(*verdicts, sep="\n")
    figure = plot.over_horizons(rows, "score")
    for axis in figure.axes:
        axis.set_xlabel("levels in the set")
    plot.save(figure, directory / f"{name.replace('/', '-')}.png")
    return {
        "scores": {str(kind): values for kind, values in found.items()},
        "intervals": {arm: {size: x._asdict() for size, x in row.items()} for arm, row in rows.items()},
        "verdicts": verdicts,
    }


def verdict(differences: np.ndarray, effect: float) -> str:
    """What the differences [n] of n seeds from random sets say, and how many seeds would show an effect."""
    (mean, low, high), spread, count = over_runs(differences), deviation(differences), len(differences)
    found = "better than random ones" if low > 0 else "worse than random ones" if high < 0 else "no difference is shown"
    needed, fewest, most = (pairs_needed(effect, x) for x in spread)
    return (
        f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] over {count} seeds, {found}; an effect of {effect:g} would need "
        f"{needed} seeds at this deviation, {spread.mean:.3f} ({fewest} to {most} in its 95 % interval)"
    )


def compare_sets(config: Config) -> None:
    """Scores candidates, meta-trains on all sets and compares the rules; goes on where it stopped if it resumes.

    Raises as `finder` and `candidates` do, and as the runs do.
    """
    run = compare.load(config.sets.rule)
    find = {by: finder(config, run, by) for by in config.sets.by}
    meta = TRAINING.make(config.training(config.run.seed))
    jax.eval_shape(meta.init, jax.random.key(0))  # what cannot be traced is refused before anything is scored
    with cli.directory_of_runs(config.run, "level_sets") as directory:
        runs: dict[Kind, list[compare.Run]] = {}
        for seed in range(config.run.seed, config.run.seed + config.sets.num_seeds):
            folder = directory / f"seed-{seed}"
            for kind in write_sets(config, run, find, seed, folder):
                runs.setdefault(kind, []).append(meta_train(config, seed, folder, kind))
        found: dict[str, Any] = {}
        for name in (config.distribution.levels, *config.sets.more_levels):
            found[name] = report(config, name, scores_on(config, name, runs), directory)
            write_json(directory / "results.json", {"config": flatten(config), "on": found, **circumstances()})
        print(f"results in {directory}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit():
        if config.estimator.devices != 1:
            parallel.one_device_per_core()
        compare_sets(config)


if __name__ == "__main__":
    main()

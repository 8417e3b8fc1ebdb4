"""The meta-test: fresh agents trained by frozen rules, on suites of environments.

All agents have the same experience, the same seeds and, where an environment is a distribution of levels, a held-out
level per seed. They differ in the size of their batches, and so in the number of their updates: "a2c-16x20" makes as
many as rules with rollouts of 16 environments x 20 steps. A score of 0 is the uniformly random policy, and 1 the best
baseline in the sweep that tuned them for this environment, trained anew with these seeds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from metarl.checks import COUNT, SEED, SEVERAL, checked
from metarl.evaluation import players, scales
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.measure import learning_curves
from metarl.evaluation.players import RANDOM, Candidate, Player
from metarl.evaluation.results import Evaluation
from metarl.evaluation.suites import Entry, Suite
from metarl.evaluation.tables import Cell, Cells, Place
from metarl.inner.rl import Experience
from metarl.parallel import Placement, dividing
from metarl.rules import Learner, Rule
from metarl.types import Array, Key


class Job(NamedTuple):
    """One rule in one environment."""

    place: Place
    label: str
    entry: Entry
    player: Player | None  # None for the random policy

    @property
    def key(self) -> tuple[Place, str]:
        """That of its `Cell`."""
        return self.place, self.label


class Plan(NamedTuple):
    """What a meta-test has to do."""

    rules: dict[str, Candidate]
    jobs: list[Job]  # with the random policy and the reference of each environment first
    references: dict[Place, str]  # labels of the rules that score 1
    points: int


@checked
def evaluate(
    rules: Mapping[str, str | Path | Rule | Learner],
    suite: Suite | Mapping[str, Suite],
    *,
    seeds: Annotated[int, SEVERAL] = 16,
    points: Annotated[int, COUNT] = 10,
    seed: Annotated[int, SEED] = 0,
) -> Evaluation:
    """Trains fresh agents by `rules` in the environments of a suite (or of several, by name), and compares the rules.

        result = metarl.evaluate({"mine": rule, "a2c": "a2c", "random": "random"}, envs.suite("classic"), seeds=16)
        result.show()

    A rule is a `Rule`, a `Learner`, the name of a shipped rule, a path, a baseline ("a2c", "a2c-16x20", "ppo",
    "ppo-16x20") or "random". Agents have the network of the environment's family, and the settings of the suite's
    sweeps where it has some for them, but for those of a `Learner`, which is taken as it is. `seeds` agents of each
    are measured `points` times in their lives, evenly spaced. The same `seed` gives the same results.

    Raises FileNotFoundError or ValueError before anything is computed, for what is no rule, for a rule that cannot
    train agents in one of the environments, for fewer than 2 seeds, and for budgets that are too small.
    """
    return carry_out(plan(rules, suite, points), seeds=seeds, seed=seed)


@checked
def plan(
    rules: Mapping[str, str | Path | Rule | Learner],
    suite: Suite | Mapping[str, Suite],
    points: Annotated[int, COUNT] = 10,
) -> Plan:
    """What `evaluate` has to do. Raises as it does."""
    candidates, suites = players.resolved(rules), _suites(suite)
    labels = {rule: label for label, rule in candidates.items() if isinstance(rule, str)}
    jobs, references = [], {}
    for place, entry in {(s, name): entry for s, entries in suites.items() for name, entry in entries.items()}.items():
        which = players.reference(place[1], entry)
        references[place] = labels.get(which, which)
        everyone = {labels.get(x, x): x for x in (RANDOM, which)} | candidates
        jobs += [_job(place, label, rule, entry, points) for label, rule in everyone.items()]
    return Plan(candidates, jobs, references, points)


@checked
def carry_out(
    plan: Plan,
    *,
    seeds: Annotated[int, SEVERAL],
    seed: Annotated[int, SEED] = 0,
    known: Cells | None = None,
    watch: Callable[[Evaluation], None] = lambda so_far: None,
) -> Evaluation:
    """Does what is planned but for the cells that are `known`; `watch` is called after each one.

    Raises ValueError for fewer than 2 seeds, from which there is no interval.
    """
    cells = dict(known or {})
    for i, job in enumerate(plan.jobs, 1):
        if job.key not in cells:
            cells[job.key] = cell = measure(job, plan.points, seeds, seed)
            print(f"{i}/{len(plan.jobs)} {_said(cell)}", file=sys.stderr)
            watch(_evaluation(plan, cells))
    return _evaluation(plan, cells)


def measure(job: Job, points: int, seeds: int, seed: int) -> Cell:
    """Trains the agents of one job, all seeds side by side in one program, and plays evaluation episodes as they do."""
    start = time.monotonic()
    batch = job.player.experience.env_steps if job.player else 1
    shares = np.arange(1, points + 1) / points
    updates = tuple(int(x) for x in np.round(shares * (job.entry.env_steps // batch)))

    @jax.jit
    def play(key: Key) -> Array:
        level_keys, keys = jax.random.split(key, (2, seeds))
        levels = jax.vmap(job.entry.levels.sample)(level_keys)
        if job.player is None:
            env = job.entry.levels.environment
            returns = players.random_returns(env, levels, keys, job.entry.eval_episodes)
            return jnp.tile(returns[:, None], points)
        inner = job.player.inner
        return learning_curves(lambda _: inner, (), levels, keys, updates, Placement(dividing(seeds)))

    returns = np.asarray(play(jax.random.fold_in(jax.random.key(HELD_OUT), seed)), float)
    if job.player is None:
        scales.check_finite(returns, job.place[1])
    seconds = round(time.monotonic() - start, 3)
    if job.player is None:
        return Cell(*job.place, job.label, updates, (0,) * points, returns, seconds)
    steps, said, tried = tuple(n * batch for n in updates), _batch(job.player.experience), job.player.tried
    return Cell(*job.place, job.label, steps, updates, returns, seconds, said, tried)


def _suites(suite: Suite | Mapping[str, Suite]) -> Mapping[str, Suite]:
    if not suite:
        raise ValueError("the suite has no environments")
    if all(isinstance(entry, Entry) for entry in suite.values()):
        return {"suite": cast(Suite, suite)}
    return cast(Mapping[str, Suite], suite)


def _job(place: Place, label: str, rule: Candidate, entry: Entry, points: int) -> Job:
    player = None if rule == RANDOM else players.player(label, rule, place[1], entry)
    if player and entry.env_steps < points * player.experience.env_steps:
        raise ValueError(
            f"env_steps of {place[1]} must be at least {points * player.experience.env_steps} for {points} points of "
            f"{label}, which updates once per {player.experience.env_steps}, got {entry.env_steps}"
        )
    return Job(place, label, entry, player)


def _evaluation(plan: Plan, cells: Cells) -> Evaluation:
    """With the scales of the environments of which both ends are known."""
    random = next((label for label, rule in plan.rules.items() if rule == RANDOM), RANDOM)
    known = {place: x for place, x in plan.references.items() if {(place, random), (place, x)} <= cells.keys()}
    found = {
        place: scales.scale(cells[place, random].returns[:, -1], cells[place, x].returns[:, -1], x)
        for place, x in known.items()
    }
    return Evaluation(tuple(plan.rules), cells, found)


def _batch(x: Experience) -> str:
    passes = f" in {x.epochs} epochs of {x.minibatches}" if x.epochs * x.minibatches > 1 else ""
    return f"{x.num_envs} x {x.rollout_length}{passes}"


def _said(cell: Cell) -> str:
    final = cell.returns[:, -1]
    lost = int((~np.isfinite(final)).sum())
    mean = np.nanmean(final) if lost < final.size else np.nan
    diverged = f"; {lost} of {final.size} diverged and count as random" if lost else ""
    return f"{cell.environment} {cell.rule}: {mean:.4g} in {cell.seconds:.0f} s{diverged}"

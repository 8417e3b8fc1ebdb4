"""What `experiments.amft` says of its arms: success, the regret to the best fixed weights, and figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.amft_arms import AMFT, ARMS, FIXED, together
from metarl import plot
from metarl.evaluation import tables
from metarl.evaluation.statistics import Interval, over_runs
from metarl.run.checkpoint import Log
from metarl.run.files import hardware, write_json
from metarl.run.options import flatten

if TYPE_CHECKING:
    from experiments.amft import Config

LAST = 20  # training steps over which the results at the end of an arm are averaged
ZERO = 0.01  # where the figure, which is logarithmic, has the weight 0

Found = Mapping[str, np.ndarray]  # arm -> success [settings, seeds] on one question


def best_fixed(found: Found) -> list[str]:
    """For each setting, the fixed weight whose mean success over the seeds is highest."""
    fixed = [arm for arm in found if arm in FIXED]
    means = np.array([found[arm].mean(1) for arm in fixed])  # [weights, settings]
    return [fixed[i] for i in means.argmax(0)]


def regrets(found: Found) -> dict[str, np.ndarray]:
    """Of each arm [settings, seeds]: the success of the setting's best fixed weight with the same seed, less its own.

    The best weights were chosen by these same runs, which favours fixed weights.
    """
    best = np.array([found[arm][i] for i, arm in enumerate(best_fixed(found))])
    return {arm: best - success for arm, success in found.items()}


def best_single(regret: Found) -> str:
    """The fixed weight that has the least mean regret over all settings."""
    return min((arm for arm in regret if arm in FIXED), key=lambda arm: regret[arm].mean())


def by_setting(config: Config, found: Found, mean: bool = False) -> dict[str, dict[str, Interval]]:
    """Intervals over the seeds of each setting, and of the mean over settings if there is to be a `mean`."""
    rows = {}
    for arm, x in found.items():
        rows[arm] = {name: over_runs(row) for name, row in zip(config.setting.names, x, strict=True)}
        if mean:
            rows[arm]["mean"] = over_runs(x.mean(0))
    return rows


def at_the_end(config: Config, arm: str, log: Log, name: str) -> np.ndarray:
    """Means of a metric of an arm over its last steps [settings, seeds]."""
    meta_steps = max(1, LAST // together(config, arm))
    return np.asarray(log[name])[-meta_steps:].mean(0).reshape(-1, config.setting.num_seeds)


def verdict(found: Found) -> str:
    """How the regret of AMFT's arms compares with that of the best single fixed weight; empty without either."""
    adaptive = [arm for arm in found if arm in AMFT]
    if not adaptive or not set(found) & set(FIXED):
        return ""
    regret = regrets(found)
    single = best_single(regret)
    lines = [f"the best single fixed weight is that of {single}, with a mean regret of {regret[single].mean():.3f}"]
    for arm in adaptive:
        by = over_runs((regret[arm] - regret[single]).mean(0))
        lines.append(f"{arm}: {by.mean:+.3f} [{by.low:+.3f}, {by.high:+.3f}] more regret than it")
    return "\n".join(lines)


def draw(config: Config, found: Found, weights: Found, path: Path) -> None:
    """Success by fixed weight, a line for each setting; the dot is the improved AMFT, at the weight it ended with."""
    fixed = sorted((arm for arm in found if arm in FIXED), key=FIXED.__getitem__)
    if not fixed:
        return
    x = np.maximum([FIXED[arm] for arm in fixed], ZERO)
    names = list(enumerate(config.setting.names))
    curves = {name: (x, np.array([found[arm][i].mean() for arm in fixed])) for i, name in names}
    end = next((arm for arm in ("amft_next", *AMFT) if arm in found), None)
    dots = {name: (max(weights[end][i].mean(), ZERO), found[end][i].mean()) for i, name in names} if end else None
    label = "weight of imitation (0 at the left edge)" + (f"; dots: {end}" if end else "")
    plot.save(plot.lines(curves, label, "share of problems solved", "log", dots), path)


def draw_weights(config: Config, logs: Mapping[str, Log], path: Path) -> None:
    """The weight of imitation over the training, in each setting, of the arms that adapt it."""
    count, shape = len(config.setting.copies), (-1, len(config.setting.copies), config.setting.num_seeds)
    moving = {arm: np.asarray(log["imitation_weight"]).reshape(shape) for arm, log in logs.items() if arm not in FIXED}
    if moving:
        steps = {arm: (1 + np.arange(len(x))) * together(config, arm) for arm, x in moving.items()}
        runs = [{arm: (steps[arm], x[:, i].T) for arm, x in moving.items()} for i in range(count)]
        plot.save(plot.trajectories(dict(zip(config.setting.names, runs, strict=True)), "training step"), path)


def report(config: Config, found: Mapping[str, Found], logs: Mapping[str, Log], directory: Path) -> None:
    """Prints, writes and draws the results; `found` is question -> arm -> [settings, seeds]."""
    first = next(iter(found.values()))
    success = {question: by_setting(config, of_arms) for question, of_arms in found.items()}
    last = {
        name: {arm: at_the_end(config, arm, log, name) for arm, log in logs.items()}
        for name in ("success", "entropy", "imitation_weight")
    }
    ends = {name: by_setting(config, of_arms) for name, of_arms in last.items()}
    for question, table in success.items():
        tables.show(table, f"share of problems solved, {question},", "arm")
    tables.show(ends["imitation_weight"], f"weight of imitation, mean of the last {LAST} steps,", "arm")
    results: dict[str, Any] = {"config": flatten(config), "hardware": hardware(), "success": found}
    arms = {arm: x for arm, x in first.items() if arm in ARMS}
    if set(arms) & set(FIXED):
        regret = by_setting(config, regrets(arms), mean=True)
        tables.show(regret, "regret to the best fixed weight of the setting", "arm")
        best = dict(zip(config.setting.names, best_fixed(arms), strict=True))
        results |= {"regret": _as_dicts(regret), "best fixed weight": best, "verdict": verdict(arms)}
        print(results["verdict"])
    results |= {"intervals": {question: _as_dicts(table) for question, table in success.items()}}
    results |= {"at the end": {name: _as_dicts(table) for name, table in ends.items()}}
    write_json(directory / "amft.json", results)
    draw(config, arms, last["imitation_weight"], directory / "amft.png")
    draw_weights(config, logs, directory / "weights.png")
    print(f"results in {directory}", file=sys.stderr)


def _as_dicts(table: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, Any]]:
    return {row: {x: i._asdict() for x, i in columns.items()} for row, columns in table.items()}

"""Classical learners of bandits and of small decision processes, as in the tables of RL^2.

python -m experiments.strategies bandits          # Duan et al. 2016 (arXiv 1611.02779), section 3.1
python -m experiments.strategies mdps             # section 3.2: 10 states, 5 actions, 10 steps per episode
python -m experiments.strategies bandits --tune   # chooses the constants of metarl.strategies.tuned

Prints the mean total reward of each learner on the same held-out tasks, beside what the paper says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from envs import bandit, mdp
from experiments import cli
from metarl import checks
from metarl.checks import COUNT, SEVERAL, Bound
from metarl.evaluation import tables
from metarl.evaluation.adaptation import draw_tasks, play_tasks
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import Interval, over_runs
from metarl.strategies import Strategy, bandit_strategies, mdp_strategies
from metarl.strategies.gittins import MAX_PULLS
from metarl.strategies.mdps import Process
from metarl.strategies.tuned import BanditConstants, MDPConstants
from metarl.types import Levels

TUNING = 0  # draws the tasks that constants are tuned on
OF_BANDITS = ("random", "gittins", "thompson", "voting_thompson", "ucb1", "epsilon_greedy", "greedy")
OF_MDPS = ("random", "psrl", "opsrl", "ucrl2", "beb", "epsilon_greedy", "greedy")
PUBLISHED: dict[tuple[int, ...], tuple[float, ...]] = {
    (10, 5): (5.0, 6.6, 5.7, 6.5, 6.7, 6.6, 6.6),
    (10, 10): (5.0, 6.6, 5.5, 6.2, 6.7, 6.6, 6.6),
    (10, 50): (5.1, 6.5, 5.2, 5.5, 6.6, 6.5, 6.5),
    (100, 5): (49.9, 78.3, 74.7, 77.9, 78.0, 75.4, 74.8),
    (100, 10): (49.9, 82.8, 76.7, 81.4, 82.4, 77.4, 77.1),
    (100, 50): (49.8, 85.2, 64.5, 67.7, 84.3, 78.3, 78.0),
    (500, 5): (249.8, 405.8, 402.0, 406.7, 405.8, 388.2, 380.6),
    (500, 50): (249.6, 463.7, 427.2, 437.6, 457.6, 413.6, 402.8),
    (10,): (100.1, 138.1, 144.1, 146.6, 150.2, 132.8, 134.8),
    (25,): (250.2, 408.8, 425.2, 424.1, 427.8, 377.3, 368.8),
    (50,): (499.7, 904.4, 930.7, 918.9, 917.8, 823.3, 769.3),
}
GRIDS: dict[type, dict[str, tuple[Any, ...]]] = {  # integers are numbers of samples
    BanditConstants: {
        "ucb1": (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
        "epsilon_greedy": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
        "optimistic_thompson": (2, 4, 8),
        "voting_thompson": (5, 10, 20, 40),
    },
    MDPConstants: {
        "ucrl2": (0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
        "beb": (0.2, 0.3, 0.5, 0.7, 1.0, 1.4),
        "epsilon_greedy": (0.005, 0.01, 0.02, 0.05, 0.1),
        "opsrl": (2, 4, 8),
    },
}


class Setting(NamedTuple):
    """Tasks of one size, and their learners."""

    name: str
    levels: Levels
    steps: int  # per task
    strategies: Callable[[Any], dict[str, Strategy]]  # of constants; None: the tuned ones
    published: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Bandits:
    """Bandits whose arms pay 0 or 1, with means that are uniform between 0 and 1: all pairs of pulls and arms."""

    pulls: tuple[Annotated[int, Bound(1, MAX_PULLS)], ...] = (10, 100, 500)
    """Pulls per task."""
    arms: tuple[Annotated[int, COUNT], ...] = (5, 50)
    """Arms of a bandit."""
    tasks: Annotated[int, SEVERAL] = 1000
    """Tasks of each size."""
    tune: bool = False
    """Tunes constants on other tasks, and reports nothing else."""

    def __post_init__(self) -> None:
        checks.fields(self)

    def settings(self) -> list[Setting]:
        """All pairs."""
        return [_bandits(n, k) for n in self.pulls for k in self.arms]


@dataclasses.dataclass(frozen=True)
class MDPs:
    """Decision processes with normal rewards and Dirichlet transitions, and noise of deviation 1."""

    episodes: tuple[Annotated[int, COUNT], ...] = (10, 25, 50)
    """Episodes per task."""
    tasks: Annotated[int, SEVERAL] = 1000
    """Tasks of each size."""
    tune: bool = False
    """Tunes constants on other tasks, and reports nothing else."""

    def __post_init__(self) -> None:
        checks.fields(self)

    def settings(self) -> list[Setting]:
        """One per number of episodes."""
        return [_mdps(n) for n in self.episodes]


def _bandits(pulls: int, arms: int) -> Setting:
    def strategies(constants: BanditConstants | None) -> dict[str, Strategy]:
        return bandit_strategies(arms, pulls, constants)

    published = dict(zip(OF_BANDITS, PUBLISHED.get((pulls, arms), ()), strict=False))
    levels = bandit.distribution(num_arms=arms, max_steps=pulls)
    return Setting(f"{pulls} pulls of {arms} arms", levels, pulls, strategies, published)


def _mdps(episodes: int) -> Setting:
    process = Process()

    def strategies(constants: MDPConstants | None) -> dict[str, Strategy]:
        return mdp_strategies(process, episodes, constants)

    published = dict(zip(OF_MDPS, PUBLISHED.get((episodes,), ()), strict=False))
    states, actions, length, noise = process
    levels = mdp.distribution(states, actions, length, reward_noise=noise)
    return Setting(f"{episodes} episodes", levels, episodes * length, strategies, published)


def totals(setting: Setting, strategies: Mapping[str, Strategy], seed: int, count: int) -> dict[str, np.ndarray]:
    """Total rewards [count] of each strategy, on the tasks that `seed` draws."""
    draw_key, play_key = jax.random.split(jax.random.key(seed))
    problems = draw_tasks(setting.levels, draw_key, count).problem
    played = play_tasks(setting.levels.environment, strategies, problems, play_key, setting.steps)
    return {name: x.total for name, x in played.items()}


def report(setting: Setting, count: int) -> dict[str, dict[str, Interval | str]]:
    """Mean totals of all learners beside the published ones, and that of the optimum: what the best policy expects."""
    found = totals(setting, setting.strategies(None), HELD_OUT, count)
    if optimal := setting.levels.optimal_return:
        problems = draw_tasks(setting.levels, jax.random.split(jax.random.key(HELD_OUT))[0], count).problem
        found["optimum"] = np.asarray(setting.steps / problems.max_steps * jax.vmap(optimal)(problems))
    return {
        name: {"total reward": over_runs(total), "in the paper": str(setting.published.get(name, ""))}
        for name, total in found.items()
    }


def tuned(setting: Setting, kind: Any, count: int) -> dict[str, dict[str, float]]:
    """Mean totals on the tasks for tuning: {learner: {constant: mean}}, of the constants of GRIDS[kind]."""

    def means(name: str, grid: tuple[Any, ...]) -> dict[str, float]:
        strategies = {f"{x:g}": setting.strategies(kind()._replace(**{name: x}))[name] for x in grid}
        return {value: float(total.mean()) for value, total in totals(setting, strategies, TUNING, count).items()}

    return {name: means(name, grid) for name, grid in GRIDS[kind].items()}


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        options = cli.subcommands({"bandits": Bandits, "mdps": MDPs}, __doc__, argv)
        kind = BanditConstants if isinstance(options, Bandits) else MDPConstants
        for setting in options.settings():
            if not options.tune:
                tables.show(report(setting, options.tasks), setting.name, "learner")
                continue
            for name, means in tuned(setting, kind, options.tasks).items():
                best = max(means, key=means.__getitem__)
                tables.show({name: {**means, "best": best}}, setting.name, "constant of")


if __name__ == "__main__":
    main()

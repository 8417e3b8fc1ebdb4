"""All classical learners of a kind of task, with constants that were tuned for its size.

The constants below are the best of a grid on 1000 tasks that no report draws: for bandits that of
`python -m experiments.strategies bandits --tune`, for processes a coarser one than that of `... mdps --tune`. Other
sizes use those of the closest one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, NamedTuple, TypeVar

from metarl import checks
from metarl.checks import COUNT, checked
from metarl.strategies import bandits, mdps
from metarl.strategies.strategy import Strategy, random
from metarl.types import Array, Discrete

T = TypeVar("T")


class BanditConstants(NamedTuple):
    """What may be tuned of learners of bandits."""

    ucb1: Array | float = 0.2  # scale
    epsilon_greedy: Array | float = 0.05
    optimistic_thompson: int = 2  # samples
    voting_thompson: int = 20  # samples


class MDPConstants(NamedTuple):
    """What may be tuned of learners of decision processes."""

    ucrl2: Array | float = 0.1  # scale
    beb: Array | float = 1.0  # bonus
    epsilon_greedy: Array | float = 0.05
    opsrl: int = 2  # samples


BANDITS: dict[tuple[int, ...], BanditConstants] = {  # by pulls and arms
    (10, 5): BanditConstants(ucb1=0.1, epsilon_greedy=0.005, optimistic_thompson=8, voting_thompson=40),
    (10, 10): BanditConstants(ucb1=0.1, epsilon_greedy=0.005, optimistic_thompson=8, voting_thompson=40),
    (10, 50): BanditConstants(ucb1=0.1, epsilon_greedy=0.005, optimistic_thompson=8, voting_thompson=40),
    (100, 5): BanditConstants(ucb1=0.2, epsilon_greedy=0.005, optimistic_thompson=2, voting_thompson=20),
    (100, 10): BanditConstants(ucb1=0.2, epsilon_greedy=0.05, optimistic_thompson=8, voting_thompson=20),
}
MDPS: dict[tuple[int, ...], MDPConstants] = {  # by episodes
    (10,): MDPConstants(ucrl2=0.01, beb=0.3, epsilon_greedy=0.05, opsrl=2),
    (25,): MDPConstants(ucrl2=0.03, beb=1.0, epsilon_greedy=0.05, opsrl=5),
    (50,): MDPConstants(ucrl2=0.03, beb=1.0, epsilon_greedy=0.05, opsrl=5),
}


@checked
def bandit_strategies(
    num_arms: Annotated[int, COUNT], pulls: Annotated[int, COUNT], constants: BanditConstants | None = None
) -> dict[str, Strategy]:
    """Learners of Bernoulli bandits with `num_arms` arms in trials of `pulls` pulls, by name.

    `constants` are those that were tuned for the size by default. Raises ValueError for counts below 1.
    """
    tuned = constants or _closest(BANDITS, pulls, num_arms)
    return {
        "random": random(Discrete(num_arms)),
        "gittins": bandits.gittins(num_arms, pulls),
        "thompson": bandits.thompson(num_arms),
        "voting_thompson": bandits.voting_thompson(num_arms, tuned.voting_thompson),
        "optimistic_thompson": bandits.optimistic_thompson(num_arms, tuned.optimistic_thompson),
        "ucb1": bandits.ucb1(num_arms, tuned.ucb1),
        "epsilon_greedy": bandits.epsilon_greedy(num_arms, tuned.epsilon_greedy),
        "greedy": bandits.greedy(num_arms),
    }


@checked
def mdp_strategies(
    process: mdps.Process, episodes: Annotated[int, COUNT], constants: MDPConstants | None = None
) -> dict[str, Strategy]:
    """Learners of a tabular decision process in trials of `episodes` episodes, by name.

    `constants` are those that were tuned for the number of episodes by default, for processes with 10 states, 5
    actions and 10 steps. Raises ValueError for counts below 1.
    """
    checks.fields(process)
    tuned = constants or _closest(MDPS, episodes)
    return {
        "random": random(Discrete(process.num_actions)),
        "psrl": mdps.psrl(process),
        "opsrl": mdps.opsrl(process, tuned.opsrl),
        "ucrl2": mdps.ucrl2(process, tuned.ucrl2),
        "beb": mdps.beb(process, tuned.beb),
        "epsilon_greedy": mdps.epsilon_greedy(process, tuned.epsilon_greedy),
        "greedy": mdps.greedy(process),
    }


def _closest(table: Mapping[tuple[int, ...], T], *size: int) -> T:
    """The entry of the size with the most similar ratio to `size`."""

    def distance(other: tuple[int, ...]) -> float:
        return sum(abs(math.log(x / y)) for x, y in zip(size, other, strict=True))

    return table[min(table, key=distance)]

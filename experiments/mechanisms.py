"""What each method of fine-tuning does, and whether it does it: one small study for each mechanism.

python -m experiments.mechanisms                           # entropy held by AEPO, a minute or two on one core
python -m experiments.mechanisms --study diversity         # distinct correct answers of GFlowNet objectives
python -m experiments.mechanisms --study curriculum        # SEC and others on the hardest problems
python -m experiments.mechanisms --study process           # rewards of steps from a judge that can be fooled
python -m experiments.mechanisms --study abstention        # ternary rewards
python -m experiments.mechanisms --study overoptimisation  # proxies held at thresholds
python -m experiments.mechanisms --study thresholds        # found by Nelder-Mead
python -m experiments.mechanisms --study forgetting        # imitation against reward, and a filter of problems
python -m experiments.mechanisms --study optimism          # SELM against DPO
python -m experiments.mechanisms --study confidence        # CREAM on noisy preferences
python -m experiments.mechanisms --study guidance          # RLG
python -m experiments.mechanisms --study negative_gradients
python -m experiments.mechanisms --study rules             # one rule in all prompts, or many
python -m experiments.mechanisms --study order             # imitation, reward, and both, in either order
python -m experiments.mechanisms --study tradeoff          # generalisation against diversity
python -m experiments.mechanisms --study formats           # which of several formats reward amplifies
python -m experiments.mechanisms --study inference         # what is forgotten, and in which prompts
python -m experiments.mechanisms --study refinements       # Critique-GRPO: second tries that teach first ones
python -m experiments.mechanisms --study recursion         # RISE: imitation of the best next tries
python -m experiments.mechanisms --study judging           # CRL: judging answers beside giving them
python -m experiments.mechanisms --study segments          # FG-RLHF: rewards of errors where they are made
python -m experiments.mechanisms --study difficulty        # DR-IRL: hard problems count more
python -m experiments.mechanisms --study branches          # EEF: from states of demonstrations that fail
python -m experiments.mechanisms --study emulation         # EFT: a large policy with what a small one was tuned to

Each compares methods from the same base policies and with as many slots for tokens, over seeds. A table has what was
measured, and the claims below it are differences over seeds with a verdict: shown, the opposite, or neither.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import numpy as np

from experiments import (
    bandit_studies,
    cli,
    credit_studies,
    generalisation_studies,
    judge_studies,
    token_studies,
    turn_studies,
)
from metarl import checks
from metarl.checks import SEED, SEVERAL
from metarl.evaluation import tables
from metarl.evaluation.statistics import Interval, over_runs
from metarl.run.files import circumstances, write_json
from metarl.types import Key

STUDIES: dict[str, Callable[[Key], tuple[bandit_studies.Rows, bandit_studies.Claims]]] = {
    **token_studies.STUDIES,
    **bandit_studies.STUDIES,
    **judge_studies.STUDIES,
    **generalisation_studies.STUDIES,
    **turn_studies.STUDIES,
    **credit_studies.STUDIES,
}
if TYPE_CHECKING:
    Study = str
else:
    Study = Literal[tuple(STUDIES)]


@dataclasses.dataclass(frozen=True)
class Config:
    """One study of a mechanism of fine-tuning."""

    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""
    study: Study = "entropy"
    """Which mechanism."""
    seed: Annotated[int, SEED] = 1
    """Seed of everything random. The settings of the studies were chosen with seed 0."""
    num_seeds: Annotated[int, SEVERAL] = 5
    """Base policies, and trainings of each method."""

    def __post_init__(self) -> None:
        checks.fields(self)


def verdict(difference: Interval) -> str:
    """What an interval says of a claim that the difference is positive."""
    return "shown" if difference.low > 0 else "the opposite" if difference.high < 0 else "not shown"


def report(rows: bandit_studies.Rows, claims: bandit_studies.Claims, title: str) -> dict[str, Any]:
    """Prints the table and the verdicts, and returns them."""
    table = {name: {what: over_runs(x) for what, x in row.items()} for name, row in rows.items()}
    tables.show(table, title)
    found = {}
    for claim, (differences, unit) in claims.items():
        interval = over_runs(differences)
        found[claim] = {**interval._asdict(), "unit": unit, "verdict": verdict(interval)}
        low, high = interval.low, interval.high
        print(f"{claim}: {verdict(interval)}, {interval.mean:+.3f} [{low:+.3f}, {high:+.3f}] {unit}")
    seeds = {name: {what: np.asarray(x).tolist() for what, x in row.items()} for name, row in rows.items()}
    intervals = {name: {what: x._asdict() for what, x in row.items()} for name, row in table.items()}
    return {"rows": intervals, "claims": found, "seeds": seeds}


def main(argv: list[str] | None = None) -> None:
    config = cli.options(Config, __doc__, argv)
    with cli.clean_exit(), cli.directory_of_runs(config, f"mechanisms-{config.study}") as directory:
        start = time.perf_counter()
        keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
        found = report(*STUDIES[config.study](keys), title=config.study)
        seconds = time.perf_counter() - start
        about = {"config": dataclasses.asdict(config), "seconds": seconds, **circumstances(), **found}
        write_json(directory / "results.json", about)
        print(f"{seconds:.0f} s, results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

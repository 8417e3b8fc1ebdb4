"""GROOVE (Jackson et al. 2023): meta-train a Learned Policy Gradient on levels where agents regret most.

python -m experiments.groove                     # regret against A2C; some minutes on a laptop CPU
python -m experiments.groove --score pvl         # positive value loss instead
python -m experiments.groove --score uniform     # domain randomisation, for comparison

The options of the curriculum are those of every experiment: `python -m experiments.ta_lpg --score regret` meta-trains a
temporally-aware rule on them by evolution.
"""

from __future__ import annotations

import dataclasses

from experiments import cli, curriculum, lpg
from experiments.lpg import inner_loop, recipe

# `experiments.horizons` makes the rule's agents by `inner_loop`, `experiments.ship` the rule by `recipe`
__all__ = ["PRESETS", "Config", "inner_loop", "main", "recipe"]


@dataclasses.dataclass(frozen=True)
class Config(lpg.Config):
    """A Learned Policy Gradient, meta-trained on the levels that a score asks for again."""

    score: curriculum.ScoreName = "regret"
    """What makes a level worth another agent; uniform and frozen: nothing, for comparison (see experiments.lpg)."""


def _groove(config: lpg.Config, **options: object) -> Config:
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return Config(**{**fields, "score": "regret", **options})


PRESETS = {
    "quick": _groove(lpg.PRESETS["quick"], levels="gridworld/all_randlife", learning_rate=2e-4),
    "small": _groove(lpg.PRESETS["small"], capacity=4000),
    "paper": _groove(lpg.PRESETS["paper"], capacity=4000),
}


def main(argv: list[str] | None = None) -> None:
    lpg.run(cli.parse(Config, PRESETS, argv))


if __name__ == "__main__":
    main()

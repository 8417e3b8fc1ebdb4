"""GROOVE (Jackson et al. 2023): meta-train a Learned Policy Gradient on levels of high regret.

python -m experiments.groove                     # regret against A2C; some minutes on a laptop CPU
python -m experiments.groove --score pvl         # positive value loss instead
python -m experiments.groove --score uniform     # domain randomisation, for comparison

The options of the curriculum are those of every experiment: `python -m experiments.ta_lpg --score regret` meta-trains a
temporally-aware rule on them by evolution.
"""

from __future__ import annotations

from experiments import launch, lpg
from metarl.run.options import replace

PRESETS = {
    "quick": replace(lpg.Config(), score="regret", levels="gridworld/all_randlife", steps=600),
    "small": replace(lpg.PRESETS["small"], score="regret", capacity=4000),
    "paper": replace(lpg.PRESETS["paper"], score="regret", capacity=4000),
}
EXPERIMENT = lpg.experiment("groove", lpg.CURVES)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, lpg.Config, PRESETS, argv)


if __name__ == "__main__":
    main()

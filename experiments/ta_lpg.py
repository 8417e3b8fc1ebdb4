"""Meta-train a (temporally-aware) Learned Policy Gradient by evolution over whole lifetimes (Jackson et al. 2024).

python -m experiments.ta_lpg                     # about ten minutes on a laptop CPU
python -m experiments.ta_lpg --no-temporal       # its blind twin
python -m experiments.ta_lpg --preset coordinates # a few numbers of an actor-critic instead of a network's weights
python -m experiments.ta_lpg --preset cautious    # the same, from one that explores first
python -m experiments.ta_lpg --preset small
"""

from __future__ import annotations

from experiments import launch, lpg
from experiments.parts import EVOLUTION_CURVES
from metarl.objectives.hand_made import UNITS
from metarl.run.options import replace

AWARE = replace(lpg.EvolutionConfig(), temporal=True)
COORDINATES = replace(
    AWARE,
    steps=400,
    longest_life=50,
    learned="coordinates",
    start="actor_critic",
    hidden=UNITS,
    agent_learning_rate=0.4,
    num_pairs=64,
    batch_size=4,
    shaping="none",
    sigma=0.3,
    learning_rate=0.05,
    learning_rate_decay=0.992,
    held_out_horizons=(10, 25, 50, 100, 200),
)
PRESETS = {
    "quick": replace(AWARE, steps=250, num_pairs=64, num_envs=8, batch_size=4, learning_rate_decay=0.99),
    "coordinates": COORDINATES,
    "cautious": replace(COORDINATES, caution=0.4, gae_lambda=0.9, sigma_decay=0.996, learning_rate=0.03),
    "small": replace(AWARE, levels="gridworld/all_vrandlife", steps=2_500, num_pairs=64, hidden=64, batch_size=4),
    "paper": replace(
        AWARE,
        levels="gridworld/all_vrandlife",
        steps=2_500,
        num_pairs=512,
        num_envs=64,
        hidden=256,
        held_out_levels=256,
    ),
}
EXPERIMENT = lpg.experiment("ta_lpg", EVOLUTION_CURVES, shards=True)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, lpg.EvolutionConfig, PRESETS, argv)


if __name__ == "__main__":
    main()

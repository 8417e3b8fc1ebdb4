"""Which of OPEN's features matter: it is meta-trained with all of them, and without one group of them at a time.

python -m experiments.ablation                    # on handwritten digits
python -m experiments.ablation --preset gridworld
python -m experiments.ablation --directory runs/ablation --resume

The options are those of experiments.learned_optimizer.
"""

from __future__ import annotations

import sys
from typing import get_args

from experiments import cli, launch
from experiments import learned_optimizer as learned
from metarl import parallel, plot
from metarl.evaluation import tables
from metarl.optimizers.open import Group
from metarl.run.files import write_json
from metarl.run.options import flatten, replace

DIGITS = replace(learned.PRESETS["quick"], optimizer="open")
PRESETS = {"quick": DIGITS, "gridworld": learned.PRESETS["gridworld"], "minatar": learned.PRESETS["minatar"]}


def ablate(config: learned.Config) -> None:
    """Trains, judges and draws all of them.

    Raises ValueError for a configuration that is not of whole OPEN alone, or has no report.
    """
    if not config.learned.optimizer.startswith("open") or config.learned.without:
        raise ValueError("an ablation is of open, and says itself what is left out")
    if not config.held_out.held_out_seeds or config.more.more_levels or config.sweep.sweep:
        raise ValueError("an ablation needs held_out_seeds, and no more_levels and no sweep")
    with cli.directory_of_runs(config.run, "ablation") as directory:
        rows = {}
        inert = ("epoch", "noise") if config.supervised else ()  # one pass, and nothing that acts
        for group in ("", *(x for x in get_args(Group) if x not in inert)):
            name, without = (f"without {group}", (group,)) if group else ("open", ())
            own = launch.placed(replace(config, without=without), directory / (group or "open"))
            _, _, found = launch.run(learned.EXPERIMENT, own)
            rows[name] = found["trained"]
            rows |= {} if group else {"adam": found["adam"]}
        write_json(directory / "ablation.json", {"config": flatten(config), "report": rows})
        tables.show(rows, learned.EXPERIMENT.score)
        drawn = {name: (x["mean"], x["low"], x["high"]) for name, x in rows.items()}
        plot.save(plot.intervals(drawn, learned.EXPERIMENT.score), directory / "ablation.png")
        print(f"results in {directory}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(learned.Config, PRESETS, argv)
    parallel.one_device_per_core()
    with cli.clean_exit():
        ablate(config)


if __name__ == "__main__":
    main()

"""Which of OPEN's features matter: it is meta-trained with all of them, and without one group of them at a time.

python -m experiments.ablation                    # on handwritten digits
python -m experiments.ablation --preset gridworld
python -m experiments.ablation --directory runs/ablation --resume

The options are those of experiments.learned_optimizer.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import get_args

from experiments import cli
from experiments import learned_optimizer as experiment
from metarl import plot
from metarl.run import checkpoint
from metarl.optimizers.open import Group

DIGITS = dataclasses.replace(experiment.PRESETS["quick"], optimizer="open")
PRESETS = {"quick": DIGITS, "gridworld": experiment.PRESETS["gridworld"], "minatar": experiment.PRESETS["minatar"]}


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(experiment.Config, PRESETS, argv)
    cli.one_device_per_core()
    with cli.clean_exit():
        if not config.optimizer.startswith("open") or config.without:
            raise ValueError("an ablation is of open, and says itself what is left out")
        if not config.held_out_seeds or config.more_levels or config.sweep:
            raise ValueError("an ablation needs held_out_seeds, and no more_levels and no sweep")
        directory = cli.directory_of_runs(config, "ablation")
        directory.mkdir(parents=True, exist_ok=True)
        rows = {}
        inert = ("epoch", "noise") if config.levels in experiment.TASKS else ()  # one pass, and nothing that acts
        for group in ("", *(x for x in get_args(Group) if x not in inert)):
            name, without = (f"without {group}", (group,)) if group else ("open", ())
            place = directory / (group or "open")
            own = dataclasses.replace(
                config, without=without, directory=str(place), resume=bool(checkpoint.steps(place))
            )
            found = experiment.run(own)
            rows[name] = found["trained"]
            rows |= {} if group else {"adam": found["adam"]}
        cli.write_json(directory / "ablation.json", {"config": dataclasses.asdict(config), "report": rows})
        score = "fitness after training (return, or minus the loss)"
        cli.show(rows, score)
        drawn = {name: (x["mean"], x["low"], x["high"]) for name, x in rows.items()}
        plot.save(plot.intervals(drawn, score), directory / "ablation.png")
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

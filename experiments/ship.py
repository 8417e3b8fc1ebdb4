"""Make a finished run's rule one of those that come with metarl, with a card that says what it is.

python -m experiments.ship runs/lpg-0 --name lpg-gridworld
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import metarl.pretrained
from experiments import cli
from metarl.pretrained import load_params, tuples
from metarl.rules import load_rule, save_rule


@dataclasses.dataclass(frozen=True)
class Options:
    """What is shipped."""

    run: tyro.conf.Positional[str]
    """Directory of the finished run."""
    name: str
    """What the rule is called."""
    note: str = ""
    """A sentence for the card."""
    directory: str = str(Path(metarl.pretrained.__file__).parent)
    """Where it goes."""

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/\\. "):
            raise ValueError(f"name must be a plain name, got {self.name!r}")


def ship(options: Options) -> Path:
    """Writes the rule and its card, and returns where the rule is.

    Raises FileNotFoundError for a run that is not finished, ValueError for one whose experiment makes no rule.
    """
    run = Path(options.run)
    params, origin = load_params(run / "rule.safetensors")
    results = json.loads((run / "results.json").read_text())
    if "recipe" not in origin:  # of a version that did not write it yet
        module = importlib.import_module(f"experiments.{origin['experiment']}")
        origin["recipe"] = module.recipe(module.Config(**tuples(origin["config"])))
    control = cli.CONTROL - {"steps", "seed"}
    curve = np.atleast_1d(np.genfromtxt(run / "metrics.csv", delimiter=",", names=True))
    card = cli.card(results, {name: curve[name] for name in curve.dtype.names or ()})
    card["config"] = {name: x for name, x in origin["config"].items() if name not in control}
    card["note"] = options.note
    path = Path(options.directory) / f"{options.name}.safetensors"
    save_rule(path, params, origin["recipe"], card)
    path.with_suffix(".md").write_text(_card(options.name, load_rule(path).card))
    return path


def _card(name: str, card: dict[str, Any]) -> str:
    said = " ".join(_argument(key.replace("_", "-"), x) for key, x in card["config"].items() if x not in ("", []))
    rows = [f"| {who} | {x['mean']:.3f} [{x['low']:.3f}, {x['high']:.3f}] |" for who, x in card["evaluation"].items()]
    table = ["| | on held-out levels |", "|---|---|", *rows] if rows else ["None was made in this run."]
    return "\n".join(
        [
            f"# {name}",
            "",
            card["note"],
            "",
            f"- Recipe: `{json.dumps(card['recipe'])}`",
            f"- Command: `python -m experiments.{card['experiment']} {said}`",
            f"- Seed {card['seed']}, {card['date']} on {json.dumps(card['hardware'])}",
            f"- metarl {card['metarl_version']}, content hash `{card['content_hash'][:16]}`",
            "",
            "Evaluation, with 95 % intervals:",
            "",
            *table,
            "",
            *(f"Curve of {key}: {', '.join(map(str, values))}" for key, values in card["curve"].items()),
            "",
        ]
    )


def _argument(name: str, x: Any) -> str:
    if isinstance(x, bool):
        return f"--{name}" if x else f"--no-{name}"
    return f"--{name} {' '.join(map(str, x)) if isinstance(x, list) else x}"


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        with cli.one_line_errors():
            options = tyro.cli(Options, args=argv, description=__doc__)
        print(ship(options))


if __name__ == "__main__":
    main()

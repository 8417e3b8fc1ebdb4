"""Make a finished run's rule or agent one of those that come with metarl, with a card that says what it is.

python -m experiments.ship runs/lpg-0 --name lpg-gridworld
python -m experiments.ship runs/rl2-0 --name rl2-bandits
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import metarl.pretrained
from experiments import cli
from experiments.__main__ import names
from experiments.launch import CONTROL, card
from metarl.evaluation.compare import results_of
from metarl.pretrained import load_params, reading, save_params
from metarl.rules import RULE_FILE, load_rule
from metarl.saved_agents import AGENT_FILE, load_agent

LICENCE = "Apache-2.0"
GENERATED = "procedurally generated levels of simulated environments, no data set"
DIGITS = (
    "scikit-learn's handwritten digits (UCI, Optical Recognition of Handwritten Digits, Alpaydin and Kaynak 1998), "
    "CC BY 4.0"
)
DATA = {"supervised/digits": DIGITS, "supervised/logistic": DIGITS}  # of training, where it is not `GENERATED`


@dataclasses.dataclass(frozen=True)
class Options:
    """What is shipped."""

    run: tyro.conf.Positional[str]
    """Directory of the finished run."""
    name: str
    """What the rule or agent is called."""
    note: str = ""
    """A sentence for the card."""
    directory: str = str(Path(metarl.pretrained.__file__).parent)
    """Where it goes; agents into its folder `agents`."""

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/\\. "):
            raise ValueError(f"name must be a plain name, got {self.name!r}")


def ship(options: Options) -> Path:
    """Writes the rule or the agent and its card, and returns where it is.

    Raises FileNotFoundError for a run that is not finished, ValueError for one whose experiment makes neither.
    """
    run = Path(options.run)
    is_agent = (run / AGENT_FILE).is_file()
    what, folder = ("agent", "agents") if is_agent else ("recipe", "")
    of = load_agent(run).card if is_agent else load_rule(run).card
    params, _ = load_params(run / (AGENT_FILE if is_agent else RULE_FILE))
    results = results_of(options.run)
    if results["experiment"] not in names():
        raise ValueError(
            f"{run / 'results.json'} is of {results['experiment']!r}, which is none of {', '.join(names())}"
        )
    with reading(f"{run / 'metrics.csv'} (resuming the finished run makes it anew)"):
        curve = np.atleast_1d(np.genfromtxt(run / "metrics.csv", delimiter=",", names=True))
    about = card(results, {name: curve[name] for name in curve.dtype.names or ()})
    about["config"] = {name: x for name, x in about["config"].items() if name not in CONTROL - {"steps", "seed"}}
    about |= {"note": options.note, "licence": LICENCE, "training_data": training_data(about["config"])}
    path = Path(options.directory) / folder / f"{options.name}.safetensors"
    save_params(path, params, {**about, what: of[what]})
    path.with_suffix(".md").write_text(card_text(options.name, load_params(path)[1]))
    return path


def training_data(config: Mapping[str, Any]) -> str:
    """What a run with these options has learned from, with its licence."""
    places = (config.get("levels", ""), *config.get("more_levels", ()))
    return "; ".join(dict.fromkeys(DATA.get(place, GENERATED) for place in places))


def card_text(name: str, card: Mapping[str, Any]) -> str:
    """The card of a rule or an agent, in Markdown."""
    said = " ".join(_argument(key.replace("_", "-"), x) for key, x in card["config"].items() if x not in ("", []))
    rows = [f"| {who} | {x['mean']:.3f} [{x['low']:.3f}, {x['high']:.3f}] |" for who, x in card["evaluation"].items()]
    table = ["| | on held-out levels |", "|---|---|", *rows] if rows else ["None was made in this run."]
    return "\n".join(
        [
            f"# {name}",
            "",
            card["note"],
            "",
            f"- Licence: {card['licence']}",
            f"- Training data: {card['training_data']}",
            f"- Recipe: `{json.dumps(card.get('recipe') or card['agent'])}`",
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
    options = cli.options(Options, __doc__, argv)
    with cli.clean_exit():
        print(ship(options))


if __name__ == "__main__":
    main()

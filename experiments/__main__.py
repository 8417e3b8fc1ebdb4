"""Lists all experiments: `python -m experiments`, then `python -m experiments.NAME --help`."""

from __future__ import annotations

import ast
from pathlib import Path

# What is no experiment of its own but shared by several.
SHARED = (
    "__init__",
    "__main__",
    "amft_arms",
    "amft_report",
    "cli",
    "launch",
    "meta_training",
    "parts",
    "plain_ppo",
    "sweeps",
    "bandit_studies",
    "credit_studies",
    "generalisation_studies",
    "turn_studies",
    "judge_studies",
    "study_tasks",
    "token_studies",
)


def names() -> list[str]:
    """The experiments, by the names of their modules."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED)


def summary(name: str) -> str:
    """The first line of the docstring of an experiment, which is not imported."""
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text())
    return (ast.get_docstring(tree) or "").partition("\n")[0]


if __name__ == "__main__":
    for name in names():
        print(f"{name:20} {summary(name)}")
    print("\npython -m experiments.NAME --help shows the options of one.")

"""Suites of environments that frozen rules are tested on, as data: `experiments/suites/*.toml`, or a file of one's own.

    env_steps = 100_000                           # experience of each agent, where an environment does not say
    [environments]                                # any names of envs.names()
    CartPole-v1 = {}
    "gridworld/long" = { env_steps = 500_000, eval_episodes = 4 }

The sweep that tuned the baselines of a suite lies beside it, as a CSV of the same name (`experiments.tune`).
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import envs

FOLDER = Path(__file__).parent / "suites"
ALL = "all"


@dataclasses.dataclass(frozen=True)
class Entry:
    """An environment of a suite."""

    name: str  # one of envs.names()
    env_steps: int  # that each agent learns from
    eval_episodes: int = 16  # of each measurement

    def __post_init__(self) -> None:
        for field in ("env_steps", "eval_episodes"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{field} of {self.name} must be a positive whole number, got {value!r}")


@dataclasses.dataclass(frozen=True)
class Suite:
    """Environments with their budgets."""

    path: Path
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def sweep(self) -> Path:
        """Where the sweep of its baselines lies, if there has been one."""
        return self.path.with_suffix(".csv")


def shipped() -> list[str]:
    """Names of the suites that come with metarl."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Suite:
    """The suite that is shipped as `name`, or that a TOML file says.

    Raises ValueError for neither, for a file that is no suite, and for an environment that there is not, with what is
    most alike.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        known = [*shipped(), ALL]
        alike = difflib.get_close_matches(name, known) or known
        raise ValueError(f"no suite {name!r}; did you mean {', '.join(alike)}? One of your own is the path of a .toml")
    try:
        content = tomllib.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable as TOML: {error}") from error
    environments = content.pop("environments", None)
    fields = {field.name for field in dataclasses.fields(Entry)} - {"name"}
    _check_fields(f"{path}", content, fields | {"environments"})
    if not isinstance(environments, dict) or not environments:
        raise ValueError(f"{path} needs a table [environments] with at least one of envs.names()")
    entries = []
    for environment, options in environments.items():
        try:
            _check_fields(environment, options, fields)
            if "env_steps" not in {**content, **options}:
                raise ValueError(f"{environment} needs env_steps, its own or the suite's")
            envs.make(environment)
            entries.append(Entry(environment, **{**content, **options}))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return Suite(path, tuple(entries))


def load_all(names: Sequence[str]) -> list[Suite]:
    """The suites called `names`, of which "all" stands for every shipped one.

    Raises ValueError as `load` does, and for two suites of one name.
    """
    wanted = [found for name in names for found in (shipped() if name == ALL else [name])]
    suites = [load(name) for name in dict.fromkeys(wanted)]
    stems = [suite.name for suite in suites]
    if not stems or len(set(stems)) < len(stems) or ALL in stems:
        raise ValueError(f"suites need different names, none of them {ALL!r}, and there must be one, got {stems}")
    return suites


def _check_fields(where: str, options: Any, known: set[str]) -> None:
    if not isinstance(options, dict):
        raise ValueError(f"{where} must be a table of {', '.join(sorted(known))}, got {options!r}")
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"{where} has unknown fields {unknown}; there are {', '.join(sorted(known))}")

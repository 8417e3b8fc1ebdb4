"""Suites of environments to test rules on, as data: `envs/suites/*.toml`, or a file of your own.

    env_steps = 100_000                           # experience of each agent; an environment may have its own
    [environments]                                # any names that envs.make accepts
    CartPole-v1 = {}
    "gridworld/long" = { env_steps = 500_000, eval_episodes = 4 }

A suite whose environments need an extra says so first, for example `extra = "envs"`. "all" is without it.

The sweeps that tuned baselines and learned rules on a suite are in a CSV of the same name in the same folder
(`experiments.tune`).
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from metarl.evaluation.suites import Adaptation, Entry, Suite
from metarl.evaluation.trials import Trial, Tuned, best, trials
from metarl.types import Levels

ALL = "all"
_FOLDER = Path(__file__).parent
ADAPTATION = _FOLDER / "adaptation"
_FIELDS = ("env_steps", "eval_episodes")
_ADAPTATION_FIELDS = ("steps", "test", "num_envs", "rollout_length", "maml_rate", "reward_scale", "episode_discount")
T = TypeVar("T")


def names(folder: Path = _FOLDER) -> list[str]:
    """Names of the suites that come with metarl, in one of the folders here."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def path(name: str, folder: Path = _FOLDER) -> Path:
    """The TOML file of the suite called `name`, or the path `name` itself if it ends with ".toml".

    Raises ValueError if there is no such file, with the closest known names.
    """
    found = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not found.is_file():
        known = names(folder)
        alike = difflib.get_close_matches(name, known) or known
        raise ValueError(f"no suite {name!r}; did you mean {', '.join(alike)}? Or give the path of a .toml file")
    return found


def check(suites: Sequence[str]) -> None:
    """Raises ValueError for the first of `suites` that is none of `names()`, "all", and paths that end with ".toml"."""
    for name in suites:
        if name != ALL and not name.endswith(".toml"):
            path(name)


def find(suites: Sequence[str]) -> dict[str, Path]:
    """The TOML files of `suites`: {name: path}. Each suite is one of `names()`, "all", or the path of a TOML file.

    "all" is every suite that needs no extra.
    Raises ValueError as `path` does, if there are no suites, and if two of them have the same name.
    """
    wanted = dict.fromkeys(name for each in suites for name in (_without_extra() if each == ALL else [each]))
    files = [path(name) for name in wanted]
    found = {file.stem: file for file in files}
    if not found or len(found) < len(files) or ALL in found:
        stems = [file.stem for file in files]
        raise ValueError(f"need at least one suite, with different names, none of them {ALL!r}, got {stems}")
    return found


def load(file: Path, make: Callable[[str], Levels]) -> dict[str, Entry]:
    """The suite in a TOML file; `make` makes the levels of its environments from their names.

    Raises ValueError for a file that is not a suite, and as `make` does.
    """
    suite = _entries(file, _FIELDS, lambda name, options: Entry(make(name), **options))
    return tuned(suite, trials(sweep(file), {name: entry.env_steps for name, entry in suite.items()}))


def load_adaptation(file: Path, make: Callable[[str], Levels]) -> dict[str, Adaptation]:
    """The suite of tasks to adapt to in a TOML file, by the names of the distributions that are trained on.

    The file is as that of `load`, with other fields: `test`, names of the distributions of new tasks (default: the
    one that is trained on), and the numbers of `metarl.evaluation.suites.Adaptation`.

    Raises ValueError as `load` does, and as `Adaptation` does.
    """

    def entry(name: str, options: dict[str, Any]) -> Adaptation:
        test = options.pop("test", [name])
        if not isinstance(test, list) or not test:
            raise ValueError(f"test must be a list of names, got {test!r}")
        return Adaptation(make(name), {each: make(each) for each in test}, **options)

    return _entries(file, _ADAPTATION_FIELDS, entry)


def _without_extra() -> list[str]:
    return [name for name in names() if "extra" not in tomllib.loads(path(name).read_text())]


def _entries(file: Path, fields: Sequence[str], make: Callable[[str, dict[str, Any]], T]) -> dict[str, T]:
    """What `make` makes of each environment's name and options, some of which may be the suite's; the first must be."""
    try:
        content = tomllib.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not readable as TOML: {error}") from error
    environments = content.pop("environments", None)
    content.pop("extra", None)  # `find` reads it
    _check_fields(f"{file}", content, (*fields, "environments"))
    if not isinstance(environments, dict) or not environments:
        raise ValueError(f"{file} needs a table [environments] with at least one name that envs.make accepts")
    suite = {}
    for name, options in environments.items():
        try:
            _check_fields("it", options, fields)
            both = {**content, **options}
            if fields[0] not in both:
                raise ValueError(f"it needs {fields[0]}, its own or the suite's")
            suite[name] = make(name, both)
        except ValueError as error:
            raise ValueError(f"{file}, {name}: {error}") from error
    return suite


def sweep(file: Path) -> Path:
    """The path of the table of sweeps on the suite in `file`; it may not exist."""
    return file.with_suffix(".csv")


def tuned(suite: Suite, found: Iterable[Trial]) -> dict[str, Entry]:
    """`suite` with the best settings that sweeps with its budgets have `found`."""
    settings = best(found)

    def of(name: str) -> dict[str, Tuned]:
        return {key: x for (environment, key), x in settings.items() if environment == name}

    return {name: dataclasses.replace(entry, tuned=of(name)) for name, entry in suite.items()}


def _check_fields(what: str, options: Any, known: Sequence[str]) -> None:
    if not isinstance(options, dict):
        raise ValueError(f"{what} must be a table of {', '.join(known)}, got {options!r}")
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(f"{what} has unknown fields {unknown}; there are {', '.join(known)}")

"""Rules of finished runs side by side, over the lifetimes of the agents that they train on held-out levels.

python -m experiments.horizons runs/ta_lpg-0 runs/ta_lpg-1 runs/blind-0 runs/blind-1 --directory runs/horizons

Runs that differ only in their seed share a name, and their intervals are those over meta-training seeds.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tyro

import envs
import experiments
from experiments import cli
from experiments.report import Judge, Rule, a2c_agent, check_held_out, horizon_report
from metarl import plot
from metarl.meta import InnerLoop
from metarl.pretrained import load_params, tuples
from metarl.evaluation.statistics import Interval
from metarl.types import Levels, MetaParams

SCORE = "normalised return on held-out levels"
SHARED = ("levels", "num_envs", "rollout_length")  # what held-out levels and the plain agent on them are made from


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Directories of finished runs."""
    held_out_levels: int = 32
    """Levels that agents are trained on, none of them seen in meta-training."""
    held_out_seeds: int = 4
    """Agents per rule and held-out level."""
    held_out_batch: int = 128
    """Agents of one seed that live side by side on each device."""
    held_out_horizons: tuple[int, ...] = (25, 100, 250, 500, 1000)
    """Lifetimes, in agent updates."""
    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""

    def __post_init__(self) -> None:
        cli.check(self, positive=("held_out_seeds",))
        check_held_out(self)
        if not self.runs:
            raise ValueError("give the directory of at least one finished run")


class Trained(NamedTuple):
    """The rule of a finished run."""

    run: str
    experiment: str
    config: Any
    params: MetaParams
    inner_loop: Callable[[Levels], InnerLoop]
    plain_agent: Callable[[Levels], tuple[str, InnerLoop]]  # what its experiment compares it with
    plain_fields: tuple[str, ...]  # the options that this depends on, besides `SHARED`


def load(run: str, levels: str = "") -> Trained:
    """What `experiments.cli.run` left in the directory `run`, for agents on its own levels or those named `levels`.

    Raises FileNotFoundError if there is no rule, ValueError if it is damaged, or of no experiment or configuration
    that is known here.
    """
    file = Path(run) / "rule.safetensors"
    params, origin = load_params(file)
    name, known = origin.get("experiment"), [found.name for found in pkgutil.iter_modules(experiments.__path__)]
    if name not in known:
        raise ValueError(f"{file} is of an unknown experiment: {name!r}")
    module = importlib.import_module(f"experiments.{name}")
    fields = {field.name for field in dataclasses.fields(module.Config)} if hasattr(module, "inner_loop") else set()
    if not fields.issuperset(SHARED):
        raise ValueError(f"{file} is of experiments.{name}, which has no update rules to compare")
    options = tuples(origin["config"])
    if unknown := options.keys() - fields:
        raise ValueError(f"{file} is of another version: experiments.{name} has no options {sorted(unknown)}")
    config = module.Config(**options)
    here = dataclasses.replace(config, levels=levels or config.levels)
    plain = getattr(module, "plain_agent", a2c_agent)
    plain_fields = getattr(module, "PLAIN_FIELDS", ())
    return Trained(run, name, config, params, partial(module.inner_loop, here), partial(plain, here), plain_fields)


def group(rules: Sequence[Trained], shared: Sequence[str] = SHARED) -> dict[str, list[Trained]]:
    """The rules by name: those of one name differ in their seed alone, and a name says how it differs from others.

    All of them must agree in the options `shared`.
    Raises ValueError if two of them are of the same training, or of agents that cannot be compared.
    """
    for other in rules[1:]:
        for field in (*shared, *(rules[0].plain_fields if other.experiment == rules[0].experiment else ())):
            here, there = getattr(rules[0].config, field), getattr(other.config, field)
            if here != there:
                raise ValueError(
                    f"{field} is {here!r} in {rules[0].run} but {there!r} in {other.run}: "
                    "they cannot share held-out levels and a plain agent"
                )
    groups: dict[str, list[Trained]] = {}
    for rule in rules:
        kinds = [_kind(other) for other in rules if other.experiment == rule.experiment]
        differ = {key: value for key, value in _kind(rule).items() if any(kind[key] != value for kind in kinds)}
        name = " ".join([rule.experiment, *(f"{key}={value}" for key, value in differ.items())])
        for other in groups.setdefault(name, []):
            if other.config.seed == rule.config.seed:
                raise ValueError(f"{other.run} and {rule.run} are the same: {name} with seed {rule.config.seed}")
        groups[name].append(rule)
    return groups


def compare(options: Any, groups: Mapping[str, Sequence[Trained]], levels: Levels) -> dict[str, dict[int, Interval]]:
    """`horizon_report` of the rules in `groups` on `levels`, which they were loaded for.

    Raises ValueError if parameters are not those of their configuration.
    """
    first = next(iter(groups.values()))[0]
    inner = {name: rules[0].inner_loop(levels) for name, rules in groups.items()}
    callables = {
        name: {rule.run: _rule(meta_params(inner[name], rule)) for rule in rules} for name, rules in groups.items()
    }
    judge = Judge(options, levels, first.plain_agent(levels))
    return horizon_report(
        judge, {name: list(judge.players(inner[name], rules).values()) for name, rules in callables.items()}
    )


def write(
    report: Mapping[str, Mapping[int, Interval]], directory: str | Path, trained: tuple[int, int] | None = None
) -> None:
    """Prints the report and leaves it in `directory`: in `horizons.json`, and drawn in `horizons.png`.

    The JSON is name -> {horizon: {mean, low, high}}. The range of lifetimes `trained` is shaded in the figure.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows = {name: {h: interval._asdict() for h, interval in row.items()} for name, row in report.items()}
    cli.write_json(directory / "horizons.json", rows)
    cli.show_intervals(report, "lifetime", SCORE)
    plot.save(plot.over_horizons(report, SCORE, trained), directory / "horizons.png")


def _kind(rule: Trained) -> dict[str, Any]:
    """What the rule's training was, and how long, but for its seed."""
    fields, control = dataclasses.asdict(rule.config), cli.CONTROL - {"steps"}
    return {name: x for name, x in fields.items() if name not in control and not name.startswith("held_out")}


def meta_params(inner: InnerLoop, rule: Trained) -> MetaParams:
    """The rule's parameters for the agents of `inner`.

    Raises ValueError if they are not those of its configuration.
    """
    born = jax.eval_shape(inner.init_meta, jax.random.key(0))
    params = {part: rule.params.get(part, ()) for part in born}  # a file leaves out what is not learned
    if jax.tree.map(lambda x: x.shape, params) != jax.tree.map(lambda x: x.shape, born):
        raise ValueError(f"the parameters in {rule.run} are not those of its configuration")
    return params


def _rule(params: MetaParams) -> Rule:
    return lambda key: params


def _trained_range(rules: Sequence[Trained]) -> tuple[int, int] | None:
    """The lifetimes that all the rules were trained on, if they were the same."""
    ranges = {x.config.lifetimes for x in rules}
    return lives if len(ranges) == 1 and isinstance(lives := ranges.pop(), tuple) else None


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        with cli.one_line_errors():
            options = tyro.cli(Options, args=argv, description=__doc__)
        cli.one_device_per_core()
        rules = [load(run) for run in options.runs]
        groups = group(rules)
        directory = cli.run_directory(options.directory, "horizons")
        directory.mkdir(parents=True, exist_ok=True)  # before hours of work, not after
        write(compare(options, groups, envs.make(rules[0].config.levels)), directory, _trained_range(rules))
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()

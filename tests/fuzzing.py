"""The options of every command, from their declared fields, and values for them that are good or bad."""

import dataclasses
import importlib
import random
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints
from unittest import mock

import jax
import jax.numpy as jnp
import tyro

from experiments import __main__ as listed
from experiments import amft, cli, launch, mrt
from metarl.checks import Bound
from metarl.meta import Meta
from metarl.run.options import flatten, replace

# What a command needs before anything else is looked at.
REQUIRED = {
    "run": "runs/x",
    "runs": "runs/x",
    "name": "mine",
    "rule": "lpg-gridworld",
    "rules": "ppo",
    "suite": "classic",
}
# Options of text whose values are names that must be known.
NAMES = {"levels", "more_levels", "env", "suite"}
# Options of text that may be anything until they are used.
FREE = {"directory", "sweep", "sweep_by", "rule", "rules", "run", "runs", "name", "note", "level_set", "start_from"}
HUGE = ("1e30", "-1e30", "inf", "-inf", "nan", str(2**70), "99999999999999999999", "-1", "0")


class _Recorded(Exception):
    pass


class Option(NamedTuple):
    name: str
    hint: Any  # its annotation
    default: Any  # `dataclasses.MISSING` if it is required
    part: type  # the class that declares it

    def words(self, *values: Any) -> list[str]:
        """The option with values, as arguments."""
        return [*([] if _is_positional(self.hint) else ["--" + self.name.replace("_", "-")]), *map(str, values)]


class Command(NamedTuple):
    name: str
    main: Any
    kind: type  # of its configuration
    presets: tuple[str, ...] = ()
    first: tuple[str, ...] = ()  # arguments before all others

    @property
    def options(self) -> list[Option]:
        return list(options_of(self.kind))

    def needed(self, given: str = "") -> list[str]:
        """The options that are required, but for that which is `given`."""
        required = [x for x in self.options if x.default is dataclasses.MISSING and x.name != given]
        return [word for x in required for word in x.words(REQUIRED[x.name])]


def commands() -> list[Command]:
    """Every command of `python -m experiments`, with the configuration that its `main` parses."""
    return [command for name in listed.names() for command in _parsed(name)]


def _parsed(name: str) -> list[Command]:
    main, found = importlib.import_module(f"experiments.{name}").main, []

    def record(kind: Any, presets: Any, *_: Any, **__: Any) -> None:
        if not isinstance(presets, dict):  # of `cli.options`: a description
            presets = {}
        found.append(Command(name, main, kind, tuple(presets)))
        raise _Recorded

    def record_all(kinds: Any, *_: Any) -> None:
        found.extend(Command(f"{name} {first}", main, kind, first=(first,)) for first, kind in kinds.items())
        raise _Recorded

    with mock.patch.multiple(cli, parse=record, options=record, subcommands=record_all):
        try:
            main([])
        except _Recorded:
            return found
    raise AssertionError(f"experiments.{name} parses no options")


def options_of(kind: type):
    """The options of a configuration and its parts."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from options_of(hint)
        else:
            yield Option(field.name, hint, field.default, kind)


def bad_values(option: Option) -> list[tuple[str, ...]]:
    """What the option must refuse, each as the words of a command line."""
    kind = bare(option.hint)
    if option.name in NAMES:
        return [(x,) for x in ("no/such", "gridworld/smal", "", "nan", "0") if x != option.default]
    if option.name in FREE:
        return []
    if not is_many(kind):
        return [(x,) for x in _bad_entries(option.hint)]
    entry = get_args(kind)[0]
    good = str(good_value(random.Random(0), entry))
    return [words for x in _bad_entries(entry) for words in ((x,), (good, x))]


def _bad_entries(hint: Any) -> list[str]:
    kind = bare(hint)
    if get_origin(kind) is Literal:
        return ["no-such", "", "0", "nan", get_args(kind)[0].upper()]
    if kind is bool:
        return ["yes", "1", "nan"]
    bound = bound_of(hint)
    if kind is int:
        texts = [str(int(bound.low) - 1), str(int(bound.high) + 1), "2.5", "1e3"]
    else:
        texts = [str(bound.low - 1e-6), str(bound.low), str(bound.high), str(bound.high * 1.001)]
    return [x for x in (*texts, *HUGE, "many", "", "1,5") if not _is_allowed(kind, x, bound)]


def good_value(draw: random.Random, hint: Any) -> Any:
    """A value of one entry within its declared bound, and small where it is a size."""
    kind = bare(hint)
    if get_origin(kind) is Literal:
        return draw.choice(get_args(kind))
    if kind is bool:
        return draw.random() < 0.5
    bound = bound_of(hint)
    if kind is int:
        return draw.randint(int(bound.low), int(bound.low) + 4)
    low, high = max(bound.low, 1e-3), min(bound.high, 1e3)
    ends = [x for x in (bound.low, bound.high) if not bound.fault(x) and x < 1e4]
    return draw.choice([*ends, low * (high / low) ** draw.random()])


def bare(hint: Any) -> Any:
    """An annotation without what it is annotated with."""
    return hint.__origin__ if get_origin(hint) is Annotated else hint


def bound_of(hint: Any) -> Bound:
    """The declared bound of a number."""
    (bound,) = (x for x in getattr(hint, "__metadata__", ()) if isinstance(x, Bound))
    return bound


def is_many(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_positional(hint: Any) -> bool:
    marker = tyro.conf.Positional[int].__metadata__[0]  # type: ignore[attr-defined]
    return marker in getattr(hint, "__metadata__", ())


def _is_allowed(kind: type, text: str, bound: Bound) -> bool:
    try:
        return not bound.fault(kind(text))
    except ValueError:
        return False


# --- configurations that are trained ----------------------------------------------------------------------------


def programs() -> dict[str, tuple[Callable[[Any], Meta], Any]]:
    """What is trained, of every experiment and preset: how it is made of a configuration, and that of the preset.

    Without the mixtures, which train agents before they are made.
    """
    found = {}
    for name in listed.names():
        module = importlib.import_module(f"experiments.{name}")
        if isinstance(experiment := getattr(module, "EXPERIMENT", None), launch.Experiment):
            for preset, config in module.PRESETS.items():
                if not flatten(config).get("more_levels"):
                    found[f"{name} {preset}"] = experiment.make, config
    arms = ("rl_critic", "amft_next")
    found["mrt quick"] = found["mrt quick"][0], replace(mrt.Config(), arms=("length", "mrt"))
    found["amft quick"] = _base_and_arms, replace(amft.Config(), arms=arms, base_steps=2, num_seeds=2, width=4)
    return found


def _base_and_arms(config: amft.Config) -> Meta:
    """All runs of a comparison, side by side, as if base policies were zeros."""
    keys = jax.random.split(jax.random.key(0), config.setting.num_seeds)
    shapes = jax.eval_shape(jax.vmap(amft.policy(config).init), keys)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    runs = [amft.base(config), *(amft.tuned(config, arm, start) for arm in config.setting.arms)]
    return Meta(
        lambda key: [run.init(key) for run in runs],
        lambda states, key: tuple(zip(*(run.step(x, key) for run, x in zip(runs, states, strict=True)), strict=True)),
    )


def alternatives(option: Option, value: Any) -> list[Any]:
    """Other values for an option that is `value`, some of which are valid."""
    kind = bare(option.hint)
    if option.name in NAMES:
        return [("bandit/bernoulli",)] if is_many(kind) else ["mdp/random", "bandit/bernoulli"]
    if option.name in FREE:
        return []
    if is_many(kind):
        return [(x,) for x in alternatives(option._replace(hint=get_args(kind)[0]), None) if (x,) != value]
    if get_origin(kind) is Literal:
        return [x for x in get_args(kind) if x != value]
    if kind is bool:
        return [not value]
    if kind is int:
        return [x for x in (2 * (value or 4), 1, 2, 3, 5) if x != value and not bound_of(option.hint).fault(x)]
    return [x for x in (0.5 * (value or 1.0), 0.25, 0.75) if x != value and not bound_of(option.hint).fault(x)]


def draw_valid(config: Any, seed: int, changes: int = 8) -> Any:
    """`config` with small sizes, and with other values of some options: those that are accepted one after the other."""
    draw = random.Random(seed)
    options = list(options_of(type(config)))
    for option in draw.sample(options, len(options))[:changes]:
        values = alternatives(option, flatten(config)[option.name])
        if bare(option.hint) in (int, float):
            values = [good_value(draw, option.hint)]
        # which options are of no arm is said on the command line alone, so the arms stay
        if values and option.name not in {*launch.CONTROL, "arms"}:
            try:
                config = replace(config, **{option.name: draw.choice(values)})
            except ValueError:
                continue
    return config

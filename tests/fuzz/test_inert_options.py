"""Every option that is accepted changes the program that trains, or is about how a run is carried out or reported."""

import hashlib
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzing import alternatives, bare, draw_valid, options_of, programs
from jax.extend.core import ClosedJaxpr
from jax.interpreters import partial_eval

from experiments import amft, launch
from metarl.meta import Meta
from metarl.run.options import flatten, replace, with_values

# What the report says, and nothing of the training; `tuning_` is of the agents that reports compare with.
REPORTED = re.compile(r"held_out_|tuning_|directory")
ADDRESS = re.compile(r"0x[0-9a-f]+")  # of functions, which differ from one trace to the next
PROGRAMS = programs()
QUICK = [name for name in PROGRAMS if name.endswith("quick")]
SLOW = (
    "amft",
    "disco",
    "disco_es",
    "groove",
    "learned_optimizer",
    "lpo",
    "mrt",
    "nap",
    "rl2",
)  # to trace: seconds for each program


def program(make, config) -> str | None:
    """What the run computes, with its constants; None if the configuration is refused when the run is made."""
    try:
        meta = make(config)
        traced = jax.make_jaxpr(lambda key: meta.step(meta.init(key), key))(jax.random.key(0))
    except ValueError:
        return None
    found = hashlib.sha256(ADDRESS.sub("", str(traced.jaxpr)).encode())
    for constant in constants(traced):
        found.update(np.asarray(constant).tobytes())
    return found.hexdigest()


def constants(closed: ClosedJaxpr):
    """Arrays of a program and of the functions within it."""
    yield from closed.consts
    for equation in closed.jaxpr.eqns:
        for x in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr)):
            if isinstance(x, ClosedJaxpr):
                yield from constants(x)


def is_exempt(name: str, config) -> bool:
    fitness_in_report_only = name == "eval_episodes" and "num_seeds" in flatten(config)  # of plain agents
    of_no_arm = isinstance(config, amft.Config) and name in amft.of_no_arm(config.setting.arms)
    return name in launch.CONTROL or bool(REPORTED.match(name)) or fitness_in_report_only or of_no_arm


def felt(make, config, names: list[str]) -> set[str]:
    """Those of the names of floats that may be arrays in the program, and that its results depend on.

    One that is only carried along, or multiplied by 0, counts, too.
    """

    def run(values, key):
        meta = make(with_values(config, values))
        return meta.step(meta.init(key), key)

    values = {name: jnp.float32(flatten(config)[name]) for name in names}
    try:
        jaxpr = jax.make_jaxpr(run)(values, jax.random.key(0)).jaxpr
    except (TypeError, ValueError):  # Python code needs the number of one of them
        half = len(names) // 2
        return felt(make, config, names[:half]) | felt(make, config, names[half:]) if half else set()
    used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]
    return {name for name, is_used in zip(sorted(names), used[: len(names)], strict=True) if is_used}


def inert(make, config, options) -> list[str]:
    """The options with values that are accepted, none of which makes a difference."""
    felt_ones = felt(make, config, [x.name for x in options if bare(x.hint) is float])
    options = [x for x in options if x.name not in felt_ones]
    before = program(make, config)
    assert before is not None
    assert program(make, config) == before

    def is_inert(option) -> bool:
        accepted = False
        for value in alternatives(option, flatten(config)[option.name]):
            try:
                after = program(make, replace(config, **{option.name: value}))
            except ValueError:
                continue
            accepted |= after is not None
            if after not in (None, before):
                return False
        return accepted

    return [option.name for option in options if is_inert(option)]


def tried(config) -> list:
    return [x for x in options_of(type(config)) if not is_exempt(x.name, config)]


def is_accepted(config, option) -> bool:
    """Whether the options may have another value of this one."""
    for value in alternatives(option, flatten(config)[option.name]):
        try:
            replace(config, **{option.name: value})
        except ValueError:
            continue
        return True
    return False


def _is_slow(name: str) -> bool:
    return name.split()[0] in SLOW


def shares() -> dict[str, list]:
    """The options that each preset tries, of those that differ in kind; the others differ in size.

    Options of a part that several have are tried by the first of them that accepts other values. The others try one of
    each part: that they heed the part at all. Those that are slow to trace try some of theirs that are no floats.
    """
    found, seen = {}, set()
    for name in sorted([*QUICK, "learned_optimizer gridworld"], key=_is_slow):
        config = PROGRAMS[name][1]
        options = [x for x in tried(config) if is_accepted(config, x)]
        random.Random(name).shuffle(options)
        one_of_each = {x.part: x for x in options}.values()
        found[name] = [x for x in options if (x.part, x.name) not in seen or x in one_of_each]
        if _is_slow(name):
            one_by_one = [x for x in found[name] if bare(x.hint) is not float]
            found[name] = [x for x in found[name] if x not in one_by_one[4:]]
        seen |= {(x.part, x.name) for x in options}
    return found


SHARES = shares()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARES)
def test_no_option_is_inert(name):
    make, config = PROGRAMS[name]
    assert inert(make, config, SHARES[name]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in QUICK if not _is_slow(name)])
def test_no_option_is_inert_in_a_random_combination(name):
    make, config = PROGRAMS[name]
    valid = (draw_valid(config, i) for i in range(100))
    config = next(x for x in valid if program(make, x) is not None)
    assert inert(make, config, random.Random(name).sample(tried(config), 3)) == [], flatten(config)


@pytest.mark.parametrize("name", ["agent quick"])
def test_some_options_are_not_inert(name):
    make, config = PROGRAMS[name]
    assert inert(make, config, tried(config)[-3:]) == []


def test_an_inert_option_is_found():
    make, config = PROGRAMS["agent quick"]
    option = next(x for x in options_of(type(config)) if x.name == "entropy_coef")
    assert inert(lambda config: make(replace(config, entropy_coef=0.0)), config, [option])
    assert inert(lambda config: _toy(1.0), config, [option])
    assert not inert(lambda config: _toy(config.rule.entropy_coef), config, [option])
    # no array may be in its place
    assert not inert(lambda config: _toy(float(config.rule.entropy_coef)), config, [option])


def _toy(x) -> Meta:
    """A run whose program differs by `x` in a constant of an inner function alone."""
    table = x * jnp.arange(3.0) if isinstance(x, jax.Array) else np.float32(x) * np.arange(3.0, dtype=np.float32)
    inner = jax.jit(lambda y: y + table)
    return Meta(lambda key: jnp.zeros(3), lambda state, key: (inner(state), {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_what_the_parser_accepts_can_be_traced(name):
    """A configuration within the declared bounds: a ValueError is one line, and nothing else is raised."""
    make, config = PROGRAMS[name]
    valid = draw_valid(config, 0)
    try:
        meta = make(valid)
        jax.eval_shape(lambda key: meta.step(meta.init(key), key), jax.random.key(0))
    except ValueError as error:
        assert len(str(error).splitlines()) == 1

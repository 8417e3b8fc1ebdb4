"""Configurations of parts: one flat set of options."""

import dataclasses

import jax
import pytest

import metarl
from metarl.run.options import flatten, hints, replace, with_values


@dataclasses.dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 0.1
    clip: float | None = None

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


@dataclasses.dataclass(frozen=True)
class Agent:
    optimizer: Optimizer = Optimizer()
    size: int = 8


@dataclasses.dataclass(frozen=True)
class Config:
    agent: Agent = Agent()
    steps: int = 3


def test_options_of_parts_of_parts_are_one_flat_mapping():
    assert flatten(Config()) == {"learning_rate": 0.1, "clip": None, "size": 8, "steps": 3}
    assert hints(Config()) == {"learning_rate": float, "clip": float | None, "size": int, "steps": int}


def test_values_go_to_the_parts_that_they_belong_to():
    changed = replace(Config(), learning_rate=0.5, steps=7)
    assert changed == Config(Agent(Optimizer(0.5)), 7)
    assert metarl.replace(changed, size=2, clip=1.0) == Config(Agent(Optimizer(0.5, 1.0), 2), 7)
    assert Config() == Config(Agent(Optimizer(0.1), 8), 3)  # unchanged
    assert replace(Config()) == Config()


def test_every_part_checks_its_values():
    with pytest.raises(ValueError, match="learning_rate must be positive, got -1"):
        replace(Config(), learning_rate=-1)
    assert with_values(Config(), {"learning_rate": -1}).agent.optimizer.learning_rate == -1  # nothing is checked


def test_values_may_be_tracers():
    def rate(x):
        return with_values(Config(), {"learning_rate": x}).agent.optimizer.learning_rate * 2

    assert jax.jit(rate)(3.0) == 6.0 and Config().agent.optimizer.learning_rate == 0.1


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match=r"Config has no options \['learning_rat'\]"):
        replace(Config(), learning_rat=1.0)
    with pytest.raises(ValueError, match=r"Config has no options \['agent'\]"):  # a part is no option
        replace(Config(), agent=Agent())


def test_an_option_that_two_parts_have_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Twice:
        actor: Optimizer = Optimizer()
        critic: Optimizer = Optimizer()

    with pytest.raises(ValueError, match=r"Twice has the options \['clip', 'learning_rate'\] twice"):
        flatten(Twice())

    @dataclasses.dataclass(frozen=True)
    class Above:
        agent: Agent = Agent()
        size: int = 1

    with pytest.raises(ValueError, match=r"Above has the options \['size'\] twice"):
        flatten(Above())

"""Configurations made of parts, seen as one flat set of options."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import pytest

from metarl.run.options import flatten, hints, replace, with_values


@dataclasses.dataclass(frozen=True)
class Small:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError(f"rate must be positive, got {self.rate}")


@dataclasses.dataclass(frozen=True)
class Middle:
    small: Small = Small()
    sizes: tuple[int, ...] = (2, 3)


@dataclasses.dataclass(frozen=True)
class Whole:
    middle: Middle = Middle()
    seed: int = 0

    def __post_init__(self):
        if self.seed < 0 or (self.seed == 7 and self.middle.small.kind == "b"):
            raise ValueError(f"seed must not be {self.seed}")


def test_options_of_all_parts_are_one_flat_set():
    assert flatten(Whole()) == {"rate": 0.1, "kind": "a", "sizes": (2, 3), "seed": 0}
    assert hints(Whole()) == {"rate": float, "kind": Literal["a", "b"], "sizes": tuple[int, ...], "seed": int}


def test_two_options_of_one_name_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Twice:
        small: Small = Small()
        rate: float = 1.0

    with pytest.raises(ValueError, match=r"Twice has the options \['rate'\] twice"):
        flatten(Twice())


def test_replaced_options_are_checked_by_every_part_that_they_are_in():
    changed = replace(Whole(), rate=0.5, seed=3)
    assert changed == Whole(Middle(Small(0.5)), 3) and Whole() == Whole(Middle(), 0)
    assert replace(changed) == changed
    with pytest.raises(ValueError, match="rate must be positive, got -1"):
        replace(Whole(), rate=-1)
    with pytest.raises(ValueError, match="seed must not be 7"):
        replace(Whole(seed=7), kind="b")
    with pytest.raises(ValueError, match=r"Whole has no options \['magic', 'wand'\]"):
        replace(Whole(), wand=1, magic=2)


def test_values_that_are_put_in_may_be_traced():
    @jax.jit
    def doubled(rate):
        return 2.0 * with_values(Whole(seed=4), {"rate": rate}).middle.small.rate

    assert doubled(jnp.float32(0.25)) == 0.5
    changed = with_values(Whole(seed=4), {"rate": -1.0})  # nothing is checked
    assert changed.middle.small.rate == -1.0 and changed.seed == 4 and Whole().middle.small.rate == 0.1

"""Levels as files: they come back as they were, and only as levels of their own kind."""

import jax
import numpy as np
import pytest

import envs
import metarl
from metarl.pretrained import save_params
from metarl.saved_levels import _by_name

BANDITS = envs.make("bandit/bernoulli")
NAMES = ("gridworld/small", "bandit/bernoulli")


def drawn(name, count=3):
    return jax.vmap(envs.make(name).sample)(jax.random.split(jax.random.key(0), count))


@pytest.mark.parametrize("name", NAMES)
def test_levels_come_back_as_they_were(name, tmp_path):
    levels = drawn(name)
    metarl.save_levels(tmp_path / "x.safetensors", levels, {"note": "mine"})
    found = metarl.load_levels(tmp_path / "x.safetensors", envs.make(name))
    assert jax.tree.structure(found) == jax.tree.structure(levels)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(levels), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_levels_of_another_kind_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    metarl.save_levels(path, drawn("bandit/bernoulli"))
    with pytest.raises(ValueError, match="x.safetensors has levels of another kind: they differ in .*problem.means"):
        metarl.load_levels(path, envs.make("mdp/random"))
    metarl.save_levels(path, drawn("gridworld/small"))  # another size of the same arrays
    with pytest.raises(ValueError, match="differ in .*problem.free"):
        metarl.load_levels(path, envs.make("gridworld/large"))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: metarl.save_levels(path, BANDITS.sample(jax.random.key(0))), r"leaves \[n, ...\], n >= 1, got"),
        (
            lambda path: metarl.save_levels(path, jax.tree.map(lambda leaf: leaf[:0], drawn("bandit/bernoulli"))),
            r"leaves \[n, ...\], n >= 1, got",
        ),
        (
            lambda path: metarl.save_levels(path, drawn("bandit/bernoulli")._replace(horizon=np.ones(2, np.int32))),
            r"leaves \[n, ...\], n >= 1, got",
        ),
        (lambda path: metarl.save_levels(path, drawn("bandit/bernoulli").problem), "levels must be a Level"),
        (lambda path: save_params(path, {"horizon": np.ones(2)}, {}), "has no levels that save_levels wrote"),
        (lambda path: save_params(path, {}, {"kind": "levels"}), "they differ in horizon"),
        (
            lambda path: save_params(
                path, {name: x[:0] for name, x in _by_name(drawn("bandit/bernoulli")).items()}, {"kind": "levels"}
            ),
            "has no level",
        ),
    ],
)
def test_what_is_no_file_of_levels_is_refused(write, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        write(tmp_path / "x.safetensors")
        metarl.load_levels(tmp_path / "x.safetensors", BANDITS)


def test_there_must_be_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no parameters at"):
        metarl.load_levels(tmp_path / "x.safetensors", BANDITS)

"""The published file of DiscoRL: read, used, saved as a rule of ours, and refused where it is another file."""

import golden_disco as golden
import jax
import numpy as np
import pytest
from golden_disco import needed

import envs
import metarl
from metarl.pretrained.disco import LAYERS, load_disco


@needed
def test_the_published_file_is_a_rule(tmp_path):
    """It has all 754,778 numbers, makes agents, and is the same from a file of ours."""
    rule = metarl.load_rule(golden.WEIGHTS)
    assert sum(x.size for x in jax.tree.leaves(rule.params)) == 754_778
    assert rule.optimizer is None and "Copyright 2025 Google LLC" in rule.card["source"]
    levels = envs.make("mdp/random", 2)
    inner = rule.inner_loop(levels.environment)
    assert jax.tree.leaves(jax.eval_shape(inner.init, jax.random.key(0), levels.sample(jax.random.key(1))).memory)
    metarl.save_rule(tmp_path / "rule.safetensors", rule.params, rule.card["recipe"], rule.card)
    again = metarl.load_rule(tmp_path / "rule.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again.params, rule.params)
    assert again.card["source"] == rule.card["source"]


def written(path, change=lambda arrays: arrays):
    """A file with the names of the published one, and arrays of one number."""
    kernel, bias = np.ones((1, 1), "float32"), np.ones(1, "float32")
    arrays = {f"{name}/{part}": x for name in LAYERS.values() for part, x in (("w", kernel), ("b", bias))}
    np.savez(path, **change(arrays))
    return path


def without(arrays):
    del arrays["lstm/linear/w"]
    return arrays


BAD = {
    "missing": (without, "whose 42 arrays have other names: 'lstm/linear/w' is missing"),
    "more": (lambda arrays: {**arrays, "lstm/x": arrays["lstm/linear/w"]}, "'lstm/x' is not one of them"),
    "shapes": (lambda arrays: arrays, "the parameters are not those of its recipe"),
}


@pytest.mark.parametrize("fault", BAD)
def test_other_files_are_refused(fault, tmp_path):
    change, message = BAD[fault]
    with pytest.raises(ValueError, match=message):
        metarl.load_rule(written(tmp_path / "other.npz", change))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "no.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is no archive of numpy arrays"):
        metarl.load_rule(tmp_path / "no.npz")
    with pytest.raises(FileNotFoundError):
        load_disco(tmp_path / "missing.npz")

"""The published file of DiscoRL: read, used, saved as a rule of ours, and refused where it is another file."""

import re

import golden_disco as golden
import jax
import numpy as np
import pytest
from golden_disco import needed

import envs
import metarl
from metarl.objectives import disco


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


@needed
@pytest.mark.slow
def test_the_published_rule_learns_catch():
    """As the reference does within 600 to 950 updates: four agents, of which the best has learned after 900."""
    updates, levels = 900, envs.make("Catch-bsuite", 900)
    learner = metarl.load_rule(golden.WEIGHTS).trained._replace(experience=metarl.Experience(16, 17))
    inner, level = learner.inner_loop(levels.environment), levels.sample(jax.random.key(0))

    def lived(key):
        return metarl.train_agent(inner, {}, level, key, updates)[1]["episode_return"]

    returns = jax.jit(lambda keys: jax.lax.map(lived, keys))(jax.random.split(jax.random.key(1), 4))
    first, last = np.nanmean(returns[:, :50], 1), np.nanmean(returns[:, -50:], 1)
    assert (np.abs(first + 0.6) < 0.1).all()  # the random return
    assert last.max() > 0.9 and last.mean() > 0.4


def written(path, change):
    """A file with the names, shapes and dtypes of the published one, but for a change."""
    born = golden.by_name(jax.eval_shape(disco().init, jax.random.key(0)))
    arrays = {
        name: np.zeros((1, *x.shape) if "conv" in name and x.ndim == 2 else x.shape, "float32")
        for name, x in born.items()
    }
    np.savez(path, **{**arrays, **change})
    return path


BAD = {
    "more": ({"lstm/x": np.ones(1)}, "'lstm/x' is no array of it"),
    "shape": (
        {"lstm/linear/w": np.ones((3, 256), "float32")},
        "the kernel of 'lstm/linear' is float32[3, 256], ",
    ),
    "window": ({"lstm/sequential/conv1_d/w": np.ones((5, 18, 16), "float32")}, "is float32[5, 18, 16], wanted"),
    "dtype": ({"lstm/linear/b": np.ones(256, int)}, "the bias of 'lstm/linear' is int64[256], wanted float32[256]"),
}


@pytest.mark.parametrize("fault", BAD)
def test_other_files_are_refused(fault, tmp_path):
    change, message = BAD[fault]
    with pytest.raises(ValueError, match=re.escape(message)):
        metarl.load_rule(written(tmp_path / "other.npz", change))


def test_a_file_with_too_few_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", **{"lstm/linear/w": np.ones(1)})
    with pytest.raises(ValueError, match="is missing"):
        metarl.load_rule(tmp_path / "other.npz")


def test_what_is_no_archive_is_refused(tmp_path):
    whole = written(tmp_path / "whole.npz", {}).read_bytes()
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.ones(3))
    (tmp_path / "text.npz").write_bytes(b"nothing of the kind")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("array", "text", "cut"):
        with pytest.raises(ValueError, match="is no archive of numpy arrays"):
            metarl.load_rule(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="the published weights of DiscoRL do not come with metarl"):
        metarl.load_rule(tmp_path / "missing.npz")

"""Levels as files: the ones that a curriculum is to use for ever (`metarl.curricula.chosen`).

levels = envs.make("gridworld/small")
metarl.save_levels("mine.safetensors", jax.vmap(levels.sample)(jax.random.split(key, 16)), {"note": "mine"})
curriculum = metarl.curricula.chosen(levels, metarl.load_levels("mine.safetensors", levels))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from metarl import interface
from metarl.pretrained import load_params, save_params
from metarl.types import Level, Levels, PyTree


def save_levels(path: str | Path, levels: Level, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes levels with leaves [n, ...]: problems and horizons. `metadata` is any JSON-able mapping.

    Raises ValueError for what is no `Level`, and for leaves without this axis, or without any level.
    """
    leaves = jax.tree.leaves(interface.part("levels", levels, Level))
    counts = {x.shape[:1] for x in leaves}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(f"levels must have leaves [n, ...], n >= 1, got {interface.shown(levels)}")
    save_params(path, _by_name(levels), {**(metadata or {}), "kind": "levels"})


def load_levels(path: str | Path, levels: Levels) -> Level:
    """The levels that `save_levels` wrote, leaves [n, ...]; `levels` is the distribution that they are of.

    Raises FileNotFoundError if there is no file, ValueError if it is damaged or not of levels of this kind.
    """
    found, about = load_params(path)
    if about.get("kind") != "levels":
        raise ValueError(f"{path} has no levels that save_levels wrote")
    one = jax.eval_shape(levels.sample, jax.random.key(0))
    count = found["horizon"].shape[:1] if "horizon" in found else ()
    wanted = {name: ((*count, *x.shape), x.dtype) for name, x in _by_name(one).items()}
    there = {name: (x.shape, x.dtype) for name, x in found.items()}
    if differ := sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name)):
        raise ValueError(f"{path} has levels of another kind: they differ in {', '.join(differ)}")
    if not found["horizon"].size:
        raise ValueError(f"{path} has no level")
    return jax.tree.unflatten(jax.tree.structure(one), [found[name] for name in wanted])


def _by_name(levels: PyTree) -> dict[str, Any]:
    """The leaves by their places, such as `problem.reward`."""
    leaves = jax.tree_util.tree_leaves_with_path(levels)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}

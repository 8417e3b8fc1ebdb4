"""The published weights of DiscoRL: the file `disco_103.npz` of google-deepmind/disco_rl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metarl.pretrained import content_hash
from metarl.types import MetaParams

PREDICTIONS, HIDDEN, LIFETIME_HIDDEN = 600, 256, 128
# Agents as in the evaluation on Catch: the network of the paper's small experiments, and its learning rate.
RECIPE = {
    "objective": {"name": "disco"},
    "optimizer": {"name": "adam", "learning_rate": 1e-2, "max_update": 1.0},
    "network": {"name": "action_model", "sizes": (512, 512), "hidden": 128},
    "policy": {"name": "by_action_space"},
    "experience": {"num_envs": 16, "rollout_length": 20},
}
SOURCE = (
    "Disco103 weights, Copyright 2025 Google LLC, from google-deepmind/disco_rl; Oh et al., Nature 2025, "
    "doi 10.1038/s41586-025-09761-x; Apache License 2.0 / CC-BY 4.0"
)


def _embedding(root: str) -> dict[tuple[str, ...], str]:
    """{place in our weights: name of a layer in the file} of the layers that embed predictions and actions."""
    mlps = {"embed_y": "mlp", "embed_z": "mlp_1"}
    layers = {"hidden": "linear_0", "output": "linear_1"}
    return {
        **{(mlp, layer): f"{root}/{theirs}/~/{x}" for mlp, theirs in mlps.items() for layer, x in layers.items()},
        ("actions_0",): f"{root}/sequential/conv1_d",
        ("actions_1",): f"{root}/sequential/conv1_d_1",
    }


_LIFETIME = "lstm/~/meta_lstm/~unroll"
LAYERS: Mapping[tuple[str, ...], str] = {
    **_embedding("lstm"),
    ("lstm",): "lstm/lstm/linear",
    ("gate",): "lstm/linear",
    ("summary",): "lstm/linear_1",
    ("y_hat",): "lstm/linear_2",
    ("z_hat",): "lstm/linear_3",
    ("policy_actions",): "lstm/sequential_1/conv1_d",
    ("policy_hat",): "lstm/linear_4",
    **{("lifetime", *place): name for place, name in _embedding(_LIFETIME).items()},
    ("lifetime", "input"): f"{_LIFETIME}/mlp_2/~/linear_0",
    ("lifetime", "lstm"): f"{_LIFETIME}/lstm/linear",
}


def load_disco(path: str | Path) -> tuple[MetaParams, dict[str, Any]]:
    """Meta-parameters and the card of the published rule in the `.npz` file at `path`.

    Raises FileNotFoundError if there is no such file, ValueError if it has arrays of other names, or is no archive of
    arrays.
    """
    try:
        with np.load(path) as file:
            found = {name: np.asarray(file[name]) for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is no archive of numpy arrays: {error}") from error
    wanted = {f"{name}/{part}" for name in LAYERS.values() for part in "wb"}
    if odd := sorted(wanted ^ found.keys()):
        raise ValueError(
            f"{path} is not the published file of DiscoRL, whose {len(wanted)} arrays have other names: "
            f"{odd[0]!r} is {'missing' if odd[0] in wanted else 'not one of them'}"
        )
    weights: dict[str, Any] = {}
    for (*parents, last), name in LAYERS.items():
        node = weights
        for parent in parents:
            node = node.setdefault(parent, {})
        kernel = found[f"{name}/w"]
        # the convolutions over actions have a window of 1
        node[last] = {"kernel": kernel[0] if kernel.ndim == 3 else kernel, "bias": found[f"{name}/b"]}
    card = {"recipe": RECIPE, "source": SOURCE, "content_hash": content_hash(found)}
    return {"objective": weights}, card

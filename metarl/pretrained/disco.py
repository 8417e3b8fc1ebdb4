"""The published weights of DiscoRL: the file `disco_103.npz` of google-deepmind/disco_rl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from metarl.objectives.disco_network import init_weights
from metarl.pretrained import content_hash, reading
from metarl.types import MetaParams

SIZES = {"predictions": 600, "hidden": 256, "lifetime_hidden": 128}
# Agents as in the evaluation on Catch: the network of the paper's small experiments, and its learning rate.
RECIPE = {
    "objective": {"name": "disco", **SIZES, "largest_value": 300, "discount": 0.997, "retrace_lambda": 0.95},
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

    Raises FileNotFoundError if there is no such file, ValueError if it is damaged, or has arrays of other names, shapes
    or dtypes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    with reading(f"{path} is no archive of numpy arrays"), np.load(path) as file:
        found = {name: np.asarray(file[name]) for name in file.files}
    born = flatten_dict(jax.eval_shape(lambda key: init_weights(key, **SIZES), jax.random.key(0)))
    where = f"{path} is not the published file of DiscoRL"
    if odd := sorted({f"{name}/{part}" for name in LAYERS.values() for part in "wb"} ^ found.keys()):
        raise ValueError(f"{where}: {odd[0]!r} is {'no array of it' if odd[0] in found else 'missing'}")
    weights: dict[tuple[str, ...], np.ndarray] = {}
    for place, name in LAYERS.items():
        kernel, bias = found[f"{name}/w"], found[f"{name}/b"]
        # the convolutions over actions have a window of 1
        layer = {"kernel": kernel[0] if kernel.ndim == 3 and len(kernel) == 1 else kernel, "bias": bias}
        for part, x in layer.items():
            wanted = born[*place, part]
            if (x.shape, x.dtype) != (wanted.shape, wanted.dtype):
                raise ValueError(f"{where}: the {part} of {name!r} is {_kind(x)}, wanted {_kind(wanted)}")
            weights[*place, part] = x
    card = {"recipe": RECIPE, "source": SOURCE, "content_hash": content_hash(found)}
    return {"objective": unflatten_dict(weights)}, card


def _kind(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}"

"""The published weights of DiscoRL, and what the reference computed with them. Tests skip where they are absent."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from metarl.objectives.disco import DiscoState
from metarl.objectives.disco_network import LifetimeState
from metarl.objectives.disco_values import Moments, Outputs
from metarl.pretrained.disco import LAYERS

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "disco"
WEIGHTS = FOLDER / "disco_103.npz"
FILES = (WEIGHTS, FOLDER / "golden_rule.npz", FOLDER / "golden_agent.npz")
needed = pytest.mark.skipif(
    not all(path.is_file() for path in FILES), reason="the published weights and fixtures of DiscoRL are not here"
)

OUTPUTS = {"policy": "logits", "y": "y", "z": "z", "next_policy": "aux_pi", "q": "q"}  # our names, the reference's


def arrays(name):
    """The arrays of a file, as a function of their names' beginnings: {rest of the name: array}."""
    with np.load(FOLDER / name) as file:
        found = {key: jnp.asarray(file[key]) for key in file.files}

    def under(*parts):
        prefix = "/".join([*map(str, parts), ""])
        return {key.removeprefix(prefix): x for key, x in found.items() if key.startswith(prefix)}

    return under


def outputs_of(found, rows):
    """What a network says of some rows of a rollout."""
    return Outputs(**{ours: found[theirs][rows] for ours, theirs in OUTPUTS.items()})


def state(found):
    """The rule's state of a lifetime."""
    return DiscoState(
        LifetimeState(found["rnn_hidden"], found["rnn_cell"]),
        Moments(found["adv_moment1"], found["adv_moment2"], found["adv_decay_product"]),
    )


def by_name(weights):
    """Meta-parameters, or gradients in them, with the names and shapes of the published file."""
    flat, parts = flatten_dict(weights), {"w": "kernel", "b": "bias"}
    return {f"{name}/{x}": flat[*place, part] for place, name in LAYERS.items() for x, part in parts.items()}


def assert_near(found, wanted, tolerance, name="", size=None):
    """Equal up to `tolerance` times `size`, or the largest of `wanted`."""
    found, wanted = np.asarray(found, float), np.asarray(wanted, float)
    assert found.shape == wanted.shape, name
    error = np.abs(found - wanted).max(initial=0.0)
    size = float(np.abs(wanted).max(initial=0.0) if size is None else size)
    assert error <= tolerance * size, f"{name}: off by {error:.3g}, the largest is {size:.3g}"


def sampled(x):
    """The entries of a gradient that the fixtures hold."""
    flat = x.ravel()
    return flat[:: max(1, flat.size // 64)][:64]

"""Batches of answers."""

import jax.numpy as jnp
import numpy as np
from finetuning import B, T, batch

from metarl.finetune.batch import forced


def test_a_demonstration_is_forced_to_its_end():
    assert forced(batch()).sum(1).tolist() == [0, 1, 1, 0, 2, 2]
    np.testing.assert_array_equal(forced(batch(prefix_length=jnp.full(B, T))), batch().mask)

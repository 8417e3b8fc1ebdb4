"""The transformer over candidates: what each output depends on, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.rl.neural_process import neural_process
from metarl.types import Box, Discrete

ACTIONS, KNOWN, COLUMNS = 4, 3, 5
SPACE = Box(-1.0, 1.0, (KNOWN + ACTIONS, COLUMNS))
NETWORK = neural_process(width=8, layers=2, heads=2)(SPACE, {"policy": ACTIONS, "value": 1, "bars": (ACTIONS, 6)})
# the last row of what is known is not there, and the first action is not allowed
OBS = jax.random.normal(jax.random.key(0), SPACE.shape).at[:, 0].set(jnp.array([1.0, 1, 0, 0, 1, 1, 1]))
NEWBORN = jax.jit(NETWORK.init)(jax.random.key(1))
PARAMS = jax.tree.map(lambda x: x + 0.1 * np.cos(np.arange(x.size).reshape(x.shape)), NEWBORN)


@jax.jit
def outputs(obs, params=PARAMS):
    return NETWORK.apply(params, obs, jnp.bool_(True), ())[0]


def changed(row):
    """Which actions' bars and logits, and whether the value, change with a row of the observation."""
    before, after = outputs(OBS), outputs(OBS.at[row, 1:].add(1.0))
    same = jax.tree.map(lambda x, y: np.abs(x - y) < 1e-6, before, after)
    return (~same["bars"]).any(1).tolist(), (~same["policy"]).tolist(), not same["value"].all()


def test_outputs_have_their_sizes():
    found = outputs(OBS)
    assert {name: x.shape for name, x in found.items()} == {"policy": (4,), "value": (1,), "bars": (4, 6)}


def test_actions_that_are_not_allowed_are_never_chosen():
    probability = jax.nn.softmax(outputs(OBS)["policy"])
    assert probability[0] == 0.0 and (probability[1:] > 0.0).all()


def test_all_depends_on_what_is_known_and_there():
    for row in (0, 1):
        assert changed(row) == ([True] * 4, [False, True, True, True], True)
    assert changed(2) == ([False] * 4, [False] * 4, False)


def test_an_action_depends_on_no_other():
    assert changed(KNOWN + 2) == ([False, False, True, False], [False, False, True, False], False)


def test_the_order_of_what_is_known_does_not_matter():
    obs = OBS.at[2, 0].set(1.0)
    found, other = outputs(obs), outputs(obs[jnp.array([0, 2, 1, 3, 4, 5, 6])])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, other)


def test_newborn_policies_are_nearly_uniform():
    probability = jax.nn.softmax(outputs(OBS, NEWBORN)["policy"])
    assert np.ptp(probability[1:]) < 0.1


def test_bad_input():
    with pytest.raises(ValueError, match="heads must divide width = 6, got 4"):
        neural_process(width=6, heads=4)
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        neural_process(layers=0)
    for space in (Box(-1.0, 1.0, (ACTIONS, 3)), Box(-1.0, 1.0, (6,)), Discrete(3)):
        with pytest.raises(ValueError, match=r"needs observations \[rows, columns\] with a row for each of 4 actions"):
            neural_process()(space, {"policy": ACTIONS})

"""DQN: its loss by hand, its buffer, its actions, and its slow copy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metarl.rl import dqn
from metarl.rl.dqn import Transition
from metarl.rl.networks import tabular
from metarl.types import Discrete

NETWORK = tabular(Discrete(3), {"action_values": 2})
KEY = jax.random.key(0)
ONLINE = {"action_values": jnp.array([[1.0, 2.0], [3.0, 1.0], [0.0, 0.0]])}
SLOW = {"action_values": jnp.array([[0.0, 0.0], [5.0, 7.0], [9.0, 9.0]])}


def batch(*rows):
    obs, action, reward, discount, next_obs = (jnp.array(x) for x in zip(*rows, strict=True))
    return Transition(obs, action, reward, discount, next_obs)


ONE, END = (0, 1, 0.5, 0.9, 1), (1, 0, 1.0, 0.0, 2)


def test_the_loss_by_hand():
    """The network chooses the action, and the slow copy says what it is worth: 0.5 + 0.9 * 5 - 2 = 3."""
    assert dqn.loss(NETWORK, ONLINE, SLOW, batch(ONE)) == pytest.approx(0.5 * 3.0**2)
    assert dqn.loss(NETWORK, ONLINE, SLOW, batch(END)) == pytest.approx(0.5 * (1.0 - 3.0) ** 2)
    assert dqn.loss(NETWORK, ONLINE, SLOW, batch(ONE, END)) == pytest.approx((4.5 + 2.0) / 2)


def test_no_gradient_reaches_the_target():
    gradient, slow = jax.grad(dqn.loss, (1, 2))(NETWORK, ONLINE, SLOW, batch(ONE))
    np.testing.assert_allclose(gradient["action_values"], [[0, -3], [0, 0], [0, 0]], atol=1e-6)
    assert not slow["action_values"].any()


def test_an_update_descends_and_the_copy_follows():
    optimizer = optax.sgd(0.1)
    learner = dqn.Learner(ONLINE, SLOW, optimizer.init(ONLINE))
    after = dqn.update(NETWORK, optimizer, learner, batch(ONE), mixing=0.25)
    wanted = np.array([[1.0, 2.3], [3.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(after.params["action_values"], wanted, rtol=1e-6)
    slow = 0.75 * np.asarray(SLOW["action_values"]) + 0.25 * wanted
    np.testing.assert_allclose(after.target["action_values"], slow, rtol=1e-6)


def test_the_copy_is_the_network_at_first():
    learner = dqn.begin(NETWORK, optax.adam(0.1), KEY)
    jax.tree.map(np.testing.assert_array_equal, learner.params, learner.target)


def test_the_buffer_keeps_the_last():
    replay = dqn.empty((jnp.int32(0), jnp.zeros(2)), 4)
    for first in (1, 3, 5):
        new = jnp.array([first, first + 1])
        replay = dqn.add(replay, (new, jnp.stack([new, -new], -1).astype(float)))
        drawn, pairs = dqn.draw(replay, KEY, 100)
        assert set(drawn.tolist()) == set(range(max(1, first - 2), first + 2))
        np.testing.assert_array_equal(pairs, jnp.stack([drawn, -drawn], -1))
    assert replay.data[0].tolist() == [5, 6, 3, 4] and replay.added == 6 and replay.capacity == 4
    with pytest.raises(ValueError, match="must divide the capacity 4, got 3"):
        dqn.add(replay, (jnp.arange(3), jnp.zeros((3, 2))))


def test_actions_are_the_best_but_for_random_ones():
    obs = jnp.tile(jnp.array([0, 1]), 1000)
    best = np.asarray(dqn.act(NETWORK, ONLINE, obs, KEY, 0.0))
    assert (best == np.tile([1, 0], 1000)).all()
    share = (np.asarray(dqn.act(NETWORK, ONLINE, obs, KEY, 0.4)) == best).mean()
    assert share == pytest.approx(0.8, abs=0.04)  # half of the random actions are the best, too

"""From weighted gradients to steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import loop, newborn

from metarl.finetune import Weights, controllers, updates
from metarl.finetune.updates import Gradients

PARAMS = {"x": jnp.array([1.0, -2.0])}
GRADIENTS = Gradients({"x": jnp.array([1.0, 0.0])}, {"x": jnp.array([0.0, 4.0])})


def moves(update, imitation, reward):
    weights = Weights(jnp.float32(imitation), jnp.float32(reward))
    return update.update(weights, GRADIENTS, update.init(PARAMS), PARAMS)[0]["x"]


def test_a_joint_step_is_the_optimizers_on_the_weighted_sum():
    np.testing.assert_allclose(moves(updates.joint(optax.sgd(0.5)), 0.25, 0.75), [-0.125, -1.5])


def test_separate_steps_are_added():
    both = updates.separate(imitation=optax.sgd(1.0), reward=optax.sgd(0.1))
    np.testing.assert_allclose(moves(both, 0.25, 0.75), [-0.25, -0.3])


@pytest.mark.parametrize("make", [updates.joint, lambda x: updates.separate(imitation=x, reward=optax.sgd(1.0))])
def test_optimizers_see_the_parameters(make):
    decays = moves(make(optax.add_decayed_weights(1.0)), 1.0, 0.0)
    np.testing.assert_allclose(decays, [2.0, -2.0])


def test_separate_optimizers_rest_while_their_weight_is_zero():
    """ReLIFT in a step: what imitation learns of the size of its gradients is not what reward learns of its own."""
    rate = 0.01

    @jax.jit
    def after(mu):
        adam = optax.adam(rate)
        inner = loop(controllers.constant(mu), update=updates.separate(imitation=adam, reward=adam))
        start = newborn(inner)
        tuning = inner.step((), start, jax.random.key(1)).lifetime
        moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), tuning.params, start.params)
        return [state[0].count for state in tuning.opt_state], jnp.stack(jax.tree.leaves(moved)).max()

    for mu, moves in ((0.0, [0, 1]), (1.0, [1, 0]), (0.5, [1, 1])):
        counts, size = after(mu)
        assert counts == moves
        assert size == pytest.approx(rate * sum(moves), rel=0.05)  # each is as long as Adam's first step


def test_the_effect_of_a_weight_is_made_one_and_its_value_stays():
    """SGD at rate .5 moves by .5 (4, -1) per unit of imitation instead of reward."""

    def moved(x):
        weights = updates.unit_effect(lambda w: {"x": -0.5 * (w.imitation * 1.0 + w.reward * 4.0)}, Weights(x, 1 - x))
        return -0.5 * (weights.imitation * 1.0 + weights.reward * 4.0)

    value, slope = jax.value_and_grad(moved)(0.25)
    assert float(value) == pytest.approx(-0.5 * 3.25) and float(slope) == pytest.approx(1.0)

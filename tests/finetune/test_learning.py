"""Epochs and minibatches over the same answers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import FirstToken, loop, newborn, step_of

from metarl.finetune import controllers, losses


def test_epochs_are_steps_on_the_same_data():
    """Two epochs of imitation are two steps on the same demonstrations, which the key alone decides."""
    once, twice = (loop(controllers.constant(1.0), passes=(epochs, 1)) for epochs in (1, 2))
    tuning = newborn(once)
    one = step_of(once, tuning).lifetime
    two = step_of(once, one._replace(step=tuning.step)).lifetime
    found = step_of(twice, tuning)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found.lifetime.params, two.params)
    assert found.lifetime.step == 1 and found.metrics["env_steps"] == 4 * 4 * 3


def test_every_epoch_has_all_answers_once_and_groups_stay_whole():
    seen = []

    def note(x):
        jax.debug.callback(lambda *y: seen.append(jax.tree.map(np.asarray, y)), x.batch, x.advantage, x.success_rate)
        return 0.0 * x.now.log_prob

    def rows(passes):
        seen.clear()
        inner = loop(controllers.constant(0.5), reward=note, passes=passes)
        jax.block_until_ready(step_of(inner, newborn(inner)))
        jax.effects_barrier()
        found = [[(*b.old_log_prob[i], *a[i], s[i]) for i in range(len(b.reward))] for b, a, s in seen]
        return [[tuple(map(float, row)) for row in batch] for batch in found]

    ((*whole,),) = rows((1, 1))
    groups = [tuple(whole[i : i + 4]) for i in range(0, 16, 4)]
    batches = rows((3, 2))
    assert [len(x) for x in batches] == [8] * 6
    orders = []
    for epoch in range(3):
        of_epoch = [tuple(x[i : i + 4]) for x in batches[2 * epoch : 2 * epoch + 2] for i in (0, 4)]
        assert sorted(of_epoch) == sorted(groups)
        orders.append([groups.index(x) for x in of_epoch])
    assert orders[0] != orders[1] or orders[1] != orders[2]


def distance(x):
    """How far the ratio of the policy to the one that acted is from 1, of each token."""
    return jnp.abs(jnp.exp(x.now.log_prob - x.batch.old_log_prob) - 1.0)


@pytest.mark.parametrize("passes", [(1, 1), (2, 1), (1, 2)])
def test_ratios_leave_one_after_the_first_gradient_step(passes):
    inner = loop(controllers.constant(1.0), reward=distance, passes=passes)
    found = float(step_of(inner, newborn(inner)).metrics["reward_loss"])
    assert (found < 1e-5) == (passes == (1, 1)) and (found > 1e-3) == (passes != (1, 1))


@pytest.mark.parametrize(
    ("bounded", "free"),
    [
        (losses.ppo_clip(0.01), losses.ppo_clip(1e6)),
        (losses.dual_clip(bound=1.01), losses.ppo_clip()),
        (losses.nft(eps=1.0), losses.nft(eps=1e-3)),
    ],
    ids=["clip", "dual clip", "floor"],
)
def test_bounds_of_ratios_matter_from_the_second_epoch_on(bounded, free):
    def difference(x):
        return jnp.abs(bounded(x) - free(x))

    inner = loop(controllers.constant(1.0), optax.sgd(2.0), task=FirstToken(), reward=difference, passes=(4, 1))
    assert step_of(inner, newborn(inner)).metrics["reward_loss"] > 1e-3

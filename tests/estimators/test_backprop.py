"""Meta-gradients by backpropagation: every way to compute them gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from seams.parts import INNER_LOOPS, LIFETIMES, TWICE, agent, perturbed, supervised

from envs import tasks
from metarl import networks, objectives, optimizers
from metarl.estimators import backprop
from metarl.inner.mixture import mixed_levels, mixture
from metarl.objectives.actor_critic import actor_critic


def weighted():
    """A2C whose policy loss has a learned temperature."""

    def policy_loss(meta_params, log_prob, old_log_prob, advantage, progress):
        return -jnp.tanh(meta_params["temperature"] * advantage) * log_prob

    return actor_critic(policy_loss, lambda key: {"temperature": jnp.ones(())})


def two_tasks():
    parts = [supervised(tasks.quadratic(dim=2, noise=0.1), optimizers.schedule(rate, 0.5, knots=2)) for rate in (1, 2)]
    return mixture([inner for inner, _ in parts], [1.0, 2.0]), mixed_levels([levels for _, levels in parts])


LOOPS = {
    "a2c with Adam": lambda: agent(weighted(), networks.mlp((4,)), optimizers.adam(0.1)),
    "a2c with SGD, recurrent": lambda: agent(weighted(), networks.gru(3), optax.sgd(0.5)),
    "lpg": INNER_LOOPS["lpg tabular"],
    "disco": INNER_LOOPS["disco"],
    "lpo in minibatches": lambda: agent(objectives.lpo(hidden=4), networks.tabular, optimizers.adam(0.3), **TWICE),
    "supervised": INNER_LOOPS["supervised"],
    "mixture": two_tasks,
}
QUICK = ("supervised",)


def double(tree):
    return jax.tree.map(lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def estimates(name, *options):
    """The whole estimate with each of `options`, from the same lifetimes."""
    inner, levels = LOOPS[name]()

    @jax.jit
    def start(key):
        keys = jax.random.split(key, LIFETIMES)
        lifetimes = jax.vmap(lambda key: inner.init(key, levels.sample(key)))(keys)
        return double((perturbed(inner.init_meta(key)), lifetimes))

    @jax.jit
    def all_of_them(meta_params, lifetimes, key):
        state = backprop(2).init(meta_params, lifetimes)
        return [backprop(2, **one).estimate(inner, meta_params, state, lifetimes, key) for one in options]

    return all_of_them(*start(jax.random.key(1)), jax.random.key(2))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LOOPS]
)
def test_mixed_meta_gradients_are_the_same(name, x64):
    mixed = [{"mixed": True}] if name in QUICK else []
    plain, *others = estimates(name, {}, *mixed, {"mixed": True, "remat": True})
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), plain, other)
    reached = [(jnp.abs(x) > 1e-8).any() for x in jax.tree.leaves(plain[0])]
    assert sum(reached) >= 0.9 * len(reached)  # a shift of all of a policy's logits changes nothing

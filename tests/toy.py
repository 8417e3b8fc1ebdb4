"""A run for tests of the host loop that computes next to nothing, and how runs are compared."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl.meta import Meta, MetaState
from metarl.run import checkpoint


class Momentum(NamedTuple):
    trace: jax.Array
    count: jax.Array


def toy(nan_at=-1, slow_after=-1):
    """A quadratic under noisy gradients with momentum, holding every kind of leaf that a state may have."""

    def init(key):
        params = {"w": jax.random.normal(key, (3,)), "half": jnp.ones(2, jnp.bfloat16)}
        lifetimes = {"age": jnp.zeros(4, jnp.int32), "empty": jnp.zeros((4, 0)), "done": jnp.zeros(4, bool)}
        momentum = Momentum(jnp.zeros(3), jnp.int32(0))
        return MetaState(jnp.int32(0), params, momentum, estimator=key, curriculum=(), lifetimes=lifetimes)

    def step(state, key):
        noise_key, estimator = jax.random.split(jax.random.fold_in(state.estimator, jax.random.bits(key)))
        w = state.params["w"] + 0.1 * jax.random.normal(noise_key, (4, 3))
        losses = (w**2).sum(-1).at[2].add(jnp.where(state.step + 1 == nan_at, jnp.nan, 0.0))
        trace = 0.9 * state.opt_state.trace + w.mean(0)
        if slow_after >= 0:
            trips = jnp.where(state.step < slow_after, 0, 2**30)
            trace = jax.lax.fori_loop(0, trips, lambda _, x: jnp.sin(x) * 1.0001, trace)
        params = {**state.params, "w": state.params["w"] - 0.05 * trace}
        state = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=Momentum(trace, state.opt_state.count + 1),
            estimator=estimator,
            lifetimes={**state.lifetimes, "age": state.lifetimes["age"] + 1},
        )
        return state, {"meta_loss": losses.mean(), "lifetime_loss": losses, "norm": jnp.linalg.norm(trace)}

    return Meta(init, step)


def timeless(run):
    """A state and a log, without the time that they took; anything else as it is."""
    if isinstance(run, tuple) and isinstance(run[-1], dict) and "seconds" in run[-1]:
        return *run[:-1], {name: x for name, x in run[-1].items() if name != "seconds"}
    return run


def assert_same(one, other):
    """Equal bit for bit, but for the time that it took: the same tree, dtypes and values."""
    one, other = (jax.tree.map(checkpoint._raw, timeless(x)) for x in (one, other))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

"""The two ways to differentiate a gradient again: equal, right, and different in what they store."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.gradients import forward_over_reverse, reverse_over_reverse

WAYS = {"reverse over reverse": reverse_over_reverse, "forward over reverse": forward_over_reverse}
META_PARAMS = {"w": jnp.array([[0.4, -0.7], [0.2, 0.9]]), "noise": jnp.array([0.3, 0.1])}


def meta_loss(gradient_of, meta_params, start):
    """Three updates inside a scan. Their loss reads integers, keys, and what the meta-parameters made before.

    The meta-loss reads the parameters, and what each gradient returned beside itself.
    """
    seen = jnp.tanh(meta_params["w"])  # outside of the scan

    def update(carry, count):
        params, key = carry
        key, noise_key = jax.random.split(key)
        target = jnp.cos(count * meta_params["w"][0])  # inside of it

        def loss(params):
            moved = seen @ params["x"] + meta_params["noise"] * jax.random.normal(noise_key, (2,))
            metrics = {"cube": (params["x"] ** 3).sum() * seen[0, 0], "count": count, "key": noise_key}
            return (moved**4).sum() + (count + 1) * ((params["x"] - target) ** 2).sum() + params["b"] ** 2, metrics

        gradient, metrics = gradient_of(loss)(params)
        return (jax.tree.map(lambda x, g: x - 0.05 * g, params, gradient), key), jnp.sin(metrics["cube"])

    params = {"x": start, "b": start[0]}
    (params, _), cubes = jax.lax.scan(update, (params, jax.random.key(0)), jnp.arange(3))
    return (params["x"] ** 2).sum() + params["b"] + cubes.sum()


@pytest.fixture
def slopes(x64):
    """(way, wrapper of the meta-loss) -> its gradient in the meta-parameters and in the start, in float64."""

    def found(way, wrapped=lambda loss: loss):
        def loss(*arguments):
            return meta_loss(WAYS[way], *arguments)

        both = jax.tree.map(lambda x: x.astype(float), (META_PARAMS, jnp.array([1.0, -0.5])))
        return jax.jit(jax.grad(lambda both: wrapped(loss)(*both)))(both)

    return found


def many(loops):
    """-> a wrapper: the mean over scaled meta-parameters, of learners that start at the same place."""

    def wrapped(loss):
        def scaled(meta_params, start):
            one = lambda scale: loss(jax.tree.map(lambda x: scale * x, meta_params), start)  # noqa: E731
            return loops(one)(jnp.array([1.0, 0.5])).mean()

        return scaled

    return wrapped


WRAPPERS = {
    "alone": lambda loss: loss,
    "vmap": many(jax.vmap),
    "map": many(lambda one: partial(jax.lax.map, one)),
    "checkpoint": jax.checkpoint,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_both_ways_are_equal(slopes, wrapper):
    """For what is read inside and outside of a scan, also through the metrics, which depend on both."""
    one, other = (slopes(way, WRAPPERS[wrapper]) for way in WAYS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), one, other)


@pytest.mark.parametrize("way", WAYS)
def test_meta_gradients_are_finite_differences(slopes, way):
    both = jax.tree.map(lambda x: x.astype(float), (META_PARAMS, jnp.array([1.0, -0.5])))
    flat, unravel = jax.flatten_util.ravel_pytree(both)
    steps = 1e-6 * jnp.eye(flat.size)
    losses = jax.jit(jax.vmap(lambda flat: meta_loss(WAYS[way], *unravel(flat))))
    numeric = (losses(flat + steps) - losses(flat - steps)) / 2e-6
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(slopes(way))[0], numeric, rtol=1e-7, atol=1e-9)
    assert (jnp.abs(numeric) > 1e-4).all()


def test_values_are_those_of_grad():
    def loss(x):
        return (x**3).sum(), {"double": 2 * x, "name": jnp.int32(7)}

    for way in WAYS.values():
        gradient, others = jax.jit(way(loss))(jnp.array([1.0, 2.0]))
        assert gradient.tolist() == [3.0, 12.0] and others["double"].tolist() == [2.0, 4.0] and others["name"] == 7


def test_forward_over_reverse_stores_only_what_the_loss_reads():
    """A loss of many layers: not their activations."""
    layers, params, target = 20, jnp.eye(8), jnp.ones(8)

    def stored(way):
        def gradient(params, target):
            def loss(params):
                outputs, _ = jax.lax.scan(lambda x, _: (jnp.tanh(params @ x), None), target, None, layers)
                return (outputs**2).sum(), ()

            return WAYS[way](loss)(params)[0]

        _, pullback = jax.vjp(gradient, params, target)
        return sum(x.size for x in jax.tree.leaves(pullback))

    assert stored("forward over reverse") <= params.size + target.size
    assert stored("reverse over reverse") > layers * target.size + params.size


def test_a_gradient_forward_over_reverse_refuses_to_go_forward_once_more():
    gradient = forward_over_reverse(lambda x: ((x**2).sum(), ()))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(gradient, (jnp.ones(2),), (jnp.ones(2),))

"""Optimizers to unroll: the same steps as optax's, and meta-gradients that are finite and right."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl.optimizers as ours
from envs import make
from metarl.evaluation.families import family
from metarl.rules import build_part

PARAMS = {"a": jnp.array([1.0, -2.0, 3.0]), "b": {"c": jnp.ones((2, 2))}}


def gradients(key, scale=1.0):
    """Five steps' gradients of `PARAMS`; one entry is always exactly zero."""
    draws = jax.random.normal(key, (5, 7)) * scale
    return [{"a": d[:3].at[1].set(0.0), "b": {"c": d[3:].reshape(2, 2)}} for d in draws]


def follow(optimizer, gradients, params=PARAMS):
    """The updates that `optimizer` makes of a sequence of gradients."""
    state, made = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        made.append(updates)
    return made


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one, other)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (ours.adam(0.1), optax.adam(0.1)),
        (ours.adam(0.1, b1=0.5, b2=0.9, eps=1e-3), optax.adam(0.1, b1=0.5, b2=0.9, eps=1e-3)),
        (ours.adam(optax.linear_schedule(1.0, 0.1, 3)), optax.adam(optax.linear_schedule(1.0, 0.1, 3))),
        (ours.scale_by_adam(), optax.scale_by_adam()),
        (ours.clip_by_global_norm(0.5), optax.clip_by_global_norm(0.5)),
        (ours.clip_by_global_norm(2.0), optax.clip_by_global_norm(2.0)),
        (ours.clip_by_global_norm(1e6), optax.identity()),
    ],
)
def test_updates_are_those_of_optax(mine, theirs):
    sequence = gradients(jax.random.key(0))
    assert_close(follow(mine, sequence), follow(theirs, sequence))


def test_the_norm_that_is_clipped_is_that_of_the_whole_gradient():
    gradient = {"a": jnp.array([3.0, 0.0, 0.0]), "b": {"c": jnp.array([[4.0, 0.0], [0.0, 0.0]])}}
    (clipped,) = follow(ours.clip_by_global_norm(1.0), [gradient])
    assert_close(clipped, jax.tree.map(lambda x: x / 5.0, gradient))  # one factor: the direction stays


@pytest.mark.parametrize("name", ["CartPole-v1", "gridworld/small", "gridworld/rand_small", "Breakout-MinAtar"])
def test_agents_clip_their_gradients_before_adam(name):
    """After Adam, whose first step has the size of its learning rate, clipping is nothing."""
    optimizer = build_part("optimizer", family(name, make(name).env).a2c)
    large, small = gradients(jax.random.key(0), 1e3)[:2], gradients(jax.random.key(1), 1e-2)[:2]
    after_clipping = follow(optimizer, large + small)
    # the direction of large gradients counts, not their size, so ten times larger ones change nothing
    larger = follow(optimizer, [jax.tree.map(lambda x: 10.0 * x, g) for g in large] + small)
    assert_close(after_clipping, larger)


def test_each_output_has_its_own_optimizer():
    params = {"policy": {"w": jnp.ones(2)}, "y": jnp.ones(3)}
    sequence = [{"policy": {"w": jnp.array([1.0, -2.0])}, "y": jnp.array([1.0, 2.0, 3.0])}] * 2
    both = ours.per_output(policy=optax.sgd(40.0), y=ours.adam(0.1))
    expected_y = follow(ours.adam(0.1), [g["y"] for g in sequence], params["y"])
    for update, y in zip(follow(both, sequence, params), expected_y, strict=True):
        np.testing.assert_allclose(update["policy"]["w"], [-40.0, 80.0])
        np.testing.assert_allclose(update["y"], y)


def test_norms_of_outputs_are_clipped_one_by_one():
    params = {"policy": jnp.zeros(2), "y": jnp.zeros(2)}
    unit = optax.chain(ours.clip_by_global_norm(1.0), optax.sgd(1.0))
    gradient = {"policy": jnp.array([3.0, 4.0]), "y": jnp.array([0.3, 0.4])}
    (update,) = follow(ours.per_output(policy=unit, y=unit), [gradient], params)
    np.testing.assert_allclose(update["policy"], [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(update["y"], [-0.3, -0.4], rtol=1e-6)


def meta_loss(optimizer, weights, steps=3):
    """Loss after a few steps on weighted quartics, as a function of the weights. A zero weight has no gradient."""
    params, goal = jnp.array([1.0, -0.5, 2.0]), jnp.array([0.3, 0.1, 0.2])
    state = optimizer.init(params)
    for _ in range(steps):
        gradient = jax.grad(lambda p: (weights * (p - goal) ** 4).sum())(params)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return ((params - goal) ** 2).sum()


OPTIMIZERS = {
    "adam": ours.adam(0.1),
    "clipped": optax.chain(ours.clip_by_global_norm(0.5), optax.sgd(0.1)),
    "clipped adam": optax.chain(ours.clip_by_global_norm(0.5), ours.adam(0.1)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("weights", [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
def test_meta_gradients_through_zero_gradients_are_finite_and_useful(name, weights):
    gradient = jax.grad(lambda w: meta_loss(OPTIMIZERS[name], w))(jnp.array(weights))
    assert jnp.isfinite(gradient).all()
    assert gradient[0] != 0.0


def test_meta_gradients_through_sgd_equal_finite_differences(x64):
    weights = jnp.array([1.0, 0.3, 0.5])
    loss = lambda w: meta_loss(optax.sgd(0.05), w)  # noqa: E731
    eps = 1e-6
    numeric = [(loss(weights.at[i].add(eps)) - loss(weights.at[i].add(-eps))) / (2 * eps) for i in range(3)]
    np.testing.assert_allclose(jax.grad(loss)(weights), numeric, rtol=1e-6)


def test_the_derivative_of_adams_first_step_holds_the_denominator_constant():
    """Step one is -rate g / (|g| + eps): with the denominator held, its derivative is -rate / (|g| + eps)."""

    def step(g):
        optimizer = ours.adam(0.1, eps=1e-2)
        return optimizer.update(g, optimizer.init(g))[0]

    g = jnp.array([0.5, -2.0, 1e-3])
    np.testing.assert_allclose(jnp.diag(jax.jacobian(step)(g)), -0.1 / (jnp.abs(g) + 1e-2), rtol=1e-4)

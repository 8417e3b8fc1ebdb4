"""A learner that is nothing but its meta-parameters: its whole loss is `Update.objective`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from in_context import in_context, levels

import metarl
from metarl.estimators import backprop, es


@pytest.mark.parametrize(
    ("estimator", "rate"), [(backprop(1), 0.03), (es(1, sigma=0.05, shaping="none"), 0.03)], ids=["backprop", "es"]
)
def test_a_learner_in_context_learns(estimator, rate):
    """At birth it predicts 0, whose error is E[y^2] = dim; then it makes steps of gradient descent."""
    curriculum = metarl.curricula.uniform(levels(1))
    meta = metarl.compose(in_context(length=16), estimator, optax.adam(rate), curriculum, 64)
    state, log = metarl.train(meta, steps=120, chunk=40)
    assert log["error"][:5].mean() == pytest.approx(2.0, rel=0.3)
    assert log["error"][-20:].mean() < 1.2
    # to predict by gradient descent on isotropic inputs is to multiply by a number
    attention = state.params["attention"]
    assert (jnp.diag(attention) > 0.3).all()
    np.testing.assert_allclose(attention - jnp.diag(jnp.diag(attention)), 0.0, atol=0.2)


def test_its_meta_gradient_is_that_of_the_error():
    inner, key = in_context(), jax.random.key(0)
    lifetimes = jax.vmap(inner.init)(jax.random.split(key, 2), jax.vmap(levels(3).sample)(jax.random.split(key, 2)))
    meta_params, estimator = {"attention": 0.1 * jnp.eye(2)}, backprop(1)
    gradient, *_ = estimator.estimate(inner, meta_params, estimator.init(meta_params, lifetimes), lifetimes, key)

    def error(meta_params):
        keys = [jax.random.split(jax.random.split(k)[0], 1)[0] for k in jax.random.split(key, 2)]
        steps = [inner.step(meta_params, jax.tree.map(lambda x, i=i: x[i], lifetimes), keys[i]) for i in range(2)]
        return sum(step.objective for step in steps) / 2

    np.testing.assert_allclose(gradient["attention"], jax.grad(error)(meta_params)["attention"], rtol=1e-5)

"""Samples in bulk have the distributions that they should have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from metarl.strategies import sampling

N = 4000


@pytest.mark.parametrize("shape", [1.0, 2.5, 300.0])
def test_gamma(shape):
    x = jax.jit(sampling.gamma)(jax.random.key(0), jnp.full((2, N // 2), shape))
    assert x.shape == (2, N // 2)
    assert scipy.stats.kstest(np.ravel(x), scipy.stats.gamma(shape).cdf).pvalue > 0.01


def test_beta_and_dirichlet():
    """Also under vmap, where some draws are accepted before others."""
    keys = jax.random.split(jax.random.key(1), N)
    x = jax.vmap(sampling.beta, (0, None, None))(keys, jnp.array([1.0, 30.0]), jnp.array([2.0, 5.0]))
    for i, parameters in enumerate([(1, 2), (30, 5)]):
        assert scipy.stats.kstest(x[:, i], scipy.stats.beta(*parameters).cdf).pvalue > 0.01
    y = jax.vmap(sampling.dirichlet, (0, None))(keys, jnp.array([1.0, 4.0, 2.0]))
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-5)
    assert scipy.stats.kstest(y[:, 1], scipy.stats.beta(4, 3).cdf).pvalue > 0.01

"""Lifetimes of several kinds as one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratic import levels, quadratic

import metarl
from metarl.inner.mixture import mixed_levels, mixture
from metarl.meta import done, no_loss


def test_a_mixture_is_its_parts_side_by_side():
    """Two quadratics, one of which counts for half: steps, losses, fitness and gradients are those of the parts."""
    inners, places = [quadratic(), quadratic()], [levels(4, h=(1.0, 3.0)), levels(4, h=(0.5, 0.2))]
    both, level = mixture(inners, [1.0, 2.0]), mixed_levels(places).sample(jax.random.key(0))
    meta = {"rate": jnp.float32(0.1)}
    lifetime = both.init(jax.random.key(1), level)
    parts = [i.init(jax.random.key(1), p.sample(jax.random.key(0))) for i, p in zip(inners, places, strict=True)]
    for age in range(4):
        assert not done(lifetime)
        update = both.step(meta, lifetime, jax.random.key(age))
        parts = [i.step(meta, part, jax.random.key(age)).lifetime for i, part in zip(inners, parts, strict=True)]
        lifetime = update.lifetime
        assert set(update.metrics) == {"loss_0", "loss_1"}
        for a, b in zip(lifetime.parts, parts, strict=True):
            np.testing.assert_allclose(a.x, b.x, rtol=1e-6)
    assert done(lifetime)
    first, second = (i.fitness(meta, part, jax.random.key(0)) for i, part in zip(inners, parts, strict=True))
    assert both.fitness(meta, lifetime, jax.random.key(0)) == pytest.approx(float(first + second / 2) / 2)
    _, value, metrics = both.loss(meta, lifetime, jax.random.key(0))
    assert value == pytest.approx(-float(first + second / 2) / 2) and metrics == {}


def test_the_objectives_of_updates_are_scaled_too():
    """A part whose whole loss is `Update.objective` counts by its scale, as any other does."""

    def counted(meta_params, lifetime, key):
        return quadratic().step(meta_params, lifetime, key)._replace(objective=meta_params["rate"])

    one = quadratic()._replace(step=counted, loss=no_loss)
    both = mixture([one, one], [1.0, 4.0])
    lifetime = both.init(jax.random.key(0), mixed_levels([levels(4)] * 2).sample(jax.random.key(1)))
    assert both.step({"rate": jnp.float32(0.8)}, lifetime, jax.random.key(2)).objective == pytest.approx(0.5)


def test_a_mixture_is_meta_trained_like_one():
    both = mixture([quadratic(), quadratic()], [1.0, 1.0])
    place = mixed_levels([levels(4), levels(4)])
    for estimator in (metarl.estimators.backprop(4), metarl.estimators.es(4), metarl.estimators.pes(2)):
        meta = metarl.compose(both, estimator, optax.sgd(0.01), metarl.curricula.uniform(place), num_lifetimes=4)
        state, log = metarl.train(meta, seed=0, steps=20, chunk=10)
        assert state.params["rate"] > 0.15  # from 0.1, toward what is best for curvatures 1 and 3
        assert log["meta_loss"][-1] < log["meta_loss"][0]


@pytest.mark.parametrize(
    ("inners", "scales", "says"),
    [
        ([], [], "need one scale for each inner loop, got 0 for 0"),
        ([quadratic()], [1.0, 2.0], "got 2 for 1"),
        ([quadratic()], [0.0], r"scales\[0\] must be above 0, got 0.0"),
    ],
)
def test_bad_mixtures_are_named(inners, scales, says):
    with pytest.raises(ValueError, match=says):
        mixture(inners, scales)

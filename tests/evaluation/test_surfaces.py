"""What learned objectives compute, as surfaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl import plot
from metarl.evaluation import surfaces
from metarl.objectives import lpg, lpo
from metarl.objectives.lpg import LPGInputs, LPGNetwork
from metarl.types import Progress

HALFWAY = Progress(jnp.int32(5), jnp.int32(10))


def with_embedding(params, hidden_kernel, hidden_bias, kernel):
    """The meta-parameters with `phi(y) = relu(y hidden_kernel + hidden_bias) kernel`, of at most 16 hidden units."""
    embed_hidden, embed = (jax.tree.map(jnp.zeros_like, params[name]) for name in ("embed_hidden", "embed"))
    units = len(kernel)
    embed_hidden["kernel"] = embed_hidden["kernel"].at[:, :units].set(jnp.array(hidden_kernel))
    embed_hidden["bias"] = embed_hidden["bias"].at[:units].set(jnp.array(hidden_bias))
    embed["kernel"] = embed["kernel"].at[:units, 0].set(jnp.array(kernel))
    return {**params, "embed_hidden": embed_hidden, "embed": embed}


@pytest.mark.parametrize(("temporal", "discount"), [(True, None), (False, 0.9)])
def test_lpg_surface_is_the_networks_output_at_a_step_made_by_hand(temporal, discount):
    params = jax.jit(lpg(3, 4, temporal, discount).init)(jax.random.key(0))
    params = with_embedding(params, [[2.0], [1.0], [0.0]], [0.0], [1.0])  # phi = 2 y_0 + y_1, and 1 of a uniform y
    surface = surfaces.lpg_surface(params, HALFWAY, discount)
    np.testing.assert_allclose(surface.x, np.linspace(-1, 1, surfaces.POINTS), atol=1e-6)
    np.testing.assert_allclose(surface.y, np.linspace(-1, 1, surfaces.POINTS), atol=1e-6)
    assert surface.values.shape == (surfaces.POINTS, surfaces.POINTS)
    assert surface.values.std(0).min() > 1e-4 and surface.values.std(1).min() > 1e-4  # both axes matter

    @jax.jit
    def by_hand(reward, y_next):
        one, no = jnp.ones((1, 1)), jnp.zeros((1, 1), bool)
        uniform = jnp.full((1, 1, 3), 1 / 3)
        # after 5 of 10 updates: the age is a half, and log10(10) - 2 = -1
        seen = ([] if discount is None else [discount]) + ([0.5, -1.0] if temporal else [])
        y_next, context = (jnp.asarray(x)[None, None] for x in (y_next, seen))
        x = LPGInputs(reward * one, no, no, 0.5 * one, uniform, y_next, context)
        return LPGNetwork(3, 4).apply({"params": params}, x).pi_hat[0, 0]

    middle = surfaces.POINTS // 2
    assert surface.values[-1, 0] == pytest.approx(by_hand(-1.0, jnp.eye(3)[0]).item(), abs=1e-6)
    assert surface.values[0, -1] == pytest.approx(by_hand(1.0, jnp.eye(3)[2]).item(), abs=1e-6)
    assert surface.values[middle, 0] == pytest.approx(by_hand(-1.0, jnp.eye(3)[1]).item(), abs=1e-6)  # phi


def test_lpg_surface_has_the_networks_own_embedding_on_its_axis():
    params = lpg(3, 4).init(jax.random.key(1))
    y = jnp.concatenate([jnp.eye(3), jnp.full((1, 3), 1 / 3)])[None]  # [1, 4, bins]
    zero = jnp.zeros((1, 4))
    x = LPGInputs(zero, zero > 0, zero > 0, zero, y, y, jnp.zeros((1, 4, 0)))
    _, seen = LPGNetwork(3, 4).apply(
        {"params": params}, x, capture_intermediates=lambda module, _: module.name == "embed"
    )
    *bins, uniform = seen["intermediates"]["embed"]["__call__"][0].ravel()
    surface = surfaces.lpg_surface(params, HALFWAY)
    ends = [float(min(bins) - uniform), float(max(bins) - uniform)]
    np.testing.assert_allclose(surface.y[jnp.array([0, -1])], ends, atol=1e-6)


def test_lpg_surface_is_in_order_even_if_the_embedding_falls_before_it_rises():
    params = lpg(3, 4).init(jax.random.key(1))
    params = with_embedding(params, [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], [0.0, -0.5], [-1.0, 4.0])
    surface = surfaces.lpg_surface(params, HALFWAY)
    assert (jnp.diff(surface.y) >= 0).all()
    # phi is y_2's -0.5 at the lowest, halfway, and -1/3 of a uniform y
    assert (surface.y[0], surface.y[-1]) == pytest.approx((-1 / 6, 4 / 3), abs=1e-6)
    figure = surfaces.draw_lpg(params, 10)
    labels = {axis.get_xlabel() for axis in figure.axes}, {axis.get_ylabel() for axis in figure.axes}
    assert "reward" in labels[0] and any("phi" in label for label in labels[1])


@pytest.mark.parametrize("clip", [0.2, 0.1])
def test_lpo_surface_starts_as_ppos_drift(clip):
    surface = surfaces.lpo_surface(lpo(temporal=True, hidden=4).init(jax.random.key(0)), HALFWAY, "ppo", clip)
    ratio, advantage = np.meshgrid(surface.x, surface.y)
    expected = np.maximum((ratio - np.clip(ratio, 1 - clip, 1 + clip)) * advantage, 0.0)
    assert expected.max() > 1 and surface.values.shape == expected.shape
    np.testing.assert_allclose(surface.values, expected, atol=1e-6)
    assert surface.x[surfaces.POINTS // 2] == pytest.approx(1.0)
    assert (surface.x[0], surface.x[-1]) == pytest.approx((0.5, 2.0))


def panels_of(draw, *arguments):
    drawn = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "surfaces", lambda panels, *arguments: drawn.update(panels))
        draw(*arguments)
    return drawn


def test_only_rules_that_see_age_have_a_panel_for_each():
    key = jax.random.key(0)
    aware = panels_of(surfaces.draw_lpg, lpg(3, 4, temporal=True).init(key), 10)
    assert list(aware) == ["n/N = 0, N = 10", "n/N = 0.5, N = 10", "n/N = 1, N = 10"]
    assert len({float(values.sum()) for values in aware.values()}) == 3
    assert list(panels_of(surfaces.draw_lpg, lpg(3, 4).init(key), 10)) == ["at any age"]


@pytest.mark.parametrize("start", ["ppo", "scratch"])
def test_lpo_is_drawn_beside_ppo(start):
    key = jax.random.key(0)
    params = lpo(temporal=True, start=start, hidden=4).init(key)
    params["output"] = 0.3 * jax.random.normal(key, (4, 1))
    ppo, *ages = panels_of(surfaces.draw_lpo, params, 10, start, 0.2).values()
    assert len({float(values.sum()) for values in ages}) == 3
    for values in (ppo, *ages):
        assert values.min() == 0.0 and (values[:, surfaces.POINTS // 2] == 0.0).all() and values.max() > 0.0
    blind = panels_of(surfaces.draw_lpo, lpo(start=start, hidden=4).init(key), 10, start, 0.2)
    assert list(blind) == ["PPO", "at any age"]
    np.testing.assert_array_equal(blind["PPO"], ppo)
    assert len(surfaces.draw_lpo(params, 10, start, 0.2).axes) >= 4

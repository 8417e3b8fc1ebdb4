"""What happens to lifetimes outside of inner loops: freezing, costs, and one generation after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratic

import metarl
from metarl.curricula import uniform
from metarl.estimators import backprop
from metarl.meta import Update, advance, alternate, compose, done, no_loss, summary

INNER = quadratic.quadratic()
META_PARAMS = {"rate": jnp.float32(0.1)}


def costly(inner):
    """Every update says that it took 7 environment steps, and adds 2 to the meta-objective."""

    def step(meta_params, lifetime, key):
        update = inner.step(meta_params, lifetime, key)
        return update._replace(objective=jnp.float32(2.0), metrics={**update.metrics, "env_steps": jnp.float32(7.0)})

    return inner._replace(step=step)


def newborn(horizon):
    key = jax.random.key(0)
    return INNER.init(key, quadratic.levels(horizon).sample(key))


def test_a_lifetime_lives_to_its_horizon_and_then_costs_nothing():
    inner, lifetime, seen = costly(INNER), newborn(2), []
    for _ in range(4):
        lifetime, objective, metrics = advance(inner, META_PARAMS, lifetime, jax.random.key(1))
        seen.append((int(lifetime.step), float(objective), int(metrics["agent_updates"]), float(metrics["env_steps"])))
    assert seen == [(1, 2.0, 1, 7.0), (2, 2.0, 1, 7.0), (2, 0.0, 0, 0.0), (2, 0.0, 0, 0.0)]
    assert metrics["agent_updates"].dtype == jnp.int32
    np.testing.assert_allclose(lifetime.x, [0.9**2, 0.7**2], rtol=1e-6)
    assert done(lifetime) and not done(newborn(1))


def test_costs_are_summed_and_everything_else_is_averaged_over_what_is_a_number():
    metrics = {
        "agent_updates": jnp.array([1, 0, 1]),
        "env_steps": jnp.array([[8.0, 8.0]]),
        "loss": jnp.array([1.0, jnp.nan, 2.0]),
    }
    found = summary(metrics)
    assert {name: float(x) for name, x in found.items()} == {"agent_updates": 2, "env_steps": 16, "loss": 1.5}


def test_no_loss_measures_nothing():
    lifetime = newborn(3)
    assert no_loss(META_PARAMS, lifetime, jax.random.key(0)) == Update(lifetime, jnp.zeros(()), {})


def test_a_run_counts_what_its_lifetimes_cost():
    """Of horizons 1, 2, 3 after staggering, two updates in each meta-step."""
    meta = compose(costly(INNER), backprop(2), optax.sgd(0.0), uniform(quadratic.levels(3)), 3)
    _, metrics = jax.jit(meta.step)(meta.init(jax.random.key(0)), jax.random.key(1))
    assert metrics["agent_updates"] == 1 + 2 + 2 and metrics["env_steps"] == 7 * 5
    np.testing.assert_allclose(metrics["objective"], 2 * 5 / 6)


def test_lifetimes_are_staggered():
    """They end a few at a time, not all in the same meta-step."""
    meta = compose(INNER, backprop(2), optax.sgd(0.0), uniform(quadratic.levels(16)), 8)
    state = jax.jit(meta.init)(jax.random.key(0))
    assert state.lifetimes.level.horizon.tolist() == [2, 4, 6, 8, 10, 12, 14, 16]
    state, metrics = jax.jit(lambda s: jax.lax.scan(meta.step, s, jax.random.split(jax.random.key(1), 20)))(state)
    assert metrics["lifetimes_ended"].tolist()[:16] == [1] * 16  # one in every meta-step, for two generations
    assert len(set(state.lifetimes.step.tolist())) == 8
    assert (state.lifetimes.level.horizon == 16).all()


@pytest.mark.parametrize("horizon", [1, 7, 2**31 - 1])
def test_staggered_horizons_are_even_and_do_not_overflow(horizon):
    meta = compose(INNER, backprop(1), optax.sgd(0.0), uniform(quadratic.levels(horizon)), 3)
    found = jax.jit(meta.init)(jax.random.key(0)).lifetimes.level.horizon
    assert found.tolist() == [-(-horizon * i // 3) for i in (1, 2, 3)] and found.dtype == jnp.int32


def test_what_is_public_is_there():
    assert metarl.compose is compose and metarl.no_loss is no_loss


def test_a_rare_step_is_the_first_of_every_few():
    def meta(name, value):
        def step(state, key):
            return state._replace(step=state.step + 1, params=state.params + value), {name: jnp.float32(value)}

        start = compose(INNER, backprop(1), optax.sgd(0.1), uniform(quadratic.levels(3)), 1)
        return metarl.Meta(lambda key: start.init(key)._replace(params=jnp.float32(0.0)), step)

    rare, usual = meta("loss", 10.0), meta("loss", 1.0)
    both = alternate(3, rare, usual)
    state, seen = both.init(jax.random.key(0)), []
    for _ in range(7):
        state, metrics = jax.jit(both.step)(state, jax.random.key(1))
        seen.append(float(metrics["loss"]))
    assert seen == [10, 1, 1, 10, 1, 1, 10] and state.params == sum(seen) and alternate(1, rare, usual) is rare
    with pytest.raises(TypeError, match="cond"):
        jax.eval_shape(alternate(2, rare, meta("other", 1.0)).step, state, jax.random.key(0))
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        alternate(0, rare, usual)

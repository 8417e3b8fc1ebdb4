"""What every estimator does, in whole runs of it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratic
from seams.parts import (
    ESTIMATORS,
    INNER_LOOPS,
    LIFETIMES,
    assert_arrays_only,
    assert_close,
    assert_equal,
    assert_reached,
    at,
    perturbed,
    saved,
    shapes,
)

import metarl
from metarl.curricula import uniform
from metarl.meta import InnerLoop, compose, no_loss

BACKPROP = ("backprop", "mixed backprop")
FITNESS = [name for name in ESTIMATORS if name not in BACKPROP]


class Run(NamedTuple):
    """A run of an estimator whose optimizer keeps the last estimate."""

    state: Any  # the first
    key: jax.Array
    train: Callable  # (state, keys) -> state, metrics
    traces: list


@pytest.fixture(scope="module", params=ESTIMATORS)
def run(request):
    (inner, levels), estimator = INNER_LOOPS["supervised network"](), ESTIMATORS[request.param](2)
    optimizer = optax.chain(optax.trace(0.0), optax.adam(1e-3))
    meta, traces = compose(inner, estimator, optimizer, uniform(levels), LIFETIMES), []

    @jax.jit
    def step(state, key):
        traces.append(1)
        return meta.step(state, key)

    def train(state, keys):
        rows = []
        for key in keys:
            state, metrics = step(state, key)
            rows.append(metrics)
        return state, jax.tree.map(lambda *x: np.stack(x), *rows)

    @jax.jit
    def start(key):
        state = meta.init(key)
        return state._replace(params=perturbed(state.params))  # a newborn optimizer's output hides what is before it

    return Run(start(jax.random.key(0)), jax.random.key(1), train, traces)


def test_an_estimate_has_the_tree_of_the_meta_parameters_and_reaches_every_leaf(run):
    after, metrics = run.train(run.state, [run.key])
    gradient = after.opt_state[0].trace
    assert shapes(gradient) == shapes(run.state.params)
    assert np.isfinite(metrics["meta_loss"]).all()
    assert_reached(gradient)


def test_a_run_is_deterministic_resumable_finite_and_compiled_once(run):
    keys = jax.random.split(run.key, 7)  # longer than a lifetime: agents die and are born
    whole, log = run.train(run.state, keys)
    half, _ = run.train(run.state, keys[:3])
    resumed, rest = run.train(saved(half), keys[3:])
    assert_equal(whole, resumed)
    assert_equal(jax.tree.map(lambda x: x[3:], log), rest)
    assert len(run.traces) == 1
    assert shapes(whole) == shapes(run.state)
    assert_arrays_only(whole)
    assert log["lifetimes_ended"].sum() >= LIFETIMES
    for leaf in jax.tree.leaves((whole.params, whole.lifetimes.params, log["meta_loss"])):
        assert np.isfinite(leaf).all()
    assert int(whole.step) == 7


@pytest.mark.parametrize("name", ESTIMATORS)
def test_seeds_vmap(name):
    """Each makes the step that it makes beside one of its kind."""
    (inner, levels), estimator = INNER_LOOPS["quadratic"](), ESTIMATORS[name](2)
    meta, keys = (
        compose(inner, estimator, optax.sgd(0.1), uniform(levels), LIFETIMES),
        jax.random.split(jax.random.key(9), 2),
    )
    states, step = jax.jit(jax.vmap(meta.init))(keys), jax.jit(jax.vmap(meta.step))
    together, _ = step(states, keys)
    for i in range(2):
        assert_close(at(together, i), at(step(*at((states, keys), jnp.array([i, i])))[0], i))
    assert (together.params["rate"][0] != together.params["rate"][1]).any()


# --- `Update.objective` -------------------------------------------------------------------------------------

TARGET = jnp.array([1.0, -2.0, 0.5])


def regularised(scale=1e3):
    """Learners with nothing to earn or to lose, whose updates add `scale |m - TARGET|^2 / 2` to the meta-objective."""
    inner = quadratic.quadratic()

    def step(meta_params, lifetime, key):
        update = inner.step({"rate": jnp.float32(0.0)}, lifetime, key)
        return update._replace(objective=0.5 * scale * jnp.square(meta_params["m"] - TARGET).sum())

    return InnerLoop(
        init_meta=lambda key: {"m": jnp.zeros(3)},
        init=inner.init,
        step=step,
        loss=no_loss,
        fitness=lambda meta_params, lifetime, key: jnp.zeros(()),
        mixed_step=step,
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in ESTIMATORS), ("es", {"shaping": "pair_rank"}), ("es", {"shaping": "centred_ranks"})],
)
def test_every_estimator_follows_the_objective_of_updates(name, options):
    """Where it is all that there is, the estimate points along its gradient, 1e3 (m - TARGET)."""
    inner, estimator, count = regularised(), ESTIMATORS[name](4, **options), 1 if name == "ask_tell" else 256
    keys, meta_params = jax.random.split(jax.random.key(0), count), {"m": jnp.zeros(3)}
    lifetimes = jax.vmap(inner.init)(keys, jax.vmap(quadratic.levels(4).sample)(keys))

    @jax.jit
    @jax.vmap
    def estimates(key):
        state = estimator.init(meta_params, lifetimes)
        return estimator.estimate(inner, meta_params, state, lifetimes, key)[0]["m"]

    estimate, gradient = estimates(jax.random.split(jax.random.key(1), 16)).mean(0), -1e3 * TARGET
    cosine = estimate @ gradient / (jnp.linalg.norm(estimate) * jnp.linalg.norm(gradient))
    assert cosine > 0.95
    if name != "ask_tell" and not options:  # those that say how steep it is
        np.testing.assert_allclose(estimate, gradient, rtol=1e-5 if name in BACKPROP else 0.25, atol=50.0)


@pytest.mark.parametrize("name", FITNESS)
def test_a_member_is_charged_the_mean_over_the_updates_that_it_made(name):
    """Not the sum, and nothing of the updates that its horizon kept it from: meta-loss is what backprop says it is."""
    inner, (meta_params, keys) = regularised(), ({"m": jnp.zeros(3)}, jax.random.split(jax.random.key(0), 4))
    lifetimes = jax.vmap(inner.init)(keys, jax.vmap(quadratic.levels(3).sample)(keys))
    small = {"sigma": 1e-6} if name != "ask_tell" else {}
    estimator = ESTIMATORS[name](8, **small)
    if name == "ask_tell":
        inner = inner._replace(step=lambda meta_params, *args: regularised().step({"m": jnp.zeros(3)}, *args))
    estimate = jax.jit(partial(estimator.estimate, inner))
    *_, metrics = estimate(meta_params, estimator.init(meta_params, lifetimes), lifetimes, keys[0])
    np.testing.assert_allclose(metrics["meta_loss"], 0.5e3 * jnp.square(TARGET).sum(), rtol=1e-3)


# --- what a loop lacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_loop_that_lacks_what_an_estimator_needs_is_refused(name):
    inner, levels = INNER_LOOPS["quadratic"]()
    lacks = "loss" if name in BACKPROP else "fitness"
    parts = ESTIMATORS[name](2), optax.sgd(1.0), uniform(levels), 2
    with pytest.raises(ValueError, match=f"the estimator needs `{lacks}`, which this inner loop lacks: .*use "):
        compose(inner._replace(**{lacks: None}), *parts)
    compose(inner._replace(**{"loss" if lacks == "fitness" else "fitness": None}), *parts)


def test_a_loop_without_a_mixed_step_is_refused_by_mixed_backprop_alone():
    inner, levels = INNER_LOOPS["in context"]()
    mixed = metarl.estimators.backprop(2, mixed=True)
    with pytest.raises(
        ValueError, match="the estimator needs `mixed_step`, which this inner loop lacks: use backprop "
    ):
        compose(inner, mixed, optax.sgd(1.0), uniform(levels), 2)
    with pytest.raises(ValueError, match="needs `mixed_step`"):  # nor is it ignored by those who compose by hand
        mixed.estimate(
            inner, {}, (), inner.init(jax.random.key(0), levels.sample(jax.random.key(0))), jax.random.key(0)
        )
    compose(inner, metarl.estimators.backprop(2), optax.sgd(1.0), uniform(levels), 2)


def test_a_run_needs_a_lifetime():
    inner, levels = INNER_LOOPS["quadratic"]()
    with pytest.raises(ValueError, match="num_lifetimes must be at least 1, got 0"):
        compose(inner, metarl.estimators.backprop(1), optax.adam(1.0), uniform(levels), 0)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("steps", [0, -1])
def test_the_number_of_updates_is_checked(name, steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        ESTIMATORS[name](steps)

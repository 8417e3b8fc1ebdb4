"""Distilled drifts: rules whose drift is a known formula, what agents see of one, and fits by both kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
from metarl.distil import drift, symbolic
from metarl.distil.drift import ADVANTAGE, LOG_RATIO, Points
from metarl.inner.rl import Experience, train_agent
from metarl.objectives import dpo, lpo, mirror, ppo
from metarl.objectives.lpo import dpo_drift
from metarl.rl.networks import tabular
from metarl.rules import Learner

RANDOM = np.random.default_rng(0)
AT, OTHER = (
    Points(*(jnp.asarray(x, jnp.float32) for x in (0.4 * RANDOM.normal(size=500), *RANDOM.normal(size=(2, 500)))))
    for _ in range(2)
)
SEARCH = {"evaluations": 30_000, "max_length": 20}
FORMULA = "max(0, where(A >= 0, r - 0.2, 0 - r - 0.2) * A * where(A >= 0, 1, -1))"


def of_ppo(log_ratio, advantage, age):
    ratio = jnp.exp(log_ratio)
    return jax.nn.relu((ratio - jnp.clip(ratio, 0.8, 1.2)) * advantage)


@pytest.mark.parametrize("known", [of_ppo, lambda l, a, n: dpo_drift(l, a)], ids=["ppo", "dpo"])  # noqa: E741
def test_a_drift_that_is_a_known_formula_is_recovered(known):
    text = drift.joined(*(symbolic.shortest(side, 1e-3) for side in drift.fit_formula(known, AT, **SEARCH)))
    found = drift.agreement(drift.written(text), known, OTHER)
    assert found["drift"] > 0.99 and found["slope"] > 0.9, text
    constant = drift.agreement(lambda l, a, n: 0.0 * l, known, OTHER)  # noqa: E741
    assert constant["drift"] < 0.0 and constant["slope"] < 0.1


def test_a_formula_of_the_age_is_recovered():
    found = drift.fit_formula(lambda l, a, n: jax.nn.relu((jnp.exp(l) - 1.0) * a) * n**2, AT, True, **SEARCH)  # noqa: E741
    assert all("n" in symbolic.shortest(side).text and side[-1].r2 > 0.99 for side in found)


def test_a_smaller_network_fits_a_wider_one():
    """One that has the units it needs, and three times as many that do nothing; of the age, too."""
    small = lpo(temporal=True, hidden=3, start="scratch").init(jax.random.key(1))
    wide = {"hidden": jnp.tile(3.0 * small["hidden"], 4), "output": jnp.tile(0.25 * small["output"], (4, 1))}
    original = drift.learned(wide, "ppo", 0.2)
    network = drift.fit_network(original, AT, temporal=True, hidden=6, steps=1500)
    assert network["hidden"].shape == (16, 6)
    found = drift.agreement(drift.learned(network, "ppo", 0.2), original, OTHER)
    assert found["drift"] > 0.98 and found["slope"] > 0.95
    assert drift.agreement(of_ppo, original, OTHER)["drift"] < 0.9


def test_agents_of_a_formula_learn_as_those_of_the_objective_that_it_is_of():
    """PPO's clipping as a formula: the same losses."""
    data = jax.random.normal(jax.random.key(0), (2, 500)) * jnp.array([[0.4], [1.0]])
    np.testing.assert_allclose(drift.written(FORMULA)(*data, data[0]), of_ppo(*data, None), atol=1e-6)
    levels = envs.make("mdp/random", 3)
    experience = Experience(4, 8, epochs=2, minibatches=2)
    ended = []
    for objective in (ppo(), mirror(FORMULA)):
        inner = Learner(tabular, objective, optax.adam(0.1), experience).inner_loop(levels.environment)
        level = levels.sample(jax.random.key(2))
        live = jax.jit(lambda inner=inner, level=level: train_agent(inner, {}, level, jax.random.key(3), 3))
        ended.append(live()[0].params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), *ended)


def test_what_agents_see_is_counted_over_all_gradient_steps():
    levels = envs.make("mdp/random")
    learner = Learner(tabular, dpo(), optax.adam(0.1), Experience(4, 8, epochs=3, minibatches=2))
    lives = jax.vmap(levels.sample)(jax.random.split(jax.random.key(0), 2))
    seen = drift.visits(learner, {}, levels.environment, lives, jax.random.key(1), 3)
    assert seen.shape == (2, 3, 65, 64)
    np.testing.assert_allclose(seen.sum((2, 3)), 1.0, rtol=1e-5)
    # the first of six gradient steps has ratios of 1, which are in the middle cell, and the last has others
    assert 1 / 6 <= seen[0, 0, 32].sum() + 1e-6 < 1.0
    # of minibatches of 16 normalised advantages, means are 0 and variances 1, up to the width of cells
    middle = (ADVANTAGE[1:] + ADVANTAGE[:-1]) / 2
    assert seen[1, 2].sum(0) @ middle == pytest.approx(0.0, abs=0.07)
    assert seen[1, 2].sum(0) @ middle**2 == pytest.approx(1.0, abs=0.1)
    at = drift.drawn(seen[1:], 4000)
    assert sorted(set(np.round(3 * at.age).tolist())) == [0, 1, 2]
    assert ((at.log_ratio >= LOG_RATIO[0]) & (at.log_ratio <= LOG_RATIO[-1])).all()
    found = np.histogram2d(at.log_ratio, at.advantage, (LOG_RATIO, ADVANTAGE))[0] / 4000
    assert np.abs(found - seen[1:].sum((0, 1)) / 3).max() < 0.03


def test_a_formula_pulls_nothing_where_the_policy_is_the_one_that_acted():
    """Not even one with a constant, and with kinks at rho = 1."""
    text = "0.1 + max(3 * l * A, 0 - 5 * l * A) - abs(0 - 2 * l * A)"
    at = jnp.array([0.0, 0.0, 0.1]), jnp.array([1.0, -2.0, 1.0]), jnp.zeros(3)
    np.testing.assert_allclose(drift.written(text)(*at), [0.0, 0.0, 0.2], rtol=1e-6)
    np.testing.assert_allclose(drift.slope(drift.written(text))(*at), [0.0, 0.0, 1.0], rtol=1e-6)


def test_a_text_that_is_no_drift_is_refused():
    with pytest.raises(ValueError, match="numbers, r, l, A, n, .* got 'x'"):
        mirror("x * A")

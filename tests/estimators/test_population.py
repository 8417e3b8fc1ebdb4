"""Meta-gradient estimators against closed forms, each other, finite differences and hand computations.

Tests of means allow five standard errors. Where the loss is known, so is the answer for every single perturbation:
`yardstick` has the slope 1, so that its estimate under the same key says what the perturbations average to.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratic import levels, quadratic, slope

import metarl
from metarl.curricula import uniform
from metarl.estimators import backprop, es, pes
from metarl.estimators.es import better, shape
from metarl.estimators.population import Factors, fitness_metrics, gradient_metrics, live, pair_gradient, perturb
from metarl.meta import compose
from metarl.parallel import Placement
from metarl.run import checkpoint
from metarl.run.train import NonFiniteLoss

RATE, HORIZON = 0.1, 6
SHAPINGS = ("none", "centred_ranks", "pair_rank")
FROZEN = optax.set_to_zero()


def newborn(inner, distribution, n, seed=0):
    keys = jax.random.split(jax.random.key(seed), (2, n))
    return jax.vmap(inner.init)(keys[0], jax.vmap(distribution.sample)(keys[1]))


def params(rate=RATE):
    return {"rate": jnp.asarray(rate, float)}


def first(estimator, inner, lifetimes, meta_params=None, seed=1):
    """The first estimate of a run: gradient, state, lifetimes, metrics."""
    meta_params = params() if meta_params is None else meta_params

    @jax.jit
    def estimate(key):
        return estimator.estimate(inner, meta_params, estimator.init(meta_params, lifetimes), lifetimes, key)

    return estimate(jax.random.key(seed))


def following(estimator, inner, lifetimes, count, meta_params=None, seed=1):
    """`count` estimates, one after the other, with leaves [count, ...]: gradients, metrics, and the last state."""
    meta_params = params() if meta_params is None else meta_params

    def step(carry, key):
        gradient, *carry, metrics = estimator.estimate(inner, meta_params, *carry, key)
        return tuple(carry), (gradient, metrics)

    @jax.jit
    def run(lifetimes, key):
        start = (estimator.init(meta_params, lifetimes), lifetimes)
        return jax.lax.scan(step, start, jax.random.split(key, count))

    last, (gradients, metrics) = run(lifetimes, jax.random.key(seed))
    return gradients, metrics, last


def yardstick(inner):
    return inner._replace(fitness=lambda meta_params, lifetime, key: -meta_params["rate"].sum())


def broken(inner, is_broken, value=jnp.nan):
    """Fitness is `value` where `is_broken(meta_params, lifetime)`."""

    def fitness(meta_params, lifetime, key):
        return jnp.where(is_broken(meta_params, lifetime), value, inner.fitness(meta_params, lifetime, key))

    return inner._replace(fitness=fitness)


def truncated(before, updates, rate=RATE, h=(1.0, 3.0)):
    """`slope` of `updates` updates after `before` that are taken as given."""
    return -sum(c**2 * updates * (1 - rate * c) ** (2 * (before + updates) - 1) for c in h)


def loss_after(updates, rate=RATE):
    return sum(0.5 * c * (1 - rate * c) ** (2 * updates) for c in (1.0, 3.0))


def assert_mean(estimates, expected, errors=5.0):
    """Independent `estimates` [n, ...] have the mean `expected`, within so many standard errors."""
    estimates = np.asarray(estimates, np.float64)
    error = estimates.std(0, ddof=1) / len(estimates) ** 0.5
    assert (np.abs(estimates.mean(0) - expected) <= errors * error).all(), (estimates.mean(0), expected, error)


def assert_close(one, other, rtol=1e-5, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), one, other)


# --- the closed form ----------------------------------------------------------------------------------------


RATES = np.array([0.05, 0.3, 0.55])


def test_backprop_gives_the_closed_form_whole_and_truncated(x64):
    inner = quadratic()
    lifetimes = newborn(inner, levels(HORIZON), 4)
    gradient, _, _, metrics = jax.vmap(lambda rate: first(backprop(HORIZON), inner, lifetimes, params(rate)))(RATES)
    np.testing.assert_allclose(gradient["rate"], slope(RATES, HORIZON), rtol=1e-10)
    np.testing.assert_allclose(metrics["meta_loss"], loss_after(HORIZON, RATES), rtol=1e-6)
    gradients, *_ = jax.vmap(lambda rate: following(backprop(2), inner, lifetimes, 3, params(rate)))(RATES)
    np.testing.assert_allclose(gradients["rate"].T, [truncated(t, 2, RATES) for t in (0, 2, 4)], rtol=1e-10)


@pytest.mark.parametrize("steps", [3 * HORIZON, 2])
def test_es_gives_the_closed_form_whole_and_truncated(x64, steps):
    inner = quadratic()
    lifetimes = newborn(inner, levels(HORIZON), 8)
    estimator = es(steps, sigma=1e-5, shaping="none")
    gradient, *_ = jax.vmap(lambda rate: first(estimator, inner, lifetimes, params(rate)))(RATES)
    unit, *_ = first(estimator, yardstick(inner), lifetimes)
    assert unit["rate"] > 0
    np.testing.assert_allclose(gradient["rate"], slope(RATES, min(steps, HORIZON)) * unit["rate"], rtol=1e-4)


def test_es_truncated_goes_on_from_where_lifetimes_stand(x64):
    inner = quadratic()
    middle = jax.vmap(lambda x: live(inner, params(), x, jax.random.key(0), 2).lifetime)(
        newborn(inner, levels(HORIZON), 8)
    )
    estimator = es(2, sigma=1e-5, shaping="none")
    gradient, *_ = first(estimator, inner, middle)
    unit, *_ = first(estimator, yardstick(inner), middle)
    np.testing.assert_allclose(gradient["rate"], truncated(2, 2) * unit["rate"], rtol=1e-4)


@pytest.mark.parametrize(
    ("steps", "every", "measured"),
    [
        (6, 100, [6]),
        (8, 4, [4, 6]),
        (100, 2, [2, 4, 6]),
        (5, 2, [2, 4, 5]),
    ],
)
def test_es_measures_along_a_life(x64, steps, every, measured):
    """After every so many updates, after the last, and never again after the horizon."""
    inner = quadratic()
    lifetimes = newborn(inner, levels(HORIZON), 8)
    estimator = es(steps, sigma=1e-5, shaping="none", measure_every=every)
    gradient, _, after, metrics = first(estimator, inner, lifetimes)
    unit, *_ = first(estimator, yardstick(inner), lifetimes)
    expected = np.mean([slope(RATE, k) for k in measured])
    np.testing.assert_allclose(gradient["rate"], expected * unit["rate"], rtol=1e-4)
    assert after.step.tolist() == [measured[-1]] * 8
    np.testing.assert_allclose(metrics["meta_loss"], np.mean([loss_after(k) for k in measured]), rtol=1e-3)


def test_pes_is_algorithm_2_perturbation_by_perturbation(x64):
    """Each estimate from the perturbations in its state alone: both members' whole past, and the sum of noise."""
    inner, n, sigma, h = quadratic(), 5, 0.3, np.array([1.0, 3.0])
    lifetimes = newborn(inner, levels(HORIZON), n)
    estimator = pes(2, sigma=sigma)
    x, x_twin, before = np.ones((n, 2)), np.ones((n, 2)), np.zeros(n)
    state = estimator.init(params(), lifetimes)
    for t in range(3):
        gradient, state, lifetimes, metrics = jax.jit(partial(estimator.estimate, inner))(
            params(), state, lifetimes, jax.random.key(t)
        )
        total = np.asarray(state.perturbation["rate"])
        noise = (total - before) * sigma
        assert np.abs(noise).max() > 0.1
        x = x * (1 - np.outer(RATE + sigma * noise, h)) ** 2
        x_twin = x_twin * (1 - np.outer(RATE - sigma * noise, h)) ** 2
        np.testing.assert_allclose(lifetimes.x, x, rtol=1e-5)
        np.testing.assert_allclose(state.twins.x, x_twin, rtol=1e-5)
        fitness, fitness_twin = -(h * x**2).sum(1) / 2, -(h * x_twin**2).sum(1) / 2
        terms = -total * (fitness - fitness_twin) / 2
        np.testing.assert_allclose(gradient["rate"], terms.mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["meta_gradient_variance"], terms.var(ddof=1), rtol=1e-5)
        np.testing.assert_allclose(metrics["fitness"], np.mean([fitness, fitness_twin]), rtol=1e-5)
        assert state.newborn.tolist() == [t == 2] * n
        before = total


def test_pes_starts_afresh_with_a_new_lifetime(x64):
    """Where a lifetime was replaced, an estimate is that of a run that begins there."""
    inner, estimator = quadratic(), pes(2, sigma=0.3)
    short = levels(HORIZON)._replace(sample=lambda key: levels(HORIZON).sample(key)._replace(horizon=jnp.int32(2)))
    *_, (state, ended) = following(estimator, inner, newborn(inner, short, 4), 1)
    assert state.newborn.all() and (jnp.abs(state.perturbation["rate"]) > 0).all()
    lifetimes = newborn(inner, levels(HORIZON), 4)
    fresh = estimator.init(params(), lifetimes)
    again, anew = (
        jax.jit(partial(estimator.estimate, inner))(params(), s, lifetimes, jax.random.key(5))
        for s in (state, fresh._replace(previous=state.previous))
    )
    jax.tree.map(np.testing.assert_array_equal, again, anew)


# --- bias ---------------------------------------------------------------------------------------------------


def through_life(make, inner, distribution, *, repeats=256, n=64, every=2):
    """Means over all ages, [repeats]: lifetimes of one age, from birth to their horizon."""
    count = -(-HORIZON // every)

    def repeat(key):
        birth, key = jax.random.split(key)
        lifetimes = newborn(inner, distribution, n, jax.random.bits(birth))
        return following(make, inner, lifetimes, count, seed=jax.random.bits(key))[0]["rate"].mean()

    return jax.lax.map(repeat, jax.random.split(jax.random.key(7), repeats), batch_size=32)


def test_pes_is_unbiased_where_truncated_es_is_not():
    inner, distribution = quadratic(), levels(HORIZON)
    whole = np.mean([slope(RATE, k) for k in (2, 4, 6)])
    short_sighted = np.mean([truncated(t, 2) for t in (0, 2, 4)])
    sigma = 1e-3  # the closed forms are those of no smoothing
    of_pes = through_life(pes(2, sigma=sigma), inner, distribution)
    of_es = through_life(es(2, sigma=sigma, shaping="none"), inner, distribution)
    assert_mean(of_pes, whole)
    assert_mean(of_es, short_sighted)
    error = np.std(of_es) / len(of_es) ** 0.5
    assert abs(np.mean(of_es) - whole) > 20 * error
    assert np.std(of_pes) / len(of_pes) ** 0.5 < 0.05 * abs(whole)  # so that five errors say something
    assert abs(short_sighted - whole) > 0.25 * abs(whole)


def test_pes_is_smoothed_by_perturbations_drawn_anew():
    """With E[(1 - (rate + sigma e) h)^2] = a, the loss after k updates is h a^k / 2 where e is new in each, as in PES.

    By `es`, whose e is that of a whole life, it is greater, because powers are convex.
    """
    inner, sigma, h = quadratic(), 0.04, np.array([1.0, 3.0])
    a = (1 - RATE * h) ** 2 + (sigma * h) ** 2
    anew = np.mean([-(k * h**2 * (1 - RATE * h) * a ** (k - 1)).sum() for k in range(1, HORIZON + 1)])
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    held = np.mean([slope(RATE + sigma * nodes, k) @ weights / weights.sum() for k in range(1, HORIZON + 1)])
    of_pes = through_life(pes(1, sigma=sigma), inner, levels(HORIZON), repeats=1024, every=1)
    whole = es(HORIZON, sigma=sigma, shaping="none", measure_every=1)
    of_es = through_life(whole, inner, levels(HORIZON), repeats=1024, every=HORIZON)
    assert_mean(of_pes, anew)
    assert_mean(of_es, held)
    errors = [np.std(x) / len(x) ** 0.5 for x in (of_pes, of_es)]
    assert abs(anew - held) > 10 * max(errors)


def test_pes_is_unbiased_on_lifetimes_of_all_ages():
    """As `compose` staggers them, and after the first generation: every single estimate, not only a life's mean."""
    inner, n, repeats = quadratic(), 48, 512
    meta = compose(inner, pes(2, sigma=1e-3), FROZEN, uniform(levels(HORIZON)), n)

    @jax.jit
    @jax.vmap
    def run(key):
        init_key, key = jax.random.split(key)
        state, _ = jax.lax.scan(meta.step, meta.init(init_key), jax.random.split(key, 3))
        after, _ = meta.step(state, key)
        ages = state.lifetimes.step
        return after.estimator.previous["rate"], ages, after.params["rate"]

    estimates, ages, rates = run(jax.random.split(jax.random.key(3), repeats))
    assert (jnp.sort(ages[0]) == jnp.repeat(jnp.array([0, 2, 4]), n // 3)).all()
    np.testing.assert_array_equal(rates, np.full(repeats, RATE, np.float32))
    whole = np.mean([slope(RATE, k) for k in (2, 4, 6)])
    assert_mean(estimates, whole)
    assert np.std(estimates) / repeats**0.5 < 0.05 * abs(whole)


def test_es_and_pes_follow_finite_differences_of_the_full_objective():
    """With noisy updates on random levels, where no closed form is: the slope of a smooth objective."""
    inner, distribution, width = quadratic(noise=0.5), levels(HORIZON, spread=0.5), 0.02
    lifetimes = newborn(inner, distribution, 2**16, seed=3)
    keys = jax.random.split(jax.random.key(4), 2**16)

    @jax.jit
    def fitness(rate):
        return jax.vmap(lambda x, key: live(inner, params(rate), x, key, HORIZON, 2).fitness)(lifetimes, keys)

    differences = np.asarray(fitness(RATE - width) - fitness(RATE + width)) / (2 * width)
    expected, error = differences.mean(), differences.std() / 2**8
    assert error < 0.01 * abs(expected)
    for estimates in (
        through_life(pes(2, sigma=width), inner, distribution),
        through_life(es(HORIZON, sigma=width, measure_every=2, shaping="none"), inner, distribution, every=HORIZON),
    ):
        estimate, its_error = np.mean(estimates), np.std(estimates) / len(estimates) ** 0.5
        assert its_error < 0.05 * abs(expected)
        assert abs(estimate - expected) < 5 * np.hypot(error, its_error)


# --- variance -----------------------------------------------------------------------------------------------


def test_antithetic_task_sampling_reduces_variance():
    inner, distribution = quadratic(noise=0.3), levels(HORIZON, spread=1.0)
    lifetimes = newborn(inner, distribution, 4096)
    pair = [es(HORIZON, sigma=0.005, shaping="none", common_tasks=tasks) for tasks in (True, False)]
    common, independent = (first(estimator, inner, lifetimes) for estimator in pair)
    variances = [float(x[3]["meta_gradient_variance"]) for x in (common, independent)]
    assert variances[1] > 10 * variances[0] > 0
    gradients = [float(x[0]["rate"]) for x in (common, independent)]
    assert abs(gradients[0] - gradients[1]) < 5 * (sum(variances) / 4096) ** 0.5
    # what is reported is what it is: of 512 estimates, to about 10 % where the tails are heavy
    for estimator, reported in zip(pair, variances, strict=True):
        estimates = through_life(estimator, inner, distribution, repeats=512, every=HORIZON)
        assert 0.6 < 64 * np.var(estimates) / reported < 1.6


def test_without_common_tasks_lifetimes_stay_on_their_levels():
    inner = quadratic(noise=0.3)
    lifetimes = newborn(inner, levels(HORIZON, spread=1.0), 8)
    for tasks in (True, False):
        _, _, after, _ = first(es(2, common_tasks=tasks), inner, lifetimes)
        jax.tree.map(np.testing.assert_array_equal, after.level, lifetimes.level)
        assert after.step.tolist() == [2] * 8


# --- shaping ------------------------------------------------------------------------------------------------


NAN, INF = float("nan"), float("inf")
THREE_PAIRS = [[5.0, 1.0], [2.0, 2.0], [-3.0, 7.0]]


@pytest.mark.parametrize(
    ("shaping", "fitness", "expected"),
    [
        ("none", THREE_PAIRS, THREE_PAIRS),
        ("pair_rank", THREE_PAIRS, [[1, 0], [0.5, 0.5], [0, 1]]),
        # in order: -3, 1, 2, 2, 5, 7; the two 2 share the ranks 2 and 3 of 0 .. 5
        ("centred_ranks", THREE_PAIRS, [[0.3, -0.3], [0, 0], [-0.5, 0.5]]),
        ("centred_ranks", [[1.0, 1.0], [1.0, 1.0]], [[0, 0], [0, 0]]),
        ("centred_ranks", [[2.0, 1.0]], [[0.5, -0.5]]),
        ("none", [[NAN, 9.0], [1.0, 2.0]], [[NAN, NAN], [1, 2]]),
        ("pair_rank", [[INF, 9.0], [9.0, -INF], [1.0, 2.0]], [[NAN, NAN], [NAN, NAN], [0, 1]]),
        # the partners of what is not finite do not count among the ranks either
        ("centred_ranks", [[9, NAN], [3, 1], [-INF, -9], [2, 3]], [[NAN, NAN], [1/3, -1/2], [NAN, NAN], [-1/6, 1/3]]),
        *((shaping, [[NAN, NAN], [INF, INF]], [[NAN, NAN], [NAN, NAN]]) for shaping in SHAPINGS),
    ],
)  # fmt: skip
def test_shape_golden(shaping, fitness, expected):
    fitness, expected = jnp.asarray(fitness, jnp.float32), np.asarray(expected, np.float32)
    np.testing.assert_allclose(shape(fitness, shaping), expected, rtol=1e-6)


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_every_shaping_descends_in_every_coordinate(shaping):
    """Two rates, of which one is too small and one too great."""
    inner, rates = quadratic(), jnp.array([0.2, 0.5])
    lifetimes = newborn(inner, levels(HORIZON), 2**15)
    gradient, _, _, metrics = first(es(HORIZON, sigma=0.02, shaping=shaping), inner, lifetimes, params(rates))
    error = (metrics["meta_gradient_variance"] / 2**15) ** 0.5
    assert gradient["rate"][0] < -5 * error and gradient["rate"][1] > 5 * error
    if shaping == "none":  # the mean slope around each rate
        nodes, weights = np.polynomial.hermite_e.hermegauss(30)
        smoothed = [slope(r + 0.02 * nodes, HORIZON, h) @ weights / weights.sum() for r, h in ((0.2, [1]), (0.5, [3]))]
        np.testing.assert_allclose(gradient["rate"], smoothed, atol=5 * error)


@pytest.mark.parametrize("estimator", ["es pair_rank", "pes"])
def test_pairs_that_are_not_finite_do_not_count(estimator):
    """The estimate is that of the m other pairs: n / m times that with ties in their place, which weigh nothing."""
    kind, *shaping = estimator.split()
    estimator = es(HORIZON, sigma=0.02, shaping=shaping[0]) if kind == "es" else pes(2, sigma=0.02)
    inner, n = quadratic(), 64
    lifetimes = newborn(inner, levels(HORIZON), n)
    lifetimes = lifetimes._replace(level=lifetimes.level._replace(horizon=HORIZON + jnp.arange(n) % 4))

    def odd(lifetime):
        return lifetime.level.horizon == HORIZON + 3

    def with_fitness(value):  # of the member with the greater rate
        return first(estimator, broken(inner, lambda m, x: odd(x) & (m["rate"] > RATE), value), lifetimes)

    tied, *_ = first(estimator, broken(inner, lambda m, x: odd(x), 1.0), lifetimes)
    gradient, _, after, metrics = jax.vmap(with_fitness)(jnp.array([NAN, INF, -INF]))
    np.testing.assert_allclose(gradient["rate"], np.full(3, tied["rate"] * n / (n - n // 4)), rtol=1e-5)
    assert metrics["nonfinite_members"].tolist() == [n // 4] * 3
    for name in ("meta_loss", "fitness_min", "fitness_max", "meta_gradient_variance"):
        assert jnp.isfinite(metrics[name]).all(), name
    if kind == "es":  # greater rates are better, but the finite member lives on
        slower = after.x[..., 0] > (1 - RATE) ** HORIZON
        assert (slower == odd(after)).all()


@pytest.mark.parametrize("estimator", [es(2), pes(2)])
def test_nothing_finite_gives_no_gradient_and_a_meta_loss_of_nan(estimator):
    inner = broken(quadratic(), lambda m, x: True)
    gradient, _, _, metrics = first(estimator, inner, newborn(inner, levels(HORIZON), 4))
    assert gradient["rate"] == 0.0
    assert jnp.isnan(metrics["meta_loss"])
    assert metrics["nonfinite_members"] == 8
    assert metrics["meta_gradient_variance"] == metrics["meta_gradient_cosine"] == 0.0


def test_training_stops_where_nothing_is_finite_any_more(tmp_path):
    """Descent walks from a rate of 0.1 in steps of 0.01, and agents break between the sixth and the seventh."""
    inner = broken(quadratic(), lambda m, x: m["rate"] > 0.155)
    estimator = es(HORIZON, sigma=1e-3, shaping="none")
    meta = compose(inner, estimator, optax.sign_sgd(0.01), uniform(levels(HORIZON)), 32)
    with pytest.raises(NonFiniteLoss, match="meta_loss is not finite in meta-step") as error:
        metarl.train(meta, steps=100, chunk=2, checkpoint_every=4, directory=tmp_path)
    assert error.value.step == 7
    assert str(error.value).endswith(f"last good checkpoint: meta-step 4 in {tmp_path}")
    assert checkpoint.steps(tmp_path) == [4]
    state, log = metarl.train(meta, steps=6, directory=tmp_path, resume=True)
    assert int(state.step) == 6 and np.isfinite(log["meta_loss"]).all()


# --- what an estimate leaves behind -------------------------------------------------------------------------


def test_the_better_member_lives_on():
    inner = quadratic(noise=0.2)
    estimator = es(3, sigma=0.05)

    @jax.jit
    @jax.vmap
    def one_pair(key):
        lifetimes = newborn(inner, levels(HORIZON, spread=0.5), 1, jax.random.bits(key))
        _, _, after, metrics = estimator.estimate(inner, params(), estimator.init(params(), lifetimes), lifetimes, key)
        fitness = jax.vmap(inner.fitness, (None, 0, None))(params(), after, key)
        return fitness[0], metrics["fitness_max"], metrics["fitness_min"]

    kept, best, worst = one_pair(jax.random.split(jax.random.key(0), 64))
    np.testing.assert_allclose(kept, best, rtol=1e-6)
    assert (worst < best).all()


@pytest.mark.parametrize(
    ("fitness", "expected"),
    [
        *(([2.0, 1.0], 0), ([1.0, 2.0], 1), ([1.0, 1.0], 0)),
        *(([NAN, 1.0], 1), ([1.0, NAN], 0), ([INF, 1.0], 1), ([1.0, INF], 0), ([-INF, 1.0], 1), ([1.0, -INF], 0)),
    ],
)
def test_better_prefers_the_greater_and_the_finite(fitness, expected):
    assert int(better(jnp.array(fitness))) == expected


def test_pes_members_both_live_on_and_only_where_they_are():
    """The run's lifetimes are the positive members, whether they are the better ones or not."""
    inner, estimator = quadratic(), pes(2, sigma=0.05)
    _, state, after, _ = first(estimator, inner, newborn(inner, levels(HORIZON), 32))
    raised = state.perturbation["rate"] > 0  # greater rates are better here
    assert 4 < raised.sum() < 28
    assert ((after.x[:, 0] < state.twins.x[:, 0]) == raised).all()


@pytest.mark.parametrize("make", [partial(es, 2, shaping="none"), partial(pes, 2)], ids=["es", "pes"])
def test_sigma_decays(make):
    inner = quadratic()
    lifetimes = newborn(inner, levels(HORIZON), 8)
    decaying = make(sigma=0.2, sigma_decay=0.5)
    _, metrics, (state, _) = following(decaying, inner, lifetimes, 3)
    np.testing.assert_allclose(metrics["sigma"], [0.2, 0.1, 0.05], rtol=1e-6)
    np.testing.assert_allclose(state.sigma, 0.025, rtol=1e-6)
    # and what is reported is what is done
    start = decaying.init(params(), lifetimes)._replace(sigma=state.sigma)
    small = jax.jit(partial(decaying.estimate, inner))(params(), start, lifetimes, jax.random.key(1))
    assert_close(small[0], first(make(sigma=0.025), inner, lifetimes)[0])


def test_metrics_by_hand():
    """The terms of all pairs, from the lifetimes that they leave behind."""
    inner, n, sigma = quadratic(), 16, 0.05
    gradient, state, after, metrics = first(
        es(1, sigma=sigma, shaping="none"), inner, newborn(inner, levels(HORIZON), n)
    )
    noise = ((1 - np.asarray(after.x[:, 0], np.float64)) - RATE) / sigma  # of one sign, but terms do not depend on it
    assert (noise > 0).all()  # that of the better member

    def fitness(rates):
        return -loss_after(1, rates)

    plus, minus = fitness(RATE + sigma * noise), fitness(RATE - sigma * noise)
    terms = -(plus - minus) * noise / (2 * sigma)
    expected = {
        "meta_loss": -np.mean([plus, minus]),
        "fitness": np.mean([plus, minus]),
        "fitness_min": minus.min(),
        "fitness_max": plus.max(),
        "nonfinite_members": 0,
        "meta_gradient_norm": abs(terms.mean()),
        "meta_gradient_cosine": 0.0,  # there was none before
        "meta_gradient_variance": terms.var(ddof=1),
        "sigma": sigma,
        "loss": 2.0,  # before the update
        "agent_updates": 2 * n,
    }
    assert set(metrics) == set(expected)
    np.testing.assert_allclose(gradient["rate"], terms.mean(), rtol=1e-4)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)
    np.testing.assert_array_equal(state.previous["rate"], gradient["rate"])


def test_cosine_and_norm_by_hand(strict):
    one = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    other = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[2.0]])}
    metrics = gradient_metrics(one, other)
    np.testing.assert_allclose(metrics["meta_gradient_norm"], 5.0)
    np.testing.assert_allclose(metrics["meta_gradient_cosine"], 11 / 15, rtol=1e-6)
    zero = jax.tree.map(jnp.zeros_like, one)
    assert (
        gradient_metrics(zero, one)["meta_gradient_cosine"] == gradient_metrics(one, zero)["meta_gradient_cosine"] == 0
    )


@pytest.mark.parametrize("make", [partial(es, 2, shaping="none"), partial(pes, 2), partial(backprop, 2)])
def test_the_cosine_is_that_with_the_estimate_before(make):
    inner = quadratic()
    gradients, metrics, (state, _) = following(
        make(), inner, newborn(inner, levels(HORIZON), 3), 3, params(jnp.array([0.2, 0.4]))
    )
    rates = np.asarray(gradients["rate"], np.float64)
    norms = np.linalg.norm(rates, axis=1)
    expected = [0.0, *((rates[1:] * rates[:-1]).sum(1) / (norms[1:] * norms[:-1]))]
    np.testing.assert_allclose(metrics["meta_gradient_cosine"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["meta_gradient_norm"], norms, rtol=1e-5)
    previous = state if isinstance(state, dict) else state.previous
    np.testing.assert_array_equal(previous["rate"], gradients["rate"][-1])


def test_pair_gradient_by_hand():
    weights = jnp.array([1.0, jnp.nan, -2.0])
    directions = {"a": jnp.array([[1.0, 0.0], [7.0, 7.0], [0.0, 3.0]]), "b": jnp.array([2.0, 7.0, 1.0])}
    gradient, variance = pair_gradient(weights, directions)
    np.testing.assert_allclose(gradient["a"], [-0.5, 3.0])
    np.testing.assert_allclose(gradient["b"], 0.0, atol=1e-7)
    np.testing.assert_allclose(variance, np.var([[1, 0, 2], [0, -6, -2]], axis=0, ddof=1).sum(), rtol=1e-6)
    _, of_one = pair_gradient(weights[:2], jax.tree.map(lambda d: d[:2], directions))
    assert of_one == 0.0  # unknown, but a number


def test_fitness_metrics_of_nothing():
    metrics = fitness_metrics(jnp.full((2, 2), jnp.nan))
    assert jnp.isnan(metrics["meta_loss"]) and metrics["nonfinite_members"] == 4


def test_perturbations_are_antithetic_and_of_the_tree():
    meta_params = {"a": jnp.zeros((200, 100)), "b": jnp.ones(3)}
    noise, members = perturb(jax.random.key(0), meta_params, jnp.float32(0.5))
    assert jax.tree.map(jnp.shape, noise) == jax.tree.map(jnp.shape, meta_params)
    for name, x in meta_params.items():
        np.testing.assert_allclose(members[name], x + 0.5 * jnp.stack([noise[name], -noise[name]]), rtol=1e-6)
    assert abs(noise["a"].mean()) < 5 / 20000**0.5 and abs(noise["a"].std() - 1) < 5 / 40000**0.5


# --- perturbations of low rank ------------------------------------------------------------------------------


def bowl(target):
    """A fitness that is quadratic in a matrix, a vector and a small matrix, whatever the lifetime does."""

    def fitness(meta_params, lifetime, key):
        return -sum(jnp.square(x - target).sum() for x in jax.tree.leaves(meta_params["weights"]))

    return quadratic()._replace(fitness=fitness)


def test_the_estimate_of_low_rank_is_unbiased(x64):
    weights = {"matrix": jnp.linspace(-1, 1, 48).reshape(8, 6), "vector": jnp.ones(3), "small": jnp.ones((1, 2))}
    inner, meta_params = bowl(0.5), {**params(), "weights": weights}
    estimator = es(1, shaping="none", sigma=0.1, rank=1)
    newborns = newborn(inner, levels(HORIZON), 4000)
    gradient, _, _, metrics = first(estimator, inner, newborns, meta_params)
    # antithetic differences of a quadratic have no error of higher order, so the estimate has only its variance; the
    # norm of the error in all 53 coordinates is close to its deviation
    allowed = 2 * jnp.sqrt(metrics["meta_gradient_variance"] / 4000)
    errors = jax.tree.map(lambda g, w: g - 2 * (w - 0.5), gradient["weights"], weights)
    assert optax.global_norm(errors) < allowed < 0.5 * optax.global_norm(gradient["weights"])


@pytest.mark.parametrize("rank", [1, 3])
def test_noise_of_low_rank_has_variance_one_and_is_kept_as_factors(rank):
    meta_params = {"a": jnp.zeros((60, 50)), "b": jnp.ones(3), "c": jnp.ones((1, 2)), "d": jnp.ones((9, 9, 9))}
    noise, members = perturb(jax.random.key(0), meta_params, jnp.float32(0.5), rank)
    assert noise["a"].left.shape == (60, rank) and noise["a"].right.shape == (50, rank)
    assert all(noise[x].shape == meta_params[x].shape for x in "bcd")
    e = 2.0 * members["a"][0]
    assert jnp.linalg.matrix_rank(e) == rank and (members["a"][0] == -members["a"][1]).all()
    many = jax.vmap(lambda key: perturb(key, {"a": jnp.zeros((9, 8))}, jnp.float32(1.0), rank)[1]["a"][0])
    drawn = many(jax.random.split(jax.random.key(1), 4000)).reshape(4000, -1)
    covariance = drawn.T @ drawn / 4000  # of products of normals: the deviation of one is at most sqrt(8 / 4000)
    np.testing.assert_allclose(covariance, jnp.eye(72), atol=5 * (8 / 4000) ** 0.5)


def test_pair_gradient_of_factors_is_that_of_their_products(x64):
    weights, keys = jnp.array([1.0, jnp.nan, -2.0]), jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (3, n, 2)) for key, n in zip(keys, (5, 7), strict=True))
    products = jnp.einsum("imr,inr->imn", left, right) / 2**0.5
    found, expected = (
        pair_gradient(weights, {"a": a, "b": jnp.ones((3, 2))}) for a in (Factors(left, right), products)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), found, expected)


def test_a_rank_that_saves_nothing_is_refused():
    inner = quadratic()
    with pytest.raises(ValueError, match=r"rank 2 saves nothing: .* shapes \[\(\)\]"):
        first(es(1, rank=2), inner, newborn(inner, levels(HORIZON), 2))


# --- lifetimes of different lengths, parts and places -------------------------------------------------------


def different(inner, n=12):
    """Lifetimes of horizons 1 .. n in no order, on different levels."""
    lifetimes = newborn(inner, levels(HORIZON, spread=0.5), n)
    horizons = 1 + (5 * jnp.arange(n)) % n
    return lifetimes._replace(level=lifetimes.level._replace(horizon=horizons))


@pytest.mark.parametrize(("batch_size", "measure_every"), [(None, None), (1, None), (4, 3)])
def test_lifetimes_of_different_horizons_are_lived_as_if_alone(batch_size, measure_every):
    inner = quadratic(noise=0.3)
    lifetimes, keys = different(inner), jax.random.split(jax.random.key(1), 12)

    def alone(meta_params, x):
        return live(inner, meta_params, *x, 8, measure_every)

    xs = (lifetimes, keys)
    together = jax.jit(
        lambda xs: Placement(None, batch_size).balanced_map(alone, params(), xs, lifetimes.level.horizon)
    )(xs)
    one = jax.jit(partial(alone, params()))
    for i in range(12):
        assert_close(
            *(jax.tree.map(lambda x, i=i: x[i], tree) for tree in (together,)),
            one(jax.tree.map(lambda x, i=i: x[i], xs)),
        )
    assert together.lifetime.step.tolist() == np.minimum(lifetimes.level.horizon, 8).tolist()
    assert len(set(together.fitness.tolist())) == 12


@pytest.mark.parametrize("estimator", [es(4, measure_every=2), pes(4), backprop(4)])
def test_a_lifetime_past_its_horizon_makes_no_update(estimator):
    inner = quadratic(noise=0.3)
    lifetimes = different(inner)._replace(step=jnp.full(12, 6))
    gradient, _, after, metrics = first(estimator, inner, lifetimes)
    ended = lifetimes.level.horizon <= 6
    np.testing.assert_array_equal(after.x[ended], lifetimes.x[ended])
    assert (after.x[~ended] != lifetimes.x[~ended]).all()
    assert after.step.tolist() == np.where(ended, 6, np.minimum(lifetimes.level.horizon, 10)).tolist()
    assert jnp.isfinite(gradient["rate"]) and jnp.isfinite(metrics["meta_loss"])
    # nor does it say anything: the members of its pair are one
    gone, *_ = first(estimator, inner, jax.tree.map(lambda x: x[ended], lifetimes))
    assert gone["rate"] == 0.0


ESTIMATORS = {
    "es centred_ranks": partial(es, 4, shaping="centred_ranks", measure_every=2),
    "es independent": partial(es, 4, shaping="none", common_tasks=False),
    "pes": partial(pes, 4),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_batches_change_nothing(name):
    inner = quadratic(noise=0.3)
    lifetimes = different(inner)
    whole = following(ESTIMATORS[name](), inner, lifetimes, 3)
    assert_close(following(ESTIMATORS[name](placement=Placement(batch_size=5)), inner, lifetimes, 3), whole)  # of 12


def test_batches_tell_the_variance_of_a_lifetimes_gradient():
    inner = quadratic()
    lifetimes = different(inner)
    alone = jax.vmap(lambda x: first(backprop(4), inner, jax.tree.map(lambda leaf: leaf[None], x))[0]["rate"])(
        lifetimes
    )
    for size in (1, 3):
        *_, metrics = first(backprop(4, placement=Placement(batch_size=size)), inner, lifetimes)
        means = np.asarray(alone).reshape(-1, size).mean(1)
        assert metrics["meta_gradient_variance"] == pytest.approx(size * np.var(means, ddof=1), rel=1e-4)
    assert jnp.isnan(first(backprop(4), inner, lifetimes)[3]["meta_gradient_variance"])


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (es, {"steps": 0}, "steps must be at least 1, got 0"),
        (es, {"steps": 2, "sigma": 0.0}, "sigma must be above 0, got 0.0"),
        (es, {"steps": 2, "sigma": -1.0}, "sigma must be above 0, got -1.0"),
        (es, {"steps": 2, "sigma": NAN}, "sigma must be a number, not NaN, got nan"),
        (es, {"steps": 2, "sigma_decay": INF}, "sigma_decay must be at most 1, got inf"),
        (es, {"steps": 2, "measure_every": 0}, "measure_every must be at least 1 or None, got 0"),
        (es, {"steps": 2, "rank": 0}, "rank must be at least 1 or None, got 0"),
        (es, {"steps": 2, "shaping": "rank"}, "shaping must be one of none, .*, got 'rank'"),
        (pes, {"steps": -1}, "steps must be at least 1, got -1"),
        (pes, {"steps": 2, "sigma": 0}, "sigma must be above 0, got 0"),
        (pes, {"steps": 2, "sigma_decay": 0.0}, "sigma_decay must be above 0, got 0.0"),
    ],
)
def test_bad_options_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("make", [es, pes])
def test_lifetimes_that_cannot_be_sharded_are_named(make):
    inner = quadratic()
    with pytest.raises(ValueError, match="6 lifetimes .* cannot be sharded over 4 devices"):
        first(make(2, placement=Placement(tuple(jax.devices() * 4))), inner, newborn(inner, levels(HORIZON), 6))


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "measured"),
    [
        (es(3, sigma=0.02, shaping="centred_ranks"), [3]),
        (es(3, sigma=0.02, measure_every=1), [1, 2, 3]),
        (pes(1, sigma=0.02), [1, 2, 3]),
    ],
    ids=["es centred_ranks", "es measured", "pes"],
)
def test_training_finds_the_best_fixed_rate(estimator, measured):
    """On curvatures 1 and 3: from 0.1, the rate that is best along a life of three noisy updates, by a grid."""
    grid = np.linspace(0.01, 0.7, 2000)
    best = grid[sum(loss_after(k, grid) for k in measured).argmin()]
    meta = compose(quadratic(), estimator, optax.adam(optax.cosine_decay_schedule(0.02, 300)), uniform(levels(3)), 64)
    state, log = metarl.train(meta, steps=300, chunk=100)
    np.testing.assert_allclose(state.params["rate"], best, rtol=0.03)
    assert log["meta_loss"][-1] < log["meta_loss"][0]

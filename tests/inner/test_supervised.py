"""Supervised inner loops against steps by hand, closed forms, finite differences and numpy."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
import metarl
from envs.tasks import accuracy, digits, logistic_digits, mlp_digits, quadratic
from metarl import curricula, estimators, optimizers
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.meta import advance, done
from metarl.optimizers.learned import LearnedOptimizer
from metarl.optimizers.schedules import readable
from metarl.pretrained import load_params, save_params
from metarl.types import Layer, Task

HORIZON = 4


def learned_rate(rate=0.1):
    """Gradient descent with a rate that is meta-learned."""

    def transform(meta_params):
        def update(gradient, state, params=None, **extra):
            return jax.tree.map(lambda g: -meta_params["rate"] * g, gradient), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    return LearnedOptimizer(lambda key: {"rate": jnp.asarray(rate, float)}, transform)


def told(task):
    """A step whose optimizer does nothing: (training, key) -> the extra arguments that it is given, `Update`."""

    @jax.jit
    def step(training, key):
        seen = []

        def update(gradient, state, params=None, **extra):
            seen.append(extra)
            return jax.tree.map(jnp.zeros_like, gradient), state

        spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
        inner = supervised_inner_loop(task, LearnedOptimizer(lambda key: (), lambda meta_params: spy))
        result = inner.step({"objective": (), "optimizer": ()}, training, key)
        (extra,) = seen
        return extra, result

    return step


def newborn(inner, task, n, horizon=HORIZON, seed=0):
    init = jax.jit(lambda key, level_key: inner.init(key, task_levels(task, horizon).sample(level_key)))
    return jax.vmap(init)(*jax.random.split(jax.random.key(seed), (2, n)))


def one(inner, task, horizon=HORIZON, seed=0):
    return jax.tree.map(lambda x: x[0], newborn(inner, task, 1, horizon, seed))


def assert_close(one, other, rtol=1e-5, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), one, other)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_mean(draws, expected, errors=5.0):
    draws = np.asarray(draws, np.float64)
    error = draws.std(0, ddof=1) / len(draws) ** 0.5
    assert (np.abs(draws.mean(0) - expected) <= errors * error).all(), (draws.mean(0), expected, error)


# --- one step -----------------------------------------------------------------------------------------------


def sgd_by_hand(x, gradient, state):
    return x - 0.3 * gradient, state


def adam_by_hand(x, gradient, state):
    t, m, v = state or (0, 0.0, 0.0)
    t, m, v = t + 1, 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    return x - 0.3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), (t, m, v)


@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [(optax.sgd(0.3), sgd_by_hand), (learned_rate(0.3), sgd_by_hand), (optax.adam(0.3), adam_by_hand)],
    ids=["sgd", "learned", "adam"],
)
def test_steps_are_those_by_hand(optimizer, by_hand):
    task = quadratic(dim=5)
    inner = supervised_inner_loop(task, optimizer)
    meta_params = inner.init_meta(jax.random.key(0))
    training, step, state = one(inner, task), jax.jit(inner.step), None
    h, minimum = (np.asarray(x, np.float64) for x in training.level.problem)
    x = np.asarray(training.params["x"], np.float64)
    for t in range(3):
        loss = (h * (x - minimum) ** 2).sum() / 2
        np.testing.assert_allclose(-inner.fitness(meta_params, training, jax.random.key(t)), loss, rtol=1e-5)
        np.testing.assert_allclose(inner.loss(meta_params, training, jax.random.key(t)).objective, loss, rtol=1e-5)
        training, objective, metrics = step(meta_params, training, jax.random.key(t))
        x, state = by_hand(x, h * (x - minimum), state)
        np.testing.assert_allclose(training.params["x"], x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)  # before the step
        assert training.step == t + 1 and objective == 0


def test_meta_parameters_are_as_those_of_agents():
    plain, learned = (supervised_inner_loop(quadratic(), o) for o in (optax.adam(0.1), learned_rate(0.1)))
    assert plain.init_meta(jax.random.key(0)) == {"objective": (), "optimizer": ()}
    assert_close(learned.init_meta(jax.random.key(0)), {"objective": (), "optimizer": {"rate": 0.1}})


def test_meta_parameters_work_after_they_were_saved(tmp_path):
    """Files leave out what is not learned; nothing else is asked of either kind of lifetime."""
    task, bandits = quadratic(), envs.make("bandit/bernoulli")
    lpg, tables = metarl.objectives.lpg(bins=3, hidden=4), metarl.networks.tabular
    loops = [
        (supervised_inner_loop(task, optax.sgd(0.1)), task_levels(task, HORIZON)),
        (supervised_inner_loop(task, learned_rate()), task_levels(task, HORIZON)),
        (metarl.rl_inner_loop(bandits.env, tables, lpg, optax.sgd(0.1), metarl.Experience(2, 3)), bandits),
    ]
    for i, (inner, distribution) in enumerate(loops):
        key = jax.random.key(i)
        meta_params = inner.init_meta(key)
        save_params(tmp_path / f"{i}.safetensors", meta_params, {})
        loaded, _ = load_params(tmp_path / f"{i}.safetensors")
        assert set(loaded) < set(meta_params)
        level = jax.eval_shape(distribution.sample, key)
        jax.eval_shape(inner.step, loaded, jax.eval_shape(inner.init, key, level), key)


def test_an_optimizer_is_told_of_time_layers_and_chance():
    """Its layers are those of the minibatch that the gradient is of: of one image, they tell which it was."""
    task = mlp_digits(hidden=3, batch=1)
    training = one(supervised_inner_loop(task, optax.sgd(1.0)), task, horizon=7)
    step, seen, rows = told(task), [], []
    first, last = training.params["logits"]["Dense_0"], training.params["logits"]["Dense_1"]
    outputs = np.tanh(digits().train_x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]
    dormancy = np.abs(outputs) / np.abs(outputs).mean(1, keepdims=True)
    for seed in range(2):
        extra, (training, _, metrics) = step(training, jax.random.key(seed))
        seen.append(extra)
        layer = extra["layers"]["logits"]["Dense_1"]
        (row,) = np.flatnonzero(np.abs(dormancy - layer.dormancy).max(1) < 1e-4)
        rows.append(row)
        loss = np.log(np.exp(outputs[row]).sum()) - outputs[row, digits().train_y[row]]
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    assert rows[0] != rows[1]
    assert [(int(x["progress"].step), int(x["progress"].horizon)) for x in seen] == [(0, 7), (1, 7)]
    assert all(x["epoch_progress"].shape == () and x["epoch_progress"] == 0 for x in seen)
    assert (jax.random.key_data(seen[0]["key"]) != jax.random.key_data(seen[1]["key"])).any()


def test_a_task_without_layers_has_none():
    task = quadratic()
    assert told(task)(one(supervised_inner_loop(task, optax.sgd(1.0)), task), jax.random.key(0))[0]["layers"] == ()


def test_minibatches_are_fresh_and_repeat_with_their_key():
    task = logistic_digits(batch=4)
    inner = supervised_inner_loop(task, optax.sgd(0.0))
    training, step = one(inner, task), jax.jit(partial(inner.step, inner.init_meta(jax.random.key(0))))
    losses = [float(step(training, jax.random.key(seed)).metrics["loss"]) for seed in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


# --- lifetimes ----------------------------------------------------------------------------------------------


def test_a_life_ends_at_its_horizon():
    task = quadratic(noise=1.0)
    inner = supervised_inner_loop(task, optax.adam(0.1))
    level, key, meta_params = task_levels(task, 3).sample(jax.random.key(0)), jax.random.key(1), {"optimizer": ()}
    keys = jax.random.split(jax.random.split(key)[1], 5)

    def step(training, key):
        training = advance(inner, meta_params, training, key).lifetime
        return training, (training, done(training))

    _, (along, ended) = jax.lax.scan(step, inner.init(jax.random.split(key)[0], level), keys)
    assert ended.tolist() == [False, False, True, True, True]
    assert (along.params["x"][2] != along.params["x"][1]).all()
    for t in (3, 4):  # noise or not, nothing moves
        assert_equal(jax.tree.map(lambda x, t=t: x[t], along), jax.tree.map(lambda x: x[2], along))
    trained, metrics = metarl.train_agent(inner, meta_params, level, key, 5)
    assert_close(trained, jax.tree.map(lambda x: x[-1], along))
    assert metrics["loss"].shape == (5,)


def test_lifetimes_vmap():
    task = mlp_digits(hidden=4, batch=8)
    inner = supervised_inner_loop(task, learned_rate())
    keys, rates = jax.random.split(jax.random.key(3), 3), jnp.array([0.1, 1.0, 2.0])
    level = task_levels(task, HORIZON).sample(jax.random.key(0))

    def live(rate, key):
        training, metrics = metarl.train_agent(inner, {"optimizer": {"rate": rate}}, level, key, 3)
        return training.params, metrics, inner.fitness({}, training, key)

    together, alone = jax.jit(jax.vmap(live))(rates, keys), jax.jit(live)
    for i in range(3):
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone(rates[i], keys[i]), rtol=1e-4, atol=1e-5)
    assert len(set(together[2].tolist())) == 3


def test_lifetimes_do_not_carry_the_data():
    task = logistic_digits()
    lifetimes = newborn(supervised_inner_loop(task, optax.sgd(1.0)), task, 2)
    assert sum(x.size for x in jax.tree.leaves(lifetimes)) == 2 * (64 * 10 + 10 + 2)  # parameters, horizon and age


def test_fitness_is_nan_for_parameters_that_are_not_finite():
    task = Task(lambda key: (), lambda key, problem: jnp.ones(2), lambda p, problem, key: p[0], lambda p, problem: p[0])
    inner = supervised_inner_loop(task, optax.sgd(1.0))
    training = one(inner, task)
    assert inner.fitness({}, training, jax.random.key(0)) == -1.0
    broken = training._replace(params=training.params.at[1].set(jnp.inf))  # which the test does not see
    assert jnp.isnan(inner.fitness({}, broken, jax.random.key(0)))


# --- meta-gradients and meta-training -----------------------------------------------------------------------


def first_estimate(inner, lifetimes, rate, steps, **options):
    """Meta-gradient and meta-loss by backpropagation."""
    meta_params, estimator = {"objective": (), "optimizer": {"rate": rate}}, estimators.backprop(steps, **options)
    gradient, *_, metrics = estimator.estimate(
        inner, meta_params, estimator.init(meta_params, lifetimes), lifetimes, jax.random.key(1)
    )
    return gradient["optimizer"]["rate"], metrics["meta_loss"]


@pytest.mark.parametrize("mixed", [False, True])
def test_the_meta_gradient_of_a_rate_is_the_closed_form(mixed, x64):
    """With every curvature 1, the distance shrinks by 1 - rate in every update."""
    task = quadratic(dim=3, condition=(1.0, 1.0))
    inner = supervised_inner_loop(task, learned_rate())
    lifetimes, rates = newborn(inner, task, 4), np.array([0.05, 0.5, 1.3])
    slopes, losses = jax.jit(jax.vmap(lambda rate: first_estimate(inner, lifetimes, rate, HORIZON, mixed=mixed)))(rates)
    square = ((lifetimes.params["x"] - lifetimes.level.problem.minimum) ** 2).sum(1).mean()
    np.testing.assert_allclose(losses, square * (1 - rates) ** (2 * HORIZON) / 2, rtol=1e-6)
    np.testing.assert_allclose(slopes, -square * HORIZON * (1 - rates) ** (2 * HORIZON - 1), rtol=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_meta_gradient_through_a_network_is_the_finite_difference(mixed, x64):
    task = mlp_digits(hidden=4, batch=8)
    double = task._replace(init=lambda *args: jax.tree.map(lambda x: x.astype(float), task.init(*args)))
    inner = supervised_inner_loop(double, learned_rate())
    lifetimes = newborn(inner, double, 2)
    estimate = jax.jit(lambda rate: first_estimate(inner, lifetimes, rate, 3, mixed=mixed))
    (slope, _), (_, up), (_, down) = (estimate(rate) for rate in (0.5, 0.5 + 1e-5, 0.5 - 1e-5))
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-5)


def test_meta_training_finds_the_best_rate():
    """Curvatures 1 and 1/4, starts of equal spread: a lifetime's loss is in proportion to sum(h (1 - rate h)^2T)."""
    grid = np.linspace(0.0, 3.0, 30_001)
    best = grid[np.argmin(sum(h * (1 - grid * h) ** (2 * HORIZON) for h in (1.0, 0.25)))]
    task = quadratic(dim=2, condition=(4.0, 4.0))
    schedule = optimizers.schedule(0.1, 0.0, None, knots=1, direction="sgd")
    meta = metarl.compose(
        supervised_inner_loop(task, schedule),
        estimators.backprop(steps=HORIZON),
        optax.adam(optax.cosine_decay_schedule(0.1, 100), b2=0.9),  # the first gradients are by far the largest
        curricula.uniform(task_levels(task, HORIZON)),
        num_lifetimes=32,
    )

    @jax.jit
    def run(key):
        return jax.lax.scan(meta.step, meta.init(key), jax.random.split(jax.random.fold_in(key, 0), 100))

    state, log = run(jax.random.key(0))
    rate = float(readable(state.params["optimizer"], 0.1, 0.0, None)["learning_rate"][0])
    assert best > 1.0 and abs(rate - best) < 0.05 * best, (rate, best)
    assert log["meta_loss"][-20:].mean() < 0.1 * log["meta_loss"][:5].mean()
    assert (log["lifetimes_ended"] == 32).all()


# --- the tasks ----------------------------------------------------------------------------------------------


def test_quadratics_have_the_curvatures_and_starts_that_they_promise():
    task = quadratic(dim=5, condition=(4.0, 100.0))
    problems = jax.vmap(task.sample)(jax.random.split(jax.random.key(0), 500))
    curvature = np.asarray(problems.curvature, np.float64)
    ranked = -np.sort(-curvature, 1)
    np.testing.assert_allclose(ranked[:, 0], 1.0)
    steps = np.diff(np.log(ranked), axis=1)
    np.testing.assert_allclose(steps, steps[:, :1].repeat(4, 1), rtol=1e-4)
    condition = np.log(1.0 / ranked[:, -1])
    assert condition.min() > np.log(3.99) and condition.max() < np.log(100.1)
    share = (condition - np.log(4.0)) / np.log(25.0)
    assert_mean(share, 0.5)
    assert_mean((share - 0.5) ** 2, 1 / 12)  # uniform
    assert_mean(curvature - curvature.mean(1, keepdims=True), 0.0)  # any order
    starts = jax.vmap(task.init, (0, None))(jax.random.split(jax.random.key(1), 500), problems)["x"]
    for draws in (starts, problems.minimum):
        assert_mean(draws, 0.0)
        assert_mean(np.square(draws), 1.0)


def test_quadratics_of_one_curvature():
    assert quadratic(dim=3, condition=(1.0, 1.0)).sample(jax.random.key(0)).curvature.tolist() == [1.0] * 3
    two = quadratic(dim=2, condition=(4.0, 4.0)).sample(jax.random.key(0)).curvature
    np.testing.assert_allclose(sorted(two), [0.25, 1.0], rtol=1e-6)


@pytest.mark.parametrize("task", [quadratic(dim=3, noise=0.5), mlp_digits(hidden=3, batch=8)], ids="qm")
def test_gradients_of_minibatches_have_the_whole_gradient_as_their_mean(task):
    problem = task.sample(jax.random.key(0))
    params = jax.jit(task.init)(jax.random.key(1), problem)
    draws = jax.jit(jax.vmap(jax.grad(task.loss), (None, None, 0)))(
        params, problem, jax.random.split(jax.random.key(2), 400)
    )
    whole = jax.jit(jax.grad(task.test))(params, problem)
    *_, draws = jax.tree.leaves(draws)
    *_, whole = jax.tree.leaves(whole)
    assert (np.abs(draws.reshape(400, -1)).max(1) > 0).all() and draws.std(0).max() > 1e-3
    live = draws.std(0) > 1e-6  # pixels that are always dark teach nothing
    assert_mean(draws[:, live], whole[live])


def test_noise_of_quadratics_has_its_deviation():
    task = quadratic(dim=3, noise=0.5)
    problem = task.sample(jax.random.key(0))
    noise = jax.vmap(jax.grad(task.loss), (None, None, 0))(
        task.init(jax.random.key(1), problem), problem, jax.random.split(jax.random.key(2), 1000)
    )["x"]
    np.testing.assert_allclose(noise.std(0), 0.5, rtol=0.1)
    np.testing.assert_allclose(np.corrcoef(noise.T) - np.eye(3), 0.0, atol=0.15)


def test_digits_are_those_of_scikit_learn_split_once():
    from sklearn.datasets import load_digits

    data, (x, y) = digits(), load_digits(return_X_y=True)
    assert [a.shape for a in data] == [(1437, 64), (1437,), (360, 64), (360,)]
    assert data.train_x.dtype == np.float32 and data.train_x.min() == 0.0 and data.train_x.max() == 1.0

    def rows(x, y):
        return sorted(map(tuple, np.column_stack([x, y])))

    ours = rows(data.train_x, data.train_y) + rows(data.held_out_x, data.held_out_y)
    assert sorted(ours) == rows(x / 16, y)
    assert np.bincount(data.held_out_y).min() > 20  # every digit is among the held-out ones
    assert digits() is data


def test_layers_of_the_mlp_are_numpys():
    task, key = mlp_digits(hidden=5, batch=6), jax.random.key(3)
    params = jax.tree.map(lambda x: x + 0.1, jax.jit(task.init)(jax.random.key(0), ()))
    x = digits().train_x[jax.random.randint(key, (6,), 0, 1437)]
    first, last = params["logits"]["Dense_0"], params["logits"]["Dense_1"]
    hidden = np.tanh(x @ first["kernel"] + first["bias"])
    sizes = [np.abs(a).mean(0) for a in (hidden, hidden @ last["kernel"] + last["bias"])]
    layers = jax.jit(task.layers)(params, (), key)
    for (name, depth), size in zip((("Dense_0", 0.0), ("Dense_1", 1.0)), sizes, strict=True):
        layer = layers["logits"][name]
        assert layer.depth == depth and layer.actor == 0.0
        np.testing.assert_allclose(layer.dormancy, size / size.mean(), rtol=1e-4)
    # one in the place of the parameters of each
    shapes = jax.tree.map(lambda layer: layer.dormancy.shape, layers, is_leaf=lambda x: isinstance(x, Layer))
    assert shapes == {"logits": {name: p["bias"].shape for name, p in params["logits"].items()}}


def test_adam_trains_the_mlp():
    task = mlp_digits(hidden=16, batch=32)
    inner = supervised_inner_loop(task, optax.adam(1e-2))
    level, key = task_levels(task, 150).sample(jax.random.key(0)), jax.random.key(1)

    @jax.jit
    def live(key):
        untrained = inner.init(jax.random.split(key)[0], level)
        trained, metrics = metarl.train_agent(inner, {"optimizer": ()}, level, key, 150)
        return untrained, trained, metrics, [-inner.fitness({}, x, key) for x in (untrained, trained)]

    untrained, trained, metrics, (before, after) = live(key)
    assert before > 2.0 and after < 0.4, (before, after)
    assert metrics["loss"][:5].mean() > 1.8 and metrics["loss"][-20:].mean() < 0.5
    assert accuracy(untrained.params) < 0.3 < 0.85 < accuracy(trained.params)


def test_accuracy_is_that_of_the_largest_logit():
    params = jax.jit(logistic_digits().init)(jax.random.key(0), ())
    layer = params["logits"]["Dense_0"]
    right = (digits().held_out_x @ layer["kernel"] + layer["bias"]).argmax(1) == digits().held_out_y
    np.testing.assert_allclose(accuracy(params), right.mean(), rtol=1e-6)


def test_data_are_loaded_when_they_are_needed():
    code = (
        "import sys, optax, metarl.inner.supervised as m, envs.tasks as e;"
        "m.supervised_inner_loop(e.mlp_digits(), optax.sgd(1.0)); print('sklearn' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: task_levels(quadratic(), 0), "horizon must be at least 1, got 0"),
        (lambda: quadratic(dim=0), "dim must be at least 1, got 0"),
        (lambda: quadratic(condition=(0.5, 2.0)), r"condition must be .* got \(0.5, 2.0\)"),
        (lambda: quadratic(condition=(3.0, 2.0)), r"condition must be .* got \(3.0, 2.0\)"),
        (lambda: quadratic(condition=(1.0, float("inf"))), r"condition must be .* got \(1.0, inf\)"),
        (lambda: quadratic(noise=-0.1), "noise must be at least 0, got -0.1"),
        (lambda: quadratic(noise=float("nan")), "noise must be a number, not NaN, got nan"),
        (lambda: logistic_digits(batch=0), "batch must be at least 1, got 0"),
        (lambda: mlp_digits(hidden=0), "hidden must be at least 1, got 0"),
        (lambda: mlp_digits(batch=-1), "batch must be at least 1, got -1"),
        (
            lambda: supervised_inner_loop(mlp_digits(), metarl.optimizers.per_output(policy=optax.sgd(1.0))),
            "the optimizer does not fit the task's parameters",
        ),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()

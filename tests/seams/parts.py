"""What every implementation of a seam must do. A new one is one more line in one of the four lists below."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl
from envs import mdp
from metarl.meta import compose
from metarl.objectives import a2c, dpo, lpg, lpo, ppo
from metarl.optimizers import per_output
from metarl.rl.networks import gru, mlp, tabular
from metarl.rl.rollout import model, reset, rollout
from metarl.types import Progress

LEVELS = mdp.distribution(num_states=4, num_actions=3, max_steps=5, horizon=6, terminate=0.1)
NUM_ENVS, LENGTH, LIFETIMES = 4, 4, 3


def lpg_sgd(rate):
    sgd = optax.chain(metarl.optimizers.clip_by_global_norm(0.5), optax.sgd(rate))
    return per_output(policy=sgd, y=sgd)


CRITIC = {"critic": metarl.Critic(optax.adam(0.1))}  # with it, an inner loop has a differentiable meta-objective
# objective, network and optimizer of an agent, and options of `rl_inner_loop`
INNER_LOOPS: dict[str, tuple[Any, ...]] = {
    "lpg tabular": (lpg(bins=3, hidden=8), tabular, lpg_sgd(2.0), CRITIC),
    "lpg mlp": (lpg(bins=3, hidden=8), mlp((8,)), metarl.optimizers.adam(1e-2), CRITIC),
    "lpg recurrent": (lpg(bins=3, hidden=8), gru(8), metarl.optimizers.adam(1e-2), CRITIC),
    "a2c": (a2c(), tabular, optax.adam(0.1), {}),
    "ppo": (ppo(), mlp((8,)), optax.adam(1e-2), {"epochs": 2, "minibatches": 2}),
    "ppo recurrent": (ppo(), gru(8), optax.adam(1e-2), {"epochs": 2, "minibatches": 2}),
    "lpo": (lpo(hidden=8), tabular, optax.adam(0.1), {"epochs": 2, "minibatches": 2}),
    "lpo temporal": (lpo(temporal=True, start="scratch", hidden=8), tabular, optax.adam(0.1), {"epochs": 2}),
    "dpo": (dpo(), tabular, optax.adam(0.1), {"epochs": 2, "minibatches": 2}),
}
ESTIMATORS: dict[str, Callable] = {
    "backprop": lambda: metarl.estimators.backprop(2),
    "es truncated": lambda: metarl.estimators.es(2, sigma=0.5, shaping="centred_ranks", batch_size=1),
    "pes": lambda: metarl.estimators.pes(2, sigma=0.5),
}
CURRICULA: dict[str, Callable] = {
    "uniform": metarl.curricula.uniform,
    "fixed": partial(metarl.curricula.fixed, num_levels=1000),
    "replay": partial(metarl.curricula.replay, capacity=6),
}
OBJECTIVES: dict[str, Callable] = {
    "a2c": a2c,
    "ppo": ppo,
    "lpg": partial(lpg, bins=3, hidden=8),
    "lpo": partial(lpo, hidden=8),
    "lpo temporal": partial(lpo, temporal=True, start="scratch", hidden=8),
    "dpo": dpo,
}


def build(name):
    objective, network, optimizer, settings = INNER_LOOPS[name]
    settings = {"num_eval_episodes": 4, "max_episode_steps": 10, **settings}
    return metarl.rl_inner_loop(
        LEVELS.env, network, objective, optimizer, num_envs=NUM_ENVS, rollout_length=LENGTH, **settings
    )


def shapes(tree):
    """Structure, shapes and dtypes with their weakness: what decides whether a program must be compiled again."""
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x), getattr(x, "weak_type", False)), tree)


def assert_equal(one, other):
    """Equal bit for bit, NaN too."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


def assert_arrays_only(tree):
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))


@jax.jit
def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


# --- inner loops --------------------------------------------------------------------------------------------


class Lived(NamedTuple):
    """Three lifetimes of one inner loop, newborn and two updates old, and its compiled functions."""

    inner: metarl.InnerLoop
    meta_params: Any
    newborn: Any
    older: Any
    keys: jax.Array
    step: Callable  # of all lifetimes
    traces: list  # one entry for each time that `step` was traced


@pytest.fixture(scope="module", params=INNER_LOOPS)
def lived(request):
    inner, traces = build(request.param), []

    def step(meta_params, lifetimes, keys):
        traces.append(1)
        return jax.vmap(inner.step, (None, 0, 0))(meta_params, lifetimes, keys)

    step = jax.jit(step)
    keys = jax.random.split(jax.random.key(1), LIFETIMES)
    levels = jax.vmap(LEVELS.sample)(keys)
    meta_params = inner.init_meta(jax.random.key(2))
    newborn = jax.jit(jax.vmap(inner.init))(keys, levels)
    middle = step(meta_params, newborn, keys).lifetime
    older = step(meta_params, middle, jax.random.split(jax.random.key(3), LIFETIMES)).lifetime
    return Lived(inner, meta_params, newborn, older, keys, step, traces)


def test_a_lifetime_keeps_its_tree_shapes_and_dtypes(lived):
    assert shapes(lived.newborn) == shapes(lived.older)
    arguments = lived.meta_params, at(lived.newborn, 0), lived.keys[0]
    stepped = jax.eval_shape(lived.inner.step, *arguments)
    assert (stepped.objective.shape, stepped.objective.dtype) == ((), jnp.float32)
    if lived.newborn.critic:
        loss, (judged, _) = jax.eval_shape(lived.inner.loss, *arguments)
        assert shapes(judged) == shapes(stepped.lifetime)
        assert (loss.shape, loss.dtype) == ((), jnp.float32)


def test_a_step_is_traced_once(lived):
    assert len(lived.traces) == 1


def test_state_is_arrays(lived):
    assert_arrays_only((lived.meta_params, lived.newborn, lived.older))


def test_agents_change_and_stay_finite(lived):
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), lived.newborn.params, lived.older.params)
    assert any(jax.tree.leaves(moved))
    for leaf in jax.tree.leaves((lived.older.params, lived.older.opt_state, lived.older.critic)):
        assert jnp.isfinite(leaf).all()


def test_lifetimes_do_not_touch_each_other(lived):
    """Each makes the step that it makes among others of its kind."""
    together = lived.step(lived.meta_params, lived.older, lived.keys)
    for i in range(LIFETIMES):
        alike = at((lived.older, lived.keys), jnp.full(LIFETIMES, i))
        assert_equal(at(together, i), at(lived.step(lived.meta_params, *alike), i))


def test_a_lifetime_at_its_horizon_is_frozen(lived):
    ended = lived.older._replace(level=lived.older.level._replace(horizon=lived.older.step.at[1].add(1)))
    after = lived.step(lived.meta_params, ended, lived.keys)
    assert jax.vmap(lived.inner.done)(ended).tolist() == [True, False, True]
    for i in (0, 2):
        assert_equal(at(after.lifetime, i), at(ended, i))
        assert after.objective[i] == 0.0
    assert after.lifetime.step.tolist() == [2, 3, 2]
    assert len(lived.traces) == 1
    if lived.newborn.critic:
        _, (judged, _) = jax.jit(jax.vmap(lived.inner.loss, (None, 0, 0)))(lived.meta_params, ended, lived.keys)
        for i in (0, 2):
            assert_equal(at(judged, i), at(ended, i))
        moved = jax.tree.map(lambda a, b: bool((a[1] != b[1]).any()), judged.critic, ended.critic)
        assert any(jax.tree.leaves(moved))


def test_fitness_is_one_finite_number_that_depends_on_its_key(lived):
    fitness = jax.jit(jax.vmap(lived.inner.fitness, (None, None, 0)))
    keys = jax.random.split(jax.random.key(4), 8)
    values = fitness(lived.meta_params, at(lived.older, 0), keys)
    assert values.shape == (8,) and values.dtype == jnp.float32
    assert jnp.isfinite(values).all() and len(set(values.tolist())) > 1
    assert_equal(values, fitness(lived.meta_params, at(lived.older, 0), keys))


# --- objectives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_gives_targets_per_step_and_a_gradient_for_every_output(name):
    objective = OBJECTIVES[name]()
    agent = model(LEVELS.env, tabular, dict(objective.outputs))
    level = LEVELS.sample(jax.random.key(0))
    progress = Progress(jnp.int32(1), jnp.int32(6))

    @jax.jit
    def learn(key):
        noise, act_key, meta_key = jax.random.split(key, 3)
        params = agent.network.init(key)
        params = {
            k: x + jax.random.normal(jax.random.fold_in(noise, i), x.shape) for i, (k, x) in enumerate(params.items())
        }
        actors = reset(LEVELS.env, agent, level.problem, key, NUM_ENVS)
        _, data = rollout(LEVELS.env, agent, params, actors, level.problem, act_key, LENGTH)
        meta_params = objective.init(meta_key)
        targets, objective = objective.targets(meta_params, params, agent, data, progress)
        value_and_grad = jax.value_and_grad(objective.loss, argnums=1, has_aux=True)
        (loss, metrics), gradient = value_and_grad(meta_params, params, agent, data, targets, progress)
        return targets, objective, loss, metrics, gradient

    targets, objective, loss, metrics, gradient = learn(jax.random.key(5))
    assert all(leaf.shape[:2] == (LENGTH, NUM_ENVS) for leaf in jax.tree.leaves(targets))
    assert objective.shape == loss.shape == () and jnp.isfinite(objective) and jnp.isfinite(loss)
    assert all(x.shape == () and jnp.isfinite(x) for x in metrics.values())
    assert set(gradient) == {"policy", *objective.outputs}
    for output, leaf in gradient.items():
        assert jnp.isfinite(leaf).all() and (leaf != 0).any(), output


# --- curricula ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURRICULA)
def test_a_curriculum_gives_out_different_levels_and_keeps_its_state(name):
    curriculum, needed = CURRICULA[name](LEVELS), jnp.ones(4, bool)
    traces = []

    @jax.jit
    def turn(state, key):
        traces.append(1)
        levels, state = curriculum.sample(key, state, needed)
        return levels, curriculum.update(state, levels, jnp.arange(4.0), jnp.array([True, False, True, False]))

    state = jax.jit(lambda key: curriculum.init(key, 4))(jax.random.key(0))
    levels, after = turn(state, jax.random.key(1))
    again, _ = turn(after, jax.random.key(2))
    assert_arrays_only((state, after))
    assert shapes(state) == shapes(after)
    assert len(traces) == 1
    assert jax.tree.map(jnp.shape, levels) == jax.tree.map(lambda x: (4, *x.shape), LEVELS.sample(jax.random.key(0)))
    for drawn in (levels, again):
        assert len(np.unique(drawn.problem.reward.reshape(4, -1)[:, 0])) == 4
    assert_equal(levels, turn(state, jax.random.key(1))[0])


# --- estimators and whole meta-training runs ----------------------------------------------------------------


class Run(NamedTuple):
    meta: metarl.Meta
    state: Any  # the first
    key: jax.Array
    train: Callable  # (state, keys) -> state, metrics
    traces: list


@pytest.fixture(scope="module", params=ESTIMATORS)
def run(request):
    meta = compose(
        build("lpg tabular"), ESTIMATORS[request.param](), optax.adam(1e-3), metarl.curricula.uniform(LEVELS), LIFETIMES
    )
    traces = []

    def step(state, key):
        traces.append(1)
        return meta.step(state, key)

    step = jax.jit(step)

    def train(state, keys):
        rows = []
        for key in keys:
            state, metrics = step(state, key)
            rows.append(metrics)
        return state, jax.tree.map(lambda *x: np.stack(x), *rows)

    return Run(meta, jax.jit(meta.init)(jax.random.key(0)), jax.random.key(1), train, traces)


def test_an_estimate_has_the_tree_of_the_meta_parameters_and_reaches_every_leaf(run, request):
    inner = build("lpg tabular")
    estimator = ESTIMATORS[request.node.callspec.params["run"]]()
    estimate = jax.jit(lambda s, key: estimator.estimate(inner, s.params, s.estimator, s.lifetimes, key))
    gradient, state, lifetimes, metrics = estimate(run.state, run.key)
    assert shapes(gradient) == shapes(run.state.params)
    assert shapes(state) == shapes(run.state.estimator)
    assert shapes(lifetimes) == shapes(run.state.lifetimes)
    assert jnp.isfinite(metrics["meta_loss"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert jnp.isfinite(leaf).all(), name
        assert (leaf != 0).any(), f"no gradient reaches {name}"


def test_a_run_is_deterministic_resumable_finite_and_compiled_once(run):
    keys = jax.random.split(run.key, 7)  # longer than a lifetime: agents die and are born
    whole, log = run.train(run.state, keys)
    half, _ = run.train(run.state, keys[:3])
    saved = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), half)  # through the host, as a checkpoint is
    resumed, rest = run.train(saved, keys[3:])
    assert_equal(whole, resumed)
    assert_equal(jax.tree.map(lambda x: x[3:], log), rest)
    assert len(run.traces) == 1
    assert shapes(whole) == shapes(run.state)
    assert_arrays_only(whole)
    assert log["lifetimes_ended"].sum() >= LIFETIMES
    for leaf in jax.tree.leaves((whole.params, whole.lifetimes.params, log["meta_loss"])):
        assert np.isfinite(leaf).all()
    assert int(whole.step) == 7


def test_seeds_vmap(run):
    """A step of many runs is the steps of each."""
    keys = jax.random.split(jax.random.key(9), 2)
    other = jax.jit(run.meta.init)(keys[0])
    together, _ = jax.jit(jax.vmap(run.meta.step))(jax.tree.map(lambda *x: jnp.stack(x), run.state, other), keys)
    for i, state in enumerate((run.state, other)):
        assert_close(at(together, i), run.train(state, keys[i : i + 1])[0])
    one, other = (jax.tree.leaves(at(together.params, i))[0] for i in range(2))
    assert (one != other).any()


def test_a_run_needs_a_lifetime():
    with pytest.raises(ValueError, match="num_lifetimes must be at least 1, got 0"):
        compose(build("a2c"), metarl.estimators.backprop(1), optax.adam(1.0), metarl.curricula.uniform(LEVELS), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1 inner update, got 0"),
        ({"steps": 1, "batch_size": 0}, "batch_size must be at least 1 lifetime, got 0"),
    ],
)
def test_bad_options_of_estimators_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        metarl.estimators.backprop(**options)


def test_a_batch_that_does_not_divide_the_lifetimes_is_named(run):
    estimator = metarl.estimators.backprop(1, batch_size=2)
    with pytest.raises(ValueError, match="batch_size must divide num_lifetimes = 3, got 2"):
        estimator.estimate(build("a2c"), run.state.params, (), run.state.lifetimes, run.key)

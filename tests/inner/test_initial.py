"""Learned initialisations against closed forms, finite differences, and learners that are born there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from seams.parts import MDP, agent, assert_close, assert_reached
from toy import assert_same

import metarl
from envs import mdp, regression, tasks
from metarl import curricula, estimators, networks, optimizers
from metarl.inner.initial import parameters
from metarl.inner.rl import value_judge
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.objectives import a2c

RATE, UPDATES, COUNT = 0.7, 3, 4
TASK = tasks.quadratic(dim=3, condition=(4.0, 9.0))
SGD = optax.sgd(RATE)
FIRST_ORDER = optax.chain(optimizers.first_order(), SGD)


def learners(optimizer, horizon=UPDATES, count=COUNT, task=TASK):
    """An inner loop with a learned initialisation, meta-parameters of it, and lifetimes of it."""
    inner = supervised_inner_loop(task, optimizer, initial="learned")

    @jax.jit
    def start():
        levels = jax.vmap(task_levels(task, horizon).sample)(jax.random.split(jax.random.key(0), count))
        lifetimes = jax.vmap(inner.init)(jax.random.split(jax.random.key(1), count), levels)
        return inner.init_meta(jax.random.key(2)), lifetimes

    return inner, *start()


def estimated(estimator, inner, meta_params, lifetimes):
    """The estimate for the initialisation, the lifetimes afterwards and the metrics."""
    state = estimator.init(meta_params, lifetimes)
    gradient, _, after, metrics = jax.jit(partial(estimator.estimate, inner))(
        meta_params, state, lifetimes, jax.random.key(3)
    )
    return gradient["initial"], after, metrics


# --- closed forms: an update multiplies the `distance` of a learner from the minimum by 1 - RATE h --------------------

CLOSED_FORMS = {
    "maml": (SGD, estimators.backprop(UPDATES), lambda h, distance: h * (1 - RATE * h) ** (2 * UPDATES) * distance),
    "fomaml": (FIRST_ORDER, estimators.backprop(UPDATES), lambda h, distance: h * (1 - RATE * h) ** UPDATES * distance),
    "reptile": (SGD, estimators.reptile(UPDATES), lambda h, distance: (1 - (1 - RATE * h) ** UPDATES) * distance),
    "pretraining": (optax.set_to_zero(), estimators.backprop(1), lambda h, distance: h * distance),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_meta_gradient_on_quadratics_is_the_closed_form(name, x64):
    optimizer, estimator, slope = CLOSED_FORMS[name]
    inner, meta_params, lifetimes = learners(optimizer)
    h, minimum = lifetimes.level.problem
    gradient, _, metrics = estimated(estimator, inner, meta_params, lifetimes)
    distance = meta_params["initial"]["x"] - minimum
    np.testing.assert_allclose(gradient["x"], slope(h, distance).mean(0), rtol=1e-6)
    shrunk = distance if name == "pretraining" else (1 - RATE * h) ** UPDATES * distance
    np.testing.assert_allclose(metrics["meta_loss"], 0.5 * (h * shrunk**2).sum(1).mean(), rtol=1e-6)


def test_the_meta_gradient_reaches_the_initialisation_at_any_age(x64):
    """Later updates start from where the learner is, and that is the initialisation plus a constant distance."""
    inner, meta_params, lifetimes = learners(SGD, horizon=2 * UPDATES)
    _, older, _ = estimated(estimators.backprop(UPDATES), inner, meta_params, lifetimes)
    moved = {**meta_params, "initial": {"x": meta_params["initial"]["x"] + 1.0}}  # by the meta-step in between
    gradient, _, _ = estimated(estimators.backprop(UPDATES), inner, moved, older)
    h, minimum = lifetimes.level.problem
    place = jax.vmap(partial(parameters, moved))(older)["x"]
    np.testing.assert_allclose(
        place, minimum + (1 - RATE * h) ** UPDATES * (moved["initial"]["x"] - 1.0 - minimum) + 1.0
    )
    np.testing.assert_allclose(
        gradient["x"], (h * (1 - RATE * h) ** (2 * UPDATES) * (place - minimum)).mean(0), rtol=1e-6
    )


@pytest.mark.parametrize(
    "estimator", [estimators.es(UPDATES, sigma=0.1, shaping="none"), estimators.pes(UPDATES, sigma=0.1)]
)
def test_evolution_follows_the_closed_form(estimator):
    inner, meta_params, lifetimes = learners(SGD, count=4096)
    h, minimum = lifetimes.level.problem
    expected = (h * (1 - RATE * h) ** (2 * UPDATES) * (meta_params["initial"]["x"] - minimum)).mean(0)
    gradient, _, _ = estimated(estimator, inner, meta_params, lifetimes)
    np.testing.assert_allclose(gradient["x"], expected, rtol=0.1, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("mixed", [False, True])
def test_the_meta_gradient_through_a_network_is_the_finite_difference(mixed, x64):
    task = regression.sinusoid(shots=4, hidden=(5,))
    double = task._replace(init=lambda *args: jax.tree.map(lambda x: x.astype(float), task.init(*args)))
    inner, meta_params, lifetimes = learners(optax.sgd(0.05), task=double)
    direction = optax.tree.random_like(jax.random.key(5), meta_params["initial"])
    estimator = estimators.backprop(UPDATES, mixed=mixed)
    state = estimator.init(meta_params, lifetimes)

    @jax.jit
    def estimate(amount):
        start = {**meta_params, "initial": optax.tree.add_scale(meta_params["initial"], amount, direction)}
        gradient, *_, metrics = estimator.estimate(inner, start, state, lifetimes, jax.random.key(3))
        return optax.tree.vdot(gradient["initial"], direction), metrics["meta_loss"]

    (slope, _), (_, up), (_, down) = (estimate(amount) for amount in (0.0, 1e-6, -1e-6))
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-4)


# --- agents -------------------------------------------------------------------------------------------------


def remembering():
    """A2C that remembers the policy at birth, and an optimizer whose state is the parameters at birth."""
    objective = a2c()._replace(init_memory=lambda params: jax.tree.map(jnp.copy, params["policy"]))
    return objective, optax.chain(
        optax.GradientTransformation(lambda p: p, lambda g, s, p=None: (g, s)), optax.adam(0.1)
    )


def test_agents_are_those_that_are_born_at_the_initialisation():
    """In their parameters, what they and their optimizers remember, their worth, and what their critic says of them."""
    objective, optimizer = remembering()
    learned, _ = agent(objective, networks.tabular, optimizer, initial="learned")
    meta_params, key = jax.jit(learned.init_meta)(jax.random.key(0)), jax.random.key(1)
    born, _ = agent(objective, networks.tabular, optimizer, initial=meta_params["initial"])
    judge = value_judge(MDP.env, networks.tabular, objective, metarl.Critic(optax.adam(0.1)), metarl.Experience(4, 4))

    @partial(jax.jit, static_argnums=0)
    def live(inner, meta_params):
        lifetime, metrics = metarl.train_agent(inner, meta_params, MDP.sample(key), key, 2)
        seen = metrics, inner.fitness(meta_params, lifetime, key), judge(meta_params, lifetime, key)
        return lifetime._replace(params=parameters(meta_params, lifetime)), seen

    one, other = live(learned, meta_params), live(born, {"objective": (), "optimizer": ()})
    assert_close(one, other)
    assert_close(one[0].memory, meta_params["initial"]["policy"])
    assert_reached(jax.tree.map(jnp.subtract, one[0].params, meta_params["initial"]))


def test_the_policy_of_an_actor_critic_gets_a_meta_gradient():
    """Its value does not: the meta-objective has its own critic."""
    inner, levels = agent(a2c(), networks.tabular, optax.sgd(1.0), initial="learned")

    @jax.jit
    def start(keys):
        return inner.init_meta(keys[0]), jax.vmap(inner.init)(keys, jax.vmap(levels.sample)(keys))

    gradient, _, _ = estimated(estimators.backprop(2), inner, *start(jax.random.split(jax.random.key(0), 3)))
    assert_reached(gradient["policy"])
    assert not gradient["value"].any()


# --- runs, and what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["maml", "reptile"])
def test_a_run_learns_and_resumes_exactly(method, tmp_path):
    optimizer, estimator, _ = CLOSED_FORMS[method]
    inner = supervised_inner_loop(TASK, optimizer, initial="learned")
    meta = metarl.compose(inner, estimator, optax.adam(0.05), curricula.uniform(task_levels(TASK, 2 * UPDATES)), COUNT)
    whole = metarl.train(meta, steps=6, chunk=3)
    metarl.train(meta, steps=3, chunk=3, directory=tmp_path)
    assert_same(whole, metarl.train(meta, steps=6, chunk=3, directory=tmp_path, resume=True))
    assert whole[0].lifetimes.params["x"].any()


def test_meta_parameters_have_a_third_part_only_if_it_is_learned():
    for initial, parts in (("random", {"objective", "optimizer"}), ("learned", {"objective", "optimizer", "initial"})):
        assert set(supervised_inner_loop(TASK, SGD, initial=initial).init_meta(jax.random.key(0))) == parts
    assert set(agent(a2c(), networks.tabular, SGD)[0].init_meta(jax.random.key(0))) == {"objective", "optimizer"}


def test_newborns_are_at_the_initialisation():
    inner, meta_params, lifetimes = learners(SGD)
    assert not lifetimes.params["x"].any()
    assert_close(
        jax.vmap(partial(parameters, meta_params))(lifetimes)["x"], jnp.tile(meta_params["initial"]["x"], (COUNT, 1))
    )


def reptile_on(inner):
    estimator = estimators.reptile(1)
    meta = metarl.compose(inner, estimator, SGD, curricula.uniform(task_levels(TASK, 1)), 2)
    jax.eval_shape(meta.init, jax.random.key(0))


LEARNED_RATES = optimizers.meta_sgd({"x": (3,)})


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (
            lambda: supervised_inner_loop(TASK, SGD, initial="zero"),
            "initial must be one of random, learned, got 'zero'",
        ),
        (lambda: agent(a2c(), networks.tabular, SGD, initial="x"), "initial must be one of random, learned, got 'x'"),
        (
            lambda: supervised_inner_loop(TASK, SGD, initial=jnp.ones(3)),
            r"the initialisation does not fit the task's parameters: it has nothing at \['x'\], wanted \(3,\)",
        ),
        (
            lambda: reptile_on(supervised_inner_loop(TASK, SGD)),
            r"reptile learns an initialisation and nothing else, but here the learned parts are \[\]: give",
        ),
        (
            lambda: reptile_on(supervised_inner_loop(TASK, LEARNED_RATES, initial="learned")),
            r"the learned parts are \['optimizer', 'initial'\]",
        ),
        (lambda: estimators.reptile(0), "steps must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(act, says):
    with pytest.raises(ValueError, match=says):
        act()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"x": jnp.zeros(2)},
            r"the initialisation does not fit the learners' parameters: it has \(2,\) at \['x'\], wanted \(3,\)",
        ),
        ({"y": jnp.zeros(3)}, r"it has nothing at \['x'\], wanted \(3,\)"),
        ((), r"it has nothing at \['x'\], wanted \(3,\)"),
    ],
)
def test_an_initialisation_of_another_shape_is_named(given, says):
    inner, meta_params, lifetimes = learners(SGD)
    lifetime = jax.tree.map(lambda x: x[0], lifetimes)
    for function in (inner.step, inner.loss, inner.fitness):
        with pytest.raises(ValueError, match=says):
            function({**meta_params, "initial": given}, lifetime, jax.random.key(0))


def test_an_initialisation_for_other_observations_is_named():
    params = jax.eval_shape(agent(a2c(), networks.tabular, SGD, initial="learned")[0].init_meta, jax.random.key(0))[
        "initial"
    ]
    with pytest.raises(
        ValueError, match=r"the network tabular of these agents: it has \(4, 3\) at \['policy'\], wanted \(7, 2\)"
    ):
        metarl.rl_inner_loop(mdp.MDP(7, 2), networks.tabular, a2c(), SGD, metarl.Experience(1, 1), initial=params)

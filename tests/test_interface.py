"""Every seam says which of its parts returned something else than the interface wants, before anything compiles."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
import quadratic

import envs
import metarl
from envs import mdp, tasks
from metarl import Experience, Level, Levels, curricula, estimators, interface, optimizers
from metarl.curricula import scores
from metarl.inner.rl import value_judge
from metarl.meta import Update

KEY = jax.random.key(0)
MDP = mdp.distribution(num_states=3, num_actions=2, max_steps=4, horizon=5)
LEVEL = MDP.sample(KEY)
INNER, LEVELS = quadratic.quadratic(), quadratic.levels(4)


def says(start, make):
    """`make()` raises a ValueError of one line that begins with `start`."""
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value).startswith(start) and "\n" not in str(error.value)


# --- the parts of agents ------------------------------------------------------------------------------------

A2C = metarl.objectives.a2c()


def agents(objective=A2C, optimizer=None, env=MDP.env, network=metarl.networks.tabular, **options):
    experience = options.pop("experience", Experience(2, 3))
    return metarl.rl_inner_loop(env, network, objective, optimizer or optax.sgd(0.1), experience, **options)


def train(objective=A2C, level=LEVEL, meta_params=None, **options):
    """Traces two updates of an agent."""
    inner = agents(objective, **options)
    given = {} if meta_params is None else meta_params
    return jax.eval_shape(lambda key: metarl.train_agent(inner, given, level, key, 2), KEY)


def objective(change):
    """A2C with its loss and metrics changed."""

    def loss(*args):
        return change(*A2C.loss(*args))

    return A2C._replace(loss=loss)


LOSS = "Objective.loss (objective.loss) returned"
OBJECTIVES = {
    "not called": (metarl.objectives.a2c, "objective must be an Objective, got the function a2c: call a2c(...)"),
    "none": (None, "objective must be an Objective, got None"),
    "no outputs": (A2C._replace(outputs=None), "Objective.outputs must be a mapping {name: size}, got None"),
    "policy": (A2C._replace(outputs={"policy": 2}), "Objective.outputs must not have 'policy'"),
    "size": (A2C._replace(outputs={"value": 0}), "Objective.outputs['value'] must be at least 1, got 0"),
    "vector": (objective(lambda x, m: (jnp.stack([x, x]), m)), f"the loss that {LOSS} float32[2], wanted float[]"),
    "complex": (objective(lambda x, m: (x + 0j, m)), f"the loss that {LOSS} complex64[], wanted float[]"),
    "nothing": (objective(lambda x, m: None), f"{LOSS} None, wanted (loss, metrics)"),
    "no metrics": (objective(lambda x, m: x), f"{LOSS} float32[], wanted (loss, metrics)"),
    "metrics None": (objective(lambda x, m: (x, None)), f"the metrics that {LOSS} None, wanted metrics"),
    "metric complex": (objective(lambda x, m: (x, {"a": x + 0j})), f"the metrics that {LOSS} {{a: complex64[]}}, wan"),
    "loss None": (objective(lambda x, m: (None, m)), f"the loss that {LOSS} None, wanted float[]"),
    "targets": (
        A2C._replace(targets=lambda *args: A2C.targets(*args)[:2]),
        "Objective.targets (<lambda>) returned 2 values, wanted 3: (targets, objective, memory)",
    ),
    "regulariser": (
        A2C._replace(targets=lambda *args: (A2C.targets(*args)[0], jnp.ones(3), ())),
        "the objective that Objective.targets (<lambda>) returned float32[3], wanted float[]",
    ),
    "memory": (
        A2C._replace(init_memory=lambda params: jnp.zeros(2), targets=lambda *args: (*A2C.targets(*args)[:2], ())),
        "the memory that Objective.targets (<lambda>) returned (), wanted float32[2]",
    ),
    **{
        f"metric {name}": (
            objective(lambda x, m, name=name: (x, {**m, name: x})),
            f"the metric {name!r} is given by the objective and by the agent: rename one",
        )
        for name in ("reward", "episode_return", "env_steps")
    },
    "metric agent_updates": (
        objective(lambda x, m: (x, {"agent_updates": x})),
        "the metric 'agent_updates' is given by the inner loop and by the run: rename one",
    ),
    "metric seconds": (
        objective(lambda x, m: (x, {"seconds": x})),
        f"the metrics that {LOSS} a metric 'seconds', a name that logs need themselves: rename it",
    ),
}


@pytest.mark.parametrize("fault", OBJECTIVES)
def test_objectives(fault):
    wrong, start = OBJECTIVES[fault]
    says(start, lambda: train(wrong))


def test_the_regulariser_of_the_updated_agent():
    wrong = A2C._replace(regulariser=lambda *args: jnp.ones(2))
    inner = agents(wrong, critic=metarl.Critic(optax.sgd(0.1)))
    says(
        "the regulariser that Objective.regulariser (test_the_regulariser_of_the_updated_agent.<lambda>) returned",
        lambda: jax.eval_shape(lambda key: inner.loss({}, inner.init(key, LEVEL), key), KEY),
    )


def test_a_loss_is_checked_in_minibatches_too():
    wrong = objective(lambda x, m: (x[None], m))
    says(f"the loss that {LOSS} float32[1]", lambda: train(wrong, experience=Experience(2, 3, minibatches=2)))


def transformation(change, init=lambda params: jnp.zeros(())):
    """SGD whose updates and state are changed."""
    return optax.GradientTransformation(init, lambda updates, state, params=None: change(updates, state))


LEARNED = optimizers.schedule()
OPTIMIZERS = {
    "not called": (optax.adam, "optimizer must be a GradientTransformation, got the function adam: call adam(...)"),
    "none": (3, "optimizer must be a GradientTransformation, got 3"),
    "objective": (A2C, "optimizer must be a GradientTransformation, got an Objective"),
    "state shape": (
        transformation(lambda u, s: (u, jnp.zeros(2))),
        "the state that optimizer.update returned float32[2], wanted float32[]",
    ),
    "state dtype": (
        transformation(lambda u, s: (u, jnp.int32(0))),
        "the state that optimizer.update returned int32[], wanted float32[]",
    ),
    "state tree": (transformation(lambda u, s: (u, (s,))), "the state that optimizer.update returned (float32[],), w"),
    "updates shape": (
        transformation(lambda u, s: (jax.tree.map(lambda x: x[None], u), s)),
        "the updates that optimizer.update returned float32[1",
    ),
    "updates tree": (transformation(lambda u, s: (0.0, s)), "the updates that optimizer.update returned float32[], w"),
    "updates only": (transformation(lambda u, s: 0.0), "optimizer.update returned float32[], wanted (updates, state)"),
}
TASK = tasks.quadratic(dim=2)


def supervise(optimizer, task=TASK):
    inner = metarl.supervised_inner_loop(task, optimizer)
    level = metarl.task_levels(task, 3).sample(KEY)
    return jax.eval_shape(lambda key: metarl.train_agent(inner, inner.init_meta(key), level, key, 1), KEY)


def meta_train(optimizer=None, inner=INNER, estimator=None, curriculum=None, num_lifetimes=3):
    """Traces the start and a meta-step."""
    curriculum = curricula.uniform(LEVELS) if curriculum is None else curriculum
    estimator = estimators.backprop(2) if estimator is None else estimator
    meta = metarl.compose(inner, estimator, optimizer or optax.sgd(0.1), curriculum, num_lifetimes)
    return jax.eval_shape(lambda key: meta.step(meta.init(key), key), KEY)


@pytest.mark.parametrize("of", [lambda x: train(optimizer=x), supervise, meta_train], ids=["agent", "task", "meta"])
@pytest.mark.parametrize("fault", OPTIMIZERS)
def test_optimizers(of, fault):
    wrong, start = OPTIMIZERS[fault]
    says(start, lambda: of(wrong))


def test_optimizers_of_another_seam():
    says("optimizer must be a GradientTransformation, got a LearnedOptimizer: a learned", lambda: meta_train(LEARNED))
    says("Critic.optimizer must be a GradientTransformation, got the", lambda: train(critic=metarl.Critic(optax.adam)))
    says("critic must be a Critic, got the function adam", lambda: train(critic=optax.adam))
    assert train(optimizer=LEARNED, meta_params={"optimizer": LEARNED.init(KEY)})
    wants_a_value = optax.contrib.reduce_on_plateau()
    for of in (meta_train, lambda x: train(optimizer=x)):
        says("optimizer.update cannot be traced: TypeError", lambda of=of: of(wants_a_value))


class Steps(NamedTuple):
    """An optax transformation by its functions alone."""

    init: object
    update: object


def test_an_optimizer_needs_no_base_class():
    assert meta_train(Steps(*optax.sgd(0.1))) and train(optimizer=Steps(*optax.sgd(0.1)))


def test_parts_of_agents_in_the_wrong_place():
    lpg = metarl.objectives.lpg(bins=3, hidden=4)
    says("env must be an environment, got the class MDP", lambda: train(env=mdp.MDP))
    says("experience must be an Experience, got a tuple", lambda: train(experience=(2, 3)))
    says("level must be a Level, got a Levels: give levels.sample(key)", lambda: train(level=MDP))
    for horizon in (0, -5, 2.5, jnp.float32(3.0)):
        says("level.horizon must be ", lambda horizon=horizon: train(level=LEVEL._replace(horizon=horizon)))
    says("inner must be an InnerLoop, got the", lambda: metarl.train_agent(agents, {}, LEVEL, KEY, 1))
    for given in ({}, {"objective": ()}, {"objective": {"a": 1}}):
        says("meta_params['objective'] must be {", lambda given=given: train(lpg, meta_params=given))
    says("meta_params must be a mapping such as inner.init_meta(key) gives, got ()", lambda: train(meta_params=()))
    says("critic must be a Critic, got None", lambda: judge(None))


def judge(critic):
    return value_judge(MDP.env, metarl.networks.tabular, A2C, critic, Experience(2, 3))


@pytest.mark.parametrize(
    "levels",
    [mdp.distribution(num_states=5, num_actions=2), envs.make("bandit/bernoulli"), quadratic.levels(3)],
    ids=["size", "kind", "task"],
)
def test_levels_of_another_environment(levels):
    says("the level is not one of the environment MDP: its problem is ", lambda: train(level=levels.sample(KEY)))
    inner = agents(critic=metarl.Critic(optax.sgd(0.1)))
    says(
        "the level is not one of the environment MDP: ",
        lambda: meta_train(None, inner, None, curricula.uniform(levels)),
    )


def test_tasks():
    sgd = optax.sgd(0.1)
    says("task must be a Task, got the function quadratic: call quad", lambda: supervise(sgd, tasks.quadratic))
    says("task must be a Task, got None", lambda: metarl.task_levels(None, 3))
    wrong = TASK._replace(loss=lambda *args: jnp.ones(2))
    says("Task.loss (test_tasks.<lambda>) returned float32[2], wanted float[]", lambda: supervise(sgd, wrong))


# --- inner loops, estimators and curricula ------------------------------------------------------------------


def loop(name, change):
    """The quadratic loop with what its function `name` returns changed."""
    right = getattr(INNER, name)
    return INNER._replace(**{name: lambda *args: change(right(*args))})


def costly(update, **metrics):
    return update._replace(metrics={**update.metrics, **metrics})


STEP, OTHER = "InnerLoop.step (loop.<lambda>) returned", "InnerLoop.loss (loop.<lambda>) returned"
LOOPS = {
    "not called": (quadratic.quadratic, "inner must be an InnerLoop, got the function quadratic: call quadratic(...)"),
    "step None": (loop("step", lambda x: None), f"{STEP} None, wanted an Update(lifetime, objective, metrics)"),
    "step tuple": (loop("step", tuple), f"{STEP} (Lifetime("),
    "step lifetime": (
        loop("step", lambda x: x._replace(lifetime=x.lifetime._replace(x=jnp.zeros(3)))),
        f"the lifetime that {STEP} float32[3] at .x, wanted float32[2]",
    ),
    "step objective": (
        loop("step", lambda x: x._replace(objective=jnp.zeros(3))),
        f"the objective that {STEP} float32[3], wanted float[]",
    ),
    "step metrics": (loop("step", lambda x: x._replace(metrics=None)), f"the metrics that {STEP} None, wanted"),
    "loss None": (loop("loss", lambda x: None), f"{OTHER} None, wanted an Update"),
    "loss vector": (
        loop("loss", lambda x: x._replace(objective=jnp.ones(2))),
        f"the objective that {OTHER} float32[2], wanted float[]",
    ),
    "loss complex": (
        loop("loss", lambda x: x._replace(objective=x.objective + 0j)),
        f"the objective that {OTHER} complex64[], wanted float[]",
    ),
    **{
        f"metric {name}": (
            loop("step", lambda x, name=name: costly(x, **{name: jnp.zeros(())})),
            f"the metric {name!r} is given by the inner loop and by the estimator: rename one",
        )
        for name in ("lifetime_loss", "meta_loss", "objective", "meta_gradient_norm")
    },
    "metric lifetimes_ended": (
        loop("step", lambda x: costly(x, lifetimes_ended=jnp.zeros(()))),
        "the metric 'lifetimes_ended' is given by the estimator and by the run: rename one",
    ),
}


@pytest.mark.parametrize("fault", LOOPS)
def test_inner_loops(fault):
    wrong, start = LOOPS[fault]
    says(start, lambda: meta_train(inner=wrong))


def test_fitness():
    es = estimators.es(2)
    wrong = loop("fitness", lambda x: x[None])
    says("InnerLoop.fitness (loop.<lambda>) returned float32[1], wanted float[]", lambda: meta_train(None, wrong, es))
    named = loop("step", lambda x: costly(x, sigma=jnp.zeros(())))
    says("the metric 'sigma' is given by the inner loop and by the estimator", lambda: meta_train(None, named, es))


def estimator(change):
    right = estimators.backprop(2)
    return right._replace(estimate=lambda *args: change(*right.estimate(*args)))


ESTIMATE = "Estimator.estimate (estimator.<lambda>) returned"
ESTIMATORS = {
    "not called": (estimators.backprop, "estimator must be an Estimator, got the function backprop: call backprop("),
    "optimizer": (optax.sgd(0.1), "estimator must be an Estimator, got a GradientTransformationExtraArgs"),
    "nothing": (estimator(lambda *x: None), f"{ESTIMATE} None, wanted (gradient, state, lifetimes, metrics)"),
    "three": (estimator(lambda *x: x[:3]), f"{ESTIMATE} 3 values, wanted 4: (gradient, state, lifetimes, metrics)"),
    "gradient": (
        estimator(lambda g, *x: ({"rate": jnp.ones(2)}, *x)),
        f"the gradient that {ESTIMATE} float32[2] at ['rate'], wanted float32[]",
    ),
    "state": (estimator(lambda g, s, *x: (g, (), *x)), f"the state that {ESTIMATE} (), wanted {{rate: float32[]}}"),
    "lifetimes": (
        estimator(lambda g, s, x, m: (g, s, jax.tree.map(lambda leaf: leaf[:2], x), m)),
        f"the lifetimes that {ESTIMATE} float32[2, 2] at .x, wanted float32[3, 2]",
    ),
    "metrics": (estimator(lambda *x: (*x[:3], [])), f"the metrics that {ESTIMATE} [], wanted metrics"),
}


@pytest.mark.parametrize("fault", ESTIMATORS)
def test_estimators(fault):
    wrong, start = ESTIMATORS[fault]
    says(start, lambda: meta_train(estimator=wrong))


def test_parts_of_a_run_that_are_swapped():
    curriculum = curricula.uniform(LEVELS)
    swapped = partial(metarl.compose, INNER, optax.sgd(0.1), estimators.backprop(2), curriculum, 3)
    says("estimator must be an Estimator, got a GradientTransformation", swapped)
    says("optimizer must be a GradientTransformation, got an Estimator", lambda: meta_train(estimators.backprop(2)))
    says("inner must be an InnerLoop, got a Curriculum", lambda: meta_train(inner=curriculum))


def curriculum(name, change):
    right = curricula.uniform(LEVELS)
    function = getattr(right, name)
    return right._replace(**{name: lambda *args: change(*function(*args))})


SAMPLE, CHANGE = "Curriculum.sample (curriculum.<lambda>) returned", "Curriculum.update (curriculum.<lambda>) returned"
CURRICULA = {
    "levels": (LEVELS, "curriculum must be a Curriculum, got a Levels: give metarl.curricula.uniform(levels)"),
    "not called": (curricula.uniform, "curriculum must be a Curriculum, got the function uniform: call uniform(...)"),
    "no levels": (curriculum("sample", lambda x, s: (x.problem, s)), f"{SAMPLE} (float32[3, 2], float32[3, 2])"),
    "no axis": (
        curriculum("sample", lambda x, s: (jax.tree.map(lambda leaf: leaf[0], x), s)),
        f"the horizon that {SAMPLE} int32[], wanted int[3]",
    ),
    "no axis of problems": (
        curriculum("sample", lambda x, s: (x._replace(problem=jnp.ones(2)), s)),
        f"{SAMPLE} problems with float32[2], wanted [3, ...]",
    ),
    "update": (
        curriculum("update", lambda state, metrics: metrics),
        f"{CHANGE} {{level_horizon: float32[]}}, wanted (",
    ),
    "update state": (
        curriculum("update", lambda state, metrics: (jnp.ones(1), metrics)),
        "the state that Curriculum.update and sample returned float32[1], wanted ()",
    ),
    "update metrics": (
        curriculum("update", lambda state, metrics: (state, {"meta_loss": jnp.ones(())})),
        "the metric 'meta_loss' is given by the estimator and by the curriculum: rename one",
    ),
}


@pytest.mark.parametrize("fault", CURRICULA)
def test_curricula(fault):
    wrong, start = CURRICULA[fault]
    says(start, lambda: meta_train(curriculum=wrong))


# --- levels and horizons ------------------------------------------------------------------------------------

CURRICULA_OF = {
    "uniform": curricula.uniform,
    "fixed": lambda levels: curricula.fixed(levels, 2),
    "replay": lambda levels: curricula.replay(levels, 4, score=scores.uniformly_random()),
    "mixed": lambda levels: metarl.mixed_levels([levels]),
}


def lasting(horizon):
    return Levels(lambda key: Level(jnp.zeros(2), horizon))


LASTING = "the horizon that Levels.sample (lasting.<lambda>) returned"


@pytest.mark.parametrize("of", CURRICULA_OF)
@pytest.mark.parametrize(
    ("levels", "start"),
    [
        (
            lasting(jnp.int32(0)),
            "the horizon that Levels.sample (lasting.<lambda>) returned must be at least 1 update, got 0",
        ),
        (lasting(-5), "the horizon that Levels.sample (lasting.<lambda>) returned must be at least 1 update, got -5"),
        (lasting(2.5), "the horizon that Levels.sample (lasting.<lambda>) returned float32[], wanted int[]"),
        (lasting(True), "the horizon that Levels.sample (lasting.<lambda>) returned bool[], wanted int[]"),
        (lasting(None), "the horizon that Levels.sample (lasting.<lambda>) returned None, wanted int[]"),
        (
            lasting(jnp.ones(2, jnp.int32)),
            "the horizon that Levels.sample (lasting.<lambda>) returned int32[2], wanted",
        ),
        (
            Levels(lambda key: (jnp.zeros(2), 3)),
            "Levels.sample (<lambda>) returned (float32[2], int32[]), wanted Level(",
        ),
        (Levels(7), "Levels.sample must be a function, got 7"),
        (lasting(3).sample(KEY), "levels must be a Levels, got a Level: give Levels(lambda key: level, env)"),
        (None, "levels must be a Levels, got None"),
        (MDP.env, "levels must be a Levels, got a"),
    ],
)
def test_levels(of, levels, start):
    says(start, lambda: CURRICULA_OF[of](levels))


@pytest.mark.parametrize("horizon", [0, -5, 2.5, True, None, 2**70, "5", float("nan")])
def test_horizons_of_constant_levels(horizon):
    for make in (
        partial(metarl.constant_levels, MDP.env),
        partial(metarl.task_levels, TASK),
        *([] if horizon is None else [partial(envs.make, "mdp/random")]),
    ):
        with pytest.raises(ValueError, match=r"(horizon|shortest|longest) must be (at least 1|at most|an integer)"):
            make(horizon=horizon)


def test_horizons_that_are_drawn_are_checked_when_levels_are():
    drawn = Levels(lambda key: Level(jnp.zeros(2), jax.random.randint(key, (), -9, 0)))
    meta = metarl.compose(INNER, estimators.backprop(2), optax.sgd(0.1), curricula.uniform(drawn), 3)
    says(
        "the horizon that Curriculum.sample (uniform.sample) returned must be at least 1 update, got -",
        lambda: meta.init(KEY),
    )


def test_horizons_and_problems_may_be_traced():
    """In a sweep, levels may depend on what is swept."""

    def run(horizon, h):
        levels = Levels(lambda key: Level((h * jnp.ones(2), jnp.ones(2)), horizon))
        meta = metarl.compose(INNER, estimators.backprop(2), optax.sgd(0.1), curricula.uniform(levels), 3)
        return meta.init(KEY).lifetimes.level.horizon

    found = jax.jit(jax.vmap(run))(jnp.array([3, 6]), jnp.ones(2))
    assert found.tolist() == [[1, 2, 3], [2, 4, 6]]
    says("the horizon that", lambda: jax.vmap(partial(run, -1))(jnp.ones(2)))


def test_no_environment():
    for wrong in (mdp.MDP, MDP, None):
        says("env must be an environment", lambda wrong=wrong: metarl.constant_levels(wrong, 5))


# --- scores and mixtures ------------------------------------------------------------------------------------


def test_scores():
    for make in (scores.positive_value_loss, scores.l1_value_loss, scores.max_monte_carlo):
        says("judge must be a function, got None", lambda make=make: make(None))
    says("function must be a function, got None", lambda: scores.of_ended(None))
    says("antagonist must be an InnerLoop, got None", lambda: scores.algorithmic_regret(None))
    says(
        "score must be a Score, got the function uniformly_random: call",
        lambda: curricula.replay(LEVELS, score=scores.uniformly_random),
    )


def test_mixtures():
    says("inners[1] must be an InnerLoop, got None", lambda: metarl.mixture([INNER, None], [1.0, 1.0]))
    says("levels must be at least one distribution of levels, got none", lambda: metarl.mixed_levels([]))


# --- names and messages -------------------------------------------------------------------------------------


def test_long_trees_are_cut():
    assert len(interface.shown({f"name {i}": jnp.ones(3) for i in range(100)})) < 210
    found = interface.shown((1, 2.0, None, Update, {"x": KEY}))
    assert found == "(int32[], float32[], None, the class Update, {x: key<fry>[]})"


def test_names():
    assert interface.name(partial(partial(judge))) == "judge" and interface.name(MDP.env) == "MDP"

"""One list for each kind of part. A new part is one more line here, and inherits the tests beside this file.

Parts are made when a test needs them: `PARTS["name"]()`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import finetuning
import in_context
import jax
import jax.numpy as jnp
import numpy as np
import optax
import quadratic

import metarl
from envs import mdp, tasks
from metarl import Experience, estimators, optimizers
from metarl.curricula import fixed, replay, scores, uniform, weighted
from metarl.finetune import Controller, Credit, TokenCritic, controllers, credit, sources, updates, utilities
from metarl.finetune import policies as sequences
from metarl.inner.mixture import mixed_levels, mixture
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.objectives import a2c, disco, dpo, lpg, lpo, mirror, ppo, with_reward
from metarl.rewards import learned
from metarl.rl.networks import action_model, gru, mlp, tabular

HORIZON, LIFETIMES = 6, 3
MDP = mdp.distribution(num_states=4, num_actions=3, max_steps=5, horizon=HORIZON, terminate=0.1)


def agent(objective, network, optimizer, critic=True, initial="random", **experience):
    """An RL loop on random MDPs, with a critic of the meta-objective unless told otherwise, and its levels."""
    inner = metarl.rl_inner_loop(
        MDP.env,
        network,
        objective,
        optimizer,
        Experience(4, 4, **experience),
        critic=metarl.Critic(optax.adam(0.1)) if critic else None,
        initial=initial,
        num_eval_episodes=4,
        max_episode_steps=10,
    )
    return inner, MDP


def lpg_sgd(rate):
    sgd = optax.chain(optimizers.clip_by_global_norm(0.5), optax.sgd(rate))
    return optimizers.per_output(policy=sgd, y=sgd)


def small_lpg(**options):
    return lpg(bins=3, hidden=8, **options)


def small_disco():
    return disco(predictions=3, hidden=6, lifetime_hidden=4, largest_value=2)


def two_quadratics():
    inner_loops = [quadratic.quadratic(noise) for noise in (0.0, 0.3)]
    places = [quadratic.levels(HORIZON, h, spread=0.5) for h in ((1.0, 3.0), (2.0, 2.0))]
    return mixture(inner_loops, [1.0, 2.0]), mixed_levels(places)


def supervised(task, optimizer, **options):
    return supervised_inner_loop(task, optimizer, **options), task_levels(task, HORIZON)


def fine_tuning(controller, **options):
    return finetuning.loop(controller, optimizers.adam(0.02), **options), finetuning.levels(HORIZON)


def with_failures():
    update = updates.separate(imitation=optimizers.adam(0.02), reward=optimizers.adam(0.02))
    buffer = sources.failures(finetuning.Echo(), 4)
    return fine_tuning(controllers.success_gate(4), demonstrations=buffer, update=update)


def token_critic():
    return TokenCritic(sequences.gru(finetuning.V, 4, outputs=1), optax.sgd(0.1))


TWICE = {"epochs": 2, "minibatches": 2}
HAND_MADE = {"critic": False, **TWICE}  # nothing is learned, so nothing is differentiated

# name -> inner loop and levels for it
INNER_LOOPS: dict[str, Callable[[], tuple[metarl.InnerLoop, metarl.Levels]]] = {
    "quadratic": lambda: (quadratic.quadratic(noise=0.3), quadratic.levels(HORIZON, spread=0.5)),
    "lpg tabular": lambda: agent(small_lpg(), tabular, lpg_sgd(2.0)),
    "learned optimizer": lambda: agent(a2c(), mlp((4,)), optimizers.open_rl(hidden=2, width=4)),
    "a2c recurrent": lambda: agent(a2c(), gru(4), optax.adam(0.1), critic=False),
    "ppo": lambda: agent(ppo(), mlp((8,)), optax.adam(1e-2), **HAND_MADE),
    "lpo": lambda: agent(lpo(hidden=8), tabular, optax.adam(0.1), **HAND_MADE),
    "lpo temporal": lambda: agent(
        lpo(temporal=True, start="scratch", hidden=8), tabular, optimizers.adam(0.3), epochs=3
    ),
    "disco": lambda: agent(small_disco(), action_model((8,), hidden=4), optimizers.adam(1e-2)),
    "supervised": lambda: supervised(tasks.quadratic(dim=3, noise=0.1), optimizers.schedule(0.1, 0.5, knots=2)),
    "learned initial agent": lambda: agent(small_lpg(), tabular, lpg_sgd(2.0), initial="learned"),
    "learned initial": lambda: supervised(
        tasks.quadratic(dim=3, noise=0.1), optimizers.meta_sgd({"x": (3,)}, 0.1), initial="learned"
    ),
    "supervised network": lambda: supervised(tasks.mlp_digits(hidden=3, batch=4), optimizers.no_features(width=4)),
    "in context": lambda: (in_context.in_context(), in_context.levels(HORIZON)),
    "mixture": two_quadratics,
    "fine-tuning": lambda: fine_tuning(
        controllers.amft(0.5), utility=utilities.cross_entropy(finetuning.Echo(), 4), passes=(2, 2)
    ),
    "fine-tuning on failures": with_failures,
}


def strategy(solution):
    import evosax.algorithms

    return evosax.algorithms.SNES(population_size=8, solution=solution)


# name -> (number of updates, options) -> estimator
ESTIMATORS: dict[str, Callable[..., metarl.Estimator]] = {
    "backprop": estimators.backprop,
    "mixed backprop": partial(estimators.backprop, mixed=True),
    "es": partial(estimators.es, sigma=0.5, shaping="none"),
    "pes": partial(estimators.pes, sigma=0.5),
    "ask_tell": partial(estimators.ask_tell, strategy),
}

# name -> (levels of `quadratic`) -> curriculum
CURRICULA: dict[str, Callable[[metarl.Levels], metarl.Curriculum]] = {
    "uniform": uniform,
    "fixed": partial(fixed, num_levels=1000),
    "replay at random": partial(replay, capacity=6, score=scores.uniformly_random(), probability=1.0),
    "replay by regret": partial(replay, capacity=6, score=scores.algorithmic_regret(quadratic.quadratic())),
    "replay with mutation": lambda levels: replay(
        levels._replace(mutate=lambda key, level: levels.sample(key)),
        capacity=6,
        score=scores.optimal_regret(lambda problem: jnp.zeros(())),
        mutation_probability=0.5,
    ),
    "weighted": lambda levels: weighted([levels, levels], lambda inner, meta_params, lifetime, key: lifetime.x.sum()),
}

OBJECTIVES: dict[str, Callable[[], metarl.Objective]] = {
    "a2c": a2c,
    "ppo": ppo,
    "lpg": small_lpg,
    "lpo": partial(lpo, hidden=8),
    "lpo temporal": partial(lpo, temporal=True, start="scratch", hidden=8),
    "dpo": dpo,
    "mirror": partial(mirror, "max(0, (r - 0.1 * n) * A)"),
    "lpg with a formula": partial(small_lpg, pi_hat="r + w - v + 0.9 * g"),
    "disco": small_disco,
    "rewarded": lambda: with_reward(small_lpg(), learned(MDP.env, mlp((4,)))),
}

# optax transformations and `LearnedOptimizer`s
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: optimizers.adam(0.1),
    "clipped": lambda: optimizers.clip_by_global_norm(0.5),
    "per output": lambda: optimizers.per_output(policy=optax.sgd(1.0), y=optimizers.adam(0.1)),
    "open": optimizers.open_rl,
    "open feed-forward": lambda: optimizers.open_rl(hidden=0),
    "no features": optimizers.no_features,
    "adafac": optimizers.adafac,
    "schedule": optimizers.schedule,
    "meta_sgd": lambda: optimizers.meta_sgd({"policy": {"kernel": (2, 2), "bias": (2,)}, "y": (3,)}, 0.1),
}

# of fine-tuning, by name
CONTROLLERS: dict[str, Callable[[], Controller]] = {
    "constant": lambda: controllers.constant(0.3),
    "switch": lambda: controllers.schedule(controllers.switch(0.5)),
    "cosine": lambda: controllers.schedule(controllers.cosine(0.9, 0.1)),
    "srft_of_amft": controllers.srft_of_amft,
    "success gate": lambda: controllers.success_gate(3),
    "servo": lambda: controllers.entropy_servo(warm_up=1),
    "servo with a target": lambda: controllers.entropy_servo(target=1.0),
    "dual ascent": lambda: controllers.dual_ascent(0.5),
    "amft": lambda: controllers.amft(warm_up=1),
    "amft natural": lambda: controllers.amft(target=1.0, natural=True),
}
CREDITS: dict[str, Callable[[], Credit]] = {
    "grpo": lambda: credit.grpo(3),
    "dr_grpo": lambda: credit.dr_grpo(3),
    "rloo": lambda: credit.rloo(3),
    "gae": lambda: credit.gae(token_critic(), 0.9, 0.8),
    "prefix_group": lambda: credit.prefix_group(3, top=0.5),
}


# --- what the tests of all parts share ----------------------------------------------------------------------


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


def assert_reached(gradient):
    """A finite gradient that is not zero in any leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert jnp.isfinite(leaf).all(), name
        assert (leaf != 0).any(), f"no gradient reaches {name}"


@jax.jit
def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def saved(tree):
    """Through the host, as a checkpoint is."""
    return jax.tree.map(
        lambda x: x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(np.asarray(x)), tree
    )


def perturbed(meta_params, scale=0.1):
    """Meta-parameters that do something: those of a newborn optimizer move nothing."""
    leaves, tree = jax.tree.flatten(meta_params)
    keys = jax.random.split(jax.random.key(7), max(len(leaves), 1))
    return jax.tree.unflatten(
        tree, [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=False)]
    )

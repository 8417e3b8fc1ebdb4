"""What every objective of agents does."""

import jax
import jax.numpy as jnp
import optax
import pytest
from seams.parts import MDP, OBJECTIVES, assert_close, assert_reached, perturbed

import metarl
from metarl.rl.networks import tabular
from metarl.rl.rollout import model, rollout
from metarl.types import Progress

TIMES, ENVS = 4, 4


def learned(objective, step=False):
    """What an objective says of a rollout of a perturbed agent and, with `step`, the agent after gradient descent."""
    agent = model(MDP.env, tabular, dict(objective.outputs))
    inner = metarl.rl_inner_loop(MDP.env, tabular, objective, optax.sgd(1.0), metarl.Experience(ENVS, TIMES))

    @jax.jit
    def learn(key):
        birth_key, meta_key, step_key = jax.random.split(key, 3)
        meta_params = perturbed(inner.init_meta(meta_key))
        newborn = inner.init(birth_key, MDP.sample(key))
        lifetime = newborn._replace(params=perturbed(newborn.params, 1.0), step=jnp.int32(1))
        after = inner.step(meta_params, lifetime, step_key) if step else None
        # the same rollout again
        acting, rule = jax.random.split(step_key)[0], meta_params["objective"]
        _, data = rollout(MDP.env, agent, lifetime.params, lifetime.actors, lifetime.level.problem, acting, TIMES)
        progress = Progress(lifetime.step, lifetime.level.horizon)
        targets, added, _ = objective.targets(rule, lifetime.memory, lifetime.params, agent, data, progress)
        value_and_grad = jax.value_and_grad(objective.loss, argnums=1, has_aux=True)
        (loss, metrics), gradient = value_and_grad(rule, lifetime.params, agent, data, targets, progress)
        return {
            "params": lifetime.params,
            "after": after,
            "targets": targets,
            "added": added,
            "loss": loss,
            "metrics": metrics,
            "gradient": gradient,
        }

    return learn(jax.random.key(5))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_gives_targets_per_step_and_a_gradient_for_every_output(name):
    objective = OBJECTIVES[name]()
    found = learned(objective)
    assert all(leaf.shape[:2] == (TIMES, ENVS) for leaf in jax.tree.leaves(found["targets"]))
    assert found["added"].shape == found["loss"].shape == ()
    assert jnp.isfinite(found["added"]) and jnp.isfinite(found["loss"])
    assert all(x.shape == () and jnp.isfinite(x) for x in found["metrics"].values())
    assert set(found["gradient"]) == {"policy", *objective.outputs}
    assert_reached(found["gradient"])


@pytest.mark.parametrize("name", ["a2c", "lpg"])
def test_targets_are_constant_to_the_agent(name):
    """Its step is along the gradient of its loss alone, with targets held as they are."""
    found = learned(OBJECTIVES[name](), step=True)
    by_hand = jax.tree.map(jnp.subtract, found["params"], found["gradient"])
    assert_close(found["after"].lifetime.params, by_hand)
    assert_close(found["after"].objective, found["added"])

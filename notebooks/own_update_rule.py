# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Write your own update rule in one file
#
# A `metarl.Objective` says what an agent minimises. It consists of pure functions, and any estimator can meta-learn
# what in them depends on `meta_params`. This notebook writes a rule that is A2C with two changes:
#
# - A small network gives every advantage a *weight*. It sees the advantage and the agent's age.
# - The entropy bonus is an exponential function of the agent's age.
#
# The rule starts badly on purpose, so that meta-training has something to improve: all weights are 1, as in A2C, but
# the entropy bonus is thirty times larger than is good for these levels.

# %%
import os
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import envs
import metarl
from metarl import curricula, estimators, networks, objectives, optimizers, plot
from metarl.evaluation.measure import final_returns
from metarl.evaluation.scales import normalised_return
from metarl.rl.critic import actor_critic_targets
from metarl.rl.returns import normalise
from metarl.rl.rollout import unroll

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## The rule
#
# `targets` is computed once per rollout and is constant to the agent; the agent follows the gradient of `loss`. The
# meta-gradient flows through both. You would write this cell as a file of its own.


# %%
class Weighed(NamedTuple):
    """Arrays [T, E], except the entropy coefficient []."""

    advantage: jax.Array
    returns: jax.Array
    entropy_coef: jax.Array


def weight(meta_params, advantage, age):
    """The weight of an advantage, from 1/e to e, given the agent's age from 0 to 1. An untrained rule gives 1."""
    x = jnp.stack(jnp.broadcast_arrays(advantage, jnp.abs(advantage), age, age * advantage), axis=-1)
    return jnp.exp(jnp.tanh(jnp.tanh(x @ meta_params["hidden"]) @ meta_params["output"]))[..., 0]


def entropy_coef(meta_params, age):
    start, end = meta_params["log_entropy"]
    return jnp.exp(start + (end - start) * age)


def learned_weights(hidden=16):
    def init(key):
        return {
            "hidden": jax.random.normal(key, (4, hidden)),
            "output": jnp.zeros((hidden, 1)),
            "log_entropy": jnp.log(jnp.array([0.3, 0.3])),
        }

    def targets(meta_params, memory, params, model, rollout, progress):
        found = actor_critic_targets(params, model, rollout, discount=0.99, gae_lambda=0.95)
        advantage, age = normalise(found.advantage), progress.step / progress.horizon
        weighed = weight(meta_params, advantage, age) * advantage
        return Weighed(weighed, found.returns, entropy_coef(meta_params, age)), jnp.zeros(()), memory

    def loss(meta_params, params, model, rollout, targets, progress):
        outputs, _ = unroll(model, params, rollout)
        policy = model.policy.distribution(outputs["policy"])
        entropy = policy.entropy().mean()
        policy_loss = -(targets.advantage * policy.log_prob(rollout.action)).mean()
        value_loss = 0.5 * jnp.square(outputs["value"][..., 0] - targets.returns).mean()
        return policy_loss + 0.5 * value_loss - targets.entropy_coef * entropy, {"policy_entropy": entropy}

    return metarl.Objective(init, {"value": 1}, targets, loss)


# %% [markdown]
# ## Is the untrained rule A2C?
#
# With the same entropy bonus and the same keys, both rules should give exactly the same agents. `score` is the return
# of new agents on held-out levels at the end of their lives.

# %%
levels = envs.make("gridworld/small", horizon=4 if smoke else 100)
agents = partial(
    metarl.rl_inner_loop,
    levels.env,
    networks.tabular,
    optimizer=optimizers.adam(0.1),
    experience=metarl.Experience(num_envs=8, rollout_length=20),
)
mine = agents(objective=learned_weights(), critic=metarl.Critic(optax.adam(0.1)))
held_out = jax.vmap(levels.sample)(jax.random.split(jax.random.key(2**31 - 1), 4 if smoke else 32))


@jax.jit
def a2c(entropy_coef):  # an array, so that one program serves all values
    agent = agents(objective=objectives.a2c(normalise_advantage=True, entropy_coef=entropy_coef))
    return final_returns(agent, {}, held_out, jax.random.key(1), num_seeds=4)


@jax.jit
def score(meta_params):
    return final_returns(mine, {"objective": meta_params}, held_out, jax.random.key(1), num_seeds=4)


returns = {
    "A2C, bonus 0.01": a2c(0.01),
    "A2C, bonus 0.3": a2c(0.3),
    "mine, untrained": score(mine.init_meta(jax.random.key(0))["objective"]),
}
print({name: f"{x.mean():.4f}" for name, x in returns.items()})

# %% [markdown]
# ## Two estimators
#
# Only one argument of `compose` differs. `backprop` differentiates through four updates of the agent, and judges the
# agent by its policy-gradient loss on the next rollout. `es` runs whole lives under perturbed meta-parameters, and
# compares the returns at their end.

# %%
ways = {
    "backprop": (estimators.backprop(steps=4), optax.adam(2e-2), 2 if smoke else 300),
    "es": (estimators.es(steps=100, sigma=0.1), optax.adam(1e-1), 2 if smoke else 60),
}
params, logs = {}, {}
for name, (estimator, optimizer, steps) in ways.items():
    meta = metarl.compose(mine, estimator, optimizer, curricula.uniform(levels), 2 if smoke else 16)
    state, logs[name] = metarl.train(meta, seed=0, steps=steps)
    params[name] = state.params["objective"]

plot.learning_curves({f"{name}: return of the agents": log["episode_return"] for name, log in logs.items()})

# %% [markdown]
# ## What did they learn?

# %%
advantage = jnp.linspace(-3, 3, 61)
ages = jnp.linspace(0, 1, 21)
figure, axes = plot.panels(3, size=(3.6, 3.2))
for axis, (name, p) in zip(axes, params.items(), strict=False):
    weighted = {f"age {age}": (advantage, weight(p, advantage, age) * advantage) for age in (0.0, 0.5, 1.0)}
    plot.lines(weighted, "advantage", "weighted advantage", axis=axis)
    axis.plot(advantage, advantage, ":", color="black")  # untrained
    axis.set_title(name)
bonus = {name: (ages, entropy_coef(p, ages)) for name, p in params.items()}
plot.lines(bonus, "age", "coefficient (dashed: untrained)", reference=0.3, axis=axes[2])
axes[2].set_yscale("log")
axes[2].set_title("entropy bonus")
figure

# %% [markdown]
# ## Is it better?
#
# We train new agents on held-out levels, for lives as long as those of meta-training.

# %%
returns |= {f"mine, by {name}": score(p) for name, p in params.items()}
best = jax.lax.map(levels.optimal_return, held_out.problem)
intervals = {name: normalised_return(x, 0 * best, best) for name, x in returns.items()}

for name, (mean, low, high) in intervals.items():
    print(f"{name}: {mean:.3f} [{low:.3f}, {high:.3f}]")
plot.intervals(intervals, "final return, as a share of the best possible")

# %% [markdown]
# Untrained, the rule *is* A2C with the same bonus, to the last digit. Meta-training repairs most of the bad start: the
# score rises from 0.80 to 0.90 by backpropagation and to 0.89 by evolution. A2C with a good bonus has 0.92. The
# intervals of these three overlap. The rule cannot do much better, because only the bonus was wrong.
#
# The two estimators repair it in different ways. Backpropagation sees four updates ahead. It gives all advantages the
# greatest weight that is allowed (the straight line is at the bound, e times the untrained one), which makes the bonus
# relatively small, and it hardly changes the bonus itself. Evolution sees whole lives, and finds something that only
# pays over a whole life: young agents explore more than before (a bonus of 0.6), and old ones ten times less. This is
# one run of each. The curves above are noisy because the agents' levels change all the time.

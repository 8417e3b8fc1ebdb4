# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Temporal awareness
#
# An agent that knows its age can explore while it is young and exploit what it knows when it is old. `ta-lpg-gridworld`
# is an LPG with two more inputs: the elapsed share of the lifetime, and the logarithm of the lifetime's length. It was
# meta-trained by evolution on lives of 10 to 250 updates (Jackson et al. 2024). Does it use these inputs, and do they
# help?

# %%
import os
from functools import partial

import jax
import jax.numpy as jnp

import envs
import metarl
from metarl import networks, objectives, optimizers, plot
from metarl.evaluation.measure import final_returns
from metarl.evaluation.scales import normalised_return
from metarl.evaluation.surfaces import draw_lpg, lpg_surface

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## One update at three ages
#
# The figure shows the rule's `pi_hat` for a single step, over the step's reward and over the change of the agent's
# prediction (which the rule sees through a learned number φ). Positive values (orange) make the action more likely. The
# agent lives for N = 250 updates, of which n are over.

# %%
rule = metarl.load_rule("ta-lpg-gridworld")
learned = rule.params["objective"]
for age in (0.0, 0.5, 1.0):
    surface = lpg_surface(learned, metarl.Progress(age * 250, jnp.int32(250)))
    middle = surface.values[jnp.abs(surface.y).argmin()]  # the prediction does not change
    print(f"{age:.0%}: pi_hat of a reward of 0 is {middle[50]:.2f}, of 1 {middle[100]:.2f}, of -1 {middle[0]:.2f}")
draw_lpg(learned, longest_life=250)

# %% [markdown]
# The rule does use the age. On the black line `pi_hat` is zero. The line moves to the right as the agent grows older: a
# reward of 0 makes the action more likely for a newborn agent (0.13) and less likely for an old one (-0.11). The rule
# is optimistic while there is time to find something better, and pessimistic at the end. The paper reports the same.
#
# ## What if we lie to it?
#
# To test whether this matters, we tell the rule that its agent is always newborn, always middle-aged, or always at the
# end of its life. An objective is a tuple of functions, so this takes a few lines. `age` is an array (NaN stands for
# the truth), so that one compiled program serves all cases.


# %%
def lied_to(objective, age):
    def told(progress):
        return progress._replace(step=jnp.where(jnp.isnan(age), progress.step, age * progress.horizon))

    def targets(meta_params, memory, params, model, rollout, progress):
        return objective.targets(meta_params, memory, params, model, rollout, told(progress))

    return objective._replace(targets=targets)


updates = 4 if smoke else 250
levels = envs.make("gridworld/small", horizon=updates)
many = jax.jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(2**31 - 1), 2 if smoke else 32))


@jax.jit
def lives(age):
    inner = rule.trained._replace(objective=lied_to(rule.objective, age)).inner_loop(levels.env)
    live = partial(metarl.train_agent, inner, {}, num_updates=updates)
    return jax.vmap(live)(many, jax.random.split(jax.random.key(1), len(many.horizon)))[1]


stories = {"the truth": jnp.nan, "always newborn": 0.0, "always middle-aged": 0.5, "always at the end": 1.0}
returns, entropies, at = {}, {}, 1 + jnp.arange(updates)
for name, age in stories.items():
    metrics = lives(jnp.float32(age))
    curve, entropy = jnp.nanmean(metrics["episode_return"], 0), metrics["policy_entropy"].mean(0)
    returns[name], entropies[name] = (at, plot.smoothed(curve)), (at, entropy)
    print(f"{name}: return {curve[-30:].mean():.2f}, entropy {entropy[-30:].mean():.2f} at the end")
figure, axes = plot.panels(2, size=(4.8, 3.4))
plot.lines(returns, "update of the agent", "return (smoothed)", axis=axes[0])
plot.lines(entropies, "update of the agent", "entropy of the policy (nats)", axis=axes[1])
figure

# %% [markdown]
# Agents learn best when the rule knows the truth. A rule that believes its agent is old makes the policy
# near-deterministic early (the entropy falls within 60 updates), and the agent ends with a return of 0.70. With
# "middle-aged" it ends with 0.77. With "newborn" the agent keeps exploring and reaches 0.93, while the truth gives
# 1.00. (These are means of 32 agents, one per level. The first two differences are large; the last may be chance.)
#
# ## Over horizons
#
# The rule adapts to the length of the lives of its agents; A2C does not. We compare returns at the end of lives of many
# lengths, on held-out levels. The shaded lengths are those of meta-training.

# %%
horizons = (2, 4) if smoke else (10, 25, 50, 100, 250, 500)
a2c = metarl.rl_inner_loop(
    levels.env,
    networks.tabular,
    objectives.a2c(normalise_advantage=True),
    optimizers.adam(0.1),
    rule.learner.experience,  # as much as the rule's agents have
)
judge = jax.jit(final_returns, static_argnums=0, static_argnames="num_seeds")
best = jax.lax.map(levels.optimal_return, many.problem)
report = {}
for name, inner in {"TA-LPG": rule.inner_loop(levels.env), "A2C": a2c}.items():
    found = []
    for horizon in (0, *horizons):
        there = many._replace(horizon=jnp.full_like(many.horizon, horizon))
        found.append(judge(inner, {}, there, jax.random.key(2), num_seeds=4))
    newborn, *returns = found
    scores = [normalised_return(x, newborn.mean(0), best) for x in returns]
    report[name] = dict(zip(horizons, scores, strict=True))
    print(name, {horizon: f"{x.mean:.2f} [{x.low:.2f}, {x.high:.2f}]" for horizon, x in report[name].items()})
plot.over_horizons(report, "return: 0 random, 1 optimal", trained=(10, 250))

# %% [markdown]
# TA-LPG's agents earn more in longer lives, also beyond the lengths of meta-training (the dip at 250 is well within the
# intervals). **A2C is ahead at every length**; its learning rate was tuned on such levels. The intervals of TA-LPG are
# wide: on some levels an agent settles on a poor policy too early.
#
# Does awareness itself pay? To answer this one needs a rule that differs in nothing else. The documentation has this
# comparison, with five meta-training seeds for each rule. The time-aware rule is behind the same rule without these
# inputs on short lives. On long lives it is ahead, but by less than the seeds differ. So this notebook shows *what* a
# rule does with the time, and that it relies on it. It does not show that seeing the time makes better rules.

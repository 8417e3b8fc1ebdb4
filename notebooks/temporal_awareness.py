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
# An agent that knows how old it is could explore while it is young and cash in when it is old. `ta-lpg-gridworld` is an
# LPG that sees two more numbers: the share of the lifetime that is over, and the logarithm of its length. It was
# meta-trained by evolution on lives of 10 to 250 updates (Jackson et al. 2024). Does it use them, and does it help?

# %%
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax

import envs
import metarl
from experiments.inside import lpg_surface
from metarl import networks, objectives, optimizers, plot, pretrained
from metarl.evaluation.measure import final_returns, normalised_return

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## One update at three ages
#
# The rule's verdict `pi_hat` on a single step, over its reward and over what happens to the agent's prediction
# (which the rule sees through a learned number φ). Positive (orange): do it again.

# %%
file = Path(pretrained.__file__).with_name("ta-lpg-gridworld.safetensors")
params, card = pretrained.load_params(file)
config = SimpleNamespace(**card["recipe"]["objective"])
ages = (0.0, 0.5, 1.0)
surfaces = [lpg_surface(config, params["objective"], metarl.Progress(age * 250, jnp.int32(250))) for age in ages]
for age, s in zip(ages, surfaces, strict=True):
    middle = s.values[jnp.abs(s.y).argmin()]  # the prediction does not change
    print(f"{age:.0%}: pi_hat of a reward of 0 is {middle[50]:.2f}, of 1 {middle[100]:.2f}, of -1 {middle[0]:.2f}")
panels = {f"{age:.0%} of 250 updates are over": s.values for age, s in zip(ages, surfaces, strict=True)}
plot.surfaces(panels, surfaces[0].x, surfaces[0].y, "reward", "φ(y') - φ(y)", "pi_hat")

# %% [markdown]
# It does use the age. The black line, where a step is neither good nor bad news, moves to the right as the agent grows
# older: a reward of nothing is mildly good news for a newborn (0.13), whatever it has just done, and mildly bad for an
# old one (-0.11). Optimism while there is time to find something better, and the other way round at the end, is what
# the paper reports as well.
#
# ## Lying to it
#
# Whether that matters can be tested: tell the rule that its agent is always newborn, always middle-aged, or always
# about to die, whatever the truth is. An objective is a tuple of functions, so a liar is a few lines. `age` is an array
# (NaN for the truth), so that all of them are one compiled program.


# %%
def lied_to(objective, age):
    def told(progress):
        return progress._replace(step=jnp.where(jnp.isnan(age), progress.step, age * progress.horizon))

    def targets(meta_params, params, model, rollout, progress):
        return objective.targets(meta_params, params, model, rollout, told(progress))

    return objective._replace(targets=targets)


updates = 4 if smoke else 250
levels = envs.make("gridworld/small", horizon=updates)
agents = partial(metarl.rl_inner_loop, levels.env, networks.tabular, num_envs=8, rollout_length=20)
sgd = optimizers.per_output(policy=optax.sgd(40.0), y=optax.sgd(4.0))
rule = metarl.load_rule("ta-lpg-gridworld").objective
many = jax.jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(2**31 - 1), 2 if smoke else 32))


@jax.jit
def lives(age):
    inner = agents(lied_to(rule, age), sgd)
    live = partial(metarl.train_agent, inner, {}, num_updates=updates)
    return jax.vmap(live)(many, jax.random.split(jax.random.key(1), len(many.horizon)))[1]


stories = {"the truth": jnp.nan, "always newborn": 0.0, "always middle-aged": 0.5, "always at its end": 1.0}
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
# The truth is the best story. A rule that believes its agent to be old makes it sure of itself early (the entropy
# falls within 60 updates) and leaves it with 0.70, one that believes in middle age with 0.77; told that it is newborn
# for ever, the agent keeps exploring and comes to 0.93, where the truth gives 1.00. (Means of 32 agents, one per
# level; the first two gaps are large, the last may be chance.)
#
# ## Over horizons
#
# The rule adapts to how long its agents have, A2C does not. Returns at the end of lives of many lengths, on held-out
# levels; the shade is what it was trained on.

# %%
horizons = (2, 4) if smoke else (10, 25, 50, 100, 250, 500)
contenders = {
    "TA-LPG": agents(rule, sgd),
    "A2C": agents(objectives.a2c(normalise_advantage=True), optimizers.adam(0.1)),
}
judge = jax.jit(final_returns, static_argnums=0, static_argnames="num_seeds")
best = jax.lax.map(jax.jit(envs.optimal_return(levels.env)), many.env_params)
report = {}
for name, inner in contenders.items():
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
# TA-LPG's agents get better the longer they live, also beyond the lives that it was trained on, and **A2C, whose
# learning rate was tuned on such levels, is ahead at every length**. The intervals of TA-LPG are wide: on some levels
# an agent that has made up its mind too early stays there.
#
# Whether awareness itself pays is another question, and wants a rule that differs in nothing else. The README has that
# comparison, with five meta-training seeds each: against its blind twin, the time-aware rule is behind on short lives,
# and ahead on long ones by less than the seeds differ. So here one can see *what* a rule does with the time, and that
# it relies on it, but not that seeing the time makes better rules.

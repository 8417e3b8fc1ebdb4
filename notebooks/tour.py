# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # metarl in ten minutes
#
# metarl learns *how agents learn*. This tour goes once around: levels, an agent, a meta-training run, a rule that
# somebody else has trained, and files. Everything is a pure function of arrays, so `jit` and `vmap` are yours to use
# on any of it.

# %%
import os
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import envs
import metarl
from envs import gridworld
from metarl import curricula, estimators, networks, objectives, optimizers, plot

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## Levels
#
# `envs.make` gives a *distribution* of levels: an environment, and a function that draws its parameters and how many
# updates an agent's life has. In these gridworlds objects (squares) are collected by walking onto them: green ones pay,
# red ones cost, a dark core says how likely an object ends the episode. They come back after a while. The best expected
# return is known exactly, by dynamic programming.

# %%
levels = envs.make("gridworld/small", horizon=4 if smoke else 250)
optimum = jax.jit(envs.optimal_return(levels.env))

pictures = {}
for seed in range(4):
    level = levels.sample(jax.random.key(seed))
    title = f"level {seed}: {level.env_params.max_steps} steps,\nbest return {optimum(level.env_params):.2f}"
    pictures[title] = gridworld.render(levels.env, level.env_params)
plot.pictures(pictures)

# %% [markdown]
# ## An agent
#
# An agent is a network, an objective and an optimizer. Here it is a table that learns by A2C. `train_agent` is one
# agent's life. It is pure, so lives on many levels are a `vmap` over levels and keys.

# %%
a2c = metarl.rl_inner_loop(
    levels.env,
    networks.tabular,
    objectives.a2c(normalise_advantage=True),
    optimizers.adam(0.1),
    num_envs=8,
    rollout_length=20,
)


@partial(jax.jit, static_argnums=0)
def lives(inner, meta_params, levels, key):
    """What episodes that end in each update earn: [n, updates], of one agent on each of n levels."""
    live = partial(metarl.train_agent, inner, meta_params, num_updates=4 if smoke else 250)
    keys = jax.random.split(key, len(levels.horizon))
    return jax.vmap(lambda level, key: live(level=level, key=key))(levels, keys)[1]["episode_return"]


many = jax.jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(2**31 - 1), 4 if smoke else 64))
curves = {"A2C": lives(a2c, {}, many, jax.random.key(0))}
best = jax.lax.map(optimum, many.env_params).mean()
print(
    f"A2C, last 50 updates, mean of {len(many.horizon)} levels: {jnp.nanmean(curves['A2C'][:, -50:]):.2f} of {best:.2f}"
)

# %% [markdown]
# ## Meta-training
#
# Now the objective itself becomes something to learn: LPG is a recurrent network that reads a rollout and says what the
# agent should become. Four parts meet in `compose`: lifetimes of agents (`rl_inner_loop`), how a meta-gradient is
# obtained (`estimators.backprop` through 5 updates; `estimators.es(steps=250)` would be evolution over whole lives), an
# optax optimizer that follows it, and which levels the next lives are spent on.

# %%
lpg = partial(
    metarl.rl_inner_loop,
    levels.env,
    networks.tabular,
    optimizer=optimizers.per_output(policy=optax.sgd(40.0), y=optax.sgd(4.0)),
    num_envs=8,
    rollout_length=20,
)
learner = lpg(objective=objectives.lpg(hidden=16), critic=metarl.Critic(optax.adam(0.1)))
meta = metarl.compose(
    learner, estimators.backprop(steps=5), optax.adam(1e-3), curricula.uniform(levels), num_lifetimes=16
)
state, log = metarl.train(meta, seed=0, steps=2 if smoke else 300)

plot.learning_curves(log, ["episode_return"])

# %% [markdown]
# Agents die and are born again all the time, on new levels, so agents of all ages are in this curve: it rises because
# the *rule* gets better.
#
# ## What is it worth?
#
# New agents on levels that none of this was trained on. Rules that were trained longer are shipped; `load_rule` gives
# one ready to use, as an objective in which nothing is left to learn.

# %%
shipped = lpg(objective=metarl.load_rule("lpg-gridworld").objective)
curves["LPG, trained above"] = lives(learner, state.params, many, jax.random.key(0))
curves["LPG, untrained"] = lives(learner, learner.init_meta(jax.random.key(5)), many, jax.random.key(0))
curves["LPG, shipped"] = lives(shipped, {}, many, jax.random.key(0))

for name, curve in curves.items():
    print(f"{name}: {jnp.nanmean(curve[:, -50:]):.2f} in the last 50 updates")
means = {name: plot.smoothed(jnp.nanmean(curve, 0)) for name, curve in curves.items()}
plot.lines(
    {name: (1 + jnp.arange(len(mean)), mean) for name, mean in means.items()},
    "update of the agent",
    f"return, mean of {len(many.horizon)} levels (dashed: best possible)",
    reference=best,
)

# %% [markdown]
# A minute of meta-training has made a rule out of a random network, whose agents only get worse: its agents come to
# 0.94, as do those of the shipped rule (four times as wide, trained with twice as many lives for twice as long), which
# learn faster. **A2C comes to 1.04**, of 1.14 that would be possible, and gets there sooner. That is how far rules of
# this size go; the README says so with intervals and several seeds.
#
# ## Files
#
# A rule is saved with its recipe, so that loading needs no code that made it. `metarl.train` with a `directory` would
# also have left checkpoints and a log, and could be stopped with Ctrl-C and resumed.

# %%
with tempfile.TemporaryDirectory() as place:
    file = Path(place) / "mine.safetensors"
    metarl.save_rule(file, state.params, {"objective": {"name": "lpg", "hidden": 16}}, {"levels": "gridworld/small"})
    mine = metarl.load_rule(file)
    print(f"{file.stat().st_size / 1024:.0f} KiB, made from {mine.card['recipe']}")

# %% [markdown]
# ## Where to go next
#
# - `own_update_rule`, `own_environment`: put something of your own behind a seam, in one file or one cell.
# - `what_lpg_learned`, `temporal_awareness`, `groove_levels`, `amft_weight`, `learned_optimizer`: what there is inside.
# - `sweeps`: many runs as one program.
# - `python -m experiments.lpg --help`, and the table in the README: the same, at full size, from a command line.

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
# metarl learns *how agents learn*. This tour visits levels, an agent, a meta-training run, a rule that is shipped with
# metarl, and files. Everything is a pure function of arrays, so you can use `jit` and `vmap` on all of it.

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
from metarl import curricula, estimators, networks, objectives, optimizers, plot
from metarl.rules import build

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## Levels
#
# `envs.make` returns a *distribution* of levels. A level is a problem (here the parameters of an environment) and a
# horizon: the number of updates in an agent's life. In these gridworlds an agent collects objects (squares) by walking
# onto them. Green objects pay, red ones cost, and all of them come back after a while. A dark core shows how likely an
# object is to end the episode. `levels.optimal_return` computes the best expected return exactly, by dynamic
# programming.

# %%
levels = envs.make("gridworld/small", horizon=4 if smoke else 250)
optimum = jax.jit(levels.optimal_return)

pictures = {}
for seed in range(4):
    level = levels.sample(jax.random.key(seed))
    title = f"level {seed}: {level.problem.max_steps} steps,\nbest return {optimum(level.problem):.2f}"
    pictures[title] = levels.render(level.problem)
plot.pictures(pictures)

# %% [markdown]
# ## An agent
#
# An agent is a network, an objective, an optimizer and the experience that it collects for each update. Here it is a
# table that learns by A2C. `train_agent` runs one agent's life. It is pure, so `vmap` over levels and keys runs many
# lives.

# %%
experience = metarl.Experience(num_envs=8, rollout_length=20)
a2c = metarl.rl_inner_loop(
    levels.env, networks.tabular, objectives.a2c(normalise_advantage=True), optimizers.adam(0.1), experience
)


@partial(jax.jit, static_argnums=0)
def lives(inner, meta_params, levels, key):
    """Mean return of the episodes that end in each update, [n, updates]: one agent on each of n levels."""
    live = partial(metarl.train_agent, inner, meta_params, num_updates=4 if smoke else 250)
    keys = jax.random.split(key, len(levels.horizon))
    return jax.vmap(lambda level, key: live(level=level, key=key))(levels, keys)[1]["episode_return"]


many = jax.jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(2**31 - 1), 4 if smoke else 64))
curves = {"A2C": lives(a2c, {}, many, jax.random.key(0))}
best = jax.lax.map(optimum, many.problem).mean()
print(
    f"A2C, last 50 updates, mean of {len(many.horizon)} levels: {jnp.nanmean(curves['A2C'][:, -50:]):.2f} of {best:.2f}"
)

# %% [markdown]
# ## Meta-training
#
# Now the objective itself is learned. LPG (Learned Policy Gradient) is a recurrent network that reads a rollout and
# tells the agent how to change. `compose` joins four parts:
#
# - `learner`, the inner loop: one agent per lifetime. Here we describe it by a *recipe* of plain data, which can be
#   saved with the learned rule.
# - `estimators.backprop(steps=5)`, which computes the meta-gradient by differentiating through 5 updates.
#   `estimators.es(steps=250)` would use evolution over whole lives instead.
# - an optax optimizer, which follows the meta-gradient.
# - a curriculum, which chooses the levels of new agents.

# %%
recipe = {
    "objective": {"name": "lpg", "hidden": 16},
    "optimizer": {
        "name": "per_output",
        "policy": {"name": "sgd", "learning_rate": 40.0},
        "y": {"name": "sgd", "learning_rate": 4.0},
    },
    "network": {"name": "tabular"},
    "experience": experience._asdict(),
}
learner = build(recipe).inner_loop(levels.env, critic=metarl.Critic(optax.adam(0.1)))
meta = metarl.compose(
    learner, estimators.backprop(steps=5), optax.adam(1e-3), curricula.uniform(levels), num_lifetimes=16
)
state, log = metarl.train(meta, seed=0, steps=2 if smoke else 300)

plot.learning_curves(log, ["episode_return"])

# %% [markdown]
# An agent that reaches its horizon is replaced by a new one on a new level, so this curve averages over agents of all
# ages. It rises because the *rule* gets better.
#
# ## How good is the rule?
#
# We train new agents on levels that were not used for meta-training. We also try a rule that comes with metarl, the
# best one for agents on tables: a few numbers that evolved for eight minutes. `load_rule` returns it with its whole
# learner; we only change the experience, so that all agents have the same.

# %%
best_rule = metarl.load_rule("lpg-coordinates-gridworld")
shipped = best_rule.trained._replace(experience=experience).inner_loop(levels.env)  # as much as the others have
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
# One minute of meta-training turns a random network, whose agents get worse as they learn, into a useful rule, whose
# agents reach 0.93 of a possible 1.14. That is less than A2C, which reaches 1.04. **The shipped rule reaches 1.07**,
# and is ahead of A2C in the first 20 updates, too: it was evolved on lives of 10 to 50 updates. On 64 levels such a
# lead can be chance; the documentation has results with intervals and several seeds.
#
# ## Files
#
# A rule is saved with the recipe of its learner, so loading needs no other code. `metarl.train` with a `directory` also
# writes checkpoints and a log; you can stop such a run with Ctrl-C and resume it. `metarl.save_agent` saves a trained
# agent instead of a rule.

# %%
with tempfile.TemporaryDirectory() as place:
    file = Path(place) / "mine.safetensors"
    metarl.save_rule(file, state.params, recipe, {"levels": "gridworld/small"})
    mine = metarl.load_rule(file)
    inner = mine.inner_loop(levels.env)  # ready for train_agent
    print(f"{file.stat().st_size / 1024:.0f} KiB; learned: {mine.card['recipe']['objective']}")

# %% [markdown]
# ## Where to go next
#
# - `own_update_rule`, `own_environment`: write a part of your own, in one file or one cell.
# - `judge_a_rule`: compare rules on a suite of environments.
# - `what_lpg_learned`, `temporal_awareness`, `groove_levels`, `amft_weight`, `learned_optimizer`: look inside learned
#   rules.
# - `sweeps`: run many configurations as one program.
# - `python -m experiments`: the same at full size, from the command line.

# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own environment
#
# An environment needs no registration. It needs gymnax's shape: `default_params`, `reset`, `step` and two spaces, all
# pure and of one environment; metarl vmaps. This notebook writes one, makes a distribution of levels of it, trains
# plain agents there, and then one by a learned rule that has only ever seen gridworlds.

# %%
import os
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import metarl
from metarl import networks, objectives, optimizers, plot
from metarl.types import Discrete

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## A game of pressing one's luck
#
# Rolling adds one tenth to the pot, or, with probability `risk`, loses it and ends the episode. Banking pays the pot
# and ends the episode. After twenty rolls the house calls it a night.
#
# Three things are worth a look. An episode that is *terminated* has no future; one that is *truncated* has one that is
# not seen, and value functions should know the difference. `step` resets by itself, and
# `info["final_observation"]` is always the true successor. And what may differ between levels is in `params`.


# %%
class Luck(NamedTuple):
    risk: jax.Array  # () float32, of losing the pot with a roll


class Game(NamedTuple):
    pot: jax.Array  # () int32, tenths


@dataclass(frozen=True)
class PressYourLuck:
    most: int = 20  # rolls
    roll, bank = 0, 1

    @property
    def default_params(self):
        return Luck(jnp.float32(0.2))

    def action_space(self, params=None):
        return Discrete(2)

    def observation_space(self, params=None):
        return Discrete(self.most + 1)

    def reset(self, key, params):
        return jnp.int32(0), Game(jnp.int32(0))

    def step(self, key, state, action, params):
        lost = (action == self.roll) & jax.random.bernoulli(key, params.risk)
        pot = jnp.where(lost, 0, state.pot + (action == self.roll))
        reward = jnp.where(action == self.bank, 0.1 * state.pot, 0.0)
        terminated = lost | (action == self.bank)
        truncated = ~terminated & (pot == self.most)
        start = jnp.where(terminated | truncated, 0, pot)
        return start, Game(start), reward, terminated, truncated, {"final_observation": pot}


# %% [markdown]
# ## Levels
#
# A `Level` is parameters and how many updates an agent's life has; `Levels` is the environment and a function that
# draws a level. (`metarl.constant_levels(env, horizon)` is a distribution of one.)
#
# The game is small enough to know the answer: roll while `(1 - risk)(pot + 1) > pot`.

# %%
env = PressYourLuck()
updates = 3 if smoke else 150


def sample(key):
    return metarl.Level(Luck(jax.random.uniform(key, minval=0.05, maxval=0.4)), jnp.int32(updates))


levels = metarl.Levels(env, sample)


def best_return(risk):
    pots = jnp.arange(env.most)  # to roll until the pot is so large, and bank
    return (0.1 * pots * (1 - risk) ** pots).max()


many = jax.vmap(levels.sample)(jax.random.split(jax.random.key(0), 4 if smoke else 256))
best = jax.vmap(best_return)(many.env_params.risk)
print(f"{len(best)} levels, best returns from {best.min():.2f} to {best.max():.2f}")

# %% [markdown]
# ## Agents
#
# PPO and A2C with tables, and `lpg-gridworld`, whose agents have a table of predictions besides their policy. It was
# meta-trained on gridworlds with SGD at 40 and 4, so that is what its agents get here. What departs from the
# interface would be a `ValueError` in this cell, before anything is compiled.

# %%
table = partial(metarl.rl_inner_loop, env, networks.tabular, num_envs=16, rollout_length=20)
rule = metarl.load_rule("lpg-gridworld")
agents = {
    "A2C": table(objectives.a2c(normalise_advantage=True), optimizers.adam(0.1)),
    "PPO": table(objectives.ppo(), optimizers.adam(0.1), epochs=2, minibatches=2),
    "LPG from gridworlds": table(rule.objective, optimizers.per_output(policy=optax.sgd(40.0), y=optax.sgd(4.0))),
}
lived, curves = {}, {}
for name, inner in agents.items():
    live = jax.jit(jax.vmap(partial(metarl.train_agent, inner, {}, num_updates=updates)))
    lived[name], metrics = live(many, jax.random.split(jax.random.key(1), len(best)))
    curves[name] = metrics["episode_return"]  # [levels, updates]

shares = {name: jnp.nanmean(curve, 0) / best.mean() for name, curve in curves.items()}
for name, share in shares.items():
    print(f"{name}: {share[-30:].mean():.2f} of the best return in the last 30 updates")
plot.lines(
    {name: (1 + jnp.arange(updates), plot.smoothed(share)) for name, share in shares.items()},
    "update of the agent",
    f"return, of the best possible (mean of {len(best)} levels)",
    reference=1.0,
)

# %% [markdown]
# ## What do they do?
#
# A lifetime holds its agent's parameters, here a table of logits for each pot. The dotted line is where a perfect
# player stops rolling.

# %%
order = jnp.argsort(many.env_params.risk)
figure, axes = plot.panels(3, size=(3.0, 3.2), beside=1.0)
for axis, (name, agent) in zip(axes, lived.items(), strict=True):
    rolls = jax.nn.softmax(agent.params["policy"])[order, :-1, env.roll]  # [levels, pots]
    risk = many.env_params.risk[order]
    mesh = axis.pcolormesh(jnp.arange(env.most), risk, rolls, vmin=0, vmax=1, cmap="RdBu", shading="nearest")
    axis.plot((1 - risk) / risk, risk, "k:")
    axis.set(title=name, xlabel="pot (tenths)", xlim=(-0.5, 19.5))
    axis.grid(visible=False)
axes[0].set_ylabel("risk of the level")
figure.colorbar(mesh, ax=axes, label="probability of rolling")
figure

# %% [markdown]
# PPO and A2C find the line, coming to 0.99 and 0.98 of the best return. (Where the tables are white, nobody has ever
# had so much in the pot.) The rule from gridworlds has never seen a game of chance, and its agents do learn: rolling
# with little in the pot, and on risky levels banking about where they should. Where the risk is small they bank too
# early, they stay undecided about it, and stop at 0.81. **A learned rule is not better here than what one has
# anyway**; on what it was meta-trained on neither (see `tour`).
#
# `levels` goes wherever `envs.make(...)` goes: into `curricula.uniform(levels)` to meta-train a rule on this game,
# say, as in `own_update_rule`.

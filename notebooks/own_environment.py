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
# An environment needs no registration. It needs the methods of a gymnax environment: `default_params`, `reset`, `step`
# and two spaces. All of them are pure functions of one environment; metarl applies `vmap`. This notebook writes an
# environment, makes a distribution of levels, and trains plain agents on them. Then it trains agents by a learned rule
# that was meta-trained on gridworlds only.

# %%
import os
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

import metarl
from metarl import networks, objectives, optimizers, plot
from metarl.types import Discrete

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## A game of luck
#
# The player rolls or banks. A roll adds one tenth to the pot; but with probability `risk` it loses the pot and ends the
# episode. Banking pays the pot and ends the episode. After twenty rolls the game stops.
#
# Note three things:
#
# - A *terminated* episode has no future. A *truncated* episode has a future that is not seen. Value functions need to
#   know the difference.
# - `step` resets the environment by itself. `info["final_observation"]` always holds the true next observation.
# - `params` holds what may differ between levels.


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
# A `Level` is a problem (here the environment's parameters) and the number of updates in an agent's life. `Levels` is a
# function that draws a level, the environment, and what else is known of the levels: here the best return. The game is
# so small that we can compute it. (`metarl.constant_levels(env, horizon)` is a distribution of one level.)

# %%
env = PressYourLuck()
updates = 3 if smoke else 150


def sample(key):
    return metarl.Level(Luck(jax.random.uniform(key, minval=0.05, maxval=0.4)), jnp.int32(updates))


def best_return(luck):
    pots = jnp.arange(env.most)  # roll until the pot is this large, then bank
    return (0.1 * pots * (1 - luck.risk) ** pots).max()


levels = metarl.Levels(sample, env, optimal_return=best_return)
many = jax.vmap(levels.sample)(jax.random.split(jax.random.key(0), 4 if smoke else 256))
best = jax.vmap(levels.optimal_return)(many.problem)
print(f"{len(best)} levels, best returns from {best.min():.2f} to {best.max():.2f}")

# %% [markdown]
# ## Agents
#
# A2C and PPO train tables. `lpg-coordinates-gridworld` is a rule that was meta-trained on gridworlds;
# `rule.inner_loop(env)` makes agents in our environment of the same kind as those that it was meta-trained with: their
# table has predictions besides the policy. All agents have the same experience. If the environment departed from the
# interface, this cell would raise a `ValueError` before anything is compiled.

# %%
rule = metarl.load_rule("lpg-coordinates-gridworld")
once = rule.learner.experience  # 16 environments, 20 steps, one update per rollout
table = partial(metarl.rl_inner_loop, env, networks.tabular, optimizer=optimizers.adam(0.1))
agents = {
    "A2C": table(objectives.a2c(normalise_advantage=True), experience=once),
    "PPO": table(objectives.ppo(), experience=once._replace(epochs=2, minibatches=2)),
    "LPG from gridworlds": rule.inner_loop(env),
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
    f"return, as a share of the best (mean of {len(best)} levels)",
    reference=1.0,
)

# %% [markdown]
# ## What do they do?
#
# A lifetime holds its agent's parameters; here these are a table of logits for each pot. The dotted line shows where a
# perfect player stops rolling: it rolls while `(1 - risk)(pot + 1) > pot`.

# %%
order = jnp.argsort(many.problem.risk)
figure, axes = plot.panels(3, size=(3.0, 3.2), beside=1.0)
for axis, (name, agent) in zip(axes, lived.items(), strict=True):
    rolls = jax.nn.softmax(agent.params["policy"])[order, :-1, env.roll]  # [levels, pots]
    risk = many.problem.risk[order]
    mesh = axis.pcolormesh(jnp.arange(env.most), risk, rolls, vmin=0, vmax=1, cmap="RdBu", shading="nearest")
    axis.plot((1 - risk) / risk, risk, "k:")
    axis.set(title=name, xlabel="pot (tenths)", xlim=(-0.5, 19.5))
    axis.grid(visible=False)
axes[0].set_ylabel("risk of the level")
figure.colorbar(mesh, ax=axes, label="probability of rolling")
figure

# %% [markdown]
# PPO and A2C find the line and reach 0.99 and 0.98 of the best return. (Where the tables are white, no agent has had
# such a large pot.) The rule from gridworlds has never seen a game of chance, and its agents still learn: they roll
# while there is little in the pot, and then bank. Where the risk is large they bank a little late, where it is small
# too early, and they reach 0.93. **The learned rule is not better here than hand-made ones.** In gridworlds it is (the
# documentation has results with intervals).
#
# You can use `levels` wherever you can use `envs.make(...)`. For example, `curricula.uniform(levels)` meta-trains a
# rule on this game, as in `own_update_rule`.

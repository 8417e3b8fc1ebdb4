# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What did LPG learn?
#
# `lpg-gridworld` is a recurrent network that was meta-trained on small gridworlds for four minutes. It reads a rollout
# backwards and gives, for every step, a number `pi_hat` by which the agent moves the log-probability of its action (the
# place that an advantage has in A2C), and a target for the agent's prediction `y`, a distribution over eight bins
# whose meaning is the rule's own business. Nobody told it about values, discounts or temporal differences. We can ask
# what it does by showing it rollouts of our making.

# %%
import os
from functools import partial

import jax
import jax.numpy as jnp
import optax

import envs
import metarl
from metarl import networks, objectives, optimizers, plot
from metarl.rl.rollout import Rollout, model

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## A probe
#
# The agent of the probe has tables of two rows and never leaves row 0, where it takes the first of two actions with the
# probability that we choose; row 1 says what it predicts next. Every environment of the rollout is one question.

# %%
rule = metarl.load_rule("lpg-gridworld")
bins = rule.objective.outputs["y"]
probe = model(envs.bandit.Bandit(2), networks.tabular, dict(rule.objective.outputs))


@jax.jit
def answer(reward, terminated, prob=0.5, y_next=0.0):
    """`pi_hat` [T, E] for rewards and terminations [T, E] of actions that have probability `prob`."""
    row = jnp.array([jnp.log(prob), jnp.log1p(-prob)])
    params = {"policy": jnp.stack([row, row]), "y": jnp.stack([jnp.zeros(bins), jnp.broadcast_to(y_next, bins)])}
    no, zero = jnp.zeros(reward.shape, bool), jnp.zeros(reward.shape, jnp.int32)
    rollout = Rollout(
        obs=zero,
        action=zero,
        log_prob=jnp.full(reward.shape, jnp.log(prob)),
        reward=reward,
        terminated=terminated,
        truncated=no,
        next_obs=zero + 1,
        first=no,
        episode_return=reward,
        carry=(),
    )
    targets, _ = rule.objective.targets({}, params, probe, rollout, metarl.Progress(jnp.int32(0), jnp.int32(1)))
    return targets.pi_hat


# %% [markdown]
# ## Rewards
#
# One step, alone. First its reward, for likely and unlikely actions; then what the next prediction adds. (A bin means
# nothing by itself: what is drawn is the step in which all of the next prediction's mass is on that bin, while the
# present prediction is uniform.)

# %%
rewards = jnp.linspace(-1, 1, 41)[None]
no = jnp.zeros(rewards.shape, bool)
figure, axes = plot.panels(3, size=(3.6, 3.2))
for axis, ends, title in zip(axes, (no, ~no), ("the episode goes on", "the step ends the episode"), strict=False):
    answers = {f"π(a|s) = {prob}": (rewards[0], answer(rewards, ends, prob)[0]) for prob in (0.1, 0.5, 0.9)}
    plot.lines(answers, "reward of the step", "pi_hat", axis=axis)
    axis.set_title(title)
one = jnp.zeros((1, 1))
after = jnp.stack([answer(one, one > 0, y_next=20.0 * jnp.eye(bins)[i])[0, 0] for i in range(bins)])
axes[2].bar(jnp.arange(bins), after, color=plot.BLUE)
axes[2].set(xlabel="bin of the next prediction", title="no reward, certain y(s')")
limits = [min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes)]
for axis in axes:
    axis.set_ylim(limits)
    axis.axhline(0, color="black", linewidth=0.8)
print(f"a reward of 0 that ends the episode: {answer(one, one == 0)[0, 0]:.2f}", end=", ")
print(f"and that does not: {answer(one, one > 0)[0, 0]:.2f}")
figure

# %% [markdown]
# ## Credit
#
# How far back does a reward reach? A rollout of twenty steps gets a reward of 1 in its last step, or none; drawn is the
# difference that it makes to every earlier `pi_hat`, over that of the last step. Beside it the same for A2C's
# advantages (discount 0.99, lambda 0.95), and for a reward that comes just after another episode's end.

# %%
T = 20
paid = jnp.zeros((T, 1)).at[-1].set(1.0)
never = jnp.zeros((T, 1), bool)
ended = never.at[T - 6].set(True)  # an episode that ends five steps before the reward
reach = (answer(paid, never) - answer(0 * paid, never))[::-1, 0]
across = (answer(paid, ended) - answer(0 * paid, ended))[::-1, 0]
steps = jnp.arange(T)
effects = {
    "LPG": reach / reach[0],
    "LPG, another episode ends 5 steps before": across / reach[0],
    "A2C's advantage": (0.99 * 0.95) ** steps,
}
figure = plot.lines(
    {name: (steps, effect) for name, effect in effects.items()},
    "steps between the action and the reward",
    "effect, over that on the last action",
)
figure.axes[0].set_xticks(steps[::2])
print("effect one, two, five and ten steps before:", [f"{reach[i] / reach[0]:.2f}" for i in (1, 2, 5, 10)])
figure

# %% [markdown]
# ## Lives
#
# Agents on new levels, by the rule and by A2C: what they earn, how random their policies stay, and how sharp the
# predictions get (they would be of no use if they stayed uniform everywhere). The dashed lines are the best possible
# return, and the entropies of uniform distributions.

# %%
updates = 3 if smoke else 250
levels = envs.make("gridworld/small", horizon=updates)
agents = partial(metarl.rl_inner_loop, levels.env, networks.tabular, num_envs=8, rollout_length=20)
many = jax.jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(2**31 - 1), 2 if smoke else 64))
lives = {}
for name, inner in {
    "LPG": agents(rule.objective, optimizers.per_output(policy=optax.sgd(40.0), y=optax.sgd(4.0))),
    "A2C": agents(objectives.a2c(normalise_advantage=True), optimizers.adam(0.1)),
}.items():
    live = jax.jit(jax.vmap(partial(metarl.train_agent, inner, {}, num_updates=updates)))
    lives[name] = live(many, jax.random.split(jax.random.key(1), len(many.horizon)))[1]

best = jax.lax.map(jax.jit(envs.optimal_return(levels.env)), many.env_params).mean()
figure, axes = plot.panels(3, size=(3.6, 3.2))
at = 1 + jnp.arange(updates)
earned = {name: (at, plot.smoothed(jnp.nanmean(x["episode_return"], 0))) for name, x in lives.items()}
plot.lines(earned, y_label="return", reference=best, axis=axes[0])
entropy = {name: (at, x["policy_entropy"].mean(0)) for name, x in lives.items()}
plot.lines(entropy, y_label="entropy of the policy (nats)", reference=jnp.log(5), axis=axes[1])
sharpness = {"LPG": (at, lives["LPG"]["y_entropy"].mean(0))}
plot.lines(sharpness, y_label="entropy of y (nats)", reference=jnp.log(bins), axis=axes[2])
axes[2].set_ylim(0, 1.05 * jnp.log(bins))
for axis in axes:
    axis.set_xlabel("update of the agent")
for name, metrics in lives.items():
    print(f"{name}: return {jnp.nanmean(metrics['episode_return'][:, -50:]):.2f} of {best:.2f},", end=" ")
    print(f"policy's entropy {metrics['policy_entropy'][:, -50:].mean():.2f} in the last 50 updates")
print(f"entropy of y: {lives['LPG']['y_entropy'][:, -50:].mean():.3f} of {jnp.log(bins):.3f}")
figure

# %% [markdown]
# ## What it learned, and what it did not
#
# - **Rewards count, bad ones more.** `pi_hat` rises with the reward, to about half for a reward of 1 and to about
#   minus one for a reward of -1. How likely the action was hardly matters.
# - **It found a discount, and a short-sighted one.** The step before a reward gets 1.08 times the credit of the last
#   one, that five steps before 0.22, ten steps 0.03. A2C's advantages reach much further. (That no credit crosses an
#   episode's end is built in: the network's memory is cleared there.)
# - **It did not make much of its predictions.** Their entropy stays at 2.070 of 2.079 nats, so nothing like a value
#   function has come about, although the rule would listen to one: the third panel of the first figure is not zero.
# - **Its agents stay random.** Their policies' entropy is 1.46 nats at the end, of log 5 = 1.61; that of A2C's agents
#   0.80. They earn 0.94 where A2C's earn 1.04, and 1.14 would be possible.
#
# So four minutes of meta-training have found something like discounted returns, and no temporal differences. The LPG
# paper, with far more of everything, reports predictions that do behave like values.

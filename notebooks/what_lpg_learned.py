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
# backwards. For every step it returns two things: a number `pi_hat`, which multiplies the gradient of the action's
# log-probability (as an advantage does in A2C), and a target for the agent's prediction `y`, a distribution over eight
# bins. The bins have no given meaning: the rule chooses what the agent predicts. Nobody told the rule about values,
# discounts or temporal differences. To find out what it does, we show it rollouts that we make by hand.

# %%
import os
from functools import partial

import jax
import jax.numpy as jnp

import envs
import metarl
from metarl import networks, objectives, optimizers, plot
from metarl.rl.rollout import Rollout, model

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## A probe
#
# The agent of the probe has tables with two rows. It stays in row 0, where it takes the first of two actions with a
# probability that we choose. Row 1 is its prediction in the next state. Every environment of the rollout asks one
# question.

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
        boundary=no,
        next_obs=zero + 1,
        first=no,
        episode_return=reward,
        carry=(),
    )
    targets, *_ = rule.objective.targets({}, (), params, probe, rollout, metarl.Progress(jnp.int32(0), jnp.int32(1)))
    return targets.pi_hat


# %% [markdown]
# ## Rewards
#
# First we look at a single step. The first two panels show `pi_hat` over the reward, for likely and unlikely actions.
# The third panel shows the effect of the next prediction. For each bin it shows a step without reward whose next
# prediction has all its mass on this bin, while the present prediction is uniform.

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
print(f"pi_hat of a reward of 0: {answer(one, one == 0)[0, 0]:.2f} if the step ends the episode", end=", ")
print(f"{answer(one, one > 0)[0, 0]:.2f} if not")
figure

# %% [markdown]
# ## Credit
#
# How far back does a reward reach? A rollout of twenty steps has a reward of 1 in its last step, or no reward. We plot
# the difference that this makes to `pi_hat` at every earlier step, relative to the last step. We compare it with the
# advantages of A2C (discount 0.99, lambda 0.95), and with a rollout in which another episode ends shortly before the
# reward.

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
    "effect, relative to the last action",
)
figure.axes[0].set_xticks(steps[::2])
print(
    "effect on the actions one, two, five and ten steps earlier:", [f"{reach[i] / reach[0]:.2f}" for i in (1, 2, 5, 10)]
)
figure

# %% [markdown]
# ## Lives
#
# We train agents on new levels by LPG and by A2C. We plot their returns, how random their policies stay, and how sharp
# the predictions become (predictions that stay uniform everywhere are of no use). The dashed lines are the best
# possible return and the entropies of uniform distributions.

# %%
updates = 3 if smoke else 250
levels = envs.make("gridworld/small", horizon=updates)
a2c = metarl.rl_inner_loop(
    levels.env,
    networks.tabular,
    objectives.a2c(normalise_advantage=True),
    optimizers.adam(0.1),
    rule.learner.experience,  # as much as the rule's agents have
)
many = jax.jit(jax.vmap(levels.sample))(jax.random.split(jax.random.key(2**31 - 1), 2 if smoke else 64))
lives = {}
for name, inner in {"LPG": rule.inner_loop(levels.env), "A2C": a2c}.items():
    live = jax.jit(jax.vmap(partial(metarl.train_agent, inner, {}, num_updates=updates)))
    lives[name] = live(many, jax.random.split(jax.random.key(1), len(many.horizon)))[1]

best = jax.lax.map(levels.optimal_return, many.problem).mean()
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
    print(f"{name}: return {jnp.nanmean(metrics['episode_return'][:, -50:]):.2f}, best {best:.2f};", end=" ")
    print(f"entropy of the policy {metrics['policy_entropy'][:, -50:].mean():.2f} in the last 50 updates")
print(f"entropy of y: {lives['LPG']['y_entropy'][:, -50:].mean():.3f} of at most {jnp.log(bins):.3f}")
figure

# %% [markdown]
# ## What it learned, and what it did not
#
# - **Rewards count, and bad ones count more.** `pi_hat` rises with the reward: it is about one half for a reward of 1
#   and about minus one for a reward of -1. The probability of the action hardly matters.
# - **It found a short-sighted discount.** The step before the reward gets 1.08 times the credit of the last step, five
#   steps earlier 0.22, and ten steps earlier 0.03. The advantages of A2C reach much further. (No credit crosses the end
#   of an episode, because the network's memory is cleared there.)
# - **It makes little use of predictions.** Their entropy stays at 2.070 of at most 2.079 nats, so the agents have
#   learned nothing like a value function. The rule would react to predictions: the third panel of the first figure is
#   not zero.
# - **Its agents stay random.** The entropy of their policies is 1.47 nats at the end, where uniform policies have log 5
#   = 1.61 and A2C's agents have 0.92. They earn 0.96, A2C's earn 1.07, and the best possible is 1.14.
#
# So four minutes of meta-training find something like discounted returns, but no temporal differences. The LPG paper,
# with a far larger meta-training, reports predictions that behave like values.

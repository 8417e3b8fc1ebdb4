# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # An agent that learns in its head
#
# The agents of most notebooks here learn by changing their parameters. This one does not. It is trained once, on many
# bandits, and then plays bandits that it has never seen with fixed parameters: all that it learns about a bandit is in
# its memory. That is RL² (Duan et al. 2016, arXiv 1611.02779).

# %%
import os

import jax
import numpy as np

import envs
import metarl
from metarl import objectives, optimizers, plot
from metarl.evaluation.adaptation import draw_tasks, per_episode, play_tasks
from metarl.rl import networks
from metarl.rl.rollout import model
from metarl.strategies import play
from metarl.strategies.tuned import bandit_strategies

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests
ARMS, PULLS = 5, 10 if smoke else 50

# %% [markdown]
# ## Trials
#
# A task is a bandit with five arms. Each arm pays 1 with a probability of its own, else 0. `envs.trials` makes an
# environment whose episode is a whole *trial*: a new bandit, and 50 pulls of it. The observation shows the last reward
# and the last action, because a memory can only use what the agent sees.

# %%
bandits = envs.bandit.distribution("bernoulli", num_arms=ARMS, max_steps=1, horizon=1000)
trials = envs.trials(bandits, steps=PULLS)
print(trials.env.observation_space().shape, "= a constant, the reward, the end of an episode, and", ARMS, "arms")

# %% [markdown]
# ## Training
#
# The agent is a plain PPO agent with two gated recurrent units, one for the policy and one for the value. One pull is
# an episode of the bandit, so the discount between pulls is `episode_discount`. It says that an early pull may be spent
# on finding out, because later pulls count nearly as much.

# %%
objective = objectives.ppo(episode_discount=0.97, gae_lambda=0.95, entropy_coef=0.003)
optimizer = optimizers.adam(3e-3)
experience = metarl.Experience(128, PULLS, epochs=4, minibatches=4, reward_scale=0.05)
inner = metarl.rl_inner_loop(trials.env, networks.gru(64), objective, optimizer, experience)


@jax.jit
def trained(key):
    level_key, key = jax.random.split(key)
    return metarl.train_agent(inner, {}, trials.sample(level_key), key, num_updates=3 if smoke else 150)


agent, metrics = trained(jax.random.key(0))
log = {"sum of rewards in a trial": np.asarray(metrics["episode_return"])}
plot.learning_curves(log)

# %% [markdown]
# ## New bandits
#
# We let the agent play 500 bandits that it has never seen. On the same bandits, with the same random numbers, play
# classical learners that know the kind of task: Gittins indices, which are close to optimal, Thompson sampling, and a
# greedy learner.

# %%
net = model(trials.env, networks.gru(64), objective.outputs)
learned = trials.env.strategy(net, agent.params)
classical = bandit_strategies(ARMS, PULLS)
players = {"RL²": learned, **{name: classical[name] for name in ("gittins", "thompson", "greedy", "random")}}
problems = draw_tasks(bandits, jax.random.key(1), 20 if smoke else 500).problem
played = play_tasks(bandits.environment, players, problems, jax.random.key(2), PULLS)
for name, found in played.items():
    print(f"{name:10} {found.total.mean():5.2f} of {PULLS} pulls paid")

# %%
pulls = np.arange(1, PULLS + 1)
curves = {
    name: (pulls, plot.smoothed(np.array([x.mean for x in per_episode(found)]))) for name, found in played.items()
}
best = float(problems.means.max(-1).mean())
plot.lines(curves, "pull", "reward", reference=best)

# %% [markdown]
# Nothing in the agent is a rule for bandits, and its parameters do not change. Still the reward rises from the first
# pull to the last.
#
# ## What it remembers
#
# If the memory has learned something about a bandit, the bandit's payoffs must be readable from it. We fit a linear
# map from the 64 numbers of the policy's memory to the five payoffs on half of 4000 new bandits, and test it on the
# others.


# %%
def memories(problem, key):
    """The memory [pulls, 64] of the policy along a trial."""
    steps = play(bandits.environment, learned, problem, key, PULLS)

    def go_on(memory, step):
        _, memory = learned.act(key, step.obs, memory)
        return learned.learn(memory, step), memory.carry["policy"]

    return jax.lax.scan(go_on, learned.init(key), steps)[1]


others = draw_tasks(bandits, jax.random.key(3), 40 if smoke else 4000).problem
keys = jax.random.split(jax.random.key(4), len(others.means))
remembered = np.asarray(jax.jit(jax.vmap(memories))(others, keys))
payoffs, half = np.asarray(others.means), len(others.means) // 2


def explained(memory):
    """The share of the payoffs' variance on unseen bandits that a linear map of `memory` [bandits, 64] explains."""
    x = np.concatenate([memory, np.ones((len(memory), 1))], 1)
    train, test = x[:half], x[half:]
    weights = np.linalg.solve(train.T @ train + 1.0 * np.eye(x.shape[1]), train.T @ payoffs[:half])
    error = ((test @ weights - payoffs[half:]) ** 2).mean()
    return 1 - error / payoffs[half:].var()


shares = np.array([explained(remembered[:, t]) for t in range(PULLS)])
plot.lines({"of all payoffs": (pulls, shares)}, "pull", "explained share")

# %% [markdown]
# The memory knows nothing at first, and more with every pull. It never knows all payoffs, because an agent that earns
# has no reason to pull bad arms again.
#
# `python -m experiments.rl2` trains such agents for bandits, for tabular decision processes and for gridworlds whose
# goal is not shown. `docs/how-to/trials.md` shows how to train one on your own tasks.

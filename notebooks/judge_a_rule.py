# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Is my rule any good?
#
# `metarl.evaluate` answers with one call: it trains new agents by each rule, in every environment of a suite, and
# compares what they earn. This notebook compares a shipped LPG with A2C and with random actions in one small
# environment.

# %%
import contextlib
import dataclasses
import io
import os

import envs
import metarl

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## A suite
#
# A suite is a mapping from names to environments with their budgets: `env_steps` is the experience of each agent, and
# `eval_episodes` the number of episodes in each measurement. `envs.suite("gridworlds")` has eight environments; we take
# one of them. The suite also knows the best hyperparameters of A2C and PPO in each environment, from a sweep with the
# same budget.

# %%
entry = envs.suite("gridworlds")["gridworld/small"]
if smoke:
    entry = dataclasses.replace(entry, env_steps=20_000, eval_episodes=4)
suite = {"gridworld/small": entry}

print(f"{entry.env_steps} environment steps for each agent")
for name, best in entry.tuned.items():
    print(name, best.settings)

# %% [markdown]
# ## The rules
#
# A rule is what `metarl.load_rule` returns (or its name, or a path), or one of the built-in `"a2c"`, `"ppo"` and
# `"random"`. All rules get the same seeds, and `gridworld/small` gives every seed a level of its own, on which no rule
# was trained. The call writes its progress to stderr, which we hide here.

# %%
rules = {"lpg": metarl.load_rule("lpg-gridworld"), "a2c": "a2c", "random": "random"}
with contextlib.redirect_stderr(io.StringIO()):
    result = metarl.evaluate(rules, suite, seeds=16 if smoke else 32, points=2 if smoke else 10)
result.show()

# %% [markdown]
# The first table has the returns at the end of training. Returns of different environments cannot be averaged, so the
# second table has *scores*: 0 is the random policy, and 1 is the better of the tuned A2C and PPO. The last table says
# how likely an agent of one rule is to beat an agent of another.
#
# ## Figures
#
# `result.figures()` has the figures that a paper would show. Two of them: returns while agents learn, and the summaries
# of the scores.

# %%
figures = result.figures()
figures["curves"]

# %%
figures["aggregates"]

# %% [markdown]
# ## All numbers
#
# `result.rows()` is a long table with one row for each agent and measurement, ready for pandas. `result.scores` gives
# the final scores as an array, for statistics of your own.

# %%
print(result.rows()[0])
for name in result.rules:
    scores = result.scores(name, list(result.scales))  # [seeds, environments]
    print(f"{name}: {(scores > 0.9).mean():.0%} of the agents score above 0.9")

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
# A suite maps names to environments with their budgets: `env_steps` is the experience of each agent, and
# `eval_episodes` the number of episodes in each measurement. `envs.suite("gridworlds")` has eight environments; we take
# one of them. For each environment the suite also has the best hyperparameters of A2C and PPO, found by a sweep with
# the same budget.

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
# A rule is what `metarl.load_rule` returns, or its name, or a path, or one of the built-in `"a2c"`, `"ppo"` and
# `"random"`. All rules get the same seeds. In `gridworld/small` every seed has a level of its own, which no rule was
# trained on. `evaluate` writes its progress to stderr, which we hide here.

# %%
rules = {"lpg": metarl.load_rule("lpg-coordinates-gridworld"), "a2c": "a2c", "random": "random"}
with contextlib.redirect_stderr(io.StringIO()):
    result = metarl.evaluate(rules, suite, seeds=16 if smoke else 32, points=2 if smoke else 10)
result.show()

# %% [markdown]
# The first table has the returns at the end of training. Returns in different environments cannot be averaged, so the
# second table summarises *scores*: 0 is the random policy, and 1 is the better of the tuned A2C and PPO. The third
# table gives the probability that an agent of one rule beats an agent of another.
#
# Here LPG's agents earn a little more than those of tuned A2C (0.85 and 0.79), but with 32 levels that may be chance:
# the probability of improvement is 0.53 [0.38, 0.67], and even the difference on the same levels, in the last table,
# is 0.09 [-0.02, 0.20] of A2C's advantage over random. The intervals are wide, because levels differ a lot in what
# one can earn.
#
# ## Figures
#
# `result.figures()` draws the usual figures of such a comparison. We show two of them. The first has the returns while
# agents learn: A2C's agents reach their final return within 6,000 steps, LPG's agents are ahead after 40,000.

# %%
figures = result.figures()
figures["curves"]

# %% [markdown]
# The second figure shows the summaries of the scores. The interquartile mean (IQM) ignores the best and the worst
# quarter of the agents. The optimality gap is how far agents fall short of a score of 1; lower is better.

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

# %% [markdown]
# `python -m experiments.evaluate --rules lpg-coordinates-gridworld a2c random --suite gridworlds` does the same from
# the command line for the whole suite, and writes the tables and figures to files.

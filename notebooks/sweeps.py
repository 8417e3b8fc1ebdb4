# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sweeps on an accelerator
#
# Meta-learning has many knobs, and its runs differ a lot by chance, so one wants all combinations of some values, with
# several seeds. One run of a small rule leaves a GPU idle for most of the time; hundreds side by side do not.
# `metarl.sweep` makes one compiled program of all members that differ only in numbers. The cells below are small enough
# for a CPU, and are the same on a GPU.

# %%
import os
import time
from dataclasses import dataclass

import jax
import numpy as np
import optax

import metarl
from envs import bandit
from metarl import curricula, estimators, networks, objectives, optimizers, plot

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests
print(len(jax.devices()), jax.devices()[0].platform)

# %% [markdown]
# ## What is swept
#
# A dataclass with the knobs, and a function from it to a run. Here: an LPG for ten-armed bandits, by evolution over
# lives of 20 updates. What `make` uses as a number (`learning_rate`, `sigma`) can be an array, and is vmapped; what it
# needs as a size (`hidden`) costs a compilation for each value. `sweep` finds out by itself which is which.


# %%
@dataclass(frozen=True)
class Config:
    learning_rate: float = 0.03
    sigma: float = 0.1
    hidden: int = 8


def make(config):
    levels = bandit.distribution(max_steps=20, horizon=2 if smoke else 20)
    inner = metarl.rl_inner_loop(
        levels.env,
        networks.tabular,
        objectives.lpg(hidden=config.hidden),
        optimizers.per_output(policy=optax.sgd(4.0), y=optax.sgd(0.4)),
        num_envs=4,
        rollout_length=5,
        num_eval_episodes=2 if smoke else 8,
    )
    return metarl.compose(
        inner,
        estimators.es(steps=20, sigma=config.sigma),
        optax.adam(config.learning_rate),
        curricula.uniform(levels),
        num_lifetimes=2 if smoke else 8,
    )


fields = {"learning_rate": [0.003, 0.01, 0.03, 0.1], "sigma": [0.03, 0.1, 0.3, 1.0]}
seeds, steps = 3, 60
if smoke:
    fields, seeds, steps = {"learning_rate": [0.01, 0.03], "sigma": [0.1]}, 1, 2

start = time.perf_counter()
result = metarl.sweep(make, Config(), fields, seeds=seeds, steps=steps)
print(f"{len(result.members)} members in {time.perf_counter() - start:.0f} s, compilation included;", end=" ")
print(f"{(result.diverged > 0).sum()} diverged")

# %% [markdown]
# ## What came out
#
# The log has an axis for the members. `scores` is the mean of a metric over the last tenth of the meta-steps (NaN for
# members that diverged: they are reported, and stop nobody), `configurations` puts the best combination first.

# %%
found = result.configurations("fitness")
scores = result.scores("fitness")
table = np.full((len(fields["sigma"]), len(fields["learning_rate"])), np.nan)
for values, members in found:
    at = fields["sigma"].index(values["sigma"]), fields["learning_rate"].index(values["learning_rate"])
    table[at] = scores[members].mean()
    print(values, f"{scores[members].mean():.2f}, seeds {np.round(scores[members], 2)}")
plot.grid(table, fields["sigma"], fields["learning_rate"], "sigma", "learning rate", "return of new agents")

# %% [markdown]
# The best and the worst combination over meta-training: means of the seeds, and their range.

# %%
ends = {
    ", ".join(f"{field} {value}" for field, value in values.items()): result.log["fitness"][members]
    for values, members in (found[0], found[-1])
}
curves = {name: (1 + np.arange(steps), [plot.smoothed(seed) for seed in seeds]) for name, seeds in ends.items()}
plot.trajectories({"return": curves}, "meta-step")

# %% [markdown]
# An episode is twenty pulls of an arm, which pay 10 at random and about 18 for somebody who knows the best of ten
# arms. Learning rates from 0.03 up are good with every sigma up to 0.3, and level with each other within the seeds; at
# low rates the seeds differ by more than the neighbours do, so a single one would have told a story of its own.
# Fitness is that of agents under *perturbed* rules, which is one reason why a sigma of 1 looks bad.
#
# ## What it costs
#
# Members of one program share its compilation. On an accelerator they go side by side and share every kernel launch
# as well; on a CPU, which has no idle units to fill, they go one after the other. How long one meta-step takes with one
# member and with all of them, compiled programs only (the log has the `seconds` that have gone by):

# %%
alone = metarl.sweep(make, Config(), {"sigma": [0.1]}, seeds=1, steps=steps)


def per_step(result):
    seconds = result.log["seconds"][0]
    return (seconds[-1] - seconds[len(seconds) // 2 - 1]) / (len(seconds) - len(seconds) // 2)


one, all_of_them = per_step(alone), per_step(result)
print(
    f"one member {1e3 * one:.1f} ms, {len(result.members)} members {1e3 * all_of_them:.1f} ms per meta-step:", end=" "
)
print(f"{all_of_them / one:.1f} times as long")

# %% [markdown]
# Here, on two cores of a CPU, 48 members take 41 times as long as one: all that is saved is compilation.
#
# ## At scale
#
# - `metarl.sweep(..., devices=jax.devices())` deals the members out to all devices; `batch_size=` lets so many go side
#   by side on each (by default all on accelerators), for less memory.
# - `directory="runs/sweep"` writes checkpoints, and `resume=True` goes on from them.
# - `result.params` holds every member's meta-parameters: the best is ready for `metarl.save_rule`.
# - `python -m experiments.lpg --sweep learning_rate=3e-4,1e-3,3e-3 --sweep-seeds 8` does the same from a command
#   line, with any experiment, and draws what came out.

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
# Meta-learning has many hyperparameters, and its results vary a lot between seeds. So one wants to try all combinations
# of some values, each with several seeds. A single run of a small rule leaves a GPU idle most of the time; hundreds
# side by side do not. `metarl.sweep` compiles all members that differ only in numbers into one program. The cells below
# are small enough for a CPU, and run unchanged on a GPU.

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
# A sweep needs a dataclass of hyperparameters, and a function that makes a run from it. Here the run meta-trains an LPG
# for ten-armed bandits, by evolution over lives of 20 updates. What `make` uses as a number (`learning_rate`, `sigma`)
# can be an array, so all its values share one compiled program. What it needs as a size (`hidden`) is compiled once for
# each value. `sweep` finds out which is which.


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
        metarl.Experience(num_envs=4, rollout_length=5),
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
# ## Results
#
# The log has an axis for the members. `scores` is the mean of a metric over the last tenth of the meta-steps. It is NaN
# for members that diverged; the others go on. `configurations` puts the best combination first.

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
# Next we compare the best and the worst combination during meta-training. The lines are means over the seeds, and the
# bands are their ranges.

# %%
ends = {
    ", ".join(f"{field} {value}" for field, value in values.items()): result.log["fitness"][members]
    for values, members in (found[0], found[-1])
}
curves = {name: (1 + np.arange(steps), [plot.smoothed(seed) for seed in seeds]) for name, seeds in ends.items()}
plot.trajectories({"return": curves}, "meta-step")

# %% [markdown]
# An episode is twenty pulls. They pay 10 at random, and about 18 for an agent that knows the best of the ten arms.
# Learning rates of 0.03 and above are good with every sigma up to 0.3, and their differences are smaller than those
# between seeds. At low rates the seeds differ by more than neighbouring combinations do, so a single seed would be
# misleading. The fitness is that of agents under *perturbed* rules; this is one reason why a sigma of 1 looks bad.
#
# ## What it costs
#
# Members of one program share its compilation. On an accelerator they run side by side and share every kernel launch,
# too. A CPU has no idle units to fill, so they run one after the other. How long does one meta-step take with one
# member, and with all of them? The log has the elapsed `seconds`, from which we leave out the compilation:

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
# Here, on two cores of a CPU, 48 members take 41 times as long as one: the sweep saves compilation only.
#
# ## At scale
#
# - `metarl.sweep(..., placement=metarl.Placement(devices=tuple(jax.devices())))` shards the members over all devices.
#   `batch_size=` of `Placement` limits how many members a device computes at a time, which saves memory.
# - `directory="runs/sweep"` writes checkpoints, and `resume=True` continues from them.
# - `result.params` holds the meta-parameters of every member, ready for `metarl.save_rule`.
# - `python -m experiments.lpg --sweep learning_rate=3e-4,1e-3,3e-3 --sweep-seeds 8` does the same from the command
#   line, with any experiment, and draws the results.

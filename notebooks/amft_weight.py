# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # AMFT's weight
#
# A language model can be tuned by imitation of demonstrations and by reward for its own answers. AMFT (arXiv
# 2508.06944) lets a meta-gradient decide how much of each. The paper was **withdrawn by its authors** in October 2025;
# what is here is its idea, made from its equations. In metarl the weight is a meta-parameter, like LPG's network, and
# `compose` trains it in the same way. The task is small: Countdown with three numbers, which the policy has to join by
# arithmetic, in tokens, so that a target comes out.

# %%
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metarl
from envs import tokens
from metarl import curricula, estimators, optimizers, plot
from metarl.finetune import (
    Data,
    Sampling,
    controllers,
    credit,
    finetune,
    policies,
    sources,
    success_rate,
    updates,
    utilities,
)

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

# %% [markdown]
# ## A task and a base policy
#
# A verifier judges answers exactly, and the task can demonstrate correct ones. The base policy, a GRU of
# width 64, has imitated for a while: it knows the format and gets some answers right.

# %%
task = tokens.make_task("countdown", max_numbers=3, min_numbers=3, max_target=20)
held_out = tokens.make_task("countdown", max_numbers=3, min_numbers=3, max_target=20, part="held_out")
policy = policies.gru(task.num_tokens, 8 if smoke else 64)
key = jax.random.key(0)
problem = task.sample(key)
print("prompt", task.prompt(problem), "demonstration", task.demonstrate(key, problem))

group = 2 if smoke else 8  # answers to each problem


def tune(start, controller, steps, learning_rate, problems, demonstrations, utility=None):
    """The policy after `steps` steps from the parameters `start(key)`, and the log."""
    optimizer = optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(learning_rate))
    data = Data(sources.fresh(task, Sampling(problems, group)), sources.demonstrations(task, demonstrations))
    update = updates.joint(optimizer)
    inner = finetune(policy, start, data, credit.grpo(group), controller, update, utility=utility)
    life = metarl.Levels(lambda key: metarl.Level((), jnp.int32(steps + 1)))  # one that lasts the whole training
    meta = metarl.compose(inner, estimators.backprop(1), optax.sgd(3.0), curricula.uniform(life), num_lifetimes=1)
    state, log = metarl.train(meta, seed=0, steps=steps, chunk=2 if smoke else 50)
    return jax.tree.map(lambda x: x[0], state.lifetimes.params), log


base, log = tune(policy.init, controllers.constant(1.0), 2 if smoke else 1500, 1e-3, 1, 4 if smoke else 128)
examine = jax.jit(lambda params: success_rate(policy, held_out, params, jax.random.key(2), 8 if smoke else 1024))
print(f"the base policy solves {examine(base):.2f} of held-out problems")

# %% [markdown]
# ## Controllers
#
# A controller decides the weights of each step. All get as many answers and steps (AMFT's validation problems come out
# of its answers). AMFT's weight has two pulls: the meta-gradient (would more imitation in the last step have made the
# next answers better?) and an entropy term (less entropy than after the warm-up is answered by more imitation). The
# paper's equation and its prose disagree on the sign of the latter.

# %%
warm_up = 1 if smoke else 10
ways = {
    "AMFT, meta-gradient alone": controllers.amft(0.5, entropy_rate=0.0, warm_up=warm_up),
    "cosine, 0.9 to 0.1": controllers.schedule(controllers.cosine(0.9, 0.1)),
    "AMFT, the equation's sign": controllers.amft(0.5, entropy_rate=0.3, warm_up=warm_up),
    "AMFT, the prose's sign": controllers.amft(0.5, entropy_rate=0.3, warm_up=warm_up, sign=-1.0),
    "dual ascent": controllers.dual_ascent(limit=0.5),
    "reward alone": controllers.constant(0.0),
    "half and half": controllers.constant(0.5),
    "imitation alone": controllers.constant(1.0),
}
steps = 2 if smoke else 300
problems, demonstrations = (2, 2) if smoke else (24, 64)
validation = 1 if smoke else 8  # of the problems
utility = utilities.reward(task, Sampling(validation, group))
logs, solved = {}, {"base policy": examine(base)}
for name, controller in list(ways.items())[: 1 if smoke else None]:
    own = (problems - validation, demonstrations, utility) if "AMFT" in name else (problems, demonstrations)
    params, logs[name] = tune(lambda key: base, controller, steps, 3e-4, *own)
    solved[name] = examine(params)

panels = {
    "imitation_weight": "weight of imitation",
    "entropy": "entropy (nats per token)",
    "success": "training answers correct",
}
curves = {label: {name: log[metric].reshape(steps) for name, log in logs.items()} for metric, label in panels.items()}
plot.trajectories(
    {
        label: {name: (1 + np.arange(steps), plot.smoothed(values)) for name, values in panel.items()}
        for label, panel in curves.items()
    },
    "step",
)

# %% [markdown]
# ## Who solves more?
#
# Greedy answers to 1024 held-out problems; the interval is that of the problems, not of trainings: this is **one**
# seed.

# %%
intervals = {}
for name, share in solved.items():
    half = 1.96 * np.sqrt(share * (1 - share) / 1024)
    intervals[name] = share, share - half, share + half
    weight = (
        f", weight of imitation {logs[name]['imitation_weight'][-20:].mean():.2f} at the end" if name in logs else ""
    )
    print(f"{name}: {share:.3f}{weight}")
plot.intervals(intervals, "held-out problems solved")

# %% [markdown]
# The meta-gradient works as a compass: from 0.5 it turns the weight down to 0.16 by itself, because reward is what
# helps here. The base policy has got from imitation what there was to get, and more of it changes nothing (0.197, as
# before). The entropy term shifts where the weight ends: with the equation's sign, falling entropy is answered by more
# imitation (0.25), with the prose's by less (0.12).
#
# But **AMFT does not win**. The three versions solve 0.22 to 0.26 of held-out problems, as does a cosine schedule that
# knows nothing (0.24); reward alone, which the meta-gradient was on its way to, gets there at once and solves 0.29.
# The weight moves slowly compared with the training, the meta-gradient costs a part of the answers, and the weight
# cannot fall below 0.05. The README's table has eighteen ways to weigh, on this task with a transformer and five seeds
# each, and says the same with intervals over trainings.

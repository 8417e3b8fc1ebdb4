# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A learned optimizer in your own optax loop
#
# `adafac-digits` is a small network. It was meta-trained, by evolution, to minimise the loss of a 64-32-10 network
# after 200 minibatches of handwritten digits. It is an optax transformation, so you can use it wherever you use Adam.
# Here it trains networks written in plain flax: first one of the size that it was meta-trained on, then others.

# %%
import os
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import metarl
from metarl import plot
from metarl.evaluation.updates import surface

smoke = bool(os.environ.get("METARL_SMOKE"))  # tiny sizes, for tests

images, labels = load_digits(return_X_y=True)
order = jax.random.permutation(jax.random.key(0), len(labels))
images, labels = jnp.float32(images / 16)[order], jnp.int32(labels)[order]
train_x, train_y, test_x, test_y = images[:1437], labels[:1437], images[1437:], labels[1437:]

# %% [markdown]
# ## The loop
#
# This loop uses nothing of metarl. Learned optimizers need one thing that Adam does not: the parameters, as the third
# argument of `update`. Some can use more, by keyword: `progress=metarl.Progress(step, steps)` tells how far the
# training is, and OPEN explores with a `key=`. These are optional; AdaFac counts its updates by itself.


# %%
class Classifier(nn.Module):
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for size in self.sizes:
            x = nn.tanh(nn.Dense(size)(x))
        return nn.Dense(10)(x)


def loss(model, params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()


def train(model, optimizer, steps, key):
    """Loss on the training set every 10 updates, and the held-out accuracy at the end."""
    params = model.init(key, train_x[:1])
    opt_state = optimizer.init(params)

    def update(carry, key):
        params, opt_state = carry
        rows = jax.random.randint(key, (64,), 0, len(train_y))
        gradient = jax.grad(partial(loss, model))(params, train_x[rows], train_y[rows])
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def ten(carry, keys):
        carry, _ = jax.lax.scan(update, carry, keys)
        return carry, loss(model, carry[0], train_x, train_y)

    keys = jax.random.split(key, (steps // 10, 10))
    (params, _), losses = jax.lax.scan(ten, (params, opt_state), keys)
    return losses, (model.apply(params, test_x).argmax(-1) == test_y).mean()


# %% [markdown]
# ## The task of its meta-training
#
# For every network we try seven learning rates of Adam, and keep the one with the best final loss. The learned
# optimizer has nothing to tune.

# %%
learned = metarl.load_rule("adafac-digits").optimizer
seeds = jax.random.split(jax.random.key(1), 2 if smoke else 5)
rates = 10.0 ** jnp.linspace(-4, -1, 2 if smoke else 7)


def compare(sizes, steps):
    """Losses [seeds, steps / 10] and accuracies [seeds] of both, and Adam's best rate."""
    model = Classifier(sizes)
    mine = jax.jit(jax.vmap(lambda key: train(model, learned, steps, key)))(seeds)
    grid = jax.jit(
        jax.vmap(jax.vmap(lambda rate, key: train(model, optax.adam(rate), steps, key), (None, 0)), (0, None))
    )
    losses, accuracies = grid(rates, seeds)
    best = losses[:, :, -1].mean(1).argmin()
    return {"AdaFac MLP (learned)": mine, f"Adam at {rates[best]:.2g}": (losses[best], accuracies[best])}


def draw(tasks):
    """Losses over updates, one panel per task; `tasks` is title -> what `compare` returns."""
    runs = {}
    for title, results in tasks.items():
        for name, (losses, accuracies) in results.items():
            runs.setdefault(title, {})[name] = 10 * (1 + jnp.arange(losses.shape[1])), losses
            print(f"{title}, {name}: loss {losses[:, -1].mean():.4f}, held-out accuracy {accuracies.mean():.3f}")
    figure = plot.trajectories(runs, "update", "training loss (mean and range)")
    for axis in figure.axes:
        axis.set_yscale("log")
    return figure


draw({"64-32-10": compare((32,), 20 if smoke else 200)})

# %% [markdown]
# On its own task, the learned optimizer reaches a training loss of 0.005 in 200 updates, where tuned Adam has 0.022. It
# was meta-trained on this loss, of these very digits. On held-out images it is not ahead: it classifies 0.967 of them
# correctly, Adam 0.977.
#
# ## New tasks
#
# We try a wider network, a deeper one, and the same network for five times as many updates.

# %%
cases = {"64-128-10": ((128,), 200), "64-32-32-32-10": ((32, 32, 32), 200), "64-32-10, longer": ((32,), 1000)}
if smoke:
    cases = {"64-8-10": ((8,), 20)}
draw({title: compare(sizes, steps) for title, (sizes, steps) in cases.items()})

# %% [markdown]
# A network four times as wide still works (0.016 against 0.021, with overlapping ranges). Two more layers do not: the
# loss stops falling after about 100 updates and ends at 0.19, where Adam has 0.037. And **after update 200, the length
# of its meta-training, the learned optimizer undoes its progress**: the loss rises from below 0.01 to 0.043 at update
# 1000, while Adam reaches 0.0006. One of its inputs counts updates, so it can tell that it is past this length.
#
# ## What does it do?
#
# We look at one update in the middle of a training. A parameter has had twenty gradients that all equalled its
# momentum, and then gets another gradient. Beside it we show Adam at a learning rate of 0.03.

# %%
figure, axes = plot.panels(2, size=(4.6, 3.4))
transforms = {"AdaFac MLP": learned, "Adam at 0.03": optax.with_extra_args_support(optax.adam(0.03))}
for axis, (name, transform) in zip(axes, transforms.items(), strict=True):
    at, moves = surface(transform)
    plot.surfaces({name: moves}, at, at, "gradient", "momentum", "change of the parameter", axes=[axis])
figure

# %% [markdown]
# Both follow the momentum more than the gradient. The learned optimizer takes smaller steps here, and the present
# gradient has more influence (the line on which the parameter does not change is steeper). It is not symmetric, because
# nothing in its meta-training required that.
#
# So it is a drop-in optimizer for its own task, and a reminder that a learned optimizer is good at *its* task. `python
# -m experiments.learned_optimizer --help` meta-trains others, on other tasks and on mixtures of tasks.

"""Learners in context as inner loops: their parameters are meta-parameters, and what they learn is in their memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.checks import COUNT, checked
from metarl.meta import InnerLoop, Update, no_loss
from metarl.rl.networks import Network, NetworkFactory
from metarl.types import Array, Box, Key, Level, MetaParams, Params, PyTree, Sequences


class Reader(NamedTuple):
    """A learner in context."""

    init: Callable[[Key], Params]
    # (params, inputs [T, n], labels [T]) -> logits [T, classes]: each of the inputs before it and their labels
    predict: Callable[[Params, Array, Array], Array]
    memory: PyTree  # before the first input


class Reading(NamedTuple):
    """The lifetime of a learner in context. There is nothing in it, because every sequence begins with no memory."""

    level: Level  # its problem is a task
    step: Array  # () int32, updates so far


def reader(sequences: Sequences, network: NetworkFactory) -> Reader:
    """The learner whose `network` reads `sequences`: at each position an input, and the label of the one before it.

    Raises ValueError for what are no `Sequences`, and for a network without `unroll`, which has no memory.
    """
    classes = interface.part("sequences", sequences, Sequences).num_classes
    what = f"what the network {interface.name(network)} returns"
    space = Box(-math.inf, math.inf, (sequences.num_inputs + classes,))
    net = interface.part(what, network(space, {"logits": classes}), Network)
    unroll = net.unroll
    if unroll is None:
        raise ValueError(f"{what} must have `unroll`: a learner in context needs a network with a memory")

    def predict(params: Params, inputs: Array, labels: Array) -> Array:
        known = jax.nn.one_hot(labels[:-1], classes)
        seen = jnp.concatenate([inputs, jnp.pad(known, ((1, 0), (0, 0)))], 1)
        first = jnp.arange(len(inputs)) == 0
        return unroll(params, seen, first, seen, net.carry)[0]["logits"]

    return Reader(net.init, predict, net.carry)


@checked
def in_context_inner_loop(sequences: Sequences, network: NetworkFactory, batch: Annotated[int, COUNT] = 1) -> InnerLoop:
    """One task of `sequences` per lifetime. An update reads `batch` sequences of it.

    The meta-parameters are the parameters of the `reader` with this `network`. The cross-entropy of its predictions,
    meaned over positions and sequences, is the whole loss (GPICL: Kirsch et al. 2022, arXiv 2212.04458). It is
    `Update.objective`, so nothing is left to measure: `loss` and `fitness` are 0. Metrics are the accuracy over all
    positions, at the first, and at the last.

    Raises ValueError for a batch that is not positive, and as `reader` does.
    """
    learner = reader(sequences, network)

    def step(meta_params: MetaParams, lifetime: Reading, key: Key) -> Update:
        def read(key: Key) -> tuple[Array, Array]:
            inputs, labels = sequences.read(lifetime.level.problem, key)
            logits = learner.predict(meta_params, inputs, labels)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits.argmax(-1) == labels).astype(jnp.float32)

        loss, correct = jax.tree.map(lambda x: x.mean(0), jax.vmap(read)(jax.random.split(key, batch)))
        metrics = {"accuracy": correct.mean(), "first_accuracy": correct[0], "last_accuracy": correct[-1]}
        return Update(lifetime._replace(step=lifetime.step + 1), loss, metrics)

    return InnerLoop(
        init_meta=learner.init,
        init=lambda key, level: Reading(level, jnp.int32(0)),
        step=step,
        loss=no_loss,
        fitness=lambda meta_params, lifetime, key: jnp.zeros(()),
    )

"""Learners in context as inner loops: their parameters are meta-parameters, and what they learn is in their memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.checks import COUNT, checked
from metarl.meta import InnerLoop, Update, no_loss
from metarl.rl.networks import Network, NetworkFactory
from metarl.types import Array, Box, Key, Level, Levels, MetaParams, Params, PyTree, Sequences

Tokens = Literal["pairs", "shifted"]


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


@checked
def reader(sequences: Sequences, network: NetworkFactory, tokens: Tokens = "pairs") -> Reader:
    """The learner whose `network` reads `sequences`, in one of two ways.

    With `tokens` "pairs", it remembers each example as a pair of input and label, and predicts the label of a following
    input alone, as if that were the next observation (`next_outputs` of `Network.unroll`). So the input is not
    remembered without its label. With "shifted", it reads each input with the label of the one before, as in GPICL. To
    find out which label belongs to which input is then a part of what must be learned, and takes long.

    Raises ValueError for what are no `Sequences`, for a network without `unroll`, which has no memory, and for other
    tokens.
    """
    classes = interface.part("sequences", sequences, Sequences).num_classes
    what = f"what the network {interface.name(network)} returns"
    space = Box(-math.inf, math.inf, (sequences.num_inputs + classes,))
    net = interface.part(what, network(space, {"logits": classes}), Network)
    unroll = net.unroll
    if unroll is None:
        raise ValueError(f"{what} must have `unroll`: a learner in context needs a network with a memory")

    def predict(params: Params, inputs: Array, labels: Array) -> Array:
        first, known = jnp.arange(len(inputs)) == 0, jax.nn.one_hot(labels, classes)
        if tokens == "shifted":
            seen = jnp.concatenate([inputs, _later(known)], 1)
            return unroll(params, seen, first, seen, net.carry)[0]["logits"]
        seen = _later(jnp.concatenate([inputs, known], 1))  # nothing, then all pairs but the last
        asked = jnp.concatenate([inputs, jnp.zeros_like(known)], 1)
        return unroll(params, seen, first, asked, net.carry)[1]["logits"]

    return Reader(net.init, predict, net.carry)


def _later(x: Array) -> Array:
    """Rows [T, n] one position later; the first is zeros, and the last is left out."""
    return jnp.pad(x[:-1], ((1, 0), (0, 0)))


@checked
def in_context_inner_loop(
    sequences: Sequences, network: NetworkFactory, batch: Annotated[int, COUNT] = 1, tokens: Tokens = "pairs"
) -> InnerLoop:
    """One task of `sequences` per lifetime. An update reads `batch` sequences of it.

    The meta-parameters are the parameters of the `reader` with this `network` and these `tokens`. The cross-entropy of
    its predictions, meaned over positions and sequences, is the whole loss (GPICL: Kirsch et al. 2022, arXiv
    2212.04458). It is `Update.objective`, so nothing is left to measure: `loss` and `fitness` are 0. Metrics are the
    accuracy over all positions, at the first, and at the last.

    Raises ValueError for a batch that is not positive, and as `reader` does.
    """
    learner = reader(sequences, network, tokens)

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


def sequence_levels(sequences: Sequences) -> Levels:
    """Levels whose problems are tasks of `sequences`, with lifetimes of one update: each update has new tasks."""
    return Levels(lambda key: Level(sequences.sample(key), jnp.int32(1)))

"""Lewis games: a speaker describes an object, and a listener picks it among all objects.

An object has `attributes` attributes with one of `values` values each, a message `length` symbols of a `vocabulary`.
Speakers give the logits of each symbol, and listeners those of each attribute's value. So the probability that a
listener picks an object is the product of those of its values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl.checks import COUNT, SEVERAL, WIDTH, Bound, checked, fields
from metarl.types import Array, Key, Params

Speak = Callable[[Array], Array]  # object [attributes] int32 -> logits [length, vocabulary]
Listen = Callable[[Array], Array]  # message [length] int32 -> logits [attributes, values]
CERTAIN = 20.0  # the logit of what humans say and understand; that of all else is 0


class Sizes(NamedTuple):
    """The sizes of a game."""

    attributes: Annotated[int, Bound(1, 8)] = 3
    values: Annotated[int, Bound(2, 64)] = 4
    length: Annotated[int, COUNT] = 3
    vocabulary: Annotated[int, SEVERAL] = 8

    def check(self) -> None:
        """Raises ValueError as `lewis` does."""
        fields(self)
        if self.length < self.attributes:
            raise ValueError(f"length must be at least attributes = {self.attributes}, got {self.length}")
        if self.vocabulary < self.values:
            raise ValueError(f"vocabulary must be at least values = {self.values}, got {self.vocabulary}")
        if (objects := self.values**self.attributes) > 2**16:
            raise ValueError(f"values ** attributes must be at most {2**16} objects, got {objects}")


class Pair(NamedTuple):
    """A speaker and a listener; or their parameters."""

    speaker: Params
    listener: Params


class Game(NamedTuple):
    """A game and its agents."""

    objects: Array  # [values ** attributes, attributes] int32, all of them in a random order
    init: Callable[[Key], Pair]  # parameters
    speaker: Callable[[Params], Speak]
    listener: Callable[[Params], Listen]
    human_speaker: Speak
    human_listener: Listen


class _Perceptron(nn.Module):
    """One-hot entries, two tanh layers, and logits of shape `outputs`."""

    inputs: int  # values that each entry may have
    width: int
    outputs: tuple[int, int]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = jax.nn.one_hot(x, self.inputs).reshape(-1)
        for _ in range(2):
            x = nn.tanh(nn.Dense(self.width)(x))
        return nn.Dense(self.outputs[0] * self.outputs[1])(x).reshape(self.outputs)


@checked
def lewis(sizes: Sizes, width: Annotated[int, WIDTH] = 64) -> Game:
    """The game of these sizes, agents with two layers of `width`, and the code of "humans".

    Humans say the value of attribute i by symbol i, with a different symbol for each value; the symbols of each
    attribute are permuted. They understand a symbol that they do not use as any value. Symbols after the attributes
    are always 0 and say nothing.

    Raises ValueError for sizes out of bounds, and if humans lack symbols: they need as long a message as there are
    attributes, and as large a vocabulary as there are values.
    """
    sizes.check()
    attributes, values, length, vocabulary = sizes
    order_key, code_key = jax.random.split(jax.random.key(0))
    keys = jax.random.split(code_key, attributes)
    index = jax.random.permutation(order_key, values**attributes)
    objects = jnp.stack([index // values**i % values for i in range(attributes)], 1)
    speaker, listener = (
        _Perceptron(values, width, (length, vocabulary)),
        _Perceptron(vocabulary, width, (attributes, values)),
    )

    def init(key: Key) -> Pair:
        keys = jax.random.split(key)
        message = jnp.zeros(length, jnp.int32)
        return Pair(speaker.init(keys[0], objects[0])["params"], listener.init(keys[1], message)["params"])

    # symbols[i, v] stands for value v of attribute i
    symbols = jax.vmap(lambda key: jax.random.permutation(key, vocabulary)[:values])(keys)

    def say(what: Array) -> Array:
        words = symbols[jnp.arange(attributes), what]
        return CERTAIN * jax.nn.one_hot(jnp.pad(words, (0, length - attributes)), vocabulary)

    def understand(message: Array) -> Array:
        return CERTAIN * (symbols == message[:attributes, None])

    return Game(
        objects,
        init,
        lambda params: lambda what: jnp.asarray(speaker.apply({"params": params}, what)),
        lambda params: lambda message: jnp.asarray(listener.apply({"params": params}, message)),
        say,
        understand,
    )


def likelihood(logits: Array, choice: Array) -> Array:
    """() log probability of the entries `choice` [n], each drawn from the softmax of its logits [n, m]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), choice[:, None], -1).sum()


def accuracy(speak: Speak, listen: Listen, objects: Array) -> Array:
    """() share of `objects` [n, attributes] that are picked if all take what is most likely; ties are broken evenly."""

    def right(what: Array) -> Array:
        logits = listen(jnp.argmax(speak(what), -1))
        best = logits == logits.max(-1, keepdims=True)
        return (jnp.take_along_axis(best, what[:, None], -1)[:, 0] / best.sum(-1)).prod()

    return jax.vmap(right)(objects).mean()


def game_loss(speak: Speak, listen: Listen, key: Key, objects: Array, entropy_coef: float) -> tuple[Array, Array]:
    """() a loss whose gradient is the policy gradient of both agents, and () the share of `objects` [n, ...] picked.

    The reward of both is the listener's log probability of the object, whose expectation over the listener's choice is
    known, so its gradient is exact. The speaker follows the score function, with the mean of the other objects' rewards
    as baseline, and `entropy_coef` times its entropy.
    """

    def play(what: Array, key: Key) -> tuple[Array, Array, Array]:
        logits = speak(what)
        message = jax.random.categorical(key, logits)
        entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum()
        return likelihood(listen(message), what), likelihood(logits, message), entropy

    reward, log_prob, entropy = jax.vmap(play)(objects, jax.random.split(key, len(objects)))
    advantage = jax.lax.stop_gradient(reward - reward.mean()) * len(reward) / (len(reward) - 1)
    return -(reward + advantage * log_prob + entropy_coef * entropy).mean(), jnp.exp(reward).mean()


def imitation_loss(speak: Speak, listen: Listen, objects: Array, messages: Array) -> Array:
    """() how unlikely a speaker is to say `messages` [n, length] of `objects` [n, attributes], and a listener to
    understand them: minus the mean log likelihood of both."""
    said = jax.vmap(lambda what, message: likelihood(speak(what), message))(objects, messages)
    understood = jax.vmap(lambda what, message: likelihood(listen(message), what))(objects, messages)
    return -(said + understood).mean()

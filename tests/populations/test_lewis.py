"""Lewis games: the human code, accuracies by hand, and the policy gradient against all messages."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.populations.lewis import Sizes, accuracy, game_loss, imitation_loss, lewis

KEY = jax.random.key(0)
GAME = lewis(Sizes(), 8)
FEW = Sizes(attributes=2, values=2, length=2, vocabulary=2)


def test_objects_are_all_different():
    assert len({tuple(x) for x in np.asarray(GAME.objects)}) == 4**3


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(2, 3, 4, 3)])
def test_humans_understand_each_other(sizes):
    game = lewis(sizes, 1)

    @jax.jit
    def played(objects):
        said = jnp.argmax(jax.vmap(game.human_speaker)(objects), -1)
        return accuracy(game.human_speaker, game.human_listener, objects), said

    right, messages = played(game.objects)
    assert float(right) == 1.0
    assert len({tuple(x) for x in np.asarray(messages)}) == len(game.objects)


def test_the_human_code_is_compositional():
    """Objects that share a value of an attribute share its symbol, and those that do not, do not."""
    messages = jnp.argmax(jax.vmap(GAME.human_speaker)(GAME.objects), -1)
    same_value = GAME.objects[:, None] == GAME.objects[None]
    np.testing.assert_array_equal(same_value, messages[:, None] == messages[None])


def test_accuracy_by_hand():
    clueless = accuracy(GAME.human_speaker, lambda message: jnp.zeros((3, 4)), GAME.objects)
    assert float(clueless) == pytest.approx(1 / 64)  # ties are broken evenly
    same = accuracy(lambda what: GAME.human_speaker(jnp.zeros_like(what)), GAME.human_listener, GAME.objects)
    assert float(same) == pytest.approx(1 / 64)

    def without_the_last(message):
        return GAME.human_listener(message) * jnp.array([1.0, 1.0, 0.0])[:, None]

    assert float(accuracy(GAME.human_speaker, without_the_last, GAME.objects)) == pytest.approx(1 / 4)


def tables(seed):
    """A speaker by object and a listener by message of the game of `FEW`."""
    said, understood = jax.random.normal(jax.random.key(seed), (2, 2, 2, 2, 2))
    return {"said": said, "understood": understood}


def test_the_loss_follows_the_gradient_of_the_expected_reward():
    objects = jnp.array(list(itertools.product(range(2), repeat=2)))

    def agents(params):
        return lambda what: params["said"][tuple(what)], lambda message: params["understood"][tuple(message)]

    def expected(params):
        """Minus the mean reward over all objects and messages."""
        speak, listen = agents(params)
        rewards = [
            jnp.exp(jax.nn.log_softmax(speak(what))[jnp.arange(2), message].sum())
            * jax.nn.log_softmax(listen(message))[jnp.arange(2), what].sum()
            for what in objects
            for message in objects
        ]
        return -sum(rewards) / 4

    def sampled(params):
        many = jnp.tile(objects, (5000, 1))
        return game_loss(*agents(params), KEY, many, 0.0)

    params = tables(1)
    gradient, picked = jax.jit(jax.grad(sampled, has_aux=True))(params)
    exact = jax.jit(jax.grad(expected))(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=0.01), gradient, exact)
    assert all(np.abs(x).max() > 0.05 for x in jax.tree.leaves(exact))
    assert 0.0 < float(picked) < 1.0


def test_entropy_makes_speakers_less_certain():
    objects = jnp.array([[0, 0], [1, 1]])

    def loss(logits):
        return game_loss(lambda what: logits, lambda message: jnp.zeros((2, 2)), KEY, objects, 1.0)[0]

    logits = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    gradient = jax.jit(jax.grad(loss))(logits)
    assert float(gradient[0, 0]) > 0.0 > float(gradient[0, 1])
    np.testing.assert_allclose(gradient[1], 0.0, atol=1e-6)


def test_imitation_of_humans_by_humans_costs_nothing():
    messages = jnp.argmax(jax.vmap(GAME.human_speaker)(GAME.objects), -1)
    assert float(imitation_loss(GAME.human_speaker, GAME.human_listener, GAME.objects, messages)) < 1e-5
    clueless = imitation_loss(GAME.human_speaker, lambda message: jnp.zeros((3, 4)), GAME.objects, messages)
    assert float(clueless) == pytest.approx(3 * np.log(4), rel=1e-4)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Sizes(length=2), "length must be at least attributes = 3, got 2"),
        (Sizes(vocabulary=3), "vocabulary must be at least values = 4, got 3"),
        (Sizes(attributes=0), "attributes must be at least 1, got 0"),
        (Sizes(attributes=8, values=5, length=8), "values ** attributes must be at most 65536 objects, got 390625"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError) as error:
        lewis(sizes, 4)
    assert str(error.value) == message

"""Learners in context: nothing but meta-parameters, a memory, and a loss that is all in `Update.objective`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from in_context import CLASSES, in_context, levels, sequences

import metarl
from metarl import networks
from metarl.estimators import backprop
from metarl.inner.in_context import in_context_inner_loop, reader

TRANSFORMER = networks.transformer(4, layers=1, width=8, heads=2)


def test_a_learner_in_context_learns():
    """It has to guess the first label, and then to repeat it."""
    curriculum = metarl.curricula.uniform(levels(1))
    meta = metarl.compose(in_context(network=TRANSFORMER), backprop(1), optax.adam(0.01), curriculum, 64)
    _, log = metarl.train(meta, steps=120, chunk=40)
    assert log["last_accuracy"][0] == pytest.approx(0.5, abs=0.25)
    assert log["last_accuracy"][-20:].mean() > 0.95
    assert log["first_accuracy"][-20:].mean() == pytest.approx(0.5, abs=0.1)


@pytest.fixture(scope="module", params=["pairs", "shifted"])
def read(request):
    """A sequence, a reader with parameters of order one, and its predictions."""
    learner = reader(sequences(), TRANSFORMER, request.param)
    params = jax.tree.map(lambda x: x + 0.1, jax.jit(learner.init)(jax.random.key(0)))
    inputs, labels = jax.random.normal(jax.random.key(1), (5, 1)), jnp.array([1, 0, 0, 1, 0])
    predict = jax.jit(learner.predict)
    return predict, params, inputs, labels, predict(params, inputs, labels)


@pytest.mark.parametrize("t", range(5))
def test_a_prediction_knows_the_inputs_so_far_and_the_labels_before(read, t):
    predict, params, inputs, labels, logits = read
    for changed, at in (
        (predict(params, inputs.at[t].add(1.0), labels), t),
        (predict(params, inputs, labels.at[t].set(1 - labels[t])), t + 1),
    ):
        moved = (jnp.abs(changed - logits) > 1e-5).any(-1).tolist()
        assert moved[:at] == [False] * at and moved[at : at + 1] in ([True], [])  # the window ends before the last


def test_the_objective_is_the_mean_cross_entropy_over_positions_and_sequences():
    inner, learner, key = in_context(batch=2), reader(sequences(), networks.gru(4)), jax.random.key(0)
    level = levels(3).sample(jax.random.key(1))

    @jax.jit
    def step():
        params = inner.init_meta(key)
        return params, inner.step(params, inner.init(key, level), key)

    @jax.jit
    def read(params, key):
        inputs, labels = sequences().read(level.problem, key)
        return jax.nn.softmax(learner.predict(params, inputs, labels)), labels

    params, update = step()
    losses, right = [], []
    for read_key in jax.random.split(key, 2):
        probabilities, labels = jax.device_get(read(params, read_key))
        losses.append(-np.log(probabilities[np.arange(5), labels]))
        right.append(probabilities.argmax(-1) == labels)
    assert float(update.objective) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(update.metrics["accuracy"]) == pytest.approx(np.mean(right))
    assert float(update.metrics["last_accuracy"]) == pytest.approx(np.mean(right, 0)[-1])
    assert update.lifetime.step == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: in_context(network=networks.mlp((4,))), "must have `unroll`: a learner in context needs a network"),
        (lambda: reader(sequences(), TRANSFORMER, "words"), "tokens must be one of pairs, shifted, got 'words'"),
        (lambda: in_context(batch=0), "batch must be at least 1, got 0"),
        (lambda: in_context_inner_loop(levels(1), TRANSFORMER), "sequences must be a Sequences, got a Levels"),
    ],
)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_tasks_of_these_tests_have_one_label():
    inputs, labels = sequences(3).read(jnp.int32(1), jax.random.key(0))
    assert inputs.shape == (3, 1) and labels.tolist() == [1, 1, 1] and CLASSES == 2

"""Random projections with permuted labels: that each task is what it says, and that there are as many as asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.projections import clusters, projections
from envs.tasks import digits

KEYS = jax.random.split(jax.random.key(0), 200)


@pytest.mark.parametrize(("data", "made"), [("digits", digits), ("clusters", clusters)])
@pytest.mark.parametrize("held_out", [False, True])
def test_examples_are_projections_of_the_data_with_new_labels(data, made, held_out):
    family = projections(data, length=20, held_out=held_out)
    task = family.sample(KEYS[0])
    inputs, labels = family.read(task, KEYS[1])
    train_x, train_y, held_out_x, held_out_y = made()
    x, y = (held_out_x, held_out_y) if held_out else (train_x, train_y)
    standard = (x - train_x.mean(0)) / (train_x - train_x.mean(0)).std()
    assert inputs.shape == (20, family.num_inputs) == (20, x.shape[1])
    distances = np.abs((standard @ np.asarray(task.matrix).T)[None] - np.asarray(inputs)[:, None]).max(-1)
    rows = distances.argmin(1)
    assert distances.min(1).max() < 1e-3
    np.testing.assert_array_equal(labels, np.asarray(task.labels)[y[rows]])
    assert sorted(task.labels.tolist()) == list(range(family.num_classes)) and len(set(labels.tolist())) > 3


def test_matrices_keep_the_scale():
    task = jax.vmap(projections("clusters").sample)(KEYS)
    np.testing.assert_allclose(task.matrix.var() * 16, 1.0, rtol=0.02)
    assert abs(float(task.matrix.mean())) < 0.01


@pytest.mark.parametrize("tasks", [1, 4])
def test_there_are_as_many_tasks_as_asked_for_and_the_first_ones_stay(tasks):
    def found(tasks, seed=0):
        return set(
            np.asarray(jax.vmap(projections("clusters", tasks, seed=seed).sample)(KEYS).matrix[:, 0, 0]).tolist()
        )

    few = found(tasks)
    assert len(few) == tasks and few < found(8) and not few & found(tasks, seed=1)
    assert found(jnp.int32(tasks)) == few  # as a traced number
    assert len(found(0)) == len(KEYS) and not found(0) & few


def test_clusters_can_be_told_apart():
    """By the nearest mean of their classes, which is the best that one can do."""
    train_x, train_y, x, y = clusters()
    means = np.stack([train_x[train_y == i].mean(0) for i in range(10)])
    assert (np.square(x[:, None] - means).sum(-1).argmin(1) == y).mean() > 0.9

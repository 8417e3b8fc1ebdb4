"""Few-shot regression: the curves are those of their families, and learners see points but are tested between them."""

import jax
import numpy as np
import pytest

from envs import regression
from envs.regression import GRID, SOURCES, few_shot, sinusoid


def drawn(task, count=200):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(0), count)))


def test_sinusoids_are_those_of_the_paper():
    problems = drawn(sinusoid())
    # a sinusoid and its negative are alike but for half a period: A and the phase by least squares on the grid
    basis = np.stack([np.sin(GRID), -np.cos(GRID)], 1)
    found = np.linalg.lstsq(basis, problems.curve.T, rcond=None)[0]
    amplitude, phase = np.hypot(*found), np.arctan2(found[1], found[0])
    np.testing.assert_allclose(basis @ found, problems.curve.T, atol=1e-4)
    assert 0.1 <= amplitude.min() < 0.4 and 4.7 < amplitude.max() <= 5.0
    assert 0.0 <= phase.min() < 0.2 and np.pi - 0.2 < phase.max() <= np.pi
    assert problems.x.shape == (200, 10) and np.abs(problems.x).max() <= 5.0 and problems.x.std() > 2.5
    np.testing.assert_allclose(problems.y, amplitude[:, None] * np.sin(problems.x - phase[:, None]), atol=1e-4)


def test_steps_and_polynomials_are_what_they_say():
    steps, cubics = (drawn(few_shot(SOURCES[name])) for name in ("steps", "cubics"))
    assert (
        set(np.unique(np.abs(steps.curve))) == {2.0} and (np.abs(np.diff(steps.curve)) > 0).sum(1).tolist() == [1] * 200
    )
    coefficients = np.polyfit(GRID / 5.0, cubics.curve.T, 3)[::-1]  # from the constant term on
    np.testing.assert_allclose(coefficients.std(1), [1.0, 1.0, 3.0, 3.0], rtol=0.2)


def test_learners_see_points_and_are_tested_on_the_whole_curve():
    task = few_shot(lambda key: lambda x: 2.0 * x, shots=3, hidden=(4,))
    problem = task.sample(jax.random.key(1))
    params = task.init(jax.random.key(2), problem)
    first, last = (np.asarray(params[name]["kernel"]) for name in ("layers_0", "layers_2"))
    assert first.shape == (1, 4) and last.shape == (4, 1)

    def error(x):
        return np.square(np.maximum(x[:, None] @ first, 0.0) @ last - 2.0 * x[:, None]).mean()

    np.testing.assert_allclose(task.loss(params, problem, jax.random.key(3)), error(np.asarray(problem.x)), rtol=1e-5)
    np.testing.assert_allclose(task.test(params, problem), error(GRID), rtol=1e-5)


def test_all_families_have_problems_of_one_shape():
    shapes = {
        str(jax.eval_shape(few_shot(draw).sample, jax.random.key(0))) for draw in (*SOURCES.values(), regression.target)
    }
    assert len(shapes) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [({"shots": 0}, "shots must be at least 1, got 0"), ({"hidden": (4, 0)}, r"hidden\[1\] must be at least 1, got 0")],
)
def test_bad_arguments_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        few_shot(regression.sinusoids(), **options)

"""Learning to actively learn as a user runs it."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import columns, one_line, restored, words

from experiments import lal, launch
from metarl.run.options import replace

OPTIONS = {
    **{
        "steps": 4,
        "chunk": 2,
        "checkpoint_every": 2,
        "num_seeds": 2,
        "candidates": 3,
        "budget": 4,
        "radii": (4.0, 9.0),
        "width": 4,
    },
    **{"instances": 3, "episodes": 2, "held_out_starts": 2, "held_out_steps": 2, "held_out_episodes": 2},
}
TINY = replace(lal.PRESETS["quick"], **OPTIONS)
QUESTIONS = {"problem": "twenty_questions", "questions": 3}
RUNS = [
    pytest.param(({}, "successive halving"), id="best_arm"),
    pytest.param((QUESTIONS, "information gain"), id="twenty_questions", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=RUNS)
def finished(request, tmp_path_factory):
    """The options, the directory and the classical policy's name of a small run."""
    more, classical = request.param
    directory = tmp_path_factory.mktemp("lal") / "run"
    lal.main(words(**OPTIONS, **more, directory=directory))
    return OPTIONS | more, directory, classical


def test_a_run_compares_the_worst_cases_of_all_policies(finished):
    _, directory, classical = finished
    rows = json.loads((directory / "results.json").read_text())["report"]
    places, others = ("C <= 4", "C <= 9", "worst excess"), ("average", classical)
    policies = {f"{name}, {place}" for name in ("lal", *others) for place in places}
    differences = {f"lal minus {name}, {place}" for name in others for place in places}
    assert set(rows) == policies | differences | {"own, C <= 4", "own, C <= 9"}
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())
    difference = rows["lal, C <= 4"]["mean"] - rows["average, C <= 4"]["mean"]
    assert rows["lal minus average, C <= 4"]["mean"] == pytest.approx(difference, abs=1e-6)


def test_instances_stay_in_their_classes(finished):
    options, directory, _ = finished
    config = replace(lal.PRESETS["quick"], **options)
    problem, state = config.task.make(), restored(lal.EXPERIMENT, config, directory)
    kinds = lal.classes(config)
    np.testing.assert_array_equal(kinds.radii, [[4] * 6, [9] * 6, [4] * 3 + [9] * 3, [4] * 3 + [9] * 3])
    np.testing.assert_array_equal(kinds.minimax, [False, False, True, False])
    np.testing.assert_array_equal(kinds.average, [False, False, False, True])
    complexity = jax.vmap(jax.vmap(jax.vmap(problem.complexity)))(state.theta)
    assert (complexity <= kinds.radii).all()


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(finished, tmp_path):
    options, directory, _ = finished
    shutil.copytree(directory, tmp_path / "run")
    config = replace(lal.PRESETS["quick"], **options, directory=str(tmp_path / "run"), resume_from=2)
    resumed, log, _ = launch.run(lal.EXPERIMENT._replace(report=None), config)
    jax.tree.map(np.testing.assert_array_equal, restored(lal.EXPERIMENT, config, directory), resumed)
    np.testing.assert_allclose(columns(directory)["loss_lal"], log["loss_lal"].mean(1), rtol=1e-5)


@pytest.mark.slow
def test_policies_learn_to_find_the_best_arm():
    """Against the worst instances of a class of its own, and on the prior."""
    config = replace(TINY, steps=150, budget=8, radii=(2.0,), instances=8, episodes=16, learning_rate=0.01, width=8)
    meta = lal.make(config)
    state = jax.jit(meta.init)(jax.random.key(0))
    before = lal.worst_losses(config, state.policy)
    state, losses = jax.jit(lambda state, keys: jax.lax.scan(meta.step, state, keys))(
        state, jax.random.split(jax.random.key(1), 150)
    )
    after = lal.worst_losses(config, state.policy)
    assert losses["loss_average"][-20:].mean() < losses["loss_average"][:5].mean() - 0.1
    for name in ("lal", "own"):
        assert float(after[name].mean()) < float(before[name].mean()) - 0.1
    assert jnp.isfinite(losses["lifetime_loss"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": 12}, "questions has no effect with problem best_arm: leave it at 10, got 12"),
        ({"problem": "twenty_questions", "candidates": 99, "questions": 6}, "questions must be at least 7 to tell 99"),
        ({"radii": ()}, "radii must be at least one, got none"),
        ({"radii": (0.0,)}, "radii[0] must be above 0"),
        ({"episodes": 1}, "episodes must be at least 2, got 1"),
    ],
)
def test_bad_options(options, message, capsys):
    assert message in one_line(capsys, lambda: lal.main(words(**options)))

"""Dynamic populations as a user runs them."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import columns, one_line, restored, words

from experiments import launch, populations
from metarl.run import checkpoint
from metarl.run.options import replace

OPTIONS = {
    **{
        "steps": 4,
        "chunk": 2,
        "checkpoint_every": 2,
        "num_seeds": 3,
        "width": 4,
        "attributes": 2,
        "values": 2,
        "length": 2,
        "vocabulary": 3,
    },
    **{"unseen": 1, "examples": 3, "batch": 4, "past": 3, "partners": 2},
    **{"imitation_updates": 1, "game_updates": 2, "meta_updates": 2},
}
TINY = replace(populations.PRESETS["quick"], **OPTIONS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a small run, and its state."""
    directory = tmp_path_factory.mktemp("populations") / "run"
    populations.main(words(**OPTIONS, directory=directory))
    return directory, restored(populations.EXPERIMENT, TINY, directory)


def test_a_run_compares_both_populations_with_all_partners(finished):
    rows = json.loads((finished[0] / "results.json").read_text())["report"]
    partners, places = ("past selves", "other seeds", "humans"), ("trained objects", "unseen objects")
    arms = ("latest", "dynamic", "dynamic minus latest")
    assert set(rows) == {f"{arm}, {who}, {where}" for arm in arms for who in partners for where in places}
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())


def test_past_selves_are_kept_in_order(finished):
    _, state = finished
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[:, :, 0]), state.agents, state.past)
    np.testing.assert_array_equal(state.reach, [[1, 1, 1], [3, 3, 3]])


def test_populations_differ_only_in_their_partners(finished):
    """Newborn agents are alike, and so are all past selves in the first meta-step. In the second they are not."""
    template = jax.eval_shape(populations.make(TINY).init, jax.random.key(0))
    fingerprint = {**launch.what_is_trained(TINY), "seed": 0}
    log = checkpoint.restore(str(finished[0]), template, fingerprint)[2]
    differences = {name: np.abs(x[:, 0] - x[:, 1]).max(-1) for name, x in log.items() if x.ndim == 3}
    assert set(differences) == {"imitation_loss", "picked_by_self", "picked_by_past_selves"}
    for name, x in differences.items():
        assert x[0] < 1e-6 < 1e-5 < x[3], name
    assert differences["picked_by_self"][1] < 1e-6 < differences["picked_by_past_selves"][1]


def test_pairs_of_seeds_are_not_independent():
    """The scores have the mean of all pairs; their spread is the jackknife's, which leaves out one seed at a time."""
    pairs = np.random.default_rng(0).normal(size=(5, 5))
    pairs = np.triu(pairs, 1) + np.triu(pairs, 1).T
    scores = populations.of_pairs(pairs.sum(1) / 4)
    left_out = [np.delete(np.delete(pairs, i, 0), i, 1).sum() / 12 for i in range(5)]
    np.testing.assert_allclose(scores.mean(), pairs.sum() / 20)
    np.testing.assert_allclose(scores, 5 * scores.mean() - 4 * np.array(left_out))


def test_unseen_objects_are_never_examples(finished):
    game, (_, state) = populations.game_of(TINY), finished
    assert not (state.examples[..., None, :] == game.objects[:1]).all(-1).any()


def test_a_resumed_run_equals_an_uninterrupted_one(finished, tmp_path):
    directory, state = finished
    shutil.copytree(directory, tmp_path / "run")
    config = replace(TINY, directory=str(tmp_path / "run"), resume_from=2)
    resumed, log, _ = launch.run(populations.EXPERIMENT._replace(report=None), config)
    jax.tree.map(np.testing.assert_array_equal, state, resumed)
    np.testing.assert_allclose(columns(directory)["picked_by_self"], log["picked_by_self"].mean((1, 2)), rtol=1e-5)


@pytest.mark.slow
def test_agents_learn_to_talk():
    config = replace(populations.PRESETS["full"], num_seeds=3, width=32, learning_rate=0.01)
    meta = populations.make(config)
    state, _ = jax.jit(lambda key: jax.lax.scan(meta.step, meta.init(key), jax.random.split(key, 20)))(
        jax.random.key(0)
    )
    game = populations.game_of(config)
    for arm in range(2):
        found = populations.accuracies(game, jax.tree.map(lambda x, arm=arm: x[arm], state), game.objects)
        assert float(found["humans"].mean()) > 0.5  # chance is 1 / 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 3}, "vocabulary must be at least values = 4, got 3"),
        ({"length": 2}, "length must be at least attributes = 3, got 2"),
        ({"unseen": 63}, "unseen must leave 2 of the 64 objects for training, got 63"),
        ({"num_seeds": 2}, "num_seeds must be at least 3, got 2"),
        ({"past": 1}, "past must be at least 2, got 1"),
        ({"adaptation_rate": 0.0}, "adaptation_rate must be above 0"),
    ],
)
def test_bad_options(options, message, capsys):
    assert message in one_line(capsys, lambda: populations.main(words(**options)))

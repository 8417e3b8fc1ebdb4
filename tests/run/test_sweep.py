"""Sweeps: every member is the run that it would be alone, in as few programs as there can be."""

import dataclasses

import jax
import numpy as np
import pytest
from sweep_example import Config, compilations, descend

import metarl
from metarl.run import checkpoint
from metarl.run.options import with_values

FIELDS = {"learning_rate": [0.1, 0.5], "size": [2, 3], "noise": [0.0, 0.2]}


@pytest.fixture(scope="module")
def swept():
    return metarl.sweep(descend, Config(), FIELDS, seeds=[0, 7], chunk=5)


def test_every_member_is_the_run_that_it_would_be_alone(swept):
    assert len(swept.members) == 16 and swept.log["meta_loss"].shape == (16, 12)
    for i in (0, 6, 11, 13):  # both values of every field and seed
        member = swept.members[i]
        seed = member["seed"]
        config = Config(**{name: x for name, x in member.items() if name != "seed"})
        state, log = metarl.train(descend(config), seed=seed, steps=12)
        np.testing.assert_allclose(swept.log["meta_loss"][i], log["meta_loss"], rtol=1e-5)
        np.testing.assert_allclose(swept.log["w"][i], log["w"].mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(swept.params[i]["w"], state.params["w"], rtol=1e-4, atol=1e-6)


def test_batches_change_nothing(swept):
    again = metarl.sweep(descend, Config(), FIELDS, seeds=[0, 7], placement=metarl.Placement(batch_size=6))
    assert again.members == swept.members
    np.testing.assert_allclose(again.log["meta_loss"], swept.log["meta_loss"], rtol=1e-6)


def test_only_what_must_be_is_compiled_again(caplog):
    with jax.log_compiles(), caplog.at_level("WARNING"):
        metarl.sweep(descend, Config(), FIELDS, seeds=3)
    assert len(compilations(caplog)) == 2  # one for each size


def test_numbers_that_python_branches_on_are_looped_over():
    def make(config):
        return descend(dataclasses.replace(config, noise=0.0) if config.noise > 0.1 else config)

    fields = {"learning_rate": [0.1, 0.2], "noise": [0.05, 0.15]}
    found = metarl.sweep(make, Config(), fields, steps=3)
    by_values = {tuple(member.values()): x for member, x in zip(found.members, found.log["meta_loss"], strict=True)}
    alone = metarl.sweep(descend, Config(), {"learning_rate": [0.1, 0.2]}, steps=3).log["meta_loss"]
    np.testing.assert_allclose(by_values[0.2, 0.15, 0], alone[1], rtol=1e-6)
    assert not np.allclose(by_values[0.2, 0.05, 0][1:], alone[1, 1:], rtol=1e-3)


def test_a_member_that_diverges_is_reported_and_the_others_go_on():
    found = metarl.sweep(descend, Config(), {"learning_rate": [0.5, 1e30, 0.1]}, seeds=2)
    assert [bool(x) for x in found.diverged] == [False, False, True, True, False, False]
    first = found.diverged[2] - 1
    assert np.isfinite(found.log["meta_loss"][2, :first]).all() and not np.isfinite(found.log["meta_loss"][2, first])
    scores = found.scores("fitness")
    assert np.isnan(scores).tolist() == [False, False, True, True, False, False]
    assert [x["learning_rate"] for x, _ in found.configurations("fitness")] == [0.5, 0.1, 1e30]
    with pytest.raises(ValueError, match="no such metric: 'reward'; the log has"):
        found.scores("reward")


def test_parameters_that_are_lost_after_the_last_loss_count_as_diverged():
    found = metarl.sweep(descend, Config(steps=1), {"learning_rate": [0.5, float("inf")]})
    assert found.diverged.tolist() == [0, 1]


def test_the_best_is_that_of_the_last_tenth_over_all_seeds(swept):
    scores = swept.scores("fitness")
    np.testing.assert_array_equal(scores, swept.log["fitness"][:, -1])
    values, members = swept.configurations("fitness")[0]
    assert [{**values, "seed": seed} for seed in (0, 7)] == [swept.members[i] for i in members]
    means = [scores[members].mean() for _, members in swept.configurations("fitness")]
    assert means == sorted(means, reverse=True) and values["noise"] == 0.0 and values["learning_rate"] == 0.5


def test_the_table_has_a_row_for_every_member_and_point(swept):
    rows = list(swept.table(points=4))
    assert len(rows) == 16 * 4 and [row["step"] for row in rows[:4]] == [3, 6, 9, 12]
    assert rows[5]["meta_loss"] == swept.log["meta_loss"][1, 5] and rows[5]["seed"] == 7


def test_a_resumed_sweep_is_an_uninterrupted_one(tmp_path, swept):
    options = dict(seeds=[0, 7], directory=tmp_path)
    metarl.sweep(descend, Config(), FIELDS, steps=7, **options)
    for path in (tmp_path / "1").rglob("*"):  # the second program has not been started
        path.is_file() and path.unlink()
    (tmp_path / "1" / "checkpoints").rename(tmp_path / "gone")
    again = metarl.sweep(descend, Config(), FIELDS, resume=True, **options)
    np.testing.assert_array_equal(again.log["meta_loss"], swept.log["meta_loss"])
    assert checkpoint.steps(tmp_path / "0")[-1] == checkpoint.steps(tmp_path / "1")[-1] == 12
    with pytest.raises(ValueError, match="another configuration: members"):
        metarl.sweep(descend, Config(), {**FIELDS, "noise": [0.0, 0.3]}, resume=True, **options)


def test_a_sweep_resumes_from_a_checkpoint_that_not_every_program_has(tmp_path, swept):
    """The others go on from their newest, or start."""
    options = dict(seeds=[0, 7], directory=tmp_path, checkpoint_every=4)
    metarl.sweep(descend, Config(), FIELDS, steps=8, **options)
    (tmp_path / "1" / "checkpoints" / "4.npz").unlink()
    again = metarl.sweep(descend, Config(), FIELDS, resume_from=4, **options)
    np.testing.assert_array_equal(again.log["meta_loss"], swept.log["meta_loss"])


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        (
            {"learning_rates": [0.1]},
            {},
            r"Config has no field 'learning_rates' to sweep; did you mean \['learning_",
        ),
        ({"seed": [1]}, {}, r"no field 'seed' to sweep; did you mean \['learning_rate', 'noise', 'size'\]"),
        ({"noise": []}, {}, r"noise must have values to sweep, each given once, got \[\]"),
        ({"noise": [0.1, 0.1]}, {}, "noise must have values to sweep, each given once"),
        ({"learning_rate": [0.1, -1.0]}, {}, "learning_rate must be positive, got -1.0"),
        ({}, {"seeds": 0}, "seeds must be at least 1, or different ones, got 0"),
        ({}, {"seeds": [1, 1]}, "seeds must be at least 1, or different"),
        ({}, {"seeds": [2**32]}, "must be at most 4294967295, got 4294967296"),
        ({}, {"seed": 1}, "seed has no meaning for a sweep: give seeds"),
    ],
)
def test_what_cannot_be_swept_is_named_before_anything_runs(fields, options, message):
    def make(config):
        raise AssertionError("made")

    with pytest.raises(ValueError, match=message):
        metarl.sweep(make, Config(), fields, **options)


# --- configurations of parts, and states of all kinds -------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rates:
    learning_rate: float = 0.1
    noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class Whole:
    rates: Rates = Rates()
    size: int = 2
    steps: int = 4


def by_parts(config):
    return descend(with_values(Config(size=config.size), vars(config.rates)))  # tracers cannot be checked


def test_fields_of_parts_are_swept_by_their_names(caplog):
    fields = {"learning_rate": [0.1, 0.5], "size": [2, 3]}
    with jax.log_compiles(), caplog.at_level("WARNING"):
        found = metarl.sweep(by_parts, Whole(), fields, seeds=2)
    assert len(compilations(caplog)) == 2  # one for each size
    flat = metarl.sweep(descend, Config(), fields, seeds=2, steps=4)
    assert found.members == flat.members
    np.testing.assert_allclose(found.log["meta_loss"], flat.log["meta_loss"], rtol=1e-6)
    with pytest.raises(ValueError, match=r"Whole has no field 'rates' to sweep"):
        metarl.sweep(by_parts, Whole(), {"rates": [Rates()]})


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_state_may_be_any_tree_of_arrays(kind):
    """Without a field `step`: the sweep counts for it, so that each member is the run that it would be alone."""

    def make(config):
        def step(state, key):
            (w,) = jax.tree.leaves(state)
            after = w - config.learning_rate * (w + 0.1 * jax.random.normal(key))
            return jax.tree.map(lambda _: after, state), {"value": after}

        wrap = {"dict": lambda w: {"w": w}, "tuple": lambda w: (w, ())}[kind]
        return metarl.Meta(lambda key: wrap(jax.random.normal(key)), step)

    found = metarl.sweep(make, Rates(), {"learning_rate": [0.1, 0.5]}, seeds=2, steps=4, chunk=3)
    for i, member in enumerate(found.members):
        _, log = metarl.train(make(Rates(member["learning_rate"])), seed=member["seed"], steps=4)
        np.testing.assert_allclose(found.log["value"][i], log["value"], rtol=1e-5)
    assert found.diverged.tolist() == [0] * 4 and found.params == [()] * 4

"""Checkpoints and shipped parameters: what is saved comes back, and what is broken says so."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import assert_same, toy

from metarl.pretrained import load_params, save_params
from metarl.run import checkpoint
from metarl.run.checkpoint import CheckpointError
from metarl.run.train import train

KEY = jax.random.key(0)


@pytest.fixture
def saved(tmp_path):
    """A run directory with checkpoints at meta-steps 1, 2 and 3, and the state in each."""
    meta = toy()
    state = meta.init(KEY)
    for step in (1, 2, 3):
        log = {"meta_loss": np.array([float(step)]), "lifetime_loss": np.full((1, 4), step, np.float32)}
        checkpoint.save(tmp_path, step, state, log, {"learning_rate": 0.1, "sizes": (1, 2)}, keep=5)
    return tmp_path, state, jax.eval_shape(meta.init, KEY)


def file_of(directory, step):
    return directory / "checkpoints" / f"{step}.npz"


def test_every_kind_of_leaf_comes_back(saved):
    directory, state, template = saved
    step, restored, log = checkpoint.restore(directory, template)
    assert step == 3
    assert_same(restored, state)
    assert type(restored) is type(state) and type(restored.opt_state) is type(state.opt_state)
    assert jax.random.key_impl(restored.estimator) == jax.random.key_impl(state.estimator)
    assert log["meta_loss"].tolist() == [1.0, 2.0, 3.0]
    assert log["lifetime_loss"].shape == (3, 4)


def test_keys_of_another_kind_come_back(tmp_path):
    state = {"keys": jax.random.split(jax.random.key(5, impl="rbg"), 3)}
    checkpoint.save(tmp_path, 1, state, {"loss": np.zeros(1)}, {}, keep=1)
    _, restored, _ = checkpoint.restore(tmp_path, jax.eval_shape(lambda: state))
    assert restored["keys"].dtype == state["keys"].dtype
    assert_same(restored, state)


@pytest.mark.parametrize(
    "leaf",
    [
        jnp.full((2, 3), 1 / 3, jnp.bfloat16),
        jnp.bfloat16(1 / 3),
        jnp.zeros((0, 3), jnp.bfloat16),
        jnp.float8_e4m3fn(0.3),
        jnp.int32(-7),
        jnp.zeros((0,), bool),
        jax.random.key(3),
        jax.random.split(jax.random.key(3), (2, 2)),
        jax.random.split(jax.random.key(3), 0),
    ],
    ids=lambda x: f"{x.dtype}{list(x.shape)}",
)
def test_leaves_that_numpy_does_not_know_or_that_have_odd_shapes_come_back(tmp_path, leaf):
    checkpoint.save(tmp_path, 1, {"x": leaf}, {"loss": np.zeros(1)}, {}, keep=1)
    _, restored, _ = checkpoint.restore(tmp_path, jax.eval_shape(lambda: {"x": leaf}))
    assert restored["x"].dtype == leaf.dtype
    assert_same(restored, {"x": leaf})


def test_64_bit_leaves_come_back(tmp_path, x64):
    state = {"loss": jnp.float64(1 / 3), "count": jnp.int64(2**40)}
    checkpoint.save(tmp_path, 1, state, {"loss": np.zeros(1)}, {}, keep=1)
    assert_same(checkpoint.restore(tmp_path, jax.eval_shape(lambda: state))[1], state)


def test_an_earlier_step_comes_with_its_part_of_the_log(saved):
    directory, _, template = saved
    step, _, log = checkpoint.restore(directory, template, step=2)
    assert step == 2
    assert log["meta_loss"].tolist() == [1.0, 2.0]
    with pytest.raises(FileNotFoundError, match=r"available: \[1, 2, 3\]"):
        checkpoint.restore(directory, template, step=7)


def test_going_on_from_an_earlier_step_forgets_the_log_past_it(saved):
    directory, state, template = saved
    file_of(directory, 3).unlink()
    checkpoint.save(directory, 4, state, {"meta_loss": np.zeros(2), "lifetime_loss": np.zeros((2, 4))}, {}, keep=5)
    assert checkpoint.restore(directory, template)[2]["meta_loss"].tolist() == [1.0, 2.0, 0.0, 0.0]


def test_another_configuration_names_the_fields_and_both_values(saved):
    directory, _, template = saved
    checkpoint.restore(directory, template, {"learning_rate": 0.1, "sizes": (1, 2)})
    with pytest.raises(CheckpointError, match="another configuration") as error:
        checkpoint.restore(directory, template, {"learning_rate": 0.5, "sizes": (1, 2), "extra": True})
    assert "learning_rate: 0.1 there, 0.5 here" in str(error.value)
    assert "extra: absent there, True here" in str(error.value)
    assert "sizes" not in str(error.value)


def test_training_refuses_another_configuration_or_seed(tmp_path):
    train(toy(), steps=5, directory=tmp_path, fingerprint={"lr": 1.0})
    with pytest.raises(CheckpointError, match="lr: 1.0 there, 2.0 here"):
        train(toy(), steps=9, directory=tmp_path, resume=True, fingerprint={"lr": 2.0})
    with pytest.raises(CheckpointError, match="seed: 0 there, 3 here"):
        train(toy(), steps=9, seed=3, directory=tmp_path, resume=True, fingerprint={"lr": 1.0})


def test_other_arrays_are_named(saved):
    directory, _, template = saved
    wider = template._replace(params={**template.params, "w": jax.ShapeDtypeStruct((5,), jnp.float32)})
    with pytest.raises(CheckpointError, match=r"params/w: 'float32\[3\]' there, 'float32\[5\]' here"):
        checkpoint.restore(directory, wider)


def broken(content):
    """Ways to lose the content of a file."""
    half = len(content) // 2
    changed = bytes([content[half] ^ 1])
    return {
        "cut": content[:half],
        "empty": b"",
        "changed": content[:half] + changed + content[half + 1 :],
        "other": b"PK",
    }


@pytest.mark.parametrize("how", ["cut", "empty", "changed", "other"])
def test_a_damaged_checkpoint_is_named_with_the_newest_intact_one(saved, how, capfd):
    directory, _, template = saved
    for step in (2, 3):
        file_of(directory, step).write_bytes(broken(file_of(directory, step).read_bytes())[how])
    says = r"checkpoints/3.npz is .* that of meta-step 1 is intact: resume_from=1 \(--resume-from 1\)"
    with pytest.raises(CheckpointError, match=says):
        checkpoint.restore(directory, template)
    assert checkpoint.restore(directory, template, step=1)[0] == 1
    file_of(directory, 1).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no other checkpoint there is intact"):
        checkpoint.restore(directory, template)
    assert capfd.readouterr().err == ""


ERRORS = [MemoryError(), *(OSError(x, os.strerror(x)) for x in (errno.EACCES, errno.EMFILE, errno.EIO))]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("part", ["checkpoints/3.npz", "log/000000002.npz"])
def test_what_the_system_cannot_read_is_not_called_damaged(saved, monkeypatch, part, error):
    """Its advice would be to remove a good file; `mend_log` would replace it."""
    directory, _, template = saved
    before, load = (directory / part).read_bytes(), np.load

    def fails(path):
        if path == directory / part:
            raise error
        return load(path)

    monkeypatch.setattr(np, "load", fails)
    reads = [lambda: checkpoint.restore(directory, template), lambda: checkpoint.mend_log(directory)]
    for read in reads if part.startswith("log") else reads[:1]:
        with pytest.raises(type(error)) as raised:
            read()
        assert not isinstance(raised.value, CheckpointError)
        if isinstance(error, OSError):
            assert raised.value.errno == error.errno and raised.value.filename == str(directory / part)
    assert (directory / part).read_bytes() == before


def test_the_search_for_an_intact_checkpoint_ends_at_the_first(saved, monkeypatch):
    directory, _, template = saved
    file_of(directory, 3).write_bytes(b"")
    read, load = [], np.load
    monkeypatch.setattr(np, "load", lambda path: read.append(path) or load(path))
    with pytest.raises(CheckpointError, match="that of meta-step 2 is intact"):
        checkpoint.restore(directory, template)
    assert file_of(directory, 2) in read and file_of(directory, 1) not in read


def test_a_changed_value_is_noticed(saved):
    directory, _, template = saved
    with np.load(file_of(directory, 3)) as file:
        arrays = {name: file[name] for name in file.files}
    # another state under the description of this one, as a disk that mixes up blocks would leave it
    np.savez(file_of(directory, 3), **{name: x + 1 if x.dtype == np.float32 else x for name, x in arrays.items()})
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.restore(directory, template, step=3)


@pytest.mark.parametrize("name", ["50", "50.npz"])
def test_a_foreign_checkpoint_is_named(saved, name):
    directory, _, template = saved
    foreign = directory / "checkpoints" / name
    if name == "50":
        foreign.mkdir()
        (foreign / "model.bin").write_text("not ours")
    else:
        np.savez(foreign, weights=np.ones(3))
    with pytest.raises(CheckpointError, match=f"checkpoints/{name} is not a readable metarl checkpoint"):
        checkpoint.restore(directory, template)


def test_an_unfinished_checkpoint_is_not_picked_up(saved):
    directory, _, template = saved
    shutil.copy(file_of(directory, 3), directory / "checkpoints" / ".4.npz.unfinished")
    assert checkpoint.steps(directory) == [1, 2, 3]
    assert checkpoint.restore(directory, template)[0] == 3


def test_a_checkpoint_of_an_earlier_version_is_read_and_gives_way(saved):
    """Those were folders that orbax wrote."""
    import orbax.checkpoint as ocp

    directory, state, template = saved
    with np.load(file_of(directory, 3)) as file:
        about = json.loads(file["about"].tobytes())
    file_of(directory, 3).unlink()
    leaves = jax.tree.leaves(jax.tree.map(checkpoint._raw, state))
    filled = {f"{i:05d}": x for i, x in enumerate(leaves) if x.size}
    with ocp.CheckpointManager(directory / "checkpoints", item_names=("state", "about")) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardSave(filled), about=ocp.args.JsonSave(about))
        manager.save(3, args=args)
    assert checkpoint.steps(directory) == [1, 2, 3]
    step, restored, log = checkpoint.restore(directory, template, {"learning_rate": 0.1, "sizes": (1, 2)})
    assert step == 3 and len(log["meta_loss"]) == 3
    assert_same(restored, state)
    checkpoint.save(directory, 4, state, {"meta_loss": np.ones(1), "lifetime_loss": np.ones((1, 4))}, {}, keep=1)
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["4.npz"]


@pytest.mark.parametrize("how", ["cut", "empty", "changed", "other", "gone", "shorter"])
def test_a_damaged_log_is_named_with_the_ways_out(saved, how):
    directory, state, template = saved
    segment = directory / "log" / "000000002.npz"
    if how == "gone":
        segment.unlink()
    elif how == "shorter":
        np.savez(segment, meta_loss=np.zeros(0), lifetime_loss=np.zeros((0, 4)))
    else:
        segment.write_bytes(broken(segment.read_bytes())[how])
    says = r"000000002.npz is .*mend_log\(RUN DIRECTORY\) fills the gap with NaN; that of meta-step 1 is intact"
    with pytest.raises(CheckpointError, match=says):
        checkpoint.restore(directory, template)
    checkpoint.mend_log(directory)
    _, restored, log = checkpoint.restore(directory, template)
    np.testing.assert_array_equal(log["meta_loss"], [1.0, np.nan, 3.0])
    assert log["lifetime_loss"].shape == (3, 4)
    assert_same(restored, state)


def test_a_log_that_is_gone_altogether_is_filled_too(saved):
    directory, _, template = saved
    shutil.rmtree(directory / "log")
    checkpoint.mend_log(directory)
    assert np.isnan(checkpoint.restore(directory, template)[2]["seconds"]).tolist() == [True] * 3
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoint.mend_log(directory / "log")


def test_an_intact_log_is_left_alone(saved):
    directory, _, template = saved
    before = {path: path.read_bytes() for path in (directory / "log").iterdir()}
    checkpoint.mend_log(directory)
    assert {path: path.read_bytes() for path in (directory / "log").iterdir()} == before


def test_saving_below_later_checkpoints_removes_them_afterwards(saved, monkeypatch):
    """Whatever the moment at which saving is cut short, the newest checkpoint that is there can be restored."""
    directory, state, template = saved
    row = {"meta_loss": np.array([9.0]), "lifetime_loss": np.zeros((1, 4))}
    monkeypatch.setattr(checkpoint, "_forget", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.save(directory, 2, state, row, {}, keep=5)
    assert checkpoint.restore(directory, template)[2]["meta_loss"].tolist() == [1.0, 9.0]
    assert checkpoint.steps(directory) == [1, 2]
    monkeypatch.undo()
    checkpoint.save(directory, 3, state, row, {}, keep=5)
    assert checkpoint.restore(directory, template)[2]["meta_loss"].tolist() == [1.0, 9.0, 9.0]


def test_metrics_that_are_new_or_gone_are_nan_where_they_are_missing():
    log = checkpoint.concatenate([{"a": np.ones(2), "b": np.ones((2, 3))}, {"a": np.zeros(1), "c": np.ones(1)}])
    np.testing.assert_array_equal(log["a"], [1, 1, 0])
    assert np.isnan(log["b"][2]).all() and np.isnan(log["c"][:2]).all() and log["b"].shape == (3, 3)


PARAMS = {"torso": {"kernel": np.arange(6.0).reshape(2, 3), "bias": np.zeros(3, np.float32)}, "scale": np.int32(4)}


def test_parameters_come_back_with_their_metadata(tmp_path):
    path = tmp_path / "weights" / "rule.safetensors"
    save_params(path, jax.tree.map(jnp.asarray, PARAMS), {"config": {"steps": 5}})
    params, metadata = load_params(path)
    assert_same(params, jax.tree.map(lambda x: np.asarray(jnp.asarray(x)), PARAMS))
    assert metadata["config"] == {"steps": 5}
    assert {"metarl_version", "content_hash"} < set(metadata)
    assert [p.name for p in path.parent.iterdir()] == ["rule.safetensors"]


def test_half_precision_parameters_come_back(tmp_path):
    save_params(tmp_path / "p", {"w": jnp.ones(3, jnp.bfloat16)}, {})
    assert load_params(tmp_path / "p")[0]["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("params", [{"a/b": np.ones(1)}, {"": np.ones(1)}, {"a": [np.ones(1)]}, np.ones(1), {"a": 1.0}])
def test_only_dicts_of_arrays_are_saved(tmp_path, params):
    with pytest.raises(ValueError, match="must be"):
        save_params(tmp_path / "p", params, {})
    assert not list(tmp_path.iterdir())


def test_missing_foreign_and_damaged_parameters_are_named(tmp_path):
    path = tmp_path / "rule.safetensors"
    with pytest.raises(FileNotFoundError, match="no parameters at .*rule.safetensors"):
        load_params(path)
    save_params(path, PARAMS, {})
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="rule.safetensors is not a readable safetensors file"):
        load_params(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="rule.safetensors is damaged"):
        load_params(path)
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="was not written by metarl"):
        load_params(path)

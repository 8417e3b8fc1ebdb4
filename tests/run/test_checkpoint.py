"""Checkpoints and shipped parameters: what is saved comes back, and what is broken says so."""

import json
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


def data_files(directory, step):
    return [path for path in (directory / "checkpoints" / str(step) / "state").rglob("*") if path.is_file()]


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
    checkpoint.save(tmp_path, 1, state, {}, {}, keep=1)
    _, restored, _ = checkpoint.restore(tmp_path, jax.eval_shape(lambda: state))
    assert restored["keys"].dtype == state["keys"].dtype
    assert_same(restored, state)


def test_64_bit_leaves_come_back(tmp_path, x64):
    state = {"loss": jnp.float64(1 / 3), "count": jnp.int64(2**40)}
    checkpoint.save(tmp_path, 1, state, {}, {}, keep=1)
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
    shutil.rmtree(directory / "checkpoints" / "3")
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


def test_a_truncated_checkpoint_is_named_with_the_others(saved):
    directory, _, template = saved
    for path in data_files(directory, 3):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"checkpoints/3 .*other checkpoints there: \[1, 2\]"):
        checkpoint.restore(directory, template)


def test_a_changed_value_is_noticed(saved, monkeypatch):
    directory, state, template = saved
    # the state of another moment under the description of this one, as a disk that mixes up blocks would leave it
    other = state._replace(params={**state.params, "w": state.params["w"] + 1})
    checkpoint.save(directory, 9, other, {}, {}, keep=9)
    shutil.rmtree(directory / "checkpoints" / "3" / "state")
    shutil.copytree(directory / "checkpoints" / "9" / "state", directory / "checkpoints" / "3" / "state")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.restore(directory, template, step=3)


def test_a_foreign_checkpoint_is_named(saved):
    directory, _, template = saved
    foreign = directory / "checkpoints" / "50"
    foreign.mkdir()
    (foreign / "model.bin").write_text("not ours")
    with pytest.raises(CheckpointError, match="checkpoints/50 is not a readable metarl checkpoint"):
        checkpoint.restore(directory, template)


def test_an_unfinished_checkpoint_is_not_picked_up_and_is_cleaned_away(saved):
    directory, state, template = saved
    source, unfinished = directory / "checkpoints" / "3", directory / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(source, unfinished)
    assert checkpoint.steps(directory) == [1, 2, 3]
    assert checkpoint.restore(directory, template)[0] == 3
    assert unfinished.exists()
    checkpoint.save(directory, 5, state, {}, {}, keep=9)
    assert not unfinished.exists()


def test_a_damaged_log_is_named(saved):
    directory, _, template = saved
    (directory / "log" / "000000002.npz").write_bytes(b"PK broken")
    with pytest.raises(CheckpointError, match="000000002.npz is not a readable metarl log"):
        checkpoint.restore(directory, template)


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

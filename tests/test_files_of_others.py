"""Files that say anything: each is loaded, or refused in one line that names it."""

import json

import jax
import numpy as np
import pytest
from finished_runs import RECIPE, write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import envs
import metarl
from experiments import compare, ship
from metarl import rules
from metarl.evaluation.compare import load, results_of
from metarl.pretrained import content_hash, load_params, save_params

ENV = envs.make("mdp/random").environment
SMALL = st.none() | st.booleans() | st.integers(-2, 4) | st.sampled_from([float("nan"), 1e30, 0.5, "", "lpg", "name"])
JSON = st.recursive(
    SMALL, lambda x: st.lists(x, max_size=2) | st.dictionaries(st.sampled_from(["name", "n", "x"]), x, max_size=2)
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, header, params):
    """A file of parameters {name: array} with the text `header` for metadata."""
    from safetensors.numpy import save

    path.write_bytes(save(params, {"metarl": header}))
    return path


def says(path, call):
    """The error of `call`, if it has one: one line with the path."""
    try:
        call()
    except ValueError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1, error
        return str(error)
    return None


def places(tree, path=()):
    """The paths to all values of nested dicts."""
    yield path
    for name, x in tree.items() if isinstance(tree, dict) else ():
        yield from places(x, (*path, name))


def changed(tree, path, value):
    """`tree` with another value at `path`; `...` removes it."""
    if not path:
        return value
    first, *rest = path
    new = {**tree, first: changed(tree[first], rest, value)}
    return {name: x for name, x in new.items() if x is not ...}


@pytest.mark.parametrize("header", ["", "{", "[]", "3", "null", '"x"', "[" * 10**5])
@pytest.mark.parametrize("loads", [load_params, metarl.load_rule, metarl.load_agent])
def test_metadata_that_are_no_json_object_are_named(tmp_path, header, loads):
    path = write(tmp_path / "x.safetensors", header, {})
    assert "is damaged: its metadata" in says(path, lambda: loads(path))


def test_metadata_that_are_not_those_that_were_written_are_named(tmp_path):
    """A changed digit of a recipe would make another rule."""
    path = tmp_path / "x.safetensors"
    save_params(path, {"a": np.zeros(1, np.float32)}, {"y_coef": 0.5})
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.9"))
    assert "is damaged: its metadata do not match their hash" in says(path, lambda: load_params(path))


def test_names_that_collide_are_named(tmp_path):
    flat = {"a": np.zeros(1, np.float32), "a/b": np.zeros(1, np.float32)}
    path = write(tmp_path / "x", json.dumps({"content_hash": content_hash(flat)}), flat)
    assert "'a' is an array, and has arrays in it" in says(path, lambda: load_params(path))


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent") / "agent.safetensors"
    network, outputs = {"name": "tabular"}, {"value": 1}
    params = rules.build_part("network", network)(ENV.observation_space(ENV.default_params), {"policy": 5, "value": 1})
    metarl.save_agent(path, params.init(jax.random.key(0)), ENV, network, outputs)
    return path


@QUICK
@given(st.data())
def test_any_recipe_is_loaded_or_named(rule, tmp_path, data):
    source = f"{rule}/{rules.RULE_FILE}"
    _, card = load_params(source)
    value = data.draw(st.just(...) | JSON)
    place = data.draw(st.sampled_from([x for x in places(card["recipe"]) if x or value is not ...]))
    from safetensors import safe_open

    with safe_open(source, framework="numpy") as file:
        flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    header = json.dumps({**card, "recipe": changed(card["recipe"], place, value)})
    path = write(tmp_path / "x.safetensors", header, flat)
    says(path, lambda: metarl.load_rule(path))


@QUICK
@given(st.data())
def test_any_agent_is_loaded_or_named(agent, tmp_path, data):
    _, card = load_params(agent)
    value = data.draw(st.just(...) | JSON)
    place = data.draw(st.sampled_from([x for x in places(card["agent"]) if x or value is not ...]))
    header = json.dumps({**card, "agent": changed(card["agent"], place, value)})
    from safetensors import safe_open

    with safe_open(agent, framework="numpy") as file:
        flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    path = write(tmp_path / "x.safetensors", header, flat)
    says(path, lambda: metarl.load_agent(path))


def test_results_that_are_not_there_are_named_once(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        results_of(tmp_path)
    assert str(error.value).count(str(tmp_path / "results.json")) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"experiment": "lpg"}', '{"experiment": "os", "config": {}}'])
def test_damaged_results_are_named(tmp_path, text, capsys):
    run = write_run(tmp_path)
    (tmp_path / "results.json").write_text(text)
    assert says("results.json", lambda: results_of(run))
    for command in (lambda: compare.main([run, run, "--reports"]), lambda: ship.main([run, "--name", "mine"])):
        with pytest.raises(SystemExit) as end:
            command()
        message = capsys.readouterr().err
        assert end.value.code == 2 and "results.json" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "card", [{"experiment": 3}, {"config": []}, {"config": {"seed": "x"}}, {"config": {"seed": 0, "levels": 3}}]
)
def test_a_rule_that_does_not_say_of_which_run_it_is_is_not_compared(tmp_path, card):
    learner = rules.build(RECIPE)
    params = {"objective": learner.objective.init(jax.random.key(0))}
    about = {"experiment": "lpg", "config": {"seed": 0}, **card}
    metarl.save_rule(tmp_path / rules.RULE_FILE, params, RECIPE, about)
    assert says(tmp_path, lambda: load(str(tmp_path)))


def test_only_experiments_are_shipped(tmp_path, capsys):
    run = write_run(tmp_path, experiment="os.path")
    with pytest.raises(SystemExit):
        ship.main([run, "--name", "mine", "--directory", str(tmp_path)])
    assert "is of 'os.path', which is none of ablation, adaptation" in capsys.readouterr().err

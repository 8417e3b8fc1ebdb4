"""Runs of an experiment: their files, resume, failures, several processes, and what a new experiment takes."""

import csv
import dataclasses
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from commands import PNG, assert_agents_are_alike, columns, one_line, words
from quadratic import levels, quadratic
from toy import timeless, toy

import metarl
from envs import tasks
from experiments import cli, launch, lpg, parts
from metarl.curricula import uniform
from metarl.estimators import backprop
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.meta import compose
from metarl.pretrained import load_params
from metarl.run import checkpoint
from metarl.run.options import replace

ROOT = Path(__file__).parents[2]

TOY = '''
"""Train a toy."""

import dataclasses

import toy

from experiments import launch, parts


@dataclasses.dataclass(frozen=True)
class Options:
    learning_rate: float = 0.1
    """Changes nothing, but what a resumed run must agree on."""
    nan_at: int = -1
    """The meta-step whose loss is not a number."""
    held_out_levels: int = 4
    """Of the report only."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a toy."""

    run: parts.Run = parts.Run(steps=12)
    options: Options = Options()


def report(config, state, log, directory):
    return {"w": {"mean": float(log["norm"][-1]), "low": 0.0, "high": 1e3, "rows": len(log["norm"])}}


EXPERIMENT = launch.Experiment(
    "a_toy", lambda config: toy.toy(config.options.nan_at), ("meta_loss", "lifetime_loss"), report=report
)


def main(argv=None):
    launch.main(EXPERIMENT, Config, {"quick": Config()}, argv)


if __name__ == "__main__":
    main()
'''


def module_of(path, source):
    """The module that `source` is, as a file."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where tyro looks for its types
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def a_toy(tmp_path_factory):
    return module_of(tmp_path_factory.mktemp("experiment") / "a_toy.py", TOY)


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]), "COLUMNS": "200", **more}


def test_a_run_leaves_its_files_and_resumes(a_toy, tmp_path, capsys):
    directory = tmp_path / "run"
    command = [sys.executable, a_toy.__file__, "--directory", str(directory)]
    places = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    for place in places.values():
        place.mkdir()
    own = environment(**{name: str(place) for name, place in places.items()})
    first = subprocess.run(command, env=own, cwd=tmp_path, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and directory not in path.parents]
    assert all(path.name.startswith("fontlist") for path in outside), outside  # matplotlib's, in its cache
    assert "meta-step 12/12" in first.stderr and f"results in {directory}" in first.stderr
    assert (directory / "curves.png").read_bytes().startswith(PNG)
    assert (directory / "report.png").read_bytes().startswith(PNG)
    results = json.loads((directory / "results.json").read_text())
    assert results["experiment"] == "a_toy"
    assert results["config"]["learning_rate"] == 0.1 and results["config"]["steps"] == 12
    assert results["report"]["w"]["rows"] == 12
    assert results["report"]["w"]["mean"] == pytest.approx(results["final_metrics"]["norm"])
    assert set(results["final_metrics"]) == {"meta_loss", "lifetime_loss", "norm", "seconds"}
    assert results["wall_clock_seconds"] > 0
    assert results["hardware"]["platform"] == "cpu"
    assert {"python", "jax", "numpy"} <= set(results["versions"])
    assert results["date"].startswith("20")
    params, card = load_params(directory / "rule.safetensors")  # no recipe: parameters alone
    assert set(params) == {"w", "half"} and card["evaluation"] == results["report"] and card["seed"] == 0

    again = words(directory=directory)
    assert "holds a run of 12 meta-steps: resume it" in one_line(capsys, lambda: a_toy.main(again))

    # how it is carried out, and what is reported of it, may change
    a_toy.main([*again, *words(resume=True, steps=20, chunk=3, held_out_levels=7)])
    assert json.loads((directory / "results.json").read_text())["report"]["w"]["rows"] == 20
    assert columns(directory)["step"].tolist() == list(range(1, 21))
    whole = metarl.train(toy(), steps=20)[1]
    np.testing.assert_allclose(columns(directory)["norm"], whole["norm"], rtol=1e-5)  # as the table rounds


def run(module, **options):
    return launch.run(module.EXPERIMENT, replace(module.Config(), **options))


def test_the_state_the_log_and_the_report_are_given_to_who_runs_it(a_toy, tmp_path):
    state, log, report = run(a_toy, directory=str(tmp_path), seed=3)
    expected, expected_log = metarl.train(toy(), seed=3, steps=12)
    np.testing.assert_array_equal(state.params["w"], expected.params["w"])
    np.testing.assert_array_equal(log["lifetime_loss"], expected_log["lifetime_loss"])
    assert report["w"]["rows"] == 12


def test_fewer_steps_than_there_are_leave_the_results_alone(a_toy, tmp_path, capsys):
    run(a_toy, directory=str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    says = one_line(capsys, lambda: a_toy.main(words(directory=tmp_path, steps=4, resume=True)))
    assert "steps must be at least 12, the meta-step of the checkpoint, got 4" in says
    assert says == one_line(capsys, lambda: a_toy.main(words(directory=tmp_path, steps=4, resume_from=12)))
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.*")}


def test_a_new_run_does_not_overwrite_results(a_toy, tmp_path, capsys):
    """Those of a finished run whose checkpoints are gone, and those of a sweep."""
    run(a_toy, directory=str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "sweep" / "0" / "checkpoints").mkdir(parents=True)
    for name in ("run", "sweep"):
        before = sorted((tmp_path / name).rglob("*"))
        says = one_line(capsys, lambda name=name: a_toy.main(words(directory=tmp_path / name)))
        assert "has the results of another run" in says and sorted((tmp_path / name).rglob("*")) == before


def test_a_damaged_checkpoint_offers_the_one_before(a_toy, tmp_path, capsys):
    whole = run(a_toy, directory=str(tmp_path), checkpoint_every=4)
    (tmp_path / "checkpoints" / "12.npz").write_bytes(b"")
    message = one_line(capsys, lambda: a_toy.main(words(directory=tmp_path, resume=True)))
    assert "--resume-from 8" in message
    assert "available: [4, 8, 12]" in one_line(capsys, lambda: a_toy.main(words(directory=tmp_path, resume_from=5)))
    a_toy.main(words(directory=tmp_path, resume_from=8))
    assert checkpoint.steps(tmp_path)[-1] == 12
    np.testing.assert_allclose(columns(tmp_path)["norm"], whole[1]["norm"], rtol=1e-5)


def test_a_run_is_not_disturbed_while_it_reports(a_toy, tmp_path):
    config, seen = replace(a_toy.Config(), directory=str(tmp_path)), []

    def report(*_):
        with pytest.raises(BlockingIOError, match="is in use by another process"):
            launch.run(a_toy.EXPERIMENT, replace(config, resume=True))
        seen.append(1)
        return {}

    launch.run(a_toy.EXPERIMENT._replace(report=report), config)
    assert seen and not (tmp_path / cli.LOCK).exists()


def test_another_configuration_is_refused_in_one_line(a_toy, tmp_path, capsys):
    run(a_toy, directory=str(tmp_path))
    argv = words(directory=tmp_path, learning_rate=0.4, resume=True, steps=20)
    assert "learning_rate: 0.1 there, 0.4 here" in one_line(capsys, lambda: a_toy.main(argv))


def test_a_loss_that_is_not_finite_has_its_exit_code(a_toy, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        a_toy.main(words(directory=tmp_path, nan_at=5))
    assert stopped.value.code == 3
    assert "meta-step 5 in lifetimes [2]" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(("option", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_extra_is_named(a_toy, tmp_path, capsys, monkeypatch, option, module):
    monkeypatch.setitem(sys.modules, module, None)
    argv = words(directory=tmp_path, **{option: True})
    assert f"pip install 'metarl-jax[{option}]'" in one_line(capsys, lambda: a_toy.main(argv))


@dataclasses.dataclass(frozen=True)
class Alone:
    run: parts.Run = parts.Run()


def test_what_cannot_be_made_leaves_no_files(tmp_path):
    def make(config):
        raise ValueError("this cannot be made")

    experiment = launch.Experiment("never", make)
    config = replace(Alone(), directory=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="this cannot be made"):
        launch.run(experiment, config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="distributed must be off: never does not shard its work"):
        launch.run(experiment, replace(config, distributed=True))


def test_a_resumed_run_must_agree_on_what_is_trained_alone():
    known = set(launch.what_is_trained(lpg.Config()))
    assert {"levels", "hidden", "learning_rate", "num_lifetimes", "score"} <= known
    assert not known & {"directory", "seed", "steps", "resume", "sweep", "batch_size", "devices", "score_batch"}
    assert not [name for name in known if name.startswith("held_out")]


# --- a new experiment ---------------------------------------------------------------------------------------

# All that a new experiment takes: this file, in experiments/.
SCHEDULE = '''
"""Meta-train a schedule of learning rates on noisy quadratics, by evolution over whole trainings."""

import dataclasses
from functools import partial
from typing import Annotated

import jax

import metarl
from envs import tasks
from experiments import launch, parts
from metarl import checks
from metarl.checks import COUNT, RATE
from metarl.curricula import uniform
from metarl.evaluation.measure import final_returns
from metarl.inner.supervised import supervised_inner_loop, task_levels
from metarl.rules import build
from metarl.run.options import replace


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learned schedule."""

    start: Annotated[float, RATE] = 0.1
    """The learning rate before any meta-training."""
    horizon: Annotated[int, COUNT] = 6
    """Updates of a training."""

    def __post_init__(self):
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """A schedule of learning rates, meta-trained by evolution."""

    run: parts.Run = parts.Run(steps=3)
    sweep: parts.Sweep = parts.Sweep()
    schedule: Schedule = Schedule()
    estimator: parts.Evolution = parts.Evolution(num_pairs=2)
    optimizer: parts.DecayedAdam = parts.DecayedAdam()


PRESETS = {"quick": Config(), "long": replace(Config(), steps=1000, horizon=100)}


def recipe(config):
    return {"optimizer": {"name": "schedule", "learning_rate": config.schedule.start}}


def inner_loop(config):
    return supervised_inner_loop(tasks.quadratic(), build(recipe(config)).optimizer)


def make(config):
    horizon, estimator = config.schedule.horizon, config.estimator
    curriculum = uniform(task_levels(tasks.quadratic(), horizon))
    optimizer = config.optimizer.make(config.run.steps)
    return metarl.compose(inner_loop(config), estimator.make(horizon), optimizer, curriculum, estimator.num_lifetimes)


def report(config, state, log, directory):
    """Fitness on new tasks."""
    inner, key = inner_loop(config), jax.random.key(1)
    levels = jax.vmap(task_levels(tasks.quadratic(), config.schedule.horizon).sample)(jax.random.split(key, 4))
    rows = {"trained": state.params, "newborn": inner.init_meta(key)}
    returns = jax.jit(partial(final_returns, inner, num_seeds=2))
    fitness = {name: returns(params, levels, key) for name, params in rows.items()}
    return {name: {"mean": x.mean(), "low": x.min(), "high": x.max()} for name, x in fitness.items()}


EXPERIMENT = launch.Experiment("schedule", make, recipe=recipe, report=report, score="minus the loss", shards=True)


def main(argv=None):
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()
'''


def test_adding_an_experiment_with_a_preset_and_a_report_touches_one_new_file(tmp_path, capsys):
    schedule = module_of(tmp_path / "schedule.py", SCHEDULE)
    directory = tmp_path / "run"
    schedule.main(words(directory=directory))
    files = {path.name for path in directory.iterdir()}
    assert {
        "metrics.csv",
        "curves.png",
        "report.png",
        "results.json",
        "rule.safetensors",
        "checkpoints",
        "log",
    } == files
    results = json.loads((directory / "results.json").read_text())
    assert results["experiment"] == "schedule" and results["config"]["num_pairs"] == 2
    assert set(results["report"]) == {"trained", "newborn"}
    assert "minus the loss" in capsys.readouterr().out
    rule = metarl.load_rule(directory)
    assert rule.optimizer is not None and rule.card["evaluation"] == results["report"]
    assert cli.parse(schedule.Config, schedule.PRESETS, ["--preset", "long"]) == schedule.PRESETS["long"]
    assert "horizon must be at least 1, got 0" in one_line(capsys, lambda: schedule.main(words(horizon=0)))

    loaded = supervised_inner_loop(tasks.quadratic(), rule.optimizer)
    inner = schedule.inner_loop(schedule.Config())
    assert_agents_are_alike((inner, rule.params), (loaded, {}), task_levels(tasks.quadratic(), 6))

    schedule.main(words(directory=tmp_path / "sweep", sweep=("start=0.1,0.2",)))
    assert metarl.load_rule(tmp_path / "sweep").card["sweep"] == ["start=0.1,0.2"]


# --- several processes --------------------------------------------------------------------------------------

TOGETHER = """
import dataclasses, os, signal, sys
import jax
from experiments import launch, parts
from metarl.meta import Meta
from metarl.parallel import Placement, training_devices

sys.path.insert(0, PLACE)
from test_launch import together

@dataclasses.dataclass(frozen=True)
class Stop:
    held_out_signal: bool = False  # not a part of what a resumed run must agree on

@dataclasses.dataclass(frozen=True)
class Config:
    run: parts.Run = parts.Run(chunk=2)
    stop: Stop = Stop()

def make(config):
    meta = together(Placement(training_devices(8)))

    def step(state, key):  # traced when `train` has begun to listen
        if config.stop.held_out_signal and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return meta.step(state, key)

    return Meta(meta.init, step)

report = lambda *_: {"only": {"mean": 0.0, "low": 0.0, "high": 0.0}}
launch.main(launch.Experiment("together", make, report=report, shards=True), Config, {"quick": Config()})
"""


def together(placement=metarl.Placement()):  # noqa: B008
    """A run that is sharded."""
    inner, distribution = quadratic(noise=0.3), uniform(levels(6, spread=0.5))
    return compose(inner, backprop(4, placement=placement), optax.adam(1e-2), distribution, 8)


def two_processes(script, *options):
    """Exit codes and standard errors of two processes that run `script` together; they end with the test."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, script, "--distributed", *map(str, options)]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(command, env=environment(**common, JAX_PROCESS_ID=str(i)), **output) for i in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), timeless(one), timeless(other))


@pytest.mark.slow
def test_two_processes_train_as_one_and_stop_together(tmp_path):
    """One process starts a run, two go on until a signal to one of them, two go on again, and one finishes it."""
    options = {"chunk": 2}
    state, log = metarl.train(together(), steps=9, **options)
    metarl.train(together(), steps=1, directory=tmp_path, **options)
    script = tmp_path / "run.py"
    script.write_text(TOGETHER.replace("PLACE", repr(str(Path(__file__).parent))))
    resume = (script, "--directory", tmp_path, "--resume")

    codes, errors = two_processes(*resume, "--steps", 7, "--held-out-signal")
    assert codes == [143, 143], errors
    assert all("SIGTERM after meta-step 3: saved" in error for error in errors)
    assert checkpoint.steps(tmp_path) == [1, 3]

    codes, errors = two_processes(*resume, "--steps", 7)
    assert codes == [0, 0], errors
    assert ["results in" in error for error in errors] == [True, False]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row["meta_loss"])) for row in csv.DictReader(file)]
    np.testing.assert_allclose(rows, list(enumerate(log["meta_loss"][:7], 1)), rtol=2e-5)

    last, whole_log = metarl.train(together(), steps=9, directory=tmp_path, resume=True, **options)
    assert_close((last, whole_log), (state, log))

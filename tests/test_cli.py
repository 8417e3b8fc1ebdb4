"""The command line that experiments share: options, files, clean failures."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"

EXPERIMENT = '''
import dataclasses
import jax.numpy as jnp
from toy import toy
from experiments import cli


@dataclasses.dataclass(frozen=True)
class Config(cli.Run):
    """Trains a toy."""

    learning_rate: float = 0.1
    """Step size of the meta-optimizer."""
    nan_at: int = -1
    """The meta-step whose loss is not a number."""

    def __post_init__(self):
        super().__post_init__()
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


PRESETS = {"quick": Config(steps=12), "paper": Config(steps=5000, learning_rate=0.7)}

if __name__ == "__main__":
    with cli.clean_exit():
        config = cli.parse(Config, PRESETS)
        row = lambda log: {"mean": float(log["norm"][-1]), "low": 0.0, "high": 1e3, "rows": len(log["norm"])}
        report = lambda state, log, directory: {"w": row(log)}
        cli.run(toy(config.nan_at), config, curves=("meta_loss", "lifetime_loss"), report=report)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "toyrun.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture
def experiment(script, monkeypatch):
    """The experiment's module, for tests in this process."""
    monkeypatch.syspath_prepend(str(script.parent))
    import toyrun

    return toyrun


def launch(script, *options):
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    return subprocess.run([sys.executable, script, *options], env=environment, capture_output=True, text=True)


def failure(capsys, call):
    """The one line and the exit code that `call` ends with."""
    with pytest.raises(SystemExit) as error:
        call()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0], error.value.code


def test_presets_give_defaults_that_options_override(experiment):
    from experiments.cli import parse

    assert parse(experiment.Config, experiment.PRESETS, []) == experiment.PRESETS["quick"]
    config = parse(
        experiment.Config, experiment.PRESETS, ["--steps", "7", "--preset", "paper", "--resume"] + ["--directory", "x"]
    )
    assert config == dataclasses.replace(experiment.PRESETS["paper"], steps=7, resume=True, directory="x")
    assert type(config) is experiment.Config


def test_help_shows_every_option_with_its_meaning_and_the_presets_default(experiment, capsys, monkeypatch):
    from experiments.cli import parse

    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as error:
        parse(experiment.Config, experiment.PRESETS, ["--preset", "paper", "--help"])
    assert error.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Trains a toy." in shown
    parts = re.split(r" (?=--(?!no-))", shown.partition("options")[2])
    for field in dataclasses.fields(experiment.Config):
        option, default = "--" + field.name.replace("_", "-"), getattr(experiment.PRESETS["paper"], field.name)
        (explained,) = [part for part in parts if re.match(rf"{option}[ ,]", part)]
        assert f"(default: {'' if default == () else repr(default)})" in explained
        assert len(explained.split()) > 6, f"{option} is not explained"
    assert "{quick,paper}" in shown
    assert "Step size of the meta-optimizer. (default: 0.7)" in shown
    assert "(default: 5000)" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--learning-rate", "-1"], "learning_rate must be positive, got -1.0"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--resume"], "resume needs the directory"),
        (["--steps", "many"], "'many'"),
        (["--step", "5"], "--step"),
        (["--preset", "huge"], "('quick', 'paper')"),
    ],
)
def test_bad_options_end_with_one_line(experiment, capsys, options, message):
    from experiments.cli import parse

    line, code = failure(capsys, lambda: parse(experiment.Config, experiment.PRESETS, options))
    assert message in line
    assert code == 2


def test_a_run_leaves_its_files_and_resumes(script, tmp_path):
    directory = tmp_path / "run"
    first = launch(script, "--directory", str(directory))
    assert first.returncode == 0, first.stderr
    assert "meta-step 12/12" in first.stderr
    assert (directory / "curves.png").read_bytes().startswith(PNG)
    results = json.loads((directory / "results.json").read_text())
    assert results["config"]["learning_rate"] == 0.1
    assert results["report"]["w"]["rows"] == 12
    assert results["report"]["w"]["mean"] == pytest.approx(results["final_metrics"]["norm"])
    assert set(results["final_metrics"]) == {"meta_loss", "lifetime_loss", "norm", "seconds"}
    assert results["wall_clock_seconds"] > 0
    assert results["hardware"]["platform"] == "cpu"
    assert {"python", "jax", "numpy"} <= set(results["versions"])
    assert results["date"].startswith("20")

    again = launch(script, "--directory", str(directory))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "holds a run of 12 meta-steps: give resume" in again.stderr

    more = launch(script, "--directory", str(directory), "--resume", "--steps", "20", "--chunk", "3")
    assert more.returncode == 0, more.stderr
    assert json.loads((directory / "results.json").read_text())["report"]["w"]["rows"] == 20
    rows = (directory / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(1, 21)]


def quiet_run(experiment, directory, **options):
    from experiments.cli import clean_exit, run

    config = dataclasses.replace(experiment.PRESETS["quick"], directory=str(directory), **options)
    with clean_exit():
        return run(experiment.toy(config.nan_at), config)


def test_another_configuration_is_refused_in_one_line(experiment, tmp_path, capsys):
    quiet_run(experiment, tmp_path)
    capsys.readouterr()
    line, code = failure(capsys, lambda: quiet_run(experiment, tmp_path, learning_rate=0.4, resume=True, steps=20))
    assert "learning_rate: 0.1 there, 0.4 here" in line
    assert code == 2


def test_failures_have_their_exit_codes(experiment, tmp_path, capsys):
    from experiments.cli import clean_exit
    from metarl.run.train import Interrupted

    with pytest.raises(SystemExit) as error:
        quiet_run(experiment, tmp_path / "nan", nan_at=5)
    assert error.value.code == 3
    assert "meta-step 5 in lifetimes [2]" in capsys.readouterr().err.splitlines()[-1]
    for signum, expected in ((2, 130), (15, 143)):

        def interrupted(signum=signum):
            with clean_exit():
                raise Interrupted(10, signum, "runs/x")

        line, code = failure(capsys, interrupted)
        assert code == expected
        assert "after meta-step 10: saved in runs/x" in line


@pytest.mark.parametrize(("option", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_extra_is_named(experiment, tmp_path, capsys, monkeypatch, option, module):
    monkeypatch.setitem(sys.modules, module, None)
    line, code = failure(capsys, lambda: quiet_run(experiment, tmp_path, **{option: True}))
    assert f"pip install 'metarl-jax[{option}]'" in line
    assert code == 2


def test_a_foreign_envs_package_is_refused(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", "import experiments"]
    refused = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert f"`import envs` finds {tmp_path / 'envs'}" in refused.stderr
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0

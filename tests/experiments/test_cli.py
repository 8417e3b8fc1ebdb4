"""The command line: options of a configuration's parts, failures in one line, and where files go."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from commands import one_line, words

from experiments import cli, parts
from metarl import checks
from metarl.checks import RATE
from metarl.run.options import flatten, replace
from metarl.run.train import Interrupted, NonFiniteLoss

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Speed:
    """A part."""

    learning_rate: Annotated[float, RATE] = 0.1
    """Step size of the meta-optimizer."""
    switch: bool = False
    """Whether something is on."""

    def __post_init__(self):
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a toy."""

    run: parts.Run = parts.Run()
    speed: Speed = Speed()


PRESETS = {"quick": replace(Config(), steps=12), "paper": replace(Config(), steps=5000, learning_rate=0.7)}


def parse(*arguments):
    return cli.parse(Config, PRESETS, arguments)


def test_presets_give_defaults_that_options_override():
    assert parse() == PRESETS["quick"]
    config = parse("--steps", "7", "--preset", "paper", "--resume", "--directory", "x", "--switch")
    assert config == replace(PRESETS["paper"], steps=7, resume=True, directory="x", switch=True)
    assert type(config) is Config


def test_help_shows_every_option_with_its_meaning_and_the_presets_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        parse("--preset", "paper", "--help")
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Trains a toy." in shown
    explained = re.split(r" (?=--(?!no-))", shown.partition("options")[2])
    for name, default in flatten(PRESETS["paper"]).items():
        option = "--" + name.replace("_", "-")
        (text,) = [part for part in explained if re.match(rf"{option}[ ,]", part)]
        assert f"(default: {default!r})" in text
        assert len(text.split()) > 6, f"{option} is not explained"
    assert "{quick,paper}" in shown
    assert "Step size of the meta-optimizer. (default: 0.7)" in shown
    assert "(default: 5000)" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--steps 0", "steps must be at least 1, got 0"),
        ("--learning-rate -1", "learning_rate must be above 0, got -1.0"),
        ("--seed -1", "seed must be at least 0, got -1"),
        ("--resume", "resume needs the directory"),
        ("--distributed", "distributed needs the directory"),
        ("--steps many", "'many'"),
        ("--step 5", "--step"),
        ("--preset huge", "('quick', 'paper')"),
        ("--speed.learning-rate 1", "--speed.learning-rate"),
        ("--steps 1 --steps 2", "--steps must be given once, got it 2 times"),
        ("--steps 1 --steps=1", "--steps must be given once, got it 2 times"),
        ("--learning-rate 1 --learning_rate 2", "--learning-rate must be given once, got it 2 times"),
        ("--switch --no-switch", "--switch must be given once, got it 2 times"),
        ("--switch x y x", "--switch must have different values, got x 2 times"),
        ("--preset quick --preset paper", "--preset must be given once, got it 2 times"),
    ],
)
def test_bad_options_end_with_one_line(arguments, says, capsys):
    assert says in one_line(capsys, lambda: parse(*arguments.split()))


def test_messages_do_not_have_the_names_of_parts_with_and_without_unicode(capsys, monkeypatch):
    says = "error: steps must be at least 1, got 0 (see --help)"
    assert one_line(capsys, lambda: parse("--steps", "0")) == says
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", True)
    assert one_line(capsys, lambda: parse("--steps", "0")) == says

    def warns(self):
        print("a warning", file=sys.stderr)
        checks.fields(self)

    monkeypatch.setattr(parts.Run, "__post_init__", warns)
    assert one_line(capsys, lambda: parse("--steps", "0")) == says


def test_a_command_without_presets_is_described_by_its_module(capsys):
    assert cli.options(Config, "What it does.", words(steps=3)) == replace(Config(), steps=3)
    with pytest.raises(SystemExit):
        cli.options(Config, "What it does.", ["--help"])
    assert "What it does." in capsys.readouterr().out
    assert "steps must be at least 1, got 0" in one_line(capsys, lambda: cli.options(Config, None, words(steps=0)))


def test_files_go_to_the_directory_or_to_a_new_one_that_says_of_what_they_are(tmp_path):
    assert cli.run_directory("x/y", "lpg", 3) == Path("x/y")
    assert re.fullmatch(r"runs/lpg-\d{8}-\d{6}-seed3", str(cli.run_directory("", "lpg", 3)))
    assert re.fullmatch(r"runs/tables-\d{8}-\d{6}", str(cli.run_directory("", "tables")))
    options = parts.Run(directory=str(tmp_path))
    with cli.directory_of_runs(options, "lpg") as directory:  # empty
        assert directory == tmp_path
        with (
            pytest.raises(BlockingIOError, match=f"in use by another process .pid {os.getpid()} on "),
            cli.directory_of_runs(options, "lpg"),
        ):
            ...
    (tmp_path / "0").mkdir()
    says = "is not empty: give resume to go on with it, or another directory"
    with pytest.raises(FileExistsError, match=says), cli.directory_of_runs(options, "lpg"):
        ...
    with cli.directory_of_runs(replace(options, resume=True), "lpg") as directory:
        assert directory == tmp_path


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (Interrupted(10, 2, "runs/x"), 130, "SIGINT after meta-step 10: saved in runs/x"),
        (Interrupted(10, 15, "runs/x"), 143, "SIGTERM after meta-step 10: saved in runs/x"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (NonFiniteLoss("meta_loss", 5, [2], "none"), 3, "meta-step 5 in lifetimes [2]"),
        (ValueError("of two\n  lines"), 2, "of two lines"),
        (OSError(13, "not yours", "runs/x"), 2, "not yours: 'runs/x'"),
        (ImportError("needs an extra"), 2, "needs an extra"),
    ],
)
def test_failures_are_one_line_and_have_their_exit_codes(error, code, says, capsys):
    def fails():
        with cli.clean_exit():
            raise error

    assert says in one_line(capsys, fails, code)


@pytest.mark.parametrize(
    ("signum", "code", "says"),
    [(signal.SIGTERM, 143, "SIGTERM: stopped outside of training"), (signal.SIGINT, 130, "interrupted")],
)
def test_signals_outside_of_training_are_one_line(signum, code, says, capsys):
    def report():
        with cli.clean_exit():
            signal.raise_signal(signum)

    assert says in one_line(capsys, report, code)


def test_other_failures_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), cli.clean_exit():
        raise ZeroDivisionError


def test_a_foreign_envs_package_is_refused(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", "import experiments"]
    refused = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert f"`import envs` finds {tmp_path / 'envs'}" in refused.stderr
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_a_handler_of_sigterm_that_python_does_not_know_gives_way_to_the_default(monkeypatch):
    before, install = signal.getsignal(signal.SIGTERM), signal.signal
    monkeypatch.setattr(signal, "signal", lambda *args: install(*args) and None)  # one that was installed by C code
    try:
        with cli.clean_exit():
            ...
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        install(signal.SIGTERM, before)

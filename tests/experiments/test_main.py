"""The list of experiments, and what each of them has in common with the others."""

import importlib
import runpy
import sys

import pytest

from experiments import __main__ as listing
from experiments import cli
from metarl.run.options import flatten

NAMES = listing.names()


def imported(name):
    return importlib.import_module(f"experiments.{name}")


def test_all_experiments_are_listed_with_one_line_each(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "experiments.__main__")
    runpy.run_module("experiments", run_name="__main__")
    *lines, _, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert "--help" in last
    for name, line in zip(NAMES, lines, strict=True):
        said = line.removeprefix(name).strip()
        assert said == listing.summary(name) and 20 < len(said) <= 120 and said.endswith((".", ":", "printed as JSON."))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_listed_can_be_run(name):
    module = imported(name)
    assert callable(module.main) and f"python -m experiments.{name}" in module.__doc__


def test_what_experiments_share_is_not_listed():
    assert {"lpg", "ta_lpg", "groove", "lpo", "learned_optimizer", "agent", "benchmark"} <= set(NAMES)
    assert not set(NAMES) & set(listing.SHARED)
    for name in listing.SHARED:
        assert not hasattr(imported(name), "main") or name == "launch"  # which all of them call


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_parses_and_options_are_flat(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    presets = getattr(imported(name), "PRESETS", {})
    for preset, config in presets.items():
        assert cli.parse(type(config), presets, ["--preset", preset]) == config
    if presets:
        with pytest.raises(SystemExit):
            cli.parse(type(config), presets, ["--preset", preset, "--help"])
        shown = capsys.readouterr().out.replace("│", " ")
        there = {word.rstrip(",") for word in shown.split() if word.startswith("--")}
        assert {"--" + option.replace("_", "-") for option in (*flatten(config), "preset")} <= there
        assert not [option for option in there if "." in option]

"""Every command that a page names exists and takes the options that the page gives it; every command is on a page."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import tyro
from pages import PAGES

import experiments
from experiments import cli, learned_optimizer

TEXT = "\n".join(path.read_text() for path in PAGES)


def test_the_commands_name_what_exists():
    """And everything that is a command is named."""
    named = set(re.findall(r"python -m experiments\.(\w+)", TEXT))
    modules = {found.name for found in pkgutil.iter_modules(experiments.__path__)}
    sources = {name: (Path(experiments.__path__[0]) / f"{name}.py").read_text() for name in modules}
    assert named == {name for name, source in sources.items() if '\nif __name__ == "__main__"' in source}


WORDS = {"--[no-]temporal": "--temporal", "RUNS...": "RUN RUN", "NAME": "x", "N": "0"}
CHOICES = {"--seed S": "--seed 0", "--score S": "--score regret", "--env NAME": "--env CartPole-v1"}


def commands():
    inline = re.findall(r"`(?:\w+=\S+ )?python -m experiments\.([^`]*)`", TEXT)
    in_blocks = re.findall(r"(?:^|&& )python -m experiments\.(.*)$", TEXT, re.MULTILINE)
    for command in [*inline, *in_blocks]:
        command = " ".join(command.split("#")[0].split())
        for placeholder, choice in CHOICES.items():
            command = command.replace(placeholder, choice)
        words = " ".join(WORDS.get(word, word) for word in command.split()).split()
        yield " ".join(f"runs/{i}" if word == "RUN" else word for i, word in enumerate(words))


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_has_options_that_there_are(command):
    name, *argv = [word.strip("\"'") for word in re.findall(r"'[^']*'|\S+", command)]
    module = importlib.import_module(f"experiments.{name}")
    try:
        if name == "benchmark":
            kinds = {kind.__name__.lower(): kind for kind in module.BENCHMARKS}
            tyro.extras.subcommand_cli_from_dict(kinds, args=argv or ["lpg"])
        elif hasattr(module, "PRESETS"):
            cli.parse(getattr(module, "Config", learned_optimizer.Config), module.PRESETS, argv)
        elif argv:
            tyro.cli(module.Options, args=argv)
    except SystemExit as error:
        assert error.code == 0 and "--help" in argv

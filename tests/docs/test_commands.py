"""Every command that a page names exists and takes the options that the page gives it; every command is on a page."""

import importlib
import re

import pytest
import tyro
from pages import PAGES

from experiments.__main__ import names

TEXT = "\n".join(path.read_text() for path in PAGES)


def test_the_commands_name_what_exists():
    """And everything that is a command is named."""
    assert set(re.findall(r"python -m experiments\.(\w+)", TEXT)) == set(names())


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


class Parsed(BaseException):
    """The command line is right; nothing is run."""


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_has_options_that_there_are(command, monkeypatch):
    def stop_after(parse):
        def parsed(*args, **options):
            result = parse(*args, **options)
            if options.get("return_unknown_args"):
                return result
            raise Parsed

        return parsed

    monkeypatch.setattr(tyro, "cli", stop_after(tyro.cli))
    monkeypatch.setattr(tyro.extras, "subcommand_cli_from_dict", stop_after(tyro.extras.subcommand_cli_from_dict))
    name, *argv = [word.strip("\"'") for word in re.findall(r"'[^']*'|\S+", command)]
    try:
        importlib.import_module(f"experiments.{name}").main(argv)
    except Parsed:
        return
    except SystemExit as error:
        assert error.code == 0 and "--help" in argv
        return
    pytest.fail("nothing was parsed")

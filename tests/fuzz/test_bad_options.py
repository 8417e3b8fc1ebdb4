"""Bad options of every command: one line that names the option, before anything is compiled or written."""

import random
from typing import NamedTuple, get_args, get_origin

import jax
import pytest
from fuzzing import FREE, NAMES, Command, bad_values, bare, bound_of, commands, good_value, is_many

import envs

COMMANDS = {command.name: command for command in commands()}
SWEPT = {"learning_rate": ("nan", "0", "1e-3,1e-3", "1e-3,inf", "many", ""), "seed": ("1,2",), "no_such": ("1",)}


class Bad(NamedTuple):
    command: Command
    words: list[str]
    said: tuple[str, ...]  # the message has at least one of these


def tried_elsewhere() -> dict[str, set]:
    """The options of each command that one before it has, too, as (class that declares it, name)."""
    found, seen = {}, set()
    for name, command in COMMANDS.items():
        options = {(x.part, x.name) for x in command.options}
        found[name] = options & seen
        seen |= options
    return found


ELSEWHERE = tried_elsewhere()


def inputs(command: Command) -> list[Bad]:
    """Bad inputs of a command in a random order: some of each option, and one if it is tried elsewhere, too."""
    found, chance = [], random.Random(command.name)

    def add(words: list[str], *said: str, given: str = "") -> None:
        found.append(Bad(command, [*command.first, *command.needed(given), *words], said))

    for option in command.options:
        is_new = (option.part, option.name) not in ELSEWHERE[command.name]
        bad = bad_values(option)
        for values in chance.sample(bad, min(len(bad), 3 if is_new else 1)):
            stray = values if bare(option.hint) is bool else ()
            add(option.words(*values), option.name, *stray, given=option.name)
        if is_new and option.name not in NAMES | FREE and not is_many(bare(option.hint)):
            good = "" if bare(option.hint) is bool else str(good_value(random.Random(0), option.hint))
            twice = option.words(*[good] * bool(good))
            add([*twice, *twice], option.name)
        if is_new:
            add([f"--{option.name}x", "1"], f"{option.name}x")
    for preset in ("no-such", "", "Quick") if command.presets else ():
        add(["--preset", preset], "preset", "quick")
    for field, values in SWEPT.items() if any(x.name == "sweep" for x in command.options) else ():
        for value in values:
            add(["--sweep", f"{field}={value}"], field, "no sweep")  # ablation has none
    chance.shuffle(found)
    return found


def complaints(bad: Bad, capsys, directory) -> str:
    """What is wrong with how a bad input was refused; empty if nothing is."""
    try:
        bad.command.main(bad.words)
    except SystemExit as stopped:
        code = stopped.code
    except BaseException as error:
        return f"raised {error!r}"
    else:
        return "accepted"
    out, message = capsys.readouterr()
    named = any(word.replace("-", "_") in message.replace("-", "_") for word in bad.said)
    wrong = {
        f"exit code {code}": code != 2,
        f"printed {out!r}": out,
        f"said {message!r}": not (message.startswith("error: ") and message.count("\n") == 1 and named),
        f"wrote {list(directory.iterdir())}": any(directory.iterdir()),
    }
    return ", ".join(text for text, is_wrong in wrong.items() if is_wrong)


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Checks that bad inputs are refused, and nothing is compiled meanwhile."""
    compiled = []
    envs.names()  # imports gymnax, which compiles a little

    def listen(event: str, *_, **__) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def check(cases):
        capsys.readouterr()
        found = {" ".join([x.command.name, *x.words]): complaints(x, capsys, tmp_path) for x in cases}
        assert not {words: complaint for words, complaint in found.items() if complaint}
        assert not compiled

    monkeypatch.chdir(tmp_path)
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield check
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_has_a_bound_and_every_text_is_known(name):
    for option in COMMANDS[name].options:
        kind = bare(option.hint)
        hint = get_args(kind)[0] if is_many(kind) else option.hint
        if bare(hint) in (int, float):
            assert bound_of(hint), option
        else:
            assert bare(hint) is bool or get_origin(bare(hint)) or option.name in NAMES | FREE, option


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_options_are_one_line(name, refused):
    refused(inputs(COMMANDS[name])[:2])


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_many_bad_options_are_one_line(name, refused):
    refused(inputs(COMMANDS[name]))


def test_what_is_compiled_is_noticed(refused):
    class Compiles(NamedTuple):
        name: str = "compiles"

        def main(self, words):
            jax.jit(lambda x: x + 1)(len(words))
            raise SystemExit(2)

    with pytest.raises(AssertionError):
        refused([Bad(Compiles(), ["x"], ("x",))])

"""The command line: options of a configuration, failures in one line, and files."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from metarl.run.checkpoint import steps
from metarl.run.train import Interrupted, NonFiniteLoss, claimed

Config = TypeVar("Config")
LOCK = ".run.lock"  # of the files that an experiment writes; the checkpoints have their own
FLAT = (tyro.conf.OmitArgPrefixes,)  # the options of a configuration's parts have no prefix


def parse(config: type[Config], presets: Mapping[str, Config], argv: Sequence[str] | None = None) -> Config:
    """The configuration that the command line asks for: a preset (default "quick"), overridden by the other options.

    Options are flat and documented by the strings under the fields of `config` and its parts. Prints one line and exits
    with code 2 if an option is unknown, has a value of the wrong type, or is refused by a `__post_init__`.
    """
    names = Annotated[Literal[tuple(presets)], tyro.conf.arg(help="Where the defaults of the other options come from.")]  # type: ignore[valid-type]

    def choose(preset: str = "quick") -> str:
        return preset

    choose.__annotations__["preset"] = names
    with _one_line_errors(argv) as arguments:
        preset, _ = tyro.cli(choose, args=arguments, return_unknown_args=True, add_help=False)

        def build(config: Config = presets[preset], preset: str = preset) -> Config:
            return config

        build.__annotations__ = {"config": Annotated[config, tyro.conf.arg(name="")], "preset": names}
        return tyro.cli(build, args=arguments, description=config.__doc__, config=FLAT)


def options(kind: type[Config], description: str | None, argv: Sequence[str] | None = None) -> Config:
    """As `parse`, for a command without presets."""
    with _one_line_errors(argv) as arguments:
        return tyro.cli(kind, args=arguments, description=description, config=FLAT)


def subcommands(kinds: Mapping[str, Callable[..., Any]], description: str | None, argv: Sequence[str] | None) -> Any:
    """As `options`, for a command of several, each with options of its own kind."""
    with _one_line_errors(argv) as arguments:
        return tyro.extras.subcommand_cli_from_dict(dict(kinds), args=arguments, description=description)


def refuse_given(argv: Sequence[str] | None, names: Iterable[str], because: str) -> None:
    """Raises ValueError for the first of the options `names` that is on the command line: it would change nothing."""
    given = _given(sys.argv[1:] if argv is None else argv)
    for name in names:
        if "--" + name.replace("_", "-") in given:
            raise ValueError(f"{name} has no effect {because}: leave it out")


def arguments(options: Any) -> list[str]:
    """The command line of `options`, without where its files go."""
    found = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name not in ("resume", "directory"):
            found += [f"--{field.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return found


def run_directory(directory: str, name: str, seed: int | None = None) -> Path:
    """Where files go: `directory`, or if it is empty a new one under runs/, called after `name`, time and seed."""
    named = f"{name}-{datetime.now():%Y%m%d-%H%M%S}" + ("" if seed is None else f"-seed{seed}")
    return Path(directory or Path("runs") / named).expanduser()


def has_checkpoint(directory: Path, step: int) -> bool:
    """Whether a run in `directory` or in the folders there has a checkpoint of meta-step `step`."""
    return any(step in steps(path.parent) for path in directory.rglob("checkpoints"))


@contextlib.contextmanager
def directory_of_runs(options: Any, name: str) -> Iterator[Path]:
    """Where an experiment puts its files or its runs, locked; `options` has `directory`, `seed` and maybe `resume`.

    Raises FileExistsError if there are files and it does not resume, FileNotFoundError if no run in it has the
    checkpoint to resume from, BlockingIOError if another process is using it.
    """
    directory = run_directory(options.directory, name, options.seed)
    step = getattr(options, "resume_from", 0)
    if step and not has_checkpoint(directory, step):
        there = {str(path.parent.relative_to(directory)): steps(path.parent) for path in directory.rglob("checkpoints")}
        raise FileNotFoundError(f"no checkpoint of meta-step {step} in the runs in {directory}: {there}")
    with claimed(directory, False, LOCK):
        if not getattr(options, "resume", False) and any(not path.name.startswith(".") for path in directory.iterdir()):
            resume = "resume to go on with it, or " if hasattr(options, "resume") else ""
            raise FileExistsError(f"{directory} is not empty: give {resume}another directory")
        yield directory


class _Terminated(KeyboardInterrupt):
    """SIGTERM came while nothing was trained: before, or during the report."""


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """The first SIGTERM raises, as SIGINT does (main thread only); a second one ends the process."""

    def stop(signum: int, frame: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGTERM: stop, signal.SIGINT: signal.default_int_handler}
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Ends the program with one line instead of a traceback where the message says it all, also after SIGTERM.

    Exit codes: 130 after SIGINT, 143 after SIGTERM, 3 for a loss that is not finite, 2 for a ValueError, OSError or
    ImportError. `python -X dev -m experiments.NAME` shows the traceback of the last three kinds.
    """
    try:
        with _signals_raise():
            yield
    except Interrupted as error:
        _fail(error, 128 + error.signum)
    except _Terminated:
        _fail(KeyboardInterrupt("SIGTERM: stopped outside of training"), 143)
    except KeyboardInterrupt:
        _fail(KeyboardInterrupt("interrupted"), 130)
    except NonFiniteLoss as error:
        _fail(error, 3)
    except (ValueError, OSError, ImportError) as error:
        if sys.flags.dev_mode:
            raise
        _fail(error, 2)


@contextlib.contextmanager
def _one_line_errors(argv: Sequence[str] | None) -> Iterator[list[str]]:
    """Yields the arguments `argv` (None: those of the process). Errors of their parsing become one line each.

    These are tyro's boxed messages, ValueErrors of a configuration, and options that are given twice.
    """
    arguments, printed = list(sys.argv[1:] if argv is None else argv), io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            _refuse_twice(arguments)
            yield arguments
    except ValueError as error:
        _fail(error, 2)
    except SystemExit as error:
        if error.code != 0:
            _fail(ValueError(f"{_message(printed.getvalue())} (see --help)"), 2)
        raise
    sys.stderr.write(printed.getvalue())


def _given(arguments: Sequence[str]) -> list[str]:
    """The options among the arguments, by one name each: `--a-b` for --a_b=1 and --no-a-b, too."""
    return [x.partition("=")[0].replace("_", "-").replace("--no-", "--") for x in arguments if x.startswith("--")]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refuse_twice(arguments: Sequence[str]) -> None:
    """Raises ValueError for an option that is given twice, and for a name that one has twice; numbers may be alike."""
    given = _given(arguments)
    for name in given:
        if given.count(name) > 1:
            raise ValueError(f"{name} must be given once, got it {given.count(name)} times")
    starts = [i for i, x in enumerate(arguments) if x.startswith("--")]
    for start, end in itertools.pairwise([*starts, len(arguments)]):
        values = [x for x in arguments[start + 1 : end] if not _is_number(x)]
        if twice := next((x for x in values if values.count(x) > 1), None):
            raise ValueError(f"{arguments[start]} must have different values, got {twice} {values.count(twice)} times")


def _message(box: str) -> str:
    """What tyro says in a box, without the title, the help, and the name of the part that refused."""
    start = box.find("╭")  # after warnings of what was imported, if there were any; -1 for a box in ASCII
    lines = [line.strip("│ ") for line in box[max(start, 0) :].splitlines() if not line.startswith(("╭", "╰"))]
    sections = re.split(r"\n[─-]{5,}\n", "\n".join(lines))
    text = " ".join(sections[0 if start >= 0 else 1].split())  # a box in ASCII has its title in a section
    return re.sub(r"^Missing from [^:]*:", "missing", re.sub(r"^Error parsing (?!--)[^:]*: ", "", text))


def _fail(error: BaseException, code: int) -> None:
    print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    raise SystemExit(code) from None

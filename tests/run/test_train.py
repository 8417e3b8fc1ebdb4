"""The host loop: one compile, exact resume, clean interruption, a stop at losses that are not finite."""

import contextlib
import csv
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quadratic
from toy import assert_same, toy

from metarl.meta import Meta, advance
from metarl.run import checkpoint
from metarl.run.files import locked
from metarl.run.sinks import CSV, ProgressDisplay, sparkline
from metarl.run.train import Interrupted, NonFiniteLoss, train


def csv_steps(path):
    with Path(path).open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole():
    """30 meta-steps without interruption."""
    return train(toy(), seed=1, steps=30)


def test_the_log_keeps_the_axes_of_metrics(whole):
    state, log = whole
    assert log["meta_loss"].shape == (30,)
    assert log["lifetime_loss"].shape == (30, 4)
    assert int(state.step) == 30
    assert log["meta_loss"][-5:].mean() < 0.2 * log["meta_loss"][0]


def test_one_compile_per_run_also_for_a_prime_number_of_steps(caplog, tmp_path):
    traces = []
    meta = toy()

    def step(state, key):
        traces.append(1)
        return meta.step(state, key)

    with jax.log_compiles(), caplog.at_level("WARNING"):
        train(Meta(meta.init, step), steps=23, chunk=5, checkpoint_every=7, directory=tmp_path / "run")
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(run)")]
    assert len(traces) == 1
    assert len(compiled) == 1


@pytest.mark.parametrize("chunk", [1, 7, 30, 1000])
def test_the_result_does_not_depend_on_the_chunk(whole, chunk):
    assert_same(train(toy(), seed=1, steps=30, chunk=chunk), whole)


def test_another_seed_gives_another_run(whole):
    assert not np.array_equal(train(toy(), seed=2, steps=30)[1]["meta_loss"], whole[1]["meta_loss"])


def test_a_weakly_typed_initial_state_trains():
    meta = toy()

    def weak(key):
        state = meta.init(key)
        return state._replace(opt_state=state.opt_state._replace(count=jnp.asarray(0)), curriculum=jnp.asarray(1.0))

    def step(state, key):
        new, metrics = meta.step(state, key)
        return new._replace(curriculum=state.curriculum * 2), metrics

    assert int(train(Meta(weak, step), steps=5, chunk=2)[0].curriculum) == 32


def test_resumed_equals_uninterrupted(whole, tmp_path):
    train(toy(), seed=1, steps=11, chunk=4, directory=tmp_path)
    assert_same(train(toy(), seed=1, steps=30, chunk=6, directory=tmp_path, resume=True), whole)


class Crash:
    """A sink that fails at one meta-step, as a full disk or a bug would."""

    closed = False

    def __init__(self, at):
        self.at = at

    def write(self, step, metrics):
        if step == self.at:
            raise RuntimeError("crash")

    def close(self):
        self.closed = True


def test_resumed_after_a_crash_between_checkpoints(whole, tmp_path):
    crash, table = Crash(at=23), tmp_path / "metrics.csv"
    with pytest.raises(RuntimeError, match="crash"):
        train(toy(), seed=1, steps=30, chunk=3, checkpoint_every=8, directory=tmp_path, sinks=[CSV(table), crash])
    assert crash.closed
    assert checkpoint.steps(tmp_path) == [8, 16]
    assert csv_steps(table)[-1] > 16
    resumed = train(toy(), seed=1, steps=30, checkpoint_every=10, directory=tmp_path, resume=True, sinks=[CSV(table)])
    assert_same(resumed, whole)
    assert csv_steps(table) == list(range(1, 31))
    assert_same(checkpoint.restore(tmp_path, resumed[0])[1:], whole)


def test_steps_already_reached_return_at_once(tmp_path):
    meta = toy()
    done = train(meta, steps=10, directory=tmp_path)

    def step(state, key):
        raise AssertionError("traced")

    assert_same(train(Meta(meta.init, step), steps=10, directory=tmp_path, resume=True), done)


def test_keeps_the_newest_checkpoints(tmp_path):
    train(toy(), steps=25, checkpoint_every=5, keep=2, directory=tmp_path)
    assert checkpoint.steps(tmp_path) == [20, 25]


@pytest.mark.parametrize("name", ["steps", "chunk", "checkpoint_every", "keep"])
def test_counts_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        train(toy(), **{"steps": 5, name: 0})


def test_refuses_to_overwrite_a_run(tmp_path):
    train(toy(), steps=5, directory=tmp_path)
    with pytest.raises(FileExistsError, match="resume"):
        train(toy(), steps=5, directory=tmp_path)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (lambda state, key: state, "returned {a: float32[]}, wanted (state, metrics)"),
        (lambda state, key: (state, {}, ()), "returned 3 values, wanted 2: (state, metrics)"),
        (lambda state, key: ({"a": jnp.zeros(2)}, {}), "returned float32[2] at ['a'], wanted float32[]"),
        (lambda state, key: (state, {"file": jnp.zeros(())}), "returned a metric 'file', a name that logs need"),
        (lambda state, key: (state, None), "returned None, wanted metrics {name: real numbers}"),
    ],
)
def test_what_a_step_of_ones_own_returns_is_checked(step, says):
    with pytest.raises(ValueError) as refused:
        train(Meta(lambda key: {"a": jnp.zeros(())}, step), steps=2)
    assert says in str(refused.value) and "Meta.step" in str(refused.value)


def test_refuses_to_resume_from_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(toy(), steps=5, directory=tmp_path, resume=True)
    with pytest.raises(ValueError, match="needs the directory"):
        train(toy(), steps=5, resume=True)


def test_refuses_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to the run's directory"):
        train(toy(), steps=5, directory=tmp_path / "file" / "run")


def test_nan_names_step_and_lifetime_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"lifetime_loss .* meta-step 17 in lifetimes \[2\].*meta-step 10 in"
    ) as error:
        train(toy(nan_at=17), seed=1, steps=30, chunk=5, checkpoint_every=10, directory=tmp_path)
    assert (error.value.step, error.value.lifetimes) == (17, [2])
    assert isinstance(error.value, FloatingPointError)
    assert checkpoint.steps(tmp_path) == [10]
    state, log = train(toy(), seed=1, steps=10, directory=tmp_path, resume=True)
    assert int(state.step) == 10
    assert np.isfinite(log["meta_loss"]).all()


def test_poisoned_meta_parameters_are_not_saved(tmp_path):
    meta = toy()

    def step(state, key):  # the loss of meta-step 20 is fine, but its gradient is not
        new, metrics = meta.step(state, key)
        poison = jnp.where(new.step == 20, jnp.inf, 1.0)
        return new._replace(params={**new.params, "w": new.params["w"] * poison}), metrics

    with pytest.raises(NonFiniteLoss, match="meta-parameter w is not finite in meta-step 20; .* meta-step 10 in"):
        train(Meta(meta.init, step), steps=30, checkpoint_every=10, directory=tmp_path)
    assert checkpoint.steps(tmp_path) == [10]


def test_signal_handlers_are_restored(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    class Press:
        def write(self, step, metrics):
            if step == 7:
                signal.raise_signal(signal.SIGINT)

        def close(self): ...

    with pytest.raises(Interrupted, match="SIGINT after meta-step 10") as error:
        train(toy(), steps=30, chunk=5, sinks=[Press()], directory=tmp_path)
    assert error.value.step == 10
    assert checkpoint.steps(tmp_path) == [10]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def in_process(code, *arguments, **options):
    """A process that runs `code`, which may import metarl and the helpers of the tests."""
    path = os.pathsep.join([*map(str, Path(__file__).parents[1:3])])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        **{"stderr": subprocess.PIPE, "text": True, **options},
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_first_moment_is_caught_too(monkeypatch, signum):
    """Between the installation of one handler and that of the other."""
    install, early = signal.signal, []

    def interrupts(each, handler):
        before = install(each, handler)
        if each == signum and not early:
            early.append(1)
            signal.raise_signal(signum)
        return before

    monkeypatch.setattr(signal, "signal", interrupts)
    with pytest.raises(Interrupted, match="after meta-step 2"):
        train(toy(), steps=6, chunk=2)


def start(directory, **options):
    """A process that trains far too long; returns once the first rows are on disk."""
    toy_options = {name: options.pop(name) for name in ("slow_after",) if name in options}
    code = (
        "import sys\n"
        "from metarl.run.sinks import CSV\n"
        "from metarl.run.train import Interrupted, train\n"
        "from toy import toy\n"
        f"try: train(toy(**{toy_options}), seed=1, steps=10**6, directory={str(directory)!r}, "
        f"sinks=[CSV({str(directory / 'metrics.csv')!r})], **{options})\n"
        "except Interrupted as e: sys.exit(128 + e.signum)\n"
    )
    process = in_process(code)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        table = directory / "metrics.csv"
        if table.exists() and len(table.read_text().splitlines()) > 10:
            return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate()[1])


def test_a_signal_saves_and_stops(tmp_path):
    process = start(tmp_path, checkpoint_every=10**6)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, errors
    (saved,) = checkpoint.steps(tmp_path)
    assert csv_steps(tmp_path / "metrics.csv") == list(range(1, saved + 1))
    assert_same(
        train(toy(), seed=1, steps=saved + 7, directory=tmp_path, resume=True), train(toy(), seed=1, steps=saved + 7)
    )


def test_a_second_signal_stops_at_once(tmp_path):
    process = start(tmp_path, slow_after=10)  # the second chunk takes minutes
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=5)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT
    assert "again to stop at once" in errors
    assert len(csv_steps(tmp_path / "metrics.csv")) == 10


def test_kill_loses_no_more_than_since_the_last_checkpoint(tmp_path):
    process = start(tmp_path, chunk=5, checkpoint_every=5)  # most of the time goes into writing checkpoints
    time.sleep(0.3)
    process.kill()
    process.communicate()
    table = tmp_path / "metrics.csv"
    reached, saved = csv_steps(table)[-1], checkpoint.steps(tmp_path)[-1]
    assert saved >= reached - 5
    resumed = train(toy(), seed=1, steps=saved + 12, directory=tmp_path, resume=True, sinks=[CSV(table)])
    assert_same(resumed, train(toy(), seed=1, steps=saved + 12))
    assert csv_steps(table) == list(range(1, saved + 13))


# --- nothing is lost, nothing is mixed --------------------------------------------------------------------------


def test_a_directory_has_one_run_at_a_time(tmp_path):
    """Whether the other would start or resume; the lock goes with the process that holds it, even if it is killed."""
    process = start(tmp_path, chunk=5, checkpoint_every=5)
    for options in ({"resume": True}, {"resume": True, "seed": 1}):
        with pytest.raises(BlockingIOError, match=f"is in use by another process .pid {process.pid} on "):
            train(toy(), steps=10**6, directory=tmp_path, **options)
    process.kill()
    process.communicate()
    saved = checkpoint.steps(tmp_path)[-1]
    assert_same(train(toy(), seed=1, steps=saved, directory=tmp_path, resume=True), train(toy(), seed=1, steps=saved))


RACE = """
import sys, time
from pathlib import Path
from metarl.run.train import train
from toy import toy
place, seed, other = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for i in range(4):
    (place / f"ready-{i}-{seed}").touch()
    while not (place / f"ready-{i}-{other}").exists():
        time.sleep(1e-5)
    try:
        train(toy(), seed=seed, steps=3, directory=place / str(i))
        print("won", end=" ", flush=True)
    except (BlockingIOError, FileExistsError) as error:
        print(type(error).__name__, end=" ", flush=True)
"""


def test_two_runs_that_start_at_once_do_not_share_a_directory(tmp_path):
    """Of two processes that race for it, one trains; the other is refused while that lasts, and afterwards."""
    racers = [in_process(RACE, tmp_path, seed, 3 - seed, stdout=subprocess.PIPE) for seed in (1, 2)]
    ends = [racer.communicate(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], ends
    alone = {seed: train(toy(), seed=seed, steps=3) for seed in (1, 2)}
    for i, pair in enumerate(zip(*(out.split() for out, _ in ends), strict=True)):
        assert sorted(pair)[1] == "won" and sorted(pair)[0] in ("BlockingIOError", "FileExistsError"), ends
        seed = 1 + pair.index("won")
        assert_same(checkpoint.restore(tmp_path / str(i), alone[seed][0], {"seed": seed})[1:], alone[seed])


@pytest.mark.parametrize("again", [False, True])
def test_a_run_whose_directory_is_gone_saves_nothing_there(tmp_path, again):
    """Another run may have it by then."""
    directory = tmp_path / "run"

    class Removes:
        def write(self, step, metrics):
            if step == 7:
                shutil.rmtree(directory)
                if again:
                    stack.enter_context(locked_by_another(directory))

        def close(self): ...

    with contextlib.ExitStack() as stack:
        with pytest.raises(
            OSError, match=r"train.lock was removed, so .* may be another run's: nothing was saved"
        ) as e:
            train(toy(), steps=30, chunk=5, checkpoint_every=5, directory=directory, sinks=[Removes()])
        assert len(str(e.value).splitlines()) == 1
        assert [path.name for path in tmp_path.rglob("*")] == (["run", ".train.lock"] if again else [])


@contextlib.contextmanager
def locked_by_another(directory):
    directory.mkdir()
    with locked(directory / ".train.lock"):
        yield


def test_a_run_past_the_steps_is_not_cut(tmp_path):
    train(toy(), steps=10, directory=tmp_path)
    with pytest.raises(ValueError, match="steps must be at least 10, the meta-step of the checkpoint, got 4"):
        train(toy(), steps=4, directory=tmp_path, resume=True)


def test_resuming_from_an_earlier_checkpoint(whole, tmp_path):
    """Newer ones stay until the run has saved again."""
    train(toy(), seed=1, steps=20, checkpoint_every=4, keep=9, directory=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of meta-step 9 .*available: \[4, 8, 12, 16, 20\]"):
        train(toy(), seed=1, steps=30, resume_from=9, directory=tmp_path)
    crash = Crash(at=9)
    with pytest.raises(RuntimeError, match="crash"):
        train(toy(), seed=1, steps=30, resume_from=8, directory=tmp_path, sinks=[crash])
    assert checkpoint.steps(tmp_path) == [4, 8, 12, 16, 20]
    crash = Crash(at=12)
    with pytest.raises(RuntimeError, match="crash"):
        train(toy(), seed=1, steps=30, resume_from=8, chunk=1, checkpoint_every=10, directory=tmp_path, sinks=[crash])
    assert checkpoint.steps(tmp_path) == [4, 8, 10]
    assert_same(train(toy(), seed=1, steps=30, directory=tmp_path, resume=True), whole)
    assert_same(checkpoint.restore(tmp_path, whole[0])[1:], whole)


def test_resuming_past_a_damaged_checkpoint(whole, tmp_path):
    train(toy(), seed=1, steps=16, checkpoint_every=8, directory=tmp_path)
    (tmp_path / "checkpoints" / "16.npz").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match="--resume-from 8"):
        train(toy(), seed=1, steps=30, checkpoint_every=8, directory=tmp_path, resume=True)
    assert_same(train(toy(), seed=1, steps=30, checkpoint_every=8, resume_from=8, directory=tmp_path), whole)


def test_a_run_whose_log_was_mended_goes_on(whole, tmp_path):
    train(toy(), seed=1, steps=16, checkpoint_every=4, keep=1, directory=tmp_path)
    (tmp_path / "log" / "000000008.npz").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="000000008.npz is missing .*mend_log"):
        train(toy(), seed=1, steps=30, directory=tmp_path, resume=True)
    checkpoint.mend_log(tmp_path)
    state, log = train(toy(), seed=1, steps=30, directory=tmp_path, resume=True)
    assert_same(state, whole[0])
    there = np.isfinite(log["meta_loss"])
    assert np.flatnonzero(~there).tolist() == [4, 5, 6, 7]
    np.testing.assert_array_equal(log["lifetime_loss"][there], whole[1]["lifetime_loss"][there])


@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: b"", lambda x: b"\xff\x00", None])
@pytest.mark.parametrize("steps", [9, 14])
def test_a_damaged_table_is_made_anew(tmp_path, damage, steps):
    """From the log, also by a run that has nothing left to do."""
    table = tmp_path / "metrics.csv"
    train(toy(), seed=1, steps=9, directory=tmp_path, sinks=[CSV(table)])
    before = table.read_bytes()
    table.unlink() if damage is None else table.write_bytes(damage(before))
    train(toy(), seed=1, steps=steps, directory=tmp_path, sinks=[CSV(table)], resume=True)
    assert table.read_bytes()[: len(before)] == before
    assert csv_steps(table) == list(range(1, steps + 1))


def test_a_new_metric_gets_its_column(tmp_path):
    table, meta = tmp_path / "metrics.csv", toy()
    train(meta, seed=1, steps=3, directory=tmp_path, sinks=[CSV(table)])

    def step(state, key):
        state, metrics = meta.step(state, key)
        return state, {**metrics, "more": jnp.float32(5.0)}

    _, log = train(Meta(meta.init, step), seed=1, steps=5, directory=tmp_path, sinks=[CSV(table)], resume=True)
    np.testing.assert_array_equal(log["more"], [np.nan] * 3 + [5.0] * 2)
    with table.open(newline="") as file:
        assert [row["more"] for row in csv.DictReader(file)] == ["", "", "", "5.0", "5.0"]


def test_a_resumed_display_shows_the_whole_curve(tmp_path, capsys):
    train(toy(), steps=6, directory=tmp_path)
    display = ProgressDisplay(9, ["norm"])
    _, log = train(toy(), steps=9, directory=tmp_path, sinks=[display], resume=True)
    assert display._curves == {"norm": log["norm"].tolist()}
    train(toy(), steps=9, directory=tmp_path, sinks=[ProgressDisplay(9)], resume=True)  # nothing new to show


@pytest.mark.parametrize("name", ["run[1]", "a *?", "x" * 200, "ü'\"$(x)"])
def test_any_name_of_a_directory_is_safe(tmp_path, name):
    train(toy(), steps=3, directory=tmp_path / name)
    assert checkpoint.steps(tmp_path / name) == [3]
    assert_same(train(toy(), steps=5, directory=tmp_path / name, resume=True), train(toy(), steps=5))


@pytest.mark.parametrize(
    ("name", "says"),
    [("a\nb", "without line breaks, got '.*a.nb'"), ("a\udcff", "in UTF-8"), ("x" * 300, "File name too long")],
)
def test_or_it_is_refused(tmp_path, name, says):
    with pytest.raises((ValueError, OSError), match=says):
        train(toy(), steps=3, directory=tmp_path / name)


FULL = """
import resource, sys
from metarl.run.sinks import CSV
from metarl.run.train import train
from toy import toy
directory, at, size, *table = sys.argv[1:]
class Fills:
    def write(self, step, metrics):
        if step == int(at):  # no file can grow past `size` bytes from now on
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
    def close(self): ...
sinks = [Fills(), *map(CSV, table)]
try:
    train(toy(), seed=1, steps=30, chunk=10, checkpoint_every=10, directory=directory, sinks=sinks)
except OSError as error:
    print(error)
    sys.exit(error.errno)
"""


@pytest.mark.parametrize(
    ("path", "size"), [("log/000000020.npz", 100), ("checkpoints/20.npz", 1500), ("metrics.csv", 1000)]
)
def test_a_full_disk_is_named_with_the_file_the_step_and_the_last_good_checkpoint(whole, tmp_path, path, size):
    table = [tmp_path / path] if path == "metrics.csv" else []
    process = in_process(FULL, tmp_path, 11 if table else 20, size, *table, stdout=subprocess.PIPE)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == errno.EFBIG, errors
    assert (
        re.search(f"after meta-step 20; last good checkpoint: meta-step 10 in .*{path}'", out) and "\n" not in out[:-1]
    )
    assert_same(train(toy(), seed=1, steps=30, directory=tmp_path, resume=True), whole)


def counting(updates, env_steps):
    meta = toy()

    def step(state, key):
        state, metrics = meta.step(state, key)
        return state, {**metrics, "agent_updates": jnp.int32(updates), "env_steps": jnp.float32([env_steps, 1])}

    return Meta(meta.init, step)


def test_every_row_says_what_the_run_has_cost_so_far(tmp_path):
    """Beyond 32 bits, whatever the chunk is, and of a resumed run since its beginning."""
    meta, table = counting(3, 10**9), tmp_path / "metrics.csv"
    _, log = train(meta, steps=4, chunk=3, directory=tmp_path, sinks=[CSV(table)])
    _, resumed = train(meta, steps=7, chunk=2, directory=tmp_path, sinks=[CSV(table)], resume=True)
    assert resumed["agent_updates"].tolist() == [3, 6, 9, 12, 15, 18, 21]
    assert resumed["env_steps"][:, 0].tolist() == [10**9 * i for i in range(1, 8)]
    assert (resumed["seconds"][:4] == log["seconds"]).all() and (np.diff(resumed["seconds"]) >= 0.0).all()
    assert 0.0 < resumed["seconds"][3] < resumed["seconds"][4]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["agent_updates"]) for row in rows] == resumed["agent_updates"].tolist()
    assert [float(row["seconds"]) for row in rows] == resumed["seconds"].tolist()


@pytest.mark.parametrize("lost", ["000000008.npz", "000000004.npz"])
def test_costs_go_on_after_a_gap_in_the_log(tmp_path, lost):
    """From what was last known: what the lost rows have cost is lost."""
    meta = counting(3, 10)
    train(meta, steps=8, chunk=2, checkpoint_every=4, keep=1, directory=tmp_path)
    (tmp_path / "log" / lost).unlink()
    checkpoint.mend_log(tmp_path)
    _, log = train(meta, steps=11, chunk=2, directory=tmp_path, resume=True)
    known = 12 if lost == "000000008.npz" else 24
    assert log["agent_updates"][8:].tolist() == [known + 3, known + 6, known + 9]
    assert log["env_steps"][8:, 0].tolist() == [known // 3 * 10 + 10 * i for i in (1, 2, 3)]
    assert np.isfinite(log["seconds"][8:]).all()


def test_the_directory_is_not_listed_where_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("metarl.run.train._last_good", lambda *a: 1 / 0)
    train(toy(), steps=6, chunk=1, directory=tmp_path)


def test_csv_holds_what_the_log_holds(whole, tmp_path):
    train(toy(), seed=1, steps=30, sinks=[CSV(tmp_path / "metrics.csv")])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["meta_loss"]) for row in rows] == whole[1]["meta_loss"].tolist()
    np.testing.assert_allclose([float(r["lifetime_loss"]) for r in rows], whole[1]["lifetime_loss"].mean(1), rtol=1e-6)


def test_progress_is_plain_lines_without_a_terminal(capsys):
    train(toy(), steps=20, sinks=[ProgressDisplay(20)])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("meta-step 20/20")
    assert "meta_loss" in last


def test_sparkline_shows_the_shape_of_a_curve():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, float("nan"), 1.0]) == "▁ ▁"
    assert len(sparkline(range(1000), width=20)) == 20


# --- other runs than those of `compose` ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dict", "tuple", "array"])
def test_a_state_may_be_any_tree_of_arrays(kind, tmp_path):
    """A learner of its own: no field `step`, no `params`, no losses."""
    make = {"dict": lambda x: {"x": x, "age": jnp.int32(0)}, "tuple": lambda x: (x, ()), "array": lambda x: x}[kind]

    def step(state, key):
        after = jax.tree.map(lambda x: x + jax.random.bits(key).astype(x.dtype) % 5, state)
        return after, {"total": jax.tree.leaves(after)[-1].sum()}

    meta = Meta(lambda key: make(jax.random.normal(key, (2,))), step)
    whole = train(meta, seed=3, steps=9, chunk=4)
    assert whole[1].keys() == {"total", "seconds"} and whole[1]["total"].shape == (9,)
    train(meta, seed=3, steps=5, chunk=2, directory=tmp_path)
    assert_same(train(meta, seed=3, steps=9, directory=tmp_path, resume=True), whole)


def test_a_plain_agent_is_a_run():
    """Its lifetime is the state: nothing of meta-training is asked of it."""
    inner = quadratic.quadratic()

    def step(lifetime, key):
        update = advance(inner, {"rate": 0.1}, lifetime, key)
        return update.lifetime, update.metrics

    meta = Meta(lambda key: inner.init(key, quadratic.levels(5).sample(key)), step)
    lifetime, log = train(meta, steps=7)
    assert lifetime.step == 5 and log["agent_updates"].tolist() == [1, 2, 3, 4, 5, 5, 5]
    np.testing.assert_allclose(lifetime.x, [0.9**5, 0.7**5], rtol=1e-5)

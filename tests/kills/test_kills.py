"""Runs that are killed at random moments end, once resumed, bit for bit as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commands import words

from metarl.pretrained import load_params
from metarl.run import checkpoint

ROOT = Path(__file__).parents[2]
COMMON = {"chunk": 2, "checkpoint_every": 4, "keep": 2}
SIZE = {"num_envs": 2, "rollout_length": 4, "hidden": 4}
LIVES = {"shortest_life": 2, "longest_life": 4}
REPLAY = {"warm_up": 1, "replay_probability": 0.8, "capacity": 16}
LPG = {**SIZE, "levels": "mdp/random", "num_lifetimes": 2, "updates": 1, "steps": 300, "held_out_seeds": 0}
RUNS = {  # command: its options; the longest first
    "lpg": LPG,
    "groove": {
        **{**SIZE, **LIVES, **REPLAY, "levels": "gridworld/small", "num_lifetimes": 2, "updates": 1},
        **{"steps": 150, "held_out_seeds": 0, "mutation_probability": 0.5},
    },
    "sweep": {**LPG, "steps": 80, "sweep": ("learning_rate=1e-3,1e-2", "bins=2,3")},
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def begin(name, directory, cache, **more):
    command = [sys.executable, "-m", f"experiments.{'lpg' if name == 'sweep' else name}"]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    options = words(**COMMON, **RUNS[name], directory=directory, **more)
    return subprocess.Popen(
        [*command, *options], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(name, directory, cache, **more):
    process = begin(name, directory, cache, **more)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors


def ended(directory):
    """All that a run leaves and that must not depend on how often it was interrupted: {file: content}."""
    found = {}
    for place in sorted(path.parent for path in directory.rglob("checkpoints")):
        name = place.relative_to(directory)
        step = checkpoint.steps(place)[-1]
        with np.load(place / "checkpoints" / f"{step}.npz") as file:
            found[f"{name} {step}"] = {x: file[x].tobytes() for x in file.files}
        log = {x: rows.tobytes() for x, rows in checkpoint._load_log(place / "log", step).items() if x != "seconds"}
        found[f"{name} log"] = log
    for path in sorted(directory.rglob("metrics.csv")):
        header, *rows = [line.split(",") for line in path.read_text().splitlines()]
        seconds = header.index("seconds")
        found[str(path.relative_to(directory))] = [row[:seconds] + row[seconds + 1 :] for row in [header, *rows]]
    for path in sorted(directory.rglob("rule.safetensors")):
        _, card = load_params(path)
        found[str(path.relative_to(directory))] = card["content_hash"]
    for path in directory.rglob("results.json"):
        found[str(path.relative_to(directory))] = json.loads(path.read_text()).get("report")
    return found


def kill_and_resume(name, directory, cache, seconds):
    """Kills the run three times, and lets it end at last. Returns how many of the kills hit training.

    The first two come soon after a checkpoint; the last one at any moment of the `seconds` that the whole run takes:
    before Python has started, in a compilation, in training, in the report, or after the end.
    """
    chance, hits = random.Random(f"kills of {name}"), 0
    for i in range(3):
        before = saved(directory)
        process = begin(name, directory, cache, **({"resume": True} if before or several(name, directory) else {}))
        if i < 2:
            while process.poll() is None and saved(directory) <= before:
                time.sleep(0.01)
        try:
            process.wait(chance.uniform(0.0, 0.15 if i < 2 else seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signum := SIGNALS[i])
        errors = process.communicate(timeout=120)[1]
        # before Python has started it cannot say anything; after the end there is nothing to stop
        assert process.returncode == 0 or process.returncode in (-signum, 128 + signum), errors
        if process.returncode > 0:
            lines = [line for line in errors.splitlines() if line.startswith(("error", "Traceback"))]
            assert len(lines) == 1 and lines[0].startswith("error: "), errors
        unfinished = any(0 < int(path.stem) < RUNS[name]["steps"] for path in saved(directory) - before)
        hits += process.returncode != 0 and unfinished
    finish(name, directory, cache, resume=bool(saved(directory)) or several(name, directory))
    return hits


def saved(directory):
    """The checkpoints there."""
    return {*directory.rglob("checkpoints/*[0-9].npz")}


def several(name, directory):
    """Whether this is the begun directory of several runs, which may be resumed before there is a checkpoint."""
    return name == "sweep" and directory.exists()


def whole_and_killed(name, place, cache):
    """What a run that was left alone leaves, what one that was killed leaves, and how many kills hit training."""
    start = time.monotonic()
    finish(name, place / "whole", cache)
    hits = kill_and_resume(name, place / "killed", cache, time.monotonic() - start)
    return ended(place / "whole"), ended(place / "killed"), hits


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The results of all commands, two of which run at a time: {name: future}."""
    cache = tmp_path_factory.mktemp("cache")  # all processes find compiled programs there, and restart in seconds
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(whole_and_killed, name, tmp_path_factory.mktemp(name), cache) for name in RUNS}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_runs_that_are_killed_at_random_moments_end_as_one_that_was_left_alone(name, found):
    whole, killed, hits = found[name].result()
    assert killed == whole
    assert hits > 0

"""The meta-test from the command line: its files, resuming it, and errors."""

import csv
import json
import shutil

import numpy as np
import pytest
from commands import words

from experiments import evaluate
from metarl.evaluation import meta_test, trials
from metarl.evaluation.trials import Settings, trial

SUITE = """
env_steps = 1280
eval_episodes = 4
[environments]
"bandit/bernoulli" = {}
"mdp/random" = { env_steps = 640 }
"""
BUDGETS = {"bandit/bernoulli": 1280, "mdp/random": 640}
RULES = ("lpg:ta-lpg-gridworld", "a2c", "random")
OPTIONS = {"num_seeds": 3, "points": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The suite file and the directory of a small test, whose reference is A2C in both environments."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "mine.toml").write_text(SUITE)
    tuned = [trial(name, steps, "a2c", Settings(0.1), [1.0, 1.0]) for name, steps in BUDGETS.items()]
    trials.write(folder / "mine.csv", tuned)
    run(folder / "mine.toml", folder / "run")
    return folder / "mine.toml", folder / "run"


def run(path, directory, *more, **options):
    options = {"rules": RULES, **OPTIONS, **options}
    evaluate.main([*words(**options, suite=path, directory=directory), *more])


def table(directory):
    with (directory / "returns.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_long_table_has_every_agent_and_measurement_with_its_score(finished):
    _, directory = finished
    rows, summary = table(directory), json.loads((directory / "summary.json").read_text())
    assert len(rows) == 2 * 3 * 3 * 2
    assert {(row["environment"], row["rule"]) for row in rows} == {
        (place, rule) for place in ("bandit/bernoulli", "mdp/random") for rule in ("lpg", "a2c", "random")
    }
    # LPG as in its meta-training, 8 environments x 20 steps; A2C 16 x 8
    at = {(row["rule"], row["env_steps"], row["agent_updates"]) for row in rows if row["environment"] == "mdp/random"}
    assert at == {("lpg", "320", "2"), ("lpg", "640", "4"), ("a2c", "256", "2"), ("a2c", "640", "5")} | {
        ("random", "320", "0"),
        ("random", "640", "0"),
    }
    for place, known in summary["scales"].items():

        def final(rule, place=place):
            here = [row for row in rows if (row["environment"], row["rule"]) == (place, rule)]
            return np.array([float(row["return"]) for row in here[1::2]]), [row["score"] for row in here[1::2]]

        (lpg, scores), (a2c, _), (random, _) = final("lpg"), final("a2c"), final("random")
        assert known["rule"] == "a2c" and known["random"] == pytest.approx(random.mean(), rel=1e-4)
        assert known["valid"] == ((a2c - random).mean() > 2 * np.std(a2c - random, ddof=1) / 3**0.5)
        if known["valid"]:
            by_hand = (lpg - random.mean()) / (a2c.mean() - random.mean())
            np.testing.assert_allclose([float(x) for x in scores], by_hand, rtol=1e-3, atol=1e-4)
        else:
            assert set(scores) == {""}


def test_a_finished_test_leaves_its_summary_and_pictures(finished):
    path, directory = finished
    summary = json.loads((directory / "summary.json").read_text())
    assert set(summary["suites"]["mine"]["aggregates"]["lpg"]) == {"iqm", "median", "mean", "optimality_gap"}
    assert summary["suites"]["mine"]["aggregates"]["a2c"]["mean"]["mean"] == pytest.approx(1.0)
    assert set(summary["suites"]["mine"]["improvement"]) == {"lpg over a2c", "lpg over random", "a2c over random"}
    assert set(summary["suites"]["mine"]["differences"]) == {"lpg minus a2c", "lpg minus random", "a2c minus random"}
    rules = "--rules lpg:ta-lpg-gridworld a2c random"
    assert summary["command"] == f"python -m experiments.evaluate {rules} --suite {path} {' '.join(words(**OPTIONS))}"
    for name in ("aggregates", "improvement", "profiles", "curves"):
        assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_test_goes_on_with_what_is_missing_and_finds_the_same(finished, tmp_path, monkeypatch):
    path, before = finished
    directory = tmp_path / "run"
    shutil.copytree(before, directory)
    content = json.loads((directory / "returns.json").read_text())
    lost = ("bandit/bernoulli", "a2c")
    content["rows"] = [row for row in content["rows"] if (row["environment"], row["rule"]) != lost]
    (directory / "returns.json").write_text(json.dumps(content))
    calls, measure = [], meta_test.measure

    def counted(job, *options):
        calls.append((job.place[1], job.label))
        return measure(job, *options)

    monkeypatch.setattr(meta_test, "measure", counted)
    run(path, directory, "--resume")
    assert calls == [lost]

    def facts(directory):
        return sorted(tuple(x for name, x in row.items() if name != "seconds") for row in table(directory))

    assert facts(directory) == facts(before)


def test_another_rule_may_join(finished, tmp_path, monkeypatch):
    path, before = finished
    directory = tmp_path / "run"
    shutil.copytree(before, directory)

    def asked(job, *options):
        raise RuntimeError(f"asked for {job.label}")

    monkeypatch.setattr(meta_test, "measure", asked)
    run(path, directory, "--resume", rules=("random", "a2c"))  # nothing is missing, and nothing goes
    assert len(table(directory)) == len(table(before))
    with pytest.raises(RuntimeError, match="asked for fast"):
        run(path, directory, "--resume", rules=("random", "fast:a2c"))


def test_other_options_or_a_full_directory_are_refused(finished, tmp_path, capsys):
    path, directory = finished
    for options, says in (
        ({"resume": True, "num_seeds": 4}, "has results with num_seeds 3, now it is 4"),
        ({"resume": True, "rules": "lpg:lpg-gridworld"}, "has results with rules {'lpg': "),
        ({}, "is not empty: give resume to go on with it"),
    ):
        with pytest.raises(SystemExit) as end:
            run(path, directory, **options)
        assert end.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--rules", "ppo", "--suite", "clasic"], "no suite 'clasic'; did you mean classic?"),
        (["--rules", "ta-lpg-gridwold"], "did you mean ta-lpg-gridworld"),
        (["--rules", "lpg:missing/run"], "no rule at 'missing/run', and none is shipped as that"),
        (["--rules", "x:a2c", "x:ppo"], "rules must have different labels, got 'x' twice"),
        (["--rules", "ppo:a2c"], "the label 'ppo' is that of a built-in rule"),
        (["--rules", "ppo", "--num-seeds", "1"], "num_seeds must be at least 2"),
        (["--rules", "ppo", "--points", "0"], "points must be at least 1"),
        (["--rules", "ppo", "--resume"], "resume needs the directory"),
    ],
)
def test_what_cannot_be_tested_is_named(argv, says, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate.main(argv)
    assert end.value.code == 2 and says in capsys.readouterr().err


def test_names_and_paths_may_have_labels():
    found = evaluate.labelled(["a2c", "fast:ppo", "mine:open-gridworld", "adafac-digits"])
    assert found == {"a2c": "a2c", "fast": "ppo", "mine": "open-gridworld", "adafac-digits": "adafac-digits"}

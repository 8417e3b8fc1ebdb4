"""The meta-test of frozen rules: its long table, its scale, resuming it, suites and sweeps that ship, and errors."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.baselines import GEOMETRIES, Settings, Trial
from quadratic import levels, quadratic

import envs
from experiments import baselines, evaluate, players, standings, suite, tune
from metarl.evaluation.measure import learning_curves
from metarl.pretrained import save_params
from metarl.types import Box, Level, Levels

SUITE = """
env_steps = 1280
eval_episodes = 4
[environments]
"bandit/bernoulli" = {}
"mdp/random" = { env_steps = 640 }
"""
RULES = ["lpg:ta-lpg-gridworld", "a2c", "random"]
OPTIONS = ["--num-seeds", "3", "--points", "2"]


def trial(environment, env_steps, mean, rate=0.1, which="a2c"):
    settings = Settings(8, 8, learning_rate=rate)
    return Trial(environment, env_steps, which, settings, mean, 0.0, 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The suite file and the directory of a small test, whose reference is A2C in both environments."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "mine.toml").write_text(SUITE)
    baselines.write(folder / "mine.csv", [trial("bandit/bernoulli", 1280, 1.0), trial("mdp/random", 640, 1.0)])
    run(folder / "mine.toml", folder / "run")
    return folder / "mine.toml", folder / "run"


def run(path, directory, *more):
    evaluate.main(["--rules", *RULES, "--suite", str(path), *OPTIONS, "--directory", str(directory), *more])


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
    # LPG as in its meta-training, 8 environments x 20 steps; A2C as in the sweep, 8 x 8
    at = {(row["rule"], row["env_steps"], row["agent_updates"]) for row in rows if row["environment"] == "mdp/random"}
    assert at == {("lpg", "320", "2"), ("lpg", "640", "4"), ("a2c", "320", "5"), ("a2c", "640", "10")} | {
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
    rules = "--rules lpg:ta-lpg-gridworld a2c random"
    assert summary["command"] == f"python -m experiments.evaluate {rules} --suite {path} {' '.join(OPTIONS)}"
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
    calls, measure = [], evaluate.measure

    def counted(job, options):
        calls.append((job.entry.name, job.label))
        return measure(job, options)

    monkeypatch.setattr(evaluate, "measure", counted)
    run(path, directory, "--resume")
    assert calls == [lost]

    def facts(directory):
        return sorted(tuple(x for name, x in row.items() if name != "seconds") for row in table(directory))

    assert facts(directory) == facts(before)


def test_another_rule_may_join(finished, tmp_path, monkeypatch):
    path, before = finished
    directory = tmp_path / "run"
    shutil.copytree(before, directory)

    def asked(job, options):
        raise RuntimeError(f"asked for {job.label}")

    monkeypatch.setattr(evaluate, "measure", asked)
    run(path, directory, "--resume", "--rules", "random", "a2c")  # nothing is missing, and nothing goes
    assert len(table(directory)) == len(table(before))
    with pytest.raises(RuntimeError, match="asked for fast"):
        run(path, directory, "--resume", "--rules", "random", "fast:a2c")


def test_other_options_or_a_full_directory_are_refused(finished, tmp_path, capsys):
    path, directory = finished
    for more, says in (
        (["--resume", "--num-seeds", "4"], "has results with num_seeds 3, now it is 4"),
        (["--resume", "--rules", "lpg:lpg-gridworld"], "has results with rules {'lpg': "),
        ([], "is not empty: give resume to go on with it"),
    ):
        with pytest.raises(SystemExit) as end:
            run(path, directory, *more)
        assert end.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--rules", "ppo", "--suite", "clasic"], "no suite 'clasic'; did you mean classic?"),
        (["--rules", "ta-lpg-gridwold"], "did you mean ['ta-lpg-gridworld'"),
        (["--rules", "lpg:missing/run"], "no rule at 'missing/run', and none is shipped as that"),
        (["--rules", "x:a2c", "x:ppo"], "rules must have different labels, got 'x' twice"),
        (["--rules", "ppo:a2c"], "the label 'ppo' is that of a built-in rule"),
        (["--rules", "ppo", "--num-seeds", "1"], "num_seeds must be at least 2"),
        (["--rules", "ppo", "--points", "0"], "points must be positive"),
        (["--rules", "ppo", "--resume"], "resume needs the directory"),
    ],
)
def test_what_cannot_be_tested_is_named(argv, says, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate.main(argv)
    assert end.value.code == 2 and says in capsys.readouterr().err


def test_a_foreign_artifact_is_named_with_what_would_do(tmp_path):
    save_params(tmp_path / players.FILE, {"a": jnp.ones(1)}, {})
    with pytest.raises(ValueError, match="no recipe.*rules are a2c, ppo, random, shipped ones .*ta-lpg-gridworld"):
        players.named([f"mine:{tmp_path}"])
    (tmp_path / "text").write_text("not an artifact")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        players.named([str(tmp_path / "text")])


def test_names_and_paths_may_have_labels(tmp_path):
    found = players.named(["a2c", "fast:ppo", "mine:open-gridworld", "adafac-digits"])
    assert list(found) == ["a2c", "fast", "mine", "adafac-digits"] and found["fast"] == "ppo"
    assert found["mine"].optimizer is not None


def test_an_environment_that_a_rule_cannot_handle_fails_before_anything_compiles(finished, monkeypatch):
    class Boards(type(envs.make("mdp/random").env)):
        def action_space(self, params=None):
            return Box(0.0, 1.0, (2, 2), jnp.float32)

        def step(self, key, state, action, params):
            return super().step(key, state, jnp.int32(0), params)

    known = envs.make("mdp/random")
    monkeypatch.setattr(envs, "make", lambda name: Levels(Boards(), known.sample))
    rules = players.named(["ta-lpg-gridworld"])
    with pytest.raises(ValueError, match="cannot train agents in bandit/bernoulli: .*one-dimensional Box.*; rules are"):
        evaluate.plan([suite.load(str(finished[0]))], rules, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "env_steps = 10\n[environments]\nCartPole-v2 = {}",
            "unknown environment 'CartPole-v2'; did you mean CartPole",
        ),
        ("[environments]\nCartPole-v1 = {}", "CartPole-v1 needs env_steps"),
        ("env_steps = 0\n[environments]\nCartPole-v1 = {}", "env_steps of CartPole-v1 must be a positive whole"),
        ("[environments]\nCartPole-v1 = { steps = 1 }", r"CartPole-v1 has unknown fields \['steps'\]; there are env"),
        ("steps = 1\n[environments]", r"unknown fields \['steps'\]"),
        ("env_steps = 10", r"needs a table \[environments\]"),
        ("env_steps = ", "not readable as TOML"),
    ],
)
def test_a_suite_says_what_is_wrong_with_it(text, says, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=says):
        suite.load(str(tmp_path / "mine.toml"))


def test_what_is_shipped_is_a_suite_and_a_sweep_of_it():
    """With room for ten measurements of every baseline."""
    suites = suite.load_all(["all"])
    assert [x.name for x in suites] == ["bsuite", "classic", "gridworlds", "mazes", "minatar"]
    for each in suites:
        budgets = {entry.name: entry.env_steps for entry in each.entries}
        largest = max(geometry.batch for geometries in GEOMETRIES.values() for geometry in geometries)
        assert min(budgets.values()) >= 10 * largest
        trials = baselines.read(each.sweep)
        assert all(budgets[x.environment] == x.env_steps and x.num_seeds > 1 for x in trials)
        for (name, _), best in baselines.best(trials).items():
            assert best.mean == max(
                x.mean for x in trials if (x.environment, x.objective) == (name, best.objective) and x.mean == x.mean
            )
    assert len(baselines.best(baselines.read(suite.load("classic").sweep))) == 10


def test_a_sweep_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    """And a trial with another budget is none."""
    monkeypatch.setattr(tune, "BASELINES", ("a2c",))
    monkeypatch.setattr(tune, "grid", lambda name, levels: ((0.001, 0.9), (0.3, 0.9)))
    (tmp_path / "mine.toml").write_text(SUITE)
    kept = trial("mdp/random", 640, 5.0)._replace(settings=GEOMETRIES["a2c"][0]._replace(learning_rate=0.5))
    baselines.write(tmp_path / "mine.csv", [trial("bandit/bernoulli", 99, 7.0), kept])
    tune.main(["--suite", str(tmp_path / "mine.toml"), "--num-seeds", "2"])
    first, *found = baselines.read(tmp_path / "mine.csv")
    assert first == kept and [x.settings.learning_rate for x in found] == [0.001, 0.3]
    assert {(x.environment, x.env_steps, x.num_seeds) for x in found} == {("bandit/bernoulli", 1280, 2)}
    assert 0.0 < found[0].mean < 100.0


def test_a_damaged_sweep_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="mine.csv is not a table of a sweep"):
        baselines.read(tmp_path / "mine.csv")


def test_an_agent_that_diverged_counts_as_random_and_a_reference_below_random_is_no_scale():
    def cell(rule, *finals):
        return standings.Cell("s", "e", rule, (5, 10), (1, 2), np.array([[0.0, x] for x in finals]), 1.0)

    random, good = cell("random", 1.0, 3.0), cell("a2c", 6.0, np.nan, 8.0)
    known = standings.scale(random, cell("a2c", 6.0, 8.0))
    assert known == standings.Scale(2.0, 7.0, "a2c", True)
    np.testing.assert_allclose(standings.scores(good, known), [[-0.4, 0.8], [-0.4, 0.0], [-0.4, 1.2]])
    assert not standings.scale(random, cell("a2c", 1.0, 2.0)).valid
    cells = {(x.place, x.rule): x for x in (random, good)}
    rows = standings.rows(cells, {("s", "e"): known})
    assert [row["diverged"] for row in rows if row["rule"] == "a2c"] == [False, False, False, True, False, False]
    back = standings.cells(json.loads(json.dumps(rows)))
    np.testing.assert_array_equal(back[("s", "e"), "a2c"].returns, good.returns)
    assert back[("s", "e"), "random"]._replace(returns=0) == random._replace(returns=0)


def test_learning_curves_measure_as_agents_grow():
    """x <- (1 - rate h) x, so the loss h x^2 / 2 is known at every age, and each agent has its own rate."""
    rates, h = jnp.array([0.1, 0.2]), np.array([1.0, 3.0])
    keys = jax.random.split(jax.random.key(0), 2)
    places = jax.vmap(levels(horizon=1).sample)(keys)  # as long as the curve is, whatever the level says

    def make(rate):
        return quadratic()._replace(init_meta=lambda key: {"rate": rate})

    found = jax.jit(lambda: learning_curves(make, rates, places, keys, ends=(1, 4)))()
    expected = [[-0.5 * (h * (1 - rate * h) ** (2 * t)).sum() for t in (1, 4)] for rate in (0.1, 0.2)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_random_policy_is_uniform():
    bandit = envs.make("bandit/bernoulli").env  # arms that pay 0.1, 0.2, ... 1 a hundred times: 55 on average
    level = Level(jax.tree.map(lambda x: jnp.asarray(x)[None], bandit.default_params), jnp.ones(1, jnp.int32))
    found = jax.jit(lambda: players.random_returns(bandit, level, jax.random.split(jax.random.key(0), 1), 64))()
    assert float(found[0]) == pytest.approx(55.0, abs=2.5)
    box = Box(-2.0, 2.0, (1,), jnp.float32)
    actions, _ = players._Uniform(box, 500).sample_and_log_prob(seed=jax.random.key(1))
    assert actions.shape == (500, 1) and abs(actions.mean()) < 0.3 and float(jnp.abs(actions).max()) <= 2.0
    assert float(actions.std()) == pytest.approx(4.0 / 12**0.5, rel=0.1)

"""Sweeps from the command line."""

import pytest
from commands import one_line

import envs
from experiments import tune
from metarl.evaluation import players, trials
from metarl.evaluation.trials import Settings, Trial, trial
from metarl.rules import load_rule

SUITE = """
eval_episodes = 4
[environments]
"bandit/bernoulli" = { env_steps = 1280 }
"mdp/random" = { env_steps = 640 }
"""
SMALL = ["--num-seeds", "2", "--final-seeds", "3", "--finalists", "2"]


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite of one environment, in which sweeps have four settings each."""
    monkeypatch.setattr(tune, "grid", lambda kind: [Settings(0.001, 0.9), Settings(0.3, 0.9)])
    monkeypatch.setattr(tune, "refined", lambda kind, chosen: [chosen._replace(gae_lambda=x) for x in (0.5, 0.95)])
    monkeypatch.setattr(tune, "grid_of_rules", lambda kind: [Settings(x, None, None, None, 0.1) for x in (0.5, 2.0)])
    (tmp_path / "mine.toml").write_text(SUITE)
    return tmp_path / "mine.toml"


def read(suite):
    return trials.read(suite.with_suffix(".csv"))


def test_a_sweep_goes_on_with_what_is_missing(suite):
    """Also one of another budget or of an older version, which had no returns of seeds, is made anew."""
    known = trial("mdp/random", 640, "a2c", Settings(0.3, 0.9), [5.0, 5.0])
    budget = trial("bandit/bernoulli", 99, "a2c", Settings(0.3, 0.9), [7.0, 7.0])
    old = Trial("bandit/bernoulli", 1280, "a2c", Settings(0.7), 99.0, 0.0, 2)
    other = trial("bandit/bernoulli", 1280, "ppo", Settings(0.7), [9.0, 9.0])
    trials.write(suite.with_suffix(".csv"), [known, budget, old, other])
    tune.main(["--suite", str(suite), "--rules", "a2c", *SMALL])
    found = read(suite)
    by_name = {
        name: [x for x in found if (x.environment, x.objective) == (name, "a2c")]
        for name in ("bandit/bernoulli", "mdp/random")
    }
    assert other in found and len(found) == 1 + sum(map(len, by_name.values()))
    kept = by_name["mdp/random"][0]
    assert kept.settings == known.settings and kept.returns[:2] == (5.0, 5.0)  # only more seeds
    for same in by_name.values():
        assert len({x.settings for x in same}) == 3 and {x.num_seeds for x in same} <= {2, 3}
        assert max(x.num_seeds for x in same) == 3 and sum(x.num_seeds == 3 for x in same) <= 2
    assert all(0.0 < x.mean < 100.0 and x.env_steps == 1280 for x in by_name["bandit/bernoulli"])
    before = suite.with_suffix(".csv").read_text()
    tune.main(["--suite", str(suite), "--rules", "a2c", *SMALL])
    assert suite.with_suffix(".csv").read_text() == before


def test_a_learned_rule_is_tuned_and_then_tested_with_its_factor(suite):
    suite.write_text('env_steps = 320\n[environments]\n"mdp/random" = {}')
    tune.main(["--suite", str(suite), "--rules", "mine:lpg-es-gridworld", *SMALL])
    found = read(suite)
    assert {(x.objective, x.settings[1:]) for x in found} == {("mine", (None, None, None, 0.1))} and len(found) == 2
    entry, rule = envs.suite(str(suite))["mdp/random"], load_rule("lpg-es-gridworld")
    (tuned,) = entry.tuned.values()
    agents = players.player("any label", rule, "mdp/random", entry)
    plain = rule.card["recipe"]["optimizer"]["policy"]["learning_rate"]
    assert agents.recipe["optimizer"]["policy"]["learning_rate"] == tuned.settings.learning_rate * plain
    assert agents.recipe["experience"] == {**rule.card["recipe"]["experience"], "reward_scale": 0.1}
    assert agents.tried == 2
    recipe = {**rule.card["recipe"], "experience": {**rule.card["recipe"]["experience"], "reward_scale": 0.5}}
    scaled = rule._replace(card={**rule.card, "recipe": recipe})  # its agents have a scale of their own
    assert players.agents(scaled, "mdp/random", entry, tuned.settings)["experience"]["reward_scale"] == 0.05


def test_settings_share_seeds_and_levels(suite):
    """Equal settings give equal returns, whatever else is in the program; other seeds give others."""
    entry = envs.suite(str(suite))["mdp/random"]
    play = tune.agents_of(tune.Sweep("mdp/random", entry, "a2c", "a2c"), 3)
    one, other = Settings(0.3, 0.9), Settings(0.3, 0.9, 0.95, 1e6)
    a, b, c, again, last = play([(one, 0), (one, 1), (other, 0), (one, 0), (one, 1)])
    assert a == again and b == last and len({a, b, c}) == 3


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--rules", "open-gridworld"], "open-gridworld cannot be tuned: its optimizer is learned"),
        (["--rules", "adafac-digits"], "adafac-digits cannot be tuned: its optimizer is learned"),
        (["--rules", "random"], "rules must not have the random policy"),
        (["--rules", "a2d"], "no rule at 'a2d'"),
        (["--num-seeds", "11"], "final_seeds must be at least num_seeds = 11, got 10"),
        (["--num-seeds", "10", "--finalists", "3"], "finalists has no effect without more final_seeds"),
        (["--num-seeds", "1"], "num_seeds must be at least 2"),
    ],
)
def test_what_cannot_be_swept_is_named(suite, argv, says, capsys):
    assert says in one_line(capsys, lambda: tune.main(["--suite", str(suite), *argv]))
    assert not suite.with_suffix(".csv").exists()


def test_a_budget_below_one_update_is_refused(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('env_steps = 10\n[environments]\n"mdp/random" = {}')
    said = one_line(capsys, lambda: tune.main(["--suite", str(tmp_path / "mine.toml")]))
    assert "env_steps of mdp/random must be at least 128, got 10" in said

"""Sweeps of baselines from the command line."""

import pytest

from experiments import tune
from metarl.evaluation import baselines
from metarl.evaluation.baselines import GEOMETRIES, Trial

SUITE = """
env_steps = 1280
eval_episodes = 4
[environments]
"bandit/bernoulli" = {}
"mdp/random" = { env_steps = 640 }
"""


def test_a_sweep_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    """And a trial with another budget is none."""
    monkeypatch.setattr(tune, "BASELINES", ("a2c",))
    monkeypatch.setattr(tune, "grid", lambda kind: ((0.001, 0.9), (0.3, 0.9)))
    (tmp_path / "mine.toml").write_text(SUITE)
    settings = GEOMETRIES["a2c"][0]
    kept = Trial("mdp/random", 640, "a2c", settings._replace(learning_rate=0.5), 5.0, 0.0, 2)
    other = Trial("bandit/bernoulli", 99, "a2c", settings, 7.0, 0.0, 2)
    baselines.write(tmp_path / "mine.csv", [other, kept])
    tune.main(["--suite", str(tmp_path / "mine.toml"), "--num-seeds", "2"])
    first, *found = baselines.read(tmp_path / "mine.csv")
    assert first == kept and [x.settings.learning_rate for x in found] == [0.001, 0.3]
    assert {(x.environment, x.env_steps, x.num_seeds) for x in found} == {("bandit/bernoulli", 1280, 2)}
    assert 0.0 < found[0].mean < 100.0


def test_a_budget_below_one_update_is_refused(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('env_steps = 10\n[environments]\n"mdp/random" = {}')
    with pytest.raises(SystemExit) as end:
        tune.main(["--suite", str(tmp_path / "mine.toml")])
    assert end.value.code == 2 and "env_steps of mdp/random must be at least 128, got 10" in capsys.readouterr().err


def test_a_damaged_sweep_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="mine.csv is not a table of a sweep"):
        baselines.read(tmp_path / "mine.csv")

"""Tables of sweeps, and the best of them."""

import math

import pytest

from metarl.evaluation import trials
from metarl.evaluation.trials import Settings, Tuned, trial

OLD = """environment,objective,num_envs,rollout_length,learning_rate,discount,env_steps,mean,std,num_seeds
mdp/random,a2c,16,8,0.3,0.95,640,1.5,0.5,3
"""


def test_a_table_is_read_as_it_was_written(tmp_path):
    """Also what is not a setting of the agents, and agents that diverged."""
    rule = trial("mdp/random", 640, "mine", Settings(0.3, None, None, None), [1.0, 2.0], "0a1b")
    lost = trial("mdp/random", 640, "a2c", Settings(0.3, 0.9, 0.8, 0.0), [1.0, math.nan])
    trials.write(tmp_path / "mine.csv", [rule, lost])
    first, second = trials.read(tmp_path / "mine.csv")
    assert first == rule and first.key == ("mdp/random", "0a1b") and first.mean == 1.5 and first.num_seeds == 2
    assert second.settings == lost.settings and second.key == ("mdp/random", "a2c")
    assert math.isnan(second.mean) and second.returns[0] == 1.0 and math.isnan(second.returns[1])


def test_a_table_of_an_older_version_is_read_with_defaults(tmp_path):
    (tmp_path / "mine.csv").write_text(OLD)
    (found,) = trials.trials(tmp_path / "mine.csv", {"mdp/random": 640})
    assert found == trials.Trial("mdp/random", 640, "a2c", Settings(0.3, 0.95, 0.95, 0.01), 1.5, 0.5, 3)
    assert trials.trials(tmp_path / "mine.csv", {"mdp/random": 641}) == []


UNSCALED = OLD.replace("num_envs", "reward_scale").replace("16", "")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", OLD.replace("0.3", ""), OLD.replace("1.5", "good"), UNSCALED])
def test_a_damaged_table_is_named(text, tmp_path):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match="mine.csv is not a table of a sweep"):
        trials.read(tmp_path / "mine.csv")


def test_the_best_is_among_those_with_the_most_seeds_that_did_not_diverge():
    few, good, fair, lost = (Settings(rate) for rate in (1.0, 2.0, 3.0, 4.0))
    tried = {few: [9.0, 9.0], good: [5.0, 4.0, 6.0], fair: [4.0, 4.0, 4.0], lost: [9.0, 9.0, math.nan]}
    found = [trial("x", 1, "a2c", settings, returns) for settings, returns in tried.items()]
    other = trial("x", 1, "ppo", lost, [math.nan])
    assert trials.best([*found, other]) == {("x", "a2c"): Tuned(good, 5.0, 3, 4)}

"""`metarl.evaluate` as in a notebook."""

import dataclasses

import jax
import numpy as np
import pytest

import envs
import metarl
from metarl.evaluation import meta_test
from metarl.evaluation.suites import Entry
from metarl.evaluation.trials import Settings, Tuned

TUNED = Tuned(Settings(0.3), 1.0, 2, 7)
SUITE = {"mdp/random": Entry(envs.make("mdp/random"), 256, 2, {"a2c": TUNED})}
LPG = {
    "objective": {"name": "lpg", "bins": 2, "hidden": 2},
    "optimizer": {"name": "sgd", "learning_rate": 1.0},
    "network": {"name": "tabular"},
    "experience": {"num_envs": 2, "rollout_length": 4},
}


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    path = tmp_path_factory.mktemp("rule") / "rule.safetensors"
    objective = metarl.rules.build(LPG).objective
    metarl.save_rule(path, {"objective": objective.init(jax.random.key(0))}, LPG)
    return metarl.load_rule(path)


@pytest.fixture(scope="module")
def result(rule):
    return metarl.evaluate({"mine": rule, "a2c": "a2c", "random": "random"}, SUITE, seeds=3, points=2)


def test_rules_are_evaluated_in_memory(result, capsys):
    assert result.rules == ("mine", "a2c", "random")
    assert {cell.returns.shape for cell in result.cells.values()} == {(3, 2)}
    table = result.table()
    assert list(table) == ["mdp/random"] and list(table["mdp/random"]) == ["mine", "a2c", "random"]
    assert len(result.rows()) == 3 * 3 * 2
    (scale,) = result.scales.values()
    assert table["mdp/random"]["a2c"].mean == pytest.approx(scale.reference, rel=1e-5) and scale.rule == "a2c"
    result.show()
    shown = capsys.readouterr().out
    assert "0 is random" in shown and "32 of 2 x 4; 1 tried" in shown and "2 of 16 x 8; 7 tried" in shown


def test_a_report_says_how_agents_were_trained(result):
    mine = {"updates": 32, "batch": "2 x 4", "settings_tried": 1}
    a2c = {"updates": 2, "batch": "16 x 8", "settings_tried": 7}
    assert result.summary()["training"] == {"mdp/random": {"mine": mine, "a2c": a2c}}
    said = {(row["rule"], row["batch"], row["settings_tried"]) for row in result.rows()}
    assert said == {("mine", "2 x 4", 1), ("a2c", "16 x 8", 7), ("random", "", 1)}


def test_aggregates_and_figures_are_of_the_valid_scales(result):
    (place,) = result.scales
    valid = dataclasses.replace(result, scales={place: result.scales[place]._replace(valid=True)})
    (aggregates,) = valid.aggregates.values()
    assert set(aggregates["mine"]) == {"iqm", "median", "mean", "optimality_gap"}
    assert aggregates["a2c"]["mean"].mean == pytest.approx(1.0)
    assert set(valid.figures()) == {"curves", "aggregates", "improvement", "profiles"}
    (improvement,) = valid.improvement.values()
    assert set(improvement) == {"mine over a2c", "mine over random", "a2c over random"}
    (differences,) = valid.differences.values()
    mine, a2c = (valid.scores(rule, [place])[:, 0] for rule in ("mine", "a2c"))
    difference, low, _ = differences["mine minus a2c"]["paired difference"]
    deviation = np.std(mine - a2c, ddof=1)  # of three pairs; 4.303 is Student's quantile of 2 degrees of freedom
    assert difference == pytest.approx((mine - a2c).mean(), rel=1e-5)
    assert low == pytest.approx(difference - 4.303 * deviation / 3**0.5, rel=1e-3)
    none = dataclasses.replace(result, scales={place: result.scales[place]._replace(valid=False)})
    assert none.aggregates == {"suite": {}} and set(none.figures()) == {"curves"}


def test_the_same_seed_gives_the_same_returns_and_known_cells_are_not_measured(rule, result, monkeypatch):
    planned = meta_test.plan({"mine": rule, "a2c": "a2c", "random": "random"}, SUITE, 2)
    key = (("suite", "mdp/random"), "random")
    known = {other: cell for other, cell in result.cells.items() if other != key}
    seen = []
    found = meta_test.carry_out(planned, seeds=3, known=known, watch=seen.append)
    np.testing.assert_array_equal(found.cells[key].returns, result.cells[key].returns)
    assert len(seen) == 1 and set(found.cells) == set(result.cells)


def test_several_suites_are_compared_apart_and_together(result):
    (scale,) = result.scales.values()
    places = [("one", "mdp/random"), ("two", "mdp/random")]
    cells = {(place, rule): cell for place in places for (_, rule), cell in result.cells.items()}
    both = dataclasses.replace(result, cells=cells, scales=dict.fromkeys(places, scale._replace(valid=True)))
    assert list(both.aggregates) == ["one", "two", "all"]
    assert list(both.table()) == ["one: mdp/random", "two: mdp/random"]


@pytest.mark.parametrize(
    ("suite", "options", "says"),
    [
        ({}, {}, "the suite has no environments"),
        (SUITE, {"seeds": 1, "points": 2}, "seeds must be at least 2"),
        (SUITE, {"points": 0}, "points must be at least 1"),
        (SUITE, {"points": 9}, "env_steps of mdp/random must be at least 1152 for 9 points of a2c"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_computed(suite, options, says):
    with pytest.raises(ValueError, match=says):
        metarl.evaluate({"a2c": "a2c"}, suite, **options)


def test_an_environment_whose_rewards_are_not_finite_is_named():
    levels = envs.make("mdp/random")

    def sample(key):
        level = levels.sample(key)
        return level._replace(problem=level.problem._replace(reward=level.problem.reward * np.nan))

    suite = {"mdp/random": Entry(levels._replace(sample=sample), 256, 2, {"a2c": TUNED})}
    with pytest.raises(ValueError, match="3 of 3 returns of the random policy in mdp/random are not finite|6 of 6"):
        metarl.evaluate({"a2c": "a2c"}, suite, seeds=3, points=2)
